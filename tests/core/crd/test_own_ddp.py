"""A loss with sharded rows inside a DistributedDataParallel of one's own, its buffers broadcast as they are by default,
against one process.
"""

import pytest
import torch

# Run by every rank with its share, and by a single process with all: three steps of SGD.
STEPS = """
import sys, torch
from contrastill.core.crd.fresh import FreshCRDLoss
from contrastill.core.crd.loss import CRDLoss

def steps(name, labelled, placement, share, wrap):
    torch.manual_seed(0)
    targets = {"targets": torch.arange(24) % 3} if labelled else {"num_samples": 24}
    options = {"num_negatives": 6, "embed_dim": 4}
    if name == "fresh":
        loss = FreshCRDLoss(5, 6, **targets, **options, row_placement=placement, criterion="softmax")
    else:
        loss = CRDLoss(5, 6, **targets, **options, negatives=name, bank_placement=placement)
    loss = wrap(loss.double())
    results = []
    optimizer = torch.optim.SGD(loss.parameters(), 0.1)
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        student, teacher = (torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (5, 6))
        index = torch.randperm(24, generator=generator)[:8]
        value = loss(share(student), share(teacher), share(index))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        results.append(value.detach())
    inner = getattr(loss, "module", loss)
    state = {key: part for key, part in inner.state_dict().items() if torch.is_tensor(part)}
    return torch.stack(results), state
"""

RANK = (
    STEPS
    + """
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
for name, labelled in eval(sys.argv[4]):
    for placement in ("sharded", "replicated"):
        share = lambda value: value.tensor_split(world)[rank]
        got = steps(name, labelled, placement, share, torch.nn.parallel.DistributedDataParallel)
        torch.save(got, f"{folder}/{name}-{labelled}-{placement}-{rank}.pt")
torch.distributed.destroy_process_group()
"""
)

CASES = [(name, labelled) for name in ("all", "shared", "sampled", "fresh") for labelled in (True, False)]

exec(STEPS, one := {})


def test_buffers_that_are_broadcast_leave_each_rank_its_rows(ranks, tmp_path):
    ranks(RANK, 2, tmp_path, CASES)
    for name, labelled in CASES:
        losses, state = one["steps"](name, labelled, "replicated", lambda value: value, lambda loss: loss)
        for placement in ("sharded", "replicated"):
            got = [torch.load(tmp_path / f"{name}-{labelled}-{placement}-{rank}.pt") for rank in range(2)]
            torch.testing.assert_close(sum(part for part, _ in got) / 2, losses, rtol=1e-10, atol=1e-10)
            for _, other in got:
                assert other.keys() == state.keys()
                for key, value in state.items():
                    torch.testing.assert_close(other[key], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("placement", ["sharded", "replicated"])
def test_rows_move_with_the_loss(placement):
    from contrastill.core.crd.loss import CRDLoss

    crd = CRDLoss(
        5, 6, targets=torch.arange(24) % 3, num_negatives=6, embed_dim=4, negatives="shared", bank_placement=placement
    )
    assert crd.double().bank.rows.dtype == torch.float64
    assert crd.to("meta").bank.rows.device.type == crd.rule.label_at.device.type == "meta"
