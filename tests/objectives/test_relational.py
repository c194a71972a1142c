"""similarity, correlation, vid, rkd, pkt and nst against naive versions in float64, gradients included; and what they
refuse.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.correlation import Correlation
from contrastill.objectives.nst import NST
from contrastill.objectives.pkt import PKT
from contrastill.objectives.rkd import RKD
from contrastill.objectives.similarity import Similarity
from contrastill.objectives.vid import VID

WEIGHTS = {"similarity": 3000, "correlation": 0.02, "vid": 1, "rkd": 1, "pkt": 30000, "nst": 50}
EVERY = [*({"name": name} for name in WEIGHTS), {"name": "correlation", "kernel": "gaussian"}]
STUDENT_MAPS, TEACHER_MAPS = ((3, 6, 8), (4, 6, 8), (5, 3, 4), (6, 3, 4)), ((4, 6, 8), (7, 3, 4), (8, 3, 2))


def setting(student=STUDENT_MAPS, teacher=TEACHER_MAPS, dims=(5, 7)):
    return Setting(RepresentationSpec(10, dims[0], student), RepresentationSpec(10, dims[1], teacher), 20, None, 0)


def outputs(shapes, dim, size=4, seed=0, dtype=torch.float64, scale=1.0):
    """A random representation; its tensors are leaves with gradients."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        (scale * torch.randn(size, *shape, dtype=torch.float64, generator=generator)).to(dtype).requires_grad_()
        for shape in (*shapes, (dim,))
    ]
    return Representation(embedding=tensors[-1], maps=tuple(tensors[:-1]))


def sides(size=4, **options):
    return outputs(STUDENT_MAPS, 5, size, seed=1, **options), outputs(TEACHER_MAPS, 7, size, seed=2, **options)


def built(name, **options):
    objective = OBJECTIVES[name]
    torch.manual_seed(0)
    return objective.build(objective.Options(**options), setting())


def assert_same(ours, reference, inputs):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-13)
    inputs = list(inputs)
    for got, expected in zip(
        *(torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, reference)), strict=True
    ):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13)


def inner(first, second):
    return sum(a * b for a, b in zip(first.flatten(), second.flatten(), strict=True))


def length(vector):
    return inner(vector, vector).sqrt()


def cells(features, height, width):
    """Averages over equal cells of one sample's map, by loops."""
    channels, h, w = features.shape
    rows = []
    for y in range(height):
        for x in range(width):
            cell = features[:, y * h // height : (y + 1) * h // height, x * w // width : (x + 1) * w // width]
            rows.append(
                sum(cell[:, i, j] for i in range(cell.shape[1]) for j in range(cell.shape[2]))
                / (cell.shape[1] * cell.shape[2])
            )
    return torch.stack(rows, 1).reshape(channels, height, width)


def naive_similarity(student, teacher):
    total, size = 0.0, len(student)
    for i in range(size):
        rows = [torch.stack([inner(side[i], side[j]) for j in range(size)]) for side in (student, teacher)]
        ours, theirs = (row / length(row) for row in rows)
        total = total + sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
    return total / size**2


@pytest.mark.parametrize("pairs", [None, ((0, 1), (-1, 0))])
def test_similarity_is_the_naive_one(pairs):
    student, teacher = sides()
    reference = sum(naive_similarity(student.maps[ours], teacher.maps[theirs]) for ours, theirs in pairs or ((3, 2),))
    maps = [student.maps[ours] for ours, _ in pairs or ((3, 2),)]
    assert_same(built("similarity", pairs=pairs)(student, teacher, {}), reference, maps)


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_similarity_is_the_same_of_small_and_large_maps(factor):
    student, teacher = sides()
    scaled = Representation(maps=tuple(factor * value.detach() for value in student.maps))
    loss = built("similarity", pairs=None)
    assert loss(scaled, teacher, {}).item() == pytest.approx(loss(student, teacher, {}).item(), rel=1e-6)


def test_adjacent_correlation_is_the_naive_one():
    student, teacher = sides()
    correlation = built("correlation", embed_dim=6).double()
    (ours, ours_bias), (theirs, theirs_bias) = ((layer.weight, layer.bias) for layer in correlation.embed)
    difference = [
        (ours @ s + ours_bias - theirs @ t - theirs_bias).abs()
        for s, t in zip(student.embedding, teacher.embedding, strict=True)
    ]
    reference = sum(a[d] * b[d] for a, b in zip(difference, difference[1:], strict=False) for d in range(6)) / 3
    assert_same(correlation(student, teacher, {}), reference, (student.embedding, *correlation.parameters()))


def test_gaussian_correlation_is_the_naive_one():
    student, teacher = sides()
    correlation = built("correlation", kernel="gaussian")
    assert not list(correlation.parameters())

    def kernel(first, second):
        cosine = inner(first, second) / length(first) / length(second)
        return math.exp(-0.8) * (1 + 0.8 * cosine + 0.8**2 / 2 * cosine**2)

    squares = []
    for i in range(4):
        squares += [
            (kernel(student.embedding[i], student.embedding[j]) - kernel(teacher.embedding[i], teacher.embedding[j]))
            ** 2
            for j in range(4)
        ]
    assert_same(correlation(student, teacher, {}), sum(squares) / 16, (student.embedding,))


def naive_vid(predict, student, teacher):
    total, count = 0.0, 0
    first, second, third = (predict.mean[i].weight[:, :, 0, 0] for i in (0, 2, 4))
    height, width = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    for student_map, teacher_map in zip(student, teacher, strict=True):
        ours, theirs = cells(student_map, height, width), cells(teacher_map, height, width)
        for y in range(height):
            for x in range(width):
                hidden = torch.relu(second @ torch.relu(first @ ours[:, y, x]))
                for c, mean in enumerate(third @ hidden):
                    variance = torch.log(1 + torch.exp(predict.raw_variance[c])) + 1e-5
                    total = total + ((theirs[c, y, x] - mean) ** 2 / variance + torch.log(variance)) / 2
                    count += 1
    return total / count


def test_vid_is_the_naive_one():
    student, teacher = sides(size=3)
    vid = built("vid", pairs=((0, 1), (-1, -1))).double()
    assert [layer.weight.shape[:2] for layer in vid.predictions[0].mean if hasattr(layer, "weight")] == [
        (7, 3),
        (7, 7),
        (7, 7),
    ]
    reference = naive_vid(vid.predictions[0], student.maps[0], teacher.maps[1]) + naive_vid(
        vid.predictions[1], student.maps[3], teacher.maps[2]
    )
    assert_same(vid(student, teacher, {}), reference, (student.maps[0], student.maps[3], *vid.parameters()))


def test_the_variance_of_vid_begins_at_5():
    for predict in built("vid").predictions:
        torch.testing.assert_close(F.softplus(predict.raw_variance) + 1e-5, torch.full_like(predict.raw_variance, 5.0))


def huber(first, second):
    difference = (first - second).abs()
    return difference**2 / 2 if difference < 1 else difference - 0.5


def naive_rkd(student, teacher, distance_factor, angle_factor, same=()):
    """``same``: pairs that coincide, on both sides."""
    size, total = len(student), 0.0
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j and (i, j) not in same]
    units = [sum(length(side[i] - side[j]) for i, j in pairs) / len(pairs) for side in (student, teacher)]
    for i, j in pairs:
        ours, theirs = (length(side[i] - side[j]) / unit for side, unit in zip((student, teacher), units, strict=True))
        total = total + distance_factor * huber(ours, theirs) / size**2
        for k in [k for vertex, k in pairs if vertex == i]:
            arms = [(side[j] - side[i], side[k] - side[i]) for side in (student, teacher)]
            ours, theirs = (inner(a, b) / length(a) / length(b) for a, b in arms)
            total = total + angle_factor * huber(ours, theirs) / size**3
    return total


@pytest.mark.parametrize(
    "factors", [{}, {"distance_factor": 3.0, "angle_factor": 0.0}, {"distance_factor": 0.0, "angle_factor": 2.0}]
)
def test_rkd_is_the_naive_one(factors):
    student, teacher = sides()
    reference = naive_rkd(
        student.embedding, teacher.embedding, **{"distance_factor": 25.0, "angle_factor": 50.0, **factors}
    )
    assert_same(built("rkd", **factors)(student, teacher, {}), reference, (student.embedding,))


def test_rkd_leaves_duplicates_out():
    student, teacher = sides()
    with torch.no_grad():
        for side in (student, teacher):
            side.embedding[2] = side.embedding[0]
    reference = naive_rkd(student.embedding, teacher.embedding, 25.0, 50.0, same=((0, 2), (2, 0)))
    assert_same(RKD()(student, teacher, {}), reference, (student.embedding,))


def test_a_batch_of_equal_samples_leaves_finite_gradients():
    student = Representation(embedding=torch.ones(4, 5, dtype=torch.float64, requires_grad=True))
    for objective in (RKD(), PKT(), Correlation(5, 7, "gaussian")):
        (gradient,) = torch.autograd.grad(objective(student, outputs((), 7), {}), student.embedding)
        assert gradient.isfinite().all()


def naive_pkt(student, teacher):
    size, total = len(student), 0.0
    for i in range(size):
        rows = []
        for side in (student, teacher):
            row = [(inner(side[i], side[j]) / length(side[i]) / length(side[j]) + 1) / 2 for j in range(size)]
            rows.append([value / sum(row) for value in row])
        total = total + sum(
            theirs * torch.log((theirs + 1e-7) / (ours + 1e-7)) for ours, theirs in zip(*rows, strict=True)
        )
    return total / size**2


def test_pkt_is_the_naive_one():
    student, teacher = sides()
    assert_same(
        built("pkt")(student, teacher, {}), naive_pkt(student.embedding, teacher.embedding), (student.embedding,)
    )


def test_pkt_of_opposite_samples_is_finite():
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(2000, generator=generator)
    student = torch.stack((direction, -direction * 3.1)).requires_grad_()  # their cosine is -1, or below it by rounding
    loss = PKT()(
        Representation(embedding=student), Representation(embedding=torch.randn(2, 7, generator=generator)), {}
    )
    assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()


def naive_nst(student, teacher):
    height, width = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    total = 0.0
    for student_map, teacher_map in zip(student, teacher, strict=True):
        ours, theirs = (
            [channel / length(channel) for channel in cells(side, height, width)] for side in (student_map, teacher_map)
        )
        for left, right, sign in ((ours, ours, 1), (theirs, theirs, 1), (ours, theirs, -2)):
            total = total + sign * sum(inner(a, b) ** 2 for a in left for b in right) / (len(left) * len(right))
    return total / len(student)


# Of few channels and of few positions: the discrepancy is counted in two ways.
@pytest.mark.parametrize("pair", [(0, 0), (-1, -1), (0, 2)])
def test_nst_is_the_naive_one(pair):
    student, teacher = sides(size=3)
    reference = naive_nst(student.maps[pair[0]], teacher.maps[pair[1]])
    assert_same(built("nst", pairs=(pair,))(student, teacher, {}), reference, (student.maps[pair[0]],))


def test_both_ways_to_count_a_discrepancy_are_taken():
    generator = torch.Generator().manual_seed(0)
    for channels, positions in ((2, 12), (12, 2)):
        student, teacher = (
            torch.randn(2, channels, positions, 1, dtype=torch.float64, generator=generator, requires_grad=True)
            for _ in range(2)
        )
        ours = NST(pairs=((0, 0),))(Representation(maps=(student,)), Representation(maps=(teacher,)), {})
        assert_same(ours, naive_nst(student, teacher), (student,))


def test_nst_adds_up_pairs_and_silent_channels_stay_silent():
    student, teacher = sides()
    each = [built("nst", pairs=(pair,))(student, teacher, {}) for pair in ((1, 0), (2, 1), (3, 2))]
    torch.testing.assert_close(built("nst")(student, teacher, {}), sum(each))
    with torch.no_grad():
        student.maps[1][:, 2] = 0
    gradients = torch.autograd.grad(built("nst")(student, teacher, {}), student.maps[1:])
    assert all(gradient.isfinite().all() for gradient in gradients) and not gradients[0][:, 2].any()


@pytest.mark.parametrize("name", ["vid", "nst"])
def test_per_sample_depends_on_that_sample_alone(name):
    student, teacher = sides()
    objective = built(name).double()
    each = objective.per_sample(student, teacher, {})
    torch.testing.assert_close(each.mean(), objective(student, teacher, {}))
    for i, value in enumerate(each):
        alone = [Representation(maps=tuple(map_[i : i + 1] for map_ in side.maps)) for side in (student, teacher)]
        torch.testing.assert_close(objective(*alone, {}), value)


def test_relations_between_samples_are_no_mean_over_samples():
    assert {name for name in WEIGHTS if OBJECTIVES[name].decomposes()} == {"vid", "nst"}


@pytest.mark.parametrize("name", WEIGHTS)
def test_built_from_a_setting_with_the_published_weight(name):
    objective = built(name)
    assert objective.default_weight == WEIGHTS[name]
    assert objective.needs == ({"maps"} if name in ("similarity", "vid", "nst") else {"embedding"})
    if name != "similarity" and "maps" in objective.needs:
        assert objective.pairs == ((-3, -3), (-2, -2), (-1, -1))
    student, teacher = sides(dtype=torch.float32)
    # In a training nothing else is there.
    loss = objective(
        *(Representation(**{part: getattr(side, part) for part in objective.needs}) for side in (student, teacher)), {}
    )
    assert loss.shape == () and loss.dtype == torch.float32 and loss > 0
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())


@pytest.mark.parametrize("name", ["similarity", "rkd", "pkt", "nst", "correlation"])
def test_equal_outputs_give_no_loss(name):
    student, _ = sides()
    objective = {"correlation": Correlation(5, 5, "gaussian"), "nst": NST(((0, 0), (3, 3)))}.get(name) or built(name)
    loss = objective(student, student, {})
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", EVERY)
def test_a_batch_of_one_sample(options):
    student, teacher = sides(size=1)
    objective = built(**options).double()
    loss = objective(student, teacher, {})
    gradients = torch.autograd.grad(loss, [*student.maps, student.embedding], allow_unused=True)
    assert loss.isfinite() and any(gradient is not None for gradient in gradients)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    if not objective.decomposes():  # one sample relates to none
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-14)
        assert all(gradient is None or gradient.abs().max() < 1e-14 for gradient in gradients)


@pytest.mark.parametrize("options", EVERY)
def test_autocast_leaves_what_is_delicate_in_float32(options):
    objective = built(**options)
    student, teacher = sides(dtype=torch.bfloat16, scale=100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(student, teacher, {})
    assert loss.dtype == torch.float32 and loss.isfinite()
    if not list(objective.parameters()):  # nothing was multiplied in half precision: it is what float32 gives
        full = [
            Representation(embedding=side.embedding.float(), maps=tuple(map_.float() for map_ in side.maps))
            for side in (student, teacher)
        ]
        torch.testing.assert_close(loss, objective(*full, {}))


def test_half_precision_does_not_overflow():
    student, teacher = sides(dtype=torch.float16, scale=1000.0)  # squares beyond float16
    assert all(
        objective(student, teacher, {}).isfinite()
        for objective in (Similarity(), NST(((-1, -1),)), RKD(), PKT(), Correlation(5, 7, "gaussian"))
    )


@pytest.mark.parametrize("name", ["similarity", "vid", "nst"])
@pytest.mark.parametrize(
    ("maps", "pairs", "message"),
    [
        (((), TEACHER_MAPS), None, "compares feature maps, and the student has none: name some with maps="),
        ((STUDENT_MAPS, ()), None, "compares feature maps, and the teacher has none"),
        ((STUDENT_MAPS, TEACHER_MAPS), ((0, 0), (1, 3)), "pairs names map 3 of the teacher, which has 3"),
        ((STUDENT_MAPS, TEACHER_MAPS), ((-5, 0),), "pairs names map -5 of the student, which has 4"),
    ],
)
def test_maps_that_are_not_there_are_refused(name, maps, pairs, message):
    objective = OBJECTIVES[name]
    with pytest.raises(UsageError, match=f"{name}.*{message}"):
        objective.build(objective.Options(pairs=pairs), setting(*maps))


@pytest.mark.parametrize("name", ["correlation", "rkd", "pkt"])
@pytest.mark.parametrize(("dims", "side"), [((None, 7), "student"), ((5, None), "teacher")])
def test_an_embedding_that_is_not_there_is_refused(name, dims, side):
    objective = OBJECTIVES[name]
    with pytest.raises(
        UsageError, match=f"{name} compares pooled embeddings, and the {side} has none: name the module"
    ):
        objective.build(objective.Options(), setting(dims=dims))


def test_a_kernel_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean gaussian"):
        Correlation(5, 7, "gausian")


def test_maps_of_other_channels_than_it_was_built_for_are_an_error():
    student, teacher = sides()
    with pytest.raises(UsageError, match="built for 9 channels of the student"):
        VID(dims=((9, 8),), pairs=((-1, -1),)).double()(student, teacher, {})


@pytest.mark.parametrize(
    ("name", "least"),
    [("rkd", 3), ("similarity", 2), ("correlation", 2), ("pkt", 2), ("dist", 2), ("infonce", 2), ("dense_crd", 2)],
    ids=lambda value: str(value),
)
def test_objectives_that_compare_the_samples_of_a_pass_refuse_passes_of_too_few(name, least):
    """Their loss would be 0, or a number that does not depend on the student."""
    objective = OBJECTIVES[name]
    options = objective.Options()
    enough = replace(setting(), pass_samples=least)
    objective.build(options, enough)
    with pytest.raises(
        UsageError,
        match=f"objective {name} compares the samples of a pass with each other and needs {least} or more, and .* "
        f"has {least - 1}: raise train.batch_size",
    ):
        objective.build(options, replace(enough, pass_samples=least - 1))


@pytest.mark.parametrize(("name", "least"), [("rkd", 3), ("similarity", 2), ("correlation", 2), ("pkt", 2)])
def test_in_such_a_pass_nothing_is_learnt(name, least):
    ours, theirs = (outputs(STUDENT_MAPS, 5, size=least - 1, seed=seed) for seed in range(2))
    objective = OBJECTIVES[name].build(OBJECTIVES[name].Options(), setting(teacher=STUDENT_MAPS, dims=(5, 5))).double()
    gradients = torch.autograd.grad(objective(ours, theirs, {}), [ours.embedding, *ours.maps], allow_unused=True)
    assert all(gradient is None or gradient.abs().max() < 1e-9 for gradient in gradients)


def test_dense_contrast_between_classes_refuses_data_of_one_class():
    objective = OBJECTIVES["dense_crd"]
    with pytest.raises(UsageError, match="objectives.dense_crd.negatives_from=other_position or other_sample"):
        objective.build(
            objective.Options(negatives_from="other_class"),
            replace(setting(), targets=torch.zeros(20, dtype=torch.int64)),
        )
