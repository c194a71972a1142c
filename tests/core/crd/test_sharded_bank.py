"""A bank dealt out to several processes, in half precision, or in the host's memory, against one in one place."""

import pytest
import torch

from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.sharding import Shard
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.core.errors import UsageError

M, D, K = 61, 16, 9
CASES = [
    (mode, labelled, gathered)
    for mode in ("all", "shared", "sampled")
    for labelled in (True, False)
    for gathered in (False, True)
    if mode == "sampled" or not gathered
]

# Run by every rank, and by a single process with replicated banks: losses, gradients, banks of a few steps; the last
# batch is short.
STEPS = """
import sys, torch
import contrastill.core.crd.negative_sums
from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.shared import SharedCRDLoss

def steps(mode, labelled, gathered, several, share, passes=1, **options):
    contrastill.core.crd.negative_sums.DENSE_ROWS_PER_NEGATIVE = 1 if gathered else 24
    torch.manual_seed(0)
    targets = {"targets": torch.arange(61) % 4} if labelled else {"num_samples": 61}
    shape = (5, [6, 6]) if several else (5, 6)
    options |= {"num_negatives": 9, "embed_dim": 16, "negatives": mode}
    crd = (SharedCRDLoss if several else CRDLoss)(*shape, **targets, **options).double()
    results = {}
    if passes > 1:
        crd.defer(9, passes)
    for number, batch in enumerate((9, 9, 8)):
        generator = torch.Generator().manual_seed(number)
        values = [torch.randn(batch, size, generator=generator, dtype=torch.float64) for size in (5, 6, 6)]
        index = torch.randint(61, (batch,), generator=generator)
        losses = []
        crd.zero_grad()
        mine = [share(value) for value in (*values, index)]
        for student, first, second, indices in zip(*(value.tensor_split(passes) for value in mine), strict=True):
            student.requires_grad_()
            loss = crd.per_sample(student, [first, second] if several else first, indices)
            loss.sum().backward()
            losses.append(torch.cat((loss.detach()[:, None], student.grad), 1))
        crd.commit()
        results[f"losses.{number}"] = torch.cat(losses)
        results |= {f"grad.{number}.{name}": parameter.grad.clone() for name, parameter in crd.named_parameters()}
    results |= {name: value.clone() for name, value in crd.state_dict().items() if name.startswith("bank.")}
    return results | {"draws": torch.tensor(crd.draws), "held": torch.tensor(crd.bank.rows.shape[1])}
"""

RANK = (
    STEPS
    + """
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
share = lambda value: value.tensor_split(world)[rank]
for number, (mode, labelled, gathered) in enumerate(eval(sys.argv[4])):
    for several in (False, True):
        for placement in ("sharded", "replicated"):
            results = steps(mode, labelled, gathered, several, share, bank_placement=placement)
            torch.save(results, f"{folder}/{placement}-{number}-{several}-{rank}.pt")
torch.save(steps("shared", True, False, False, share, passes=2, bank_placement="sharded"), f"{folder}/passes-{rank}.pt")
torch.distributed.destroy_process_group()
"""
)

exec(STEPS, one := {})


def assert_equals_one_process(expected, folder, name, world):
    results = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(world)]
    for key, value in expected.items():
        if key == "held":
            continue
        parts = [one[key] for one in results]
        if key.startswith("losses"):
            together = torch.cat(parts)
        elif key.startswith("grad"):
            together = sum(parts)
        else:
            assert all(part.equal(parts[0]) for part in parts), key
            together = parts[0]
        torch.testing.assert_close(
            together, value, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{name} {key}: {text}"
        )
    return sum(int(one["held"]) for one in results)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_say_what_one_process_says(ranks, tmp_path, world):
    ranks(RANK, world, tmp_path, CASES)
    for number, (mode, labelled, gathered) in enumerate(CASES):
        for several in (False, True):
            expected = one["steps"](mode, labelled, gathered, several, lambda value: value)
            assert assert_equals_one_process(expected, tmp_path, f"sharded-{number}-{several}", world) == M
            assert assert_equals_one_process(expected, tmp_path, f"replicated-{number}-{several}", world) == world * M
    # Two passes a step draw once and write once: as one pass over the whole batch.
    expected = one["steps"]("shared", True, False, False, lambda value: value)
    assert assert_equals_one_process(expected, tmp_path, "passes", world) == M


@pytest.mark.parametrize("mode", ["all", "shared", "sampled"])
def test_passes_of_one_step_are_one_pass(mode):
    whole, split = (one["steps"](mode, True, False, False, lambda value: value, passes=passes) for passes in (1, 3))
    assert int(whole["draws"]) == int(split["draws"]) == 3
    for key, value in whole.items():
        torch.testing.assert_close(split[key], value, rtol=1e-10, atol=1e-10)


def test_a_discarded_step_leaves_no_trace():
    crd = CRDLoss(5, 6, num_samples=M, num_negatives=K, embed_dim=D, negatives="sampled")
    crd.defer(4)
    before = {name: value.clone() for name, value in crd.state_dict().items()}
    crd(torch.randn(4, 5), torch.randn(4, 6), torch.arange(4))
    crd.rollback()
    crd.commit()
    after = crd.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("dtype, bound", [("fp16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("mode", ["all", "shared", "sampled"])
def test_rows_of_half_precision_are_near(mode, dtype, bound):
    def run(dtype):
        torch.manual_seed(0)
        crd = CRDLoss(5, 6, targets=torch.arange(M) % 4, num_negatives=K, embed_dim=D, negatives=mode, bank_dtype=dtype)
        student = torch.randn(8, 5, requires_grad=True)
        loss = crd(student, torch.randn(8, 6), torch.arange(8))
        loss.backward()
        return loss.detach(), student.grad, crd.bank.student

    exact, near = run("fp32"), run(dtype)
    assert near[0].dtype == torch.float32 and near[2].dtype != torch.float32
    for true, rounded in zip(exact, near, strict=True):
        assert (rounded.float() - true).norm() < bound * true.norm()
    norms = near[2].float().norm(dim=1)
    assert (norms[:8] - 1).abs().max() < bound


def test_rows_in_the_hosts_memory_say_the_same_and_stay_there():
    crds = [
        CRDLoss(5, 6, num_samples=M, num_negatives=K, embed_dim=D, negatives="shared", bank_memory=memory)
        for memory in ("device", "host")
    ]
    crds[1].load_state_dict(crds[0].state_dict())
    values = torch.randn(8, 5), torch.randn(8, 6), torch.arange(8)
    losses = [crd(*values) for crd in crds]
    assert losses[0].equal(losses[1]) and crds[0].bank.student.equal(crds[1].bank.student)
    assert crds[1].to("meta").bank.memory.device.type == "cpu"


def test_every_place_is_in_one_shard():
    for world in (1, 2, 3, 5):
        shards = [Shard(rank, world) for rank in range(world)]
        for low, high in ((0, 0), (0, 1), (3, 17), (5, 5), (1, 20)):
            there = [shard.places(*shard.span(low, high), "cpu") for shard in shards]
            assert torch.cat(there).sort().values.tolist() == list(range(low, high))
            assert all(shard.holds(places).all() for shard, places in zip(shards, there, strict=True))
            assert max(map(len, there)) - min(map(len, there)) <= 1


def test_wrong_choices_are_refused():
    for name, value in (("bank_placement", "shared"), ("bank_dtype", "int8"), ("bank_memory", "disk")):
        with pytest.raises(UsageError, match=value):
            CRDLoss(5, 6, num_samples=M, **{name: value})
    assert isinstance(SharedCRDLoss(5, [6], num_samples=M, bank_dtype="fp16").bank.student, torch.Tensor)
