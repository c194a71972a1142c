"""dense_crd against nested loops in float64, gradients included."""

import math
from contextlib import nullcontext

import pytest
import torch

from contrastill.core.crd.criterion import Critic, pair_loss
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.xmodal.dense_crd import DenseCRD
from contrastill.xmodal.position_rows import PositionRows
from contrastill.xmodal.projectors import MLPEmbedding

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
    return there + naive_side(
        others, anchors, lambda j, i: is_positive(i, j), lambda j, i: is_negative(i, j), bias, weight
    )


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def standardised(rows):
    """Each channel with mean 0 and deviation 1 over the rows."""
    return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()


def assert_same(ours, reference, inputs):
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-12)
    for got, expected in zip(
        *(torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, reference)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


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


def representation(seed, maps, dim):
    generator = torch.Generator().manual_seed(seed)
    result = Representation(
        maps=(torch.randn(3, *maps, dtype=torch.float64, generator=generator, requires_grad=True),),
        embedding=torch.randn(3, dim, dtype=torch.float64, generator=generator, requires_grad=True),
    )
    return result


BATCH = {"index": torch.tensor([4, 9, 2]), "target": torch.tensor([1, 0, 1])}


@pytest.mark.parametrize("negatives_from", ["other_sample", "other_position", "other_class"])
@pytest.mark.parametrize("weight", [None, 50])
def test_local_local_is_the_naive_one(negatives_from, weight):
    student, teacher = representation(1, (5, 2, 4), 3), representation(2, (4, 2, 2), 7)
    torch.manual_seed(0)
    dense = DenseCRD(
        [(5, 4)], embed_dim=D, temperature=TAU, negatives_from=negatives_from, num_negatives=weight
    ).double()
    ours = dense(student, teacher, BATCH)
    cells = [(sample, y, x) for sample in range(3) for y in range(2) for x in range(2)]
    left = torch.stack([dense.local[0][0](student.maps[0][s, :, y, 2 * x : 2 * x + 2].mean(1)) for s, y, x in cells])
    right = embed_teacher(torch.stack([teacher.maps[0][s, :, y, x] for s, y, x in cells]), dense.local[0][1][1])
    label = BATCH["target"] if negatives_from == "other_class" else BATCH["index"]

    def is_negative(i, j):
        (a, *at), (b, *other) = cells[i], cells[j]
        return label[a] != label[b] or (negatives_from == "other_position" and a == b and at != other)

    bias = math.log(weight or 11) + 1 / (2 * D * TAU**2)
    assert_same(
        ours,
        naive(left, right, lambda i, j: i == j, is_negative, bias, weight or 11),
        (student.maps[0], dense.local[0][1][1].weight),
    )


def test_local_global_is_the_naive_one_both_ways():
    student, teacher = representation(3, (5, 2, 2), 3), representation(4, (4, 3, 1), 7)
    torch.manual_seed(0)
    dense = DenseCRD(
        [(5, 4)], (3, 7), pairing="local_global", embed_dim=D, temperature=TAU, negatives_from="other_sample"
    ).double()
    ours = dense(student, teacher, BATCH)
    total = 0.0
    pooled = [dense.pooled[0](student.embedding), embed_teacher(teacher.embedding, dense.pooled[1][1])]
    # Both maps meet at 2×1.
    local = [
        torch.stack([dense.local[0][0](student.maps[0][s, :, y].mean(1)) for s in range(3) for y in range(2)]),
        embed_teacher(
            torch.stack(
                [teacher.maps[0][s, :, rows, 0].mean(1) for s in range(3) for rows in (slice(0, 2), slice(1, 3))]
            ),
            dense.local[0][1][1],
        ),
    ]
    bias = math.log(2) + 1 / (2 * D * TAU**2)
    for positions, others in ((local[0], pooled[1]), (local[1], pooled[0])):
        total = total + naive(positions, others, lambda i, j: i // 2 == j, lambda i, j: i // 2 != j, bias, 2)
    assert_same(ours, total, (student.maps[0], student.embedding))


def test_both_is_the_sum_and_a_duplicate_is_no_negative_of_itself():
    student, teacher = representation(5, (5, 2, 2), 3), representation(6, (4, 2, 2), 7)
    parts = {}
    for pairing in ("local_local", "local_global", "both"):
        torch.manual_seed(0)
        parts[pairing] = DenseCRD(
            [(5, 4)], (3, 7), pairing=pairing, embed_dim=D, negatives_from="other_sample"
        ).double()
    parts["local_global"].load_state_dict(parts["both"].state_dict())
    parts["local_local"].load_state_dict(
        {name: value for name, value in parts["both"].state_dict().items() if name.startswith("local")}
    )
    losses = {pairing: dense(student, teacher, BATCH).item() for pairing, dense in parts.items()}
    assert math.isclose(losses["both"], losses["local_local"] + losses["local_global"], rel_tol=1e-12)
    twice = {"index": torch.tensor([4, 4, 4])}
    # Without negatives only the positives' part is left.
    left = parts["local_local"].local[0][0](student.maps[0].flatten(2).transpose(1, 2)).flatten(0, 1)
    right = embed_teacher(teacher.maps[0].flatten(2).transpose(1, 2).flatten(0, 1), parts["local_local"].local[0][1][1])
    bias = math.log(11) + 1 / (2 * D * 0.1**2)
    anchors = 2 * softplus(bias - (left * right).sum(1) / 0.1).mean()
    assert math.isclose(parts["local_local"](student, teacher, twice).item(), anchors.item(), rel_tol=1e-12)


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
    ("options", "setting_", "message"),
    [
        ({}, setting(student=()), "the student has none"),
        ({"pairs": ((1, 0),)}, setting(), "names map 1 of the student, which has 1"),
        ({"negatives_from": "other_class"}, setting(), "needs labels, and this data has none"),
    ],
)
def test_refusals(options, setting_, message):
    with pytest.raises(UsageError, match=message):
        DenseCRD.build(DenseCRD.Options(**options), setting_)


def test_a_batch_of_one_has_no_negatives():
    single = Representation(maps=(torch.randn(1, 5, 2, 2),))
    with pytest.raises(UsageError, match="use another train.batch_size"):
        DenseCRD([(5, 5)])(single, single, {"index": torch.tensor([0])})


def test_pairs_of_maps_add_up_and_the_last_two_are_the_default():
    maps = ((5, 4, 4), (6, 2, 2), (7, 2, 2))
    setting = Setting(RepresentationSpec(10, 3, maps), RepresentationSpec(10, 7, maps[1:]), 20, None, 0)
    both = DenseCRD.build(DenseCRD.Options(embed_dim=D), setting).double()
    assert both.pairs == ((-2, -2), (-1, -1)) and [sides[0].in_features for sides in both.local] == [6, 7]
    last, other = (
        Representation(
            maps=tuple(
                torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
                for shape in maps
            )
        )
        for seed in (1, 2)
    )
    alone = []
    for place, pair in enumerate(both.pairs):
        single = DenseCRD([(maps[pair[0]][0],) * 2], pairs=(pair,), embed_dim=D).double()
        single.local[0].load_state_dict(both.local[place].state_dict())
        alone.append(single(last, other, BATCH).item())
    assert math.isclose(both(last, other, BATCH).item(), sum(alone), rel_tol=1e-12)


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


M, P = 12, 3
CLASSES = torch.arange(M) % 3


class Outputs:
    """A teacher's outputs of all samples: maps (M, 4, 4, 2)."""

    def __init__(self, cached=True):
        self.cached = cached
        self.maps = 3 * torch.randn(M, 4, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(8)) + 5

    def sample(self, needs):
        return Representation(maps=(self.maps[::2],))

    def all(self, needs):
        for index in torch.arange(M).split(5):
            yield index, Representation(maps=(self.maps[index],))


def with_rows(seed=0, **options):
    """Over 2×2 positions, of which P of each sample are kept."""
    torch.manual_seed(3)
    defaults = {
        "criterion": "softmax",
        "num_rows": 20,
        "row_positions": P,
        "embed_dim": D,
        "temperature": TAU,
        "grids": [(2, 2)],
        "num_samples": M,
        **options,
    }
    return DenseCRD([(5, 4)], targets=CLASSES, seed=seed, **defaults).double()


def visit(dense, index, outputs=None, seed=0):
    """A pass over samples whose teacher says what it always says."""
    maps = (outputs or Outputs()).maps[index]
    student = torch.randn(len(index), 5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    batch = {"index": index, "target": CLASSES[index]}
    return dense(Representation(maps=(student.requires_grad_(),)), Representation(maps=(maps,)), batch), student, batch


def naive_softmax(anchors, others, is_positive, is_negative, rows=(), is_candidate=None, count=0):
    """Mean over positive pairs, one after another."""
    losses = []
    for i, anchor in enumerate(anchors):
        far = sum((anchor @ other / TAU).exp() for j, other in enumerate(others) if is_negative(i, j))
        eligible = [row for r, row in enumerate(rows) if is_candidate(i, r)]
        if eligible:
            far = far + count / len(eligible) * sum((anchor @ row / TAU).exp() for row in eligible)
        for j, other in enumerate(others):
            if is_positive(i, j):
                near = (anchor @ other / TAU).exp()
                losses.append(-(near / (near + far)).log())
    return sum(losses) / len(losses)


def pooled_to_grid(maps):
    """(B, C, 4, 2) at (2, 2), by hand: (B·4, C)."""
    return torch.stack(
        [maps[s, :, 2 * y : 2 * y + 2, x].mean(1) for s in range(len(maps)) for y in range(2) for x in range(2)]
    )


@pytest.mark.parametrize("negatives_from", ["other_sample", "other_position", "other_class"])
@pytest.mark.parametrize("filled", ["ahead", "seen", "not yet"])
def test_softmax_with_rows_is_the_naive_one(negatives_from, filled):
    outputs = Outputs(cached=filled == "ahead")
    dense = with_rows(negatives_from=negatives_from)
    dense.prepare([outputs])
    if filled == "seen":
        visit(dense, torch.tensor([0, 4, 7, 1]), outputs)
    store = dense.rows[0]
    place, row, drawn = store.draw(20)
    assert int(drawn.sum()) == {"ahead": 20, "seen": 4 * P, "not yet": 0}[filled]
    raw, owner = store.read(place)[drawn], store.sample_of(row)[drawn]
    index = torch.tensor([4, 9, 2])
    ours, student, batch = visit(dense, index, outputs, seed=1)

    everywhere = pooled_to_grid(outputs.maps[::2])
    mean, deviation = everywhere.mean(0), (everywhere.var(0, unbiased=False) + 1e-5).sqrt()
    embed = dense.local[0][1][1]
    right, rows = (
        unit((values - mean) / deviation @ embed.weight.T + embed.bias)
        for values in (pooled_to_grid(outputs.maps[index]), raw)
    )
    cells = [(sample, y, x) for sample in range(3) for y in range(2) for x in range(2)]
    left = torch.stack([dense.local[0][0](student[s, :, y, 2 * x : 2 * x + 2].mean(1)) for s, y, x in cells])
    label, of_all = (batch["target"], CLASSES) if negatives_from == "other_class" else (index, torch.arange(M))

    def is_negative(i, j):
        (a, *at), (b, *other) = cells[i], cells[j]
        return label[a] != label[b] or (negatives_from == "other_position" and a == b and at != other)

    there = naive_softmax(
        left, right, lambda i, j: i == j, is_negative, rows, lambda i, r: of_all[owner[r]] != label[cells[i][0]], 20
    )
    back = naive_softmax(right, left, lambda i, j: i == j, is_negative)
    assert_same(ours, (there + back) / 2, (student, dense.local[0][0].weight, embed.weight, embed.bias))


def test_softmax_of_positions_and_pooled_embeddings_is_the_naive_one():
    student, teacher = representation(3, (5, 2, 2), 3), representation(4, (4, 2, 2), 7)
    torch.manual_seed(0)
    dense = DenseCRD(
        [(5, 4)], (3, 7), pairing="local_global", criterion="softmax", embed_dim=D, temperature=TAU
    ).double()
    pooled = [dense.pooled[0](student.embedding), embed_teacher(teacher.embedding, dense.pooled[1][1])]
    flat = [side.maps[0].flatten(2).transpose(1, 2).flatten(0, 1) for side in (student, teacher)]
    local = [dense.local[0][0](flat[0]), embed_teacher(flat[1], dense.local[0][1][1])]
    total = 0.0
    for positions, others in ((local[0], pooled[1]), (local[1], pooled[0])):
        total = total + naive_softmax(positions, others, lambda i, j: i // 4 == j, lambda i, j: i // 4 != j) / 2
        total = total + naive_softmax(others, positions, lambda j, i: i // 4 == j, lambda j, i: i // 4 != j) / 2
    assert_same(
        dense(student, teacher, BATCH), total, (student.maps[0], student.embedding, dense.local[0][1][1].weight)
    )


def test_without_negatives_the_softmax_is_zero_and_its_gradient_too():
    student, teacher = representation(5, (5, 2, 2), 3), representation(6, (4, 2, 2), 7)
    dense = DenseCRD([(5, 4)], criterion="softmax", negatives_from="other_sample").double()
    loss = dense(student, teacher, {"index": torch.tensor([4, 4, 4])})
    loss.backward()
    assert loss.abs() < 1e-12 and student.maps[0].grad.abs().max() < 1e-12


def test_the_anchor_is_one_minus_the_cosine_and_rows_do_not_change_it():
    student, teacher = representation(1, (5, 2, 2), 3), representation(2, (4, 2, 2), 7)
    losses = []
    for weight in (0.0, 2.5):
        torch.manual_seed(0)
        losses.append(DenseCRD([(5, 4)], anchor_weight=weight, criterion="softmax").double())
    plain, anchored = losses
    assert not plain.anchors and {name for name in anchored.state_dict() if name not in plain.state_dict()} == {
        "anchors.0.weight",
        "anchors.0.bias",
    }
    anchored.load_state_dict(plain.state_dict(), strict=False)
    ours, theirs = (side.maps[0].flatten(2).transpose(1, 2).flatten(0, 1) for side in (student, teacher))
    linear, target = anchored.anchors[0], standardised(theirs)
    mapped = ours @ linear.weight.T + linear.bias
    anchor = sum(1 - (x @ y) / (x.norm() * y.norm()) for x, y in zip(mapped, target, strict=True)) / len(target)
    assert_same(anchored(student, teacher, BATCH), plain(student, teacher, BATCH) + 2.5 * anchor, (student.maps[0],))


def test_the_mlp_is_linear_batchnorm_relu_linear():
    torch.manual_seed(0)
    embed = MLPEmbedding(5, D).double()
    features = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    first, norm, _, last = embed
    assert first.weight.shape == (2 * D, 5)
    norm.weight.data.uniform_(), norm.bias.data.normal_()
    hidden = torch.relu(standardised(features @ first.weight.T) * norm.weight + norm.bias)
    expected = unit(hidden @ last.weight.T + last.bias)
    torch.testing.assert_close(embed(features), expected, rtol=1e-10, atol=1e-12)
    dense = DenseCRD([(5, 4)], (3, 7), pairing="both", projector="mlp")
    assert isinstance(dense.local[0][0], MLPEmbedding) and isinstance(dense.pooled[0], MLPEmbedding)
    assert not isinstance(dense.local[0][1][1], MLPEmbedding)


def test_defaults_have_no_more_state_than_before():
    assert {*DenseCRD([(5, 4)]).state_dict()} == {
        f"local.0.{side}.{name}" for side in ("0", "1.1") for name in ("weight", "bias")
    }


def test_rows_stored_ahead_are_those_stored_later_and_positions_of_the_cached_maps():
    outputs, ahead, seen = Outputs(), with_rows(), with_rows()
    ahead.prepare([outputs])
    seen.prepare([Outputs(cached=False)])
    for index in torch.randperm(M).split(4):
        visit(seen, index, outputs)
    rows = ahead.rows[0].embeddings
    assert torch.equal(rows, seen.rows[0].embeddings) and int(seen.rows[0].filled) == M * P
    everywhere = pooled_to_grid(outputs.maps).view(M, 4, 4)
    chosen = set()
    for sample in range(M):
        at = [
            int(torch.nonzero(torch.isclose(everywhere[sample], row).all(1)))
            for row in rows[P * sample : P * sample + P]
        ]
        assert len({*at}) == P
        chosen.add(tuple(at))
    assert len(chosen) > 4
    assert not torch.equal(
        PositionRows(M, P, 4, seed=1).choose(torch.arange(M), outputs.maps)[1],
        PositionRows(M, P, 4).choose(torch.arange(M), outputs.maps)[1],
    )


@pytest.mark.parametrize("cached", [True, False])
def test_maps_that_are_no_numbers_are_refused_as_rows_and_not_measured(cached):
    outputs, without = Outputs(cached), Outputs(cached=False)
    outputs.maps[4, 1, 0, 0] = torch.nan
    without.sample = lambda needs: Representation(maps=(outputs.maps[[0, 2, 6, 8, 10]],))
    dense, fewer = with_rows(), with_rows()
    fewer.prepare([without])
    with (
        pytest.raises(ContrastillError, match="output for training sample 4 is not a finite number")
        if cached
        else nullcontext()
    ):
        dense.prepare([outputs])
    for name, value in fewer.local[0][1][0].state_dict().items():
        assert value.equal(dense.local[0][1][0].state_dict()[name]), name


def test_a_sample_keeps_no_more_positions_than_its_map_has():
    dense = with_rows(row_positions=9)
    dense.prepare([Outputs()])
    assert dense.rows[0].embeddings.shape == (M * 4, 4)
    torch.testing.assert_close(dense.rows[0].embeddings.sum(0), pooled_to_grid(Outputs().maps).sum(0))


@pytest.mark.parametrize("cached", [True, False])
def test_a_resumed_run_continues_with_the_same_draws_and_rows(cached):
    order = torch.randperm(M, generator=torch.Generator().manual_seed(1)).split(3)
    uninterrupted, resumed = with_rows(), with_rows()
    for dense in (uninterrupted, resumed):
        dense.prepare([Outputs(cached)])
    for index in order[:2]:
        visit(uninterrupted, index)
    state = {name: value.clone() for name, value in uninterrupted.state_dict().items()}
    assert ("rows.0.embeddings" in state) is not cached
    resumed.load_state_dict(state)
    assert resumed.rows[0].draws == 2
    for index in order[2:]:
        assert torch.equal(visit(uninterrupted, index)[0], visit(resumed, index)[0])
    uninterrupted.eval()
    filled, draws = int(uninterrupted.rows[0].filled), uninterrupted.rows[0].draws
    visit(uninterrupted, order[0])
    assert (int(uninterrupted.rows[0].filled), uninterrupted.rows[0].draws) == (filled, draws)


def test_rows_wait_for_the_optimiser_step():
    dense = with_rows()
    store = dense.rows[0]
    for module in dense.modules():
        if hasattr(module, "defer"):
            module.defer(4, 2)
    visit(dense, torch.tensor([1, 5]))
    visit(dense, torch.tensor([0, 2]))
    assert int(store.filled) == 0 and store.draws == 0
    store.commit()
    assert int(store.filled) == 4 * P and store.draws == 1


RANK = """
import sys, torch
from contrastill.core.representation import Representation
from contrastill.xmodal.dense_crd import DenseCRD
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)
dense = DenseCRD([(5, 4)], criterion="softmax", num_rows=20, row_positions=3, grids=[(2, 2)], num_samples=12)
dense.rows[0].defer(-(-5 // world))
for step in range(2):
    index = torch.tensor([[4, 9, 2, 0, 4], [7, 4, 1, 3, 8]])[step]
    maps = torch.randn(12, 4, 4, 2, generator=torch.Generator().manual_seed(step))[index]
    ours, theirs, own = (values.tensor_split(world)[rank] for values in (torch.randn(5, 5, 2, 2), maps, index))
    dense(Representation(maps=(ours,)), Representation(maps=(theirs,)), {"index": own})
    dense.rows[0].commit()
store = dense.rows[0]
torch.save({"rows": store.embeddings, "draw": torch.stack(store.draw(20)[:2])}, f"{folder}/{rank}-of-{world}.pt")
if world > 1:
    torch.distributed.destroy_process_group()
"""


def test_processes_keep_the_same_rows(ranks, tmp_path):
    for world in (1, 2):
        ranks(RANK, world, tmp_path)
    alone, *both = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2"))
    assert (alone["rows"].abs().sum(1) > 0).sum() == 8 * 3
    for other in both:
        assert all(torch.equal(alone[name], other[name]) for name in alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "nce"}, "take criterion=softmax"),
        ({"criterion": "softmin"}, "criterion"),
        ({"projector": "deep"}, "projector"),
        ({"pairing": "local_global"}, "take local_local or both"),
        ({"num_negatives": 9}, "leave it out"),
        ({"grids": None}, "needs grids and num_samples"),
        ({"num_samples": None}, "needs grids and num_samples"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UsageError, match=message):
        with_rows(**options)


def test_rows_of_other_classes_need_the_classes():
    with pytest.raises(UsageError, match="pass targets"):
        DenseCRD([(5, 4)], criterion="softmax", num_rows=4, grids=[(2, 2)], num_samples=M, negatives_from="other_class")


@pytest.mark.parametrize(("samples", "grid"), [(None, (4, 4)), (2, (3, 3)), (5, (2, 2)), (100, (1, 1))])
def test_rows_are_stored_at_the_size_of_a_full_batch(samples, grid):
    setting = Setting(
        RepresentationSpec(10, 3, ((5, 4, 8),)), RepresentationSpec(10, 7, ((4, 6, 4),)), 20, None, 0, samples
    )
    dense = DenseCRD.build(DenseCRD.Options(criterion="softmax", num_rows=8, positions=20), setting)
    assert dense.grids == [grid] and dense.rows[0].num_samples == 20 * min(4, grid[0] * grid[1])
