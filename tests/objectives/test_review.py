"""review against nested loops in float64, gradients of the student's tensors and of its own parameters included; and
what it refuses.
"""

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.review import Review, hierarchical_context

STUDENT_MAPS, TEACHER_MAPS = ((9, 8, 8), (3, 6, 8), (4, 3, 4), (5, 3, 2)), ((4, 6, 8), (6, 3, 4), (5, 2, 2))


def setting(student=STUDENT_MAPS, teacher=TEACHER_MAPS, dims=(4, 7)):
    return Setting(RepresentationSpec(10, dims[0], student), RepresentationSpec(10, dims[1], teacher), 20, None, 0)


def outputs(shapes, dim, size=3, seed=0, scale=1.0):
    """A random representation; its tensors are leaves with gradients."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        (scale * torch.randn(size, *shape, dtype=torch.float64, generator=generator)).requires_grad_()
        for shape in (*shapes, (dim,))
    ]
    return Representation(embedding=tensors[-1], maps=tuple(tensors[:-1]))


def sides(size=3, **options):
    return outputs(STUDENT_MAPS, 4, size, seed=1, **options), outputs(TEACHER_MAPS, 7, size, seed=2, **options)


def built(**options):
    torch.manual_seed(0)
    objective = Review.build(Review.Options(**options), setting()).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    return objective


def naive_convolution(features, weight, bias=None):
    """(C, H, W) -> (C', H, W): a weighted sum for each cell, zeros around the map."""
    _, height, width = features.shape
    reach = weight.shape[2] // 2
    rows = []
    for y in range(height):
        for x in range(width):
            total = torch.zeros(len(weight), dtype=features.dtype) if bias is None else bias
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    if 0 <= y + i < height and 0 <= x + j < width:
                        total = total + weight[:, :, i + reach, j + reach] @ features[:, y + i, x + j]
            rows.append(total)
    return torch.stack(rows, 1).reshape(len(weight), height, width)


def naive_norm(samples, norm):
    """Each channel over batch and positions with mean 0 and deviation 1, then its own scale and shift."""
    channels = []
    for c in range(samples[0].shape[0]):
        values = torch.cat([sample[c].flatten() for sample in samples])
        mean = values.sum() / len(values)
        deviation = (((values - mean) ** 2).sum() / len(values) + norm.eps).sqrt()
        channels.append([(sample[c] - mean) / deviation * norm.weight[c] + norm.bias[c] for sample in samples])
    return [torch.stack([channel[b] for channel in channels]) for b in range(len(samples))]


def naive_nearest(features, height, width):
    _, h, w = features.shape
    return torch.stack(
        [torch.stack([features[:, y * h // height, x * w // width] for x in range(width)], 1) for y in range(height)], 1
    )


def naive_pool(features, height, width):
    """Averages over cells; where they do not divide the map, neighbouring cells share its border rows."""
    _, h, w = features.shape
    rows = []
    for y in range(height):
        for x in range(width):
            cell = features[:, y * h // height : -(-(y + 1) * h // height), x * w // width : -(-(x + 1) * w // width)]
            rows.append(
                sum(cell[:, i, j] for i in range(cell.shape[1]) for j in range(cell.shape[2]))
                / (cell.shape[1] * cell.shape[2])
            )
    return torch.stack(rows, 1).reshape(-1, height, width)


def naive_context(ours, theirs):
    """One sample's HCL of maps (C, H, W)."""
    height, width = ours.shape[1:]
    total, weights, weight = ((ours - theirs) ** 2).sum() / ours.numel(), 1.0, 1.0
    for size in (4, 2, 1):
        cells = min(size, height), min(size, width)
        if cells != (height, width):
            weight = weight / 2
            first, second = naive_pool(ours, *cells), naive_pool(theirs, *cells)
            total, weights = total + weight * ((first - second) ** 2).sum() / first.numel(), weights + weight
    return total / weights


def naive(objective, student, teacher):
    """The loss of each sample."""
    size = len(student.embedding)
    levels = [(student.maps[ours], teacher.maps[theirs]) for ours, theirs in objective.pairs]
    levels.append((student.embedding[:, :, None, None], teacher.embedding[:, :, None, None]))
    losses, deeper = [0.0] * size, None
    for fusion, (ours, theirs) in reversed(list(zip(objective.fusions, levels, strict=True))):
        fused = naive_norm([naive_convolution(sample, fusion.enter[0].weight) for sample in ours], fusion.enter[1])
        if deeper is not None:
            for b in range(size):
                below = naive_nearest(deeper[b], *fused[b].shape[1:])
                share = torch.sigmoid(
                    naive_convolution(torch.cat((fused[b], below)), fusion.attention.weight, fusion.attention.bias)
                )
                fused[b] = fused[b] * share[0] + below * share[1]
        deeper = [naive_nearest(sample, *theirs.shape[2:]) for sample in fused]
        answers = naive_norm([naive_convolution(sample, fusion.leave[0].weight) for sample in deeper], fusion.leave[1])
        losses = [
            loss + naive_context(answer, target) for loss, answer, target in zip(losses, answers, theirs, strict=True)
        ]
    return torch.stack(losses)


@pytest.mark.parametrize("options", [{}, {"pairs": ((0, 0), (-1, 1))}])
def test_review_is_the_naive_one(options):
    student, teacher = sides()
    objective = built(**options)
    each, reference = objective.per_sample(student, teacher, {}), naive(objective, student, teacher)
    torch.testing.assert_close(each, reference, rtol=1e-10, atol=1e-13)
    loss = objective(student, teacher, {})
    torch.testing.assert_close(loss, reference.sum() / len(reference), rtol=1e-10, atol=1e-13)
    inputs = [student.maps[ours] for ours, _ in objective.pairs] + [student.embedding, *objective.parameters()]
    for got, expected in zip(*(torch.autograd.grad(value, inputs) for value in (loss, reference.mean())), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(9, 8), (5, 3), (4, 4), (4, 8), (2, 2), (1, 1)])
def test_the_context_counts_only_averages_smaller_than_the_map(height, width):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator) for _ in range(2))
    reference = torch.stack(
        [naive_context(sample, reference_sample) for sample, reference_sample in zip(ours, theirs, strict=True)]
    )
    torch.testing.assert_close(hierarchical_context(ours, theirs), reference, rtol=1e-12, atol=0)


def test_the_last_three_maps_and_the_embedding_are_paired_deepest_with_deepest():
    objective = built()
    assert objective.pairs == ((-3, -3), (-2, -2), (-1, -1))
    assert [(fusion.enter[0].in_channels, fusion.leave[0].out_channels) for fusion in objective.fusions] == [
        (3, 4),
        (4, 6),
        (5, 5),
        (4, 7),
    ]
    assert {fusion.enter[0].out_channels for fusion in objective.fusions} == {4}
    assert [fusion.attention is None for fusion in objective.fusions] == [False, False, False, True]
    wide = Review.build(Review.Options(), setting(dims=(1280, 2048)))
    assert wide.fusions[0].enter[0].out_channels == 512
    assert Review.build(Review.Options(), setting(student=STUDENT_MAPS[:1])).pairs == ((-1, -1),)


def test_every_level_reaches_the_deeper_tensors_and_every_parameter_learns():
    student, teacher = sides()
    objective = built()
    objective(student, teacher, {}).backward()
    assert (
        all(features.grad.abs().sum() > 0 for features in (*student.maps[1:], student.embedding))
        and student.maps[0].grad is None
    )
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())


def test_extreme_maps_and_half_precision():
    student, teacher = sides(scale=1e4)
    objective = built().float()
    halves = [
        Representation(embedding=side.embedding.detach().float(), maps=tuple(m.detach().float() for m in side.maps))
        for side in (student, teacher)
    ]
    halves[0].embedding.requires_grad_()
    loss = objective(*halves, {})
    loss.backward()
    assert loss.isfinite() and halves[0].embedding.grad.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        under = objective(*halves, {})
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, loss, rtol=0.05, atol=0)


def test_its_state_makes_the_round_trip():
    student, teacher = sides()
    objective, twin = built(), Review.build(Review.Options(), setting()).double()
    objective(student, teacher, {})
    twin.load_state_dict(objective.state_dict())
    assert torch.equal(twin.eval()(student, teacher, {}), objective.eval()(student, teacher, {}))
    assert objective(*sides(1), {}).isfinite()


def test_what_it_cannot_compare_is_refused():
    for side in ("student", "teacher"):
        with pytest.raises(UsageError, match=f"objective review compares feature maps, and the {side} has none"):
            Review.build(Review.Options(), setting(**{side: ()}))
    with pytest.raises(UsageError, match="review .*the teacher has none"):
        Review.build(Review.Options(), setting(dims=(4, None)))
    with pytest.raises(UsageError, match="names map 3 of the teacher, which has 3"):
        Review.build(Review.Options(pairs=((0, 3),)), setting())
    with pytest.raises(UsageError, match="one sample"):
        built()(*sides(1), {})


def test_weight_warmup_and_name():
    assert OBJECTIVES["review"] is Review and Review.decomposes()
    assert Review.default_weight == 1.0 and round(240 * Review.default_warmup) == 20
