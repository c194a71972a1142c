"""dense_crd against nested loops in float64, gradients included."""

import math

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.nce import Critic, pair_loss
from contrastill.core.objective import Setting
from contrastill.core.representation import Representation, RepresentationSpec
from contrastill.xmodal.dense_crd import DenseCRD

TAU, D = 0.1, 6


def softplus(x):
    return torch.log1p(torch.exp(-abs(x))) + torch.clamp(x, min=0)


def naive_side(anchors, others, is_positive, is_negative, bias, weight):
    """Mean over the anchors that have positives, one after another."""
    losses = []
    for i, anchor in enumerate(anchors):
        near = [softplus(bias - anchor @ other / TAU) for j, other in enumerate(others) if is_positive(i, j)]
        far = [softplus(anchor @ other / TAU - bias) for j, other in enumerate(others) if is_negative(i, j)]
        if near:
            losses.append(sum(near) / len(near) + weight / max(1, len(far)) * sum(far))
    return sum(losses) / len(losses)


def naive(anchors, others, is_positive, is_negative, bias, weight):
    there = naive_side(anchors, others, is_positive, is_negative, bias, weight)
    return there + naive_side(others, anchors, lambda j, i: is_positive(i, j), lambda j, i: is_negative(i, j), bias, weight)


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def standardised(rows):
    """Each channel with mean 0 and deviation 1 over the rows."""
    return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()


def assert_same(ours, reference, inputs):
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-12)
    for got, wanted in zip(*(torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, reference)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [3, 40.5])
def test_pair_loss_is_the_naive_one(weight):
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randn(n, D, dtype=torch.float64, generator=generator, requires_grad=True) for n in (5, 4))
    positive = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
    negative = ~positive & torch.tensor([1, 1, 1, 0], dtype=torch.bool)
    ours = pair_loss(unit(rows), unit(columns), tuple(positive.nonzero().T), ~negative, Critic(TAU, 2.5, 1.0), weight)
    reference = naive(unit(rows), unit(columns), lambda i, j: positive[i, j], lambda i, j: negative[i, j], 2.5, weight)
    assert_same(ours, reference, (rows, columns))


def embed_teacher(rows, linear):
    return unit(standardised(rows) @ linear.weight.T + linear.bias)


def said(seed, maps, dim):
    generator = torch.Generator().manual_seed(seed)
    made = Representation(
        maps=(torch.randn(3, *maps, dtype=torch.float64, generator=generator, requires_grad=True),),
        embedding=torch.randn(3, dim, dtype=torch.float64, generator=generator, requires_grad=True),
    )
    return made


BATCH = {"index": torch.tensor([4, 9, 2]), "target": torch.tensor([1, 0, 1])}


@pytest.mark.parametrize("negatives_from", ["other_sample", "other_position", "other_class"])
@pytest.mark.parametrize("weight", [None, 50])
def test_local_local_is_the_naive_one(negatives_from, weight):
    student, teacher = said(1, (5, 2, 4), 3), said(2, (4, 2, 2), 7)
    torch.manual_seed(0)
    dense = DenseCRD([(5, 4)], embed_dim=D, temperature=TAU, negatives_from=negatives_from, num_negatives=weight).double()
    ours = dense(student, teacher, BATCH)
    cells = [(sample, y, x) for sample in range(3) for y in range(2) for x in range(2)]
    left = torch.stack([dense.local[0][0](student.maps[0][s, :, y, 2 * x : 2 * x + 2].mean(1)) for s, y, x in cells])
    right = embed_teacher(torch.stack([teacher.maps[0][s, :, y, x] for s, y, x in cells]), dense.local[0][1][1])
    label = BATCH["target"] if negatives_from == "other_class" else BATCH["index"]

    def is_negative(i, j):
        (a, *at), (b, *other) = cells[i], cells[j]
        return label[a] != label[b] or (negatives_from == "other_position" and a == b and at != other)

    bias = math.log(weight or 11) + 1 / (2 * D * TAU**2)
    assert_same(ours, naive(left, right, lambda i, j: i == j, is_negative, bias, weight or 11), (student.maps[0], dense.local[0][1][1].weight))


def test_local_global_is_the_naive_one_both_ways():
    student, teacher = said(3, (5, 2, 2), 3), said(4, (4, 3, 1), 7)
    torch.manual_seed(0)
    dense = DenseCRD([(5, 4)], (3, 7), pairing="local_global", embed_dim=D, temperature=TAU, negatives_from="other_sample").double()
    ours = dense(student, teacher, BATCH)
    total = 0.0
    pooled = [dense.pooled[0](student.embedding), embed_teacher(teacher.embedding, dense.pooled[1][1])]
    # Both maps meet at 2×1.
    local = [
        torch.stack([dense.local[0][0](student.maps[0][s, :, y].mean(1)) for s in range(3) for y in range(2)]),
        embed_teacher(torch.stack([teacher.maps[0][s, :, rows, 0].mean(1) for s in range(3) for rows in (slice(0, 2), slice(1, 3))]), dense.local[0][1][1]),
    ]
    bias = math.log(2) + 1 / (2 * D * TAU**2)
    for positions, others in ((local[0], pooled[1]), (local[1], pooled[0])):
        total = total + naive(positions, others, lambda i, j: i // 2 == j, lambda i, j: i // 2 != j, bias, 2)
    assert_same(ours, total, (student.maps[0], student.embedding))


def test_both_is_the_sum_and_a_sample_met_twice_is_no_negative_of_itself():
    student, teacher = said(5, (5, 2, 2), 3), said(6, (4, 2, 2), 7)
    parts = {}
    for pairing in ("local_local", "local_global", "both"):
        torch.manual_seed(0)
        parts[pairing] = DenseCRD([(5, 4)], (3, 7), pairing=pairing, embed_dim=D, negatives_from="other_sample").double()
    parts["local_global"].load_state_dict(parts["both"].state_dict())
    parts["local_local"].load_state_dict({name: value for name, value in parts["both"].state_dict().items() if name.startswith("local")})
    losses = {pairing: dense(student, teacher, BATCH).item() for pairing, dense in parts.items()}
    assert math.isclose(losses["both"], losses["local_local"] + losses["local_global"], rel_tol=1e-12)
    twice = {"index": torch.tensor([4, 4, 4])}
    # Without negatives only the positives' part is left.
    left = parts["local_local"].local[0][0](student.maps[0].flatten(2).transpose(1, 2)).flatten(0, 1)
    right = embed_teacher(teacher.maps[0].flatten(2).transpose(1, 2).flatten(0, 1), parts["local_local"].local[0][1][1])
    bias = math.log(11) + 1 / (2 * D * 0.1**2)
    wanted = 2 * softplus(bias - (left * right).sum(1) / 0.1).mean()
    assert math.isclose(parts["local_local"](student, teacher, twice).item(), wanted.item(), rel_tol=1e-12)


def test_a_zero_map_gives_no_nan_and_half_precision_agrees():
    zeros = Representation(maps=(torch.zeros(3, 5, 2, 2, requires_grad=True),))
    dense = DenseCRD([(5, 5)])
    with torch.no_grad():
        for embed in (dense.local[0][0], dense.local[0][1][1]):
            embed.bias.zero_()
    dense(zeros, zeros, BATCH).backward()
    assert zeros.maps[0].grad.isfinite().all()
    random = Representation(maps=(torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)),))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = dense(random, random, BATCH)
    torch.testing.assert_close(half, dense(random, random, BATCH), rtol=3e-2, atol=0)


def setting(student=((5, 4, 4),), targets=None):
    return Setting(RepresentationSpec(10, 3, student), RepresentationSpec(10, 7, ((4, 2, 2),)), 20, targets, 0)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, setting(student=()), "the student has none"),
        ({"pairs": ((1, 0),)}, setting(), "names map 1 of the student, which has 1"),
        ({"negatives_from": "other_class"}, setting(), "needs labels, and this data has none"),
    ],
)
def test_refusals(options, given, message):
    with pytest.raises(UsageError, match=message):
        DenseCRD.build(DenseCRD.Options(**options), given)


def test_a_batch_of_one_has_no_negatives():
    one = Representation(maps=(torch.randn(1, 5, 2, 2),))
    with pytest.raises(UsageError, match="use another train.batch_size"):
        DenseCRD([(5, 5)])(one, one, {"index": torch.tensor([0])})


def test_pairs_of_maps_add_up_and_the_last_two_are_the_default():
    maps = ((5, 4, 4), (6, 2, 2), (7, 2, 2))
    given = Setting(RepresentationSpec(10, 3, maps), RepresentationSpec(10, 7, maps[1:]), 20, None, 0)
    both = DenseCRD.build(DenseCRD.Options(embed_dim=D), given).double()
    assert both.pairs == ((-2, -2), (-1, -1)) and [sides[0].in_features for sides in both.local] == [6, 7]
    one, other = (
        Representation(maps=tuple(torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for shape in maps))
        for seed in (1, 2)
    )
    alone = []
    for place, pair in enumerate(both.pairs):
        single = DenseCRD([(maps[pair[0]][0],) * 2], pairs=(pair,), embed_dim=D).double()
        single.local[0].load_state_dict(both.local[place].state_dict())
        alone.append(single(one, other, BATCH).item())
    assert math.isclose(both(one, other, BATCH).item(), sum(alone), rel_tol=1e-12)


def test_no_more_positions_than_allowed():
    torch.manual_seed(0)
    dense = DenseCRD([(5, 5)], positions=30)  # 10 cells a sample: 8×6 shrinks to 3×2
    maps = torch.randn(3, 5, 8, 6)
    large = dense(Representation(maps=(maps,)), Representation(maps=(maps,)), BATCH)
    small = torch.nn.functional.adaptive_avg_pool2d(maps, (3, 2))
    torch.testing.assert_close(large, dense(Representation(maps=(small,)), Representation(maps=(small,)), BATCH))


def test_it_reads_what_it_needs():
    assert DenseCRD.build(DenseCRD.Options(), setting()).needs == {"maps"}
    assert DenseCRD.build(DenseCRD.Options(pairing="both"), setting()).needs == {"maps", "embedding"}
