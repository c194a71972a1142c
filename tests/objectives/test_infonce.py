"""infonce against nested loops in float64, gradients included; its queue against a list; and what it refuses."""

import copy
import math

import pytest
import torch
from safetensors.torch import load, save

from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.infonce import EMPTY, InfoNCE, Queue

TARGETS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 3])


def setting(targets=TARGETS, dims=(5, 6)):
    return Setting(RepresentationSpec(4, dims[0], ()), RepresentationSpec(4, dims[1], ()), 8, targets, 0)


def built(targets=TARGETS, **options):
    torch.manual_seed(0)
    return InfoNCE.build(InfoNCE.Options(embed_dim=3, **options), setting(targets)).double()


def batch_of(index, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(len(index), dim, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for dim in (5, 6)
    )
    index = torch.tensor(index)
    return (
        Representation(embedding=student),
        Representation(embedding=teacher),
        {"index": index, "target": TARGETS[index]},
    )


def embed(layer, features):
    """One after the other, a matrix times a vector and its length."""
    rows = [layer.weight @ row + layer.bias for row in features]
    return [row / (row * row).sum().sqrt() for row in rows]


def naive(objective, student, teacher, kinds, queue=()):
    """Losses and bounds of each sample; the queue is a list of (embedding, kind)."""
    ours, theirs = embed(objective.embed_student, student.embedding), embed(objective.embed_teacher, teacher.embedding)
    tau, losses, bounds = objective.temperature, [], []
    for i in range(len(ours)):
        positive = torch.exp(ours[i] @ theirs[i] / tau)
        there = [torch.exp(ours[i] @ theirs[j] / tau) for j in range(len(ours)) if kinds[j] != kinds[i]]
        there += [torch.exp(ours[i] @ row / tau) for row, kind in queue if kind != kinds[i]]
        back = [torch.exp(ours[j] @ theirs[i] / tau) for j in range(len(ours)) if kinds[j] != kinds[i]]
        both = [-torch.log(positive / (positive + sum(far))) for far in (there, back)]
        losses.append(sum(both) / 2)
        bounds.append(sum(math.log(1 + len(far)) - loss for far, loss in zip((there, back), both, strict=True)) / 2)
    return torch.stack(losses), sum(bounds) / len(bounds)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(("origin", "key"), [("other_class", "target"), ("other_sample", "index"), (None, "target")])
def test_infonce_is_the_naive_one(origin, key, temperature):
    objective = built(negatives_from=origin, temperature=temperature)
    # Sample 5 is in the batch twice: neither of the two is a negative of the other.
    student, teacher, batch = batch_of([0, 5, 2, 5, 1, 3], 1)
    each = objective.per_sample(student, teacher, batch)
    reference, bound = naive(objective, student, teacher, batch[key].tolist())
    torch.testing.assert_close(each, reference, rtol=1e-10, atol=1e-12)
    loss = objective(student, teacher, batch)
    torch.testing.assert_close(loss, reference.mean(), rtol=1e-10, atol=1e-12)
    inputs = [student.embedding, teacher.embedding, *objective.parameters()]
    for got, expected in zip(
        *(torch.autograd.grad(value, inputs) for value in (each.mean(), reference.mean())), strict=True
    ):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    if key == "index":
        torch.testing.assert_close(objective.logs["mi_bound"], bound.detach(), rtol=1e-6, atol=0)
    else:
        assert objective.logs == {}


@pytest.mark.parametrize("key", ["target", "index"])
def test_the_queue_is_a_list_of_the_last_embeddings(key):
    objective = built(
        negatives="queue", queue_size=7, negatives_from="other_class" if key == "target" else "other_sample"
    )
    queued = []
    # The third batch wraps around, the fifth is larger than the queue, in the last a sample meets its own earlier
    # embedding.
    for seed, index in enumerate(([0, 1, 2], [3, 4, 5], [6, 7, 0, 1], [5], [0, 1, 2, 3, 4, 5, 6, 7, 3], [4, 3])):
        student, teacher, batch = batch_of(index, seed)
        before = copy.deepcopy(objective.state_dict())
        objective.eval()
        read = objective.per_sample(student, teacher, batch)
        assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
        objective.train()
        each = objective.per_sample(student, teacher, batch)
        assert torch.equal(each, read)
        reference, bound = naive(objective, student, teacher, batch[key].tolist(), queued)
        torch.testing.assert_close(each, reference, rtol=1e-10, atol=1e-12)
        inputs = [student.embedding, teacher.embedding, *objective.parameters()]
        for got, expected in zip(
            *(torch.autograd.grad(value.mean(), inputs) for value in (each, reference)), strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        if key == "index":
            torch.testing.assert_close(objective.logs["mi_bound"], bound.detach(), rtol=1e-6, atol=1e-6)
        queued += list(
            zip(
                [row.detach() for row in embed(objective.embed_teacher, teacher.embedding)],
                batch[key].tolist(),
                strict=True,
            )
        )
        queued = queued[-7:]
        with torch.no_grad():  # the map moves on; what is in the queue stays as it was
            objective.embed_teacher.weight.mul_(0.9).add_(0.1)
    assert objective.queue.pointer == (3 + 3 + 4 + 1 + 9 + 2) % 7 and sorted(objective.queue.kind.tolist()) == sorted(
        kind for _, kind in queued
    )


def test_slots_that_were_never_written_do_not_count():
    objective, alone = built(negatives="queue", queue_size=50), built(negatives="batch")
    torch.testing.assert_close(objective(*batch_of([0, 1, 3], 0)), alone(*batch_of([0, 1, 3], 0)), rtol=1e-12, atol=0)
    assert (objective.queue.kind == EMPTY).sum() == 47
    assert objective(*batch_of([0, 1, 3], 0)) > alone(*batch_of([0, 1, 3], 0)) + 0.01


def test_the_queue_makes_the_round_trip_through_a_checkpoint():
    objective, twin = (built(negatives="queue", queue_size=4) for _ in range(2))
    for seed, index in enumerate(([0, 1, 2], [3, 4, 5])):
        objective(*batch_of(index, seed))
    assert {"queue.rows", "queue.kind", "queue.pointer"} <= set(objective.state_dict())
    twin.load_state_dict(load(save(objective.state_dict())))
    for seed, index in enumerate(([6, 7], [1, 3, 5]), start=2):
        assert torch.equal(objective(*batch_of(index, seed)), twin(*batch_of(index, seed)))
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in objective.state_dict().items())


def test_a_queue_serves_a_batch_of_one_sample_and_no_queue_refuses_it():
    objective = built(negatives="queue")
    assert objective(*batch_of([0], 0)) == 0
    assert objective(*batch_of([1], 1)) > 0
    with pytest.raises(UsageError, match="one sample"):
        built()(*batch_of([0], 0))


def test_labels_and_embeddings_that_are_missing():
    with pytest.raises(UsageError, match="negatives_from=other_class needs labels"):
        built(None, negatives_from="other_class")
    assert built(None).negatives_from == "other_sample" and built().negatives_from == "other_class"
    student, teacher, batch = batch_of([0, 1], 0)
    with pytest.raises(UsageError, match="infonce needs labels"):
        built()(student, teacher, {"index": batch["index"]})
    with pytest.raises(UsageError, match="infonce .*the teacher has none"):
        InfoNCE.build(InfoNCE.Options(), setting(dims=(5, None)))


@pytest.mark.parametrize("negatives", ["batch", "queue"])
def test_extreme_embeddings_and_a_batch_of_one_class(negatives):
    objective = built(negatives=negatives).float()
    for scale, index in ((1e4, [0, 1, 3]), (0.0, [0, 1, 3]), (1.0, [0, 2, 5])):
        student, teacher, batch = batch_of(index, 0, torch.float32)
        outputs = [
            Representation(embedding=(scale * side.embedding).detach().requires_grad_()) for side in (student, teacher)
        ]
        loss = objective.per_sample(*outputs, batch).mean()
        loss.backward()
        assert loss.isfinite() and all(side.embedding.grad.isfinite().all() for side in outputs)


def test_the_scores_keep_their_digits_under_autocast():
    objective = built(temperature=0.01).float()
    objective.embed_student.weight.data.copy_(torch.eye(3, 5))
    objective.embed_teacher.weight.data.copy_(torch.eye(3, 6))
    for layer in (objective.embed_student, objective.embed_teacher):
        layer.bias.data.zero_()
    # Whole numbers survive the linear map in half precision; what comes after it must not be rounded.
    index = [0, 1, 3, 7]
    outputs = [Representation(embedding=torch.arange(1.0, 1 + 4 * dim).reshape(4, dim) % 7) for dim in (5, 6)]
    batch = {"index": torch.tensor(index), "target": TARGETS[index]}
    with torch.autocast("cpu", torch.bfloat16):
        under = objective(*outputs, batch)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, objective(*outputs, batch), rtol=1e-5, atol=1e-5)


def test_name_weight_and_samples():
    assert (
        OBJECTIVES["infonce"] is InfoNCE
        and InfoNCE.default_weight == OBJECTIVES["crd"].default_weight
        and InfoNCE.decomposes()
    )


RANK = """
import sys, torch
from contrastill.objectives.infonce import Queue
rank, folder = int(sys.argv[1]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
queue = Queue(7, 3)
for start in (0, 4, 8, 12):
    kind = torch.arange(start, start + 4)
    rows = kind[:, None] * torch.ones(3)
    queue.push(rows.tensor_split(2)[rank], kind.tensor_split(2)[rank])
torch.save(queue.state_dict(), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_ranks_keep_one_queue_equal_to_that_of_one_process(ranks, tmp_path):
    ranks(RANK, 2, tmp_path)
    queue = Queue(7, 3)
    for start in (0, 4, 8, 12):
        kind = torch.arange(start, start + 4)
        queue.push(kind[:, None] * torch.ones(3), kind)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(state[name], value) for name, value in queue.state_dict().items())


def test_a_stream_without_an_index_takes_each_sample_for_a_new_one():
    streamed, indexed = (built(None, negatives="queue", queue_size=6) for _ in range(2))
    for step in range(3):
        student, teacher, _ = batch_of([0, 1, 2, 3], step)
        streamed_loss = streamed(student, teacher, {"rgb": torch.zeros(4, 3, 2, 2)})
        expected = indexed(student, teacher, {"index": torch.arange(4) + 4 * step})
        torch.testing.assert_close(streamed_loss, expected, rtol=1e-12, atol=0)
    assert torch.equal(streamed.queue.rows, indexed.queue.rows)


def test_copies_that_fill_up_a_share_do_not_enter_the_queue():
    queue, plain = Queue(5, 1), Queue(5, 1)
    for batch in ([0, ~0, 1], [~2, 2, 3, 4], [~5, 5], [6, 7, ~6, 8, 9, 10, 11]):
        kind = torch.tensor(batch)
        queue._write(kind, torch.where(kind < 0, 99, kind).double()[None, :, None])
        real = kind[kind >= 0]
        plain.push(real.double()[:, None], real)
    assert (
        queue.kind.tolist() == plain.kind.tolist()
        and torch.equal(queue.rows, plain.rows)
        and queue.pointer == plain.pointer
    )


def test_data_of_one_class_has_no_negatives_of_another():
    with pytest.raises(
        UsageError,
        match=r"all samples are of one class: use more classes, or objectives.infonce.negatives_from=other_sample",
    ):
        built(torch.zeros(8, dtype=torch.int64))
    assert built(torch.zeros(8, dtype=torch.int64), negatives_from="other_sample")(*batch_of([0, 1], 0)) > 0
    assert built(None)(*batch_of([0, 1], 0)) > 0
