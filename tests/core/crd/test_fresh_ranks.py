"""FreshCRDLoss on several processes against one, in float64 to 1e-10: losses, logs, gradients, rows and state, with
uneven and empty shares; and rows from a live teacher.
"""

from functools import partial

import pytest
import torch

M = 37
CASES = {
    "seen": {},
    "other samples": {"labelled": False, "options": {"refresh_rows": True, "criterion": "nce", "bias": 2.0}},
    "ahead": {"ahead": True, "options": {"criterion": "sigmoid"}},
    "several teachers": {"dims": [6, 3]},
    "one direction": {"options": {"student_rows": "none", "num_negatives": 2 * M}},
    "few directions": {
        "ahead": True,
        "options": {"row_variance": 0.7, "teacher_map": "whitened", "refresh_rows": True},
    },
    "free": {"held": False},
    "passes": {"ahead": True, "passes": 2, "options": {"refresh_rows": True}},
    "passes of several teachers": {"ahead": True, "passes": 3, "dims": [6, 3], "labelled": False},
}

# Run by every rank, and by a single process that sees in each pass what all ranks see in it.
STEPS = """
import sys, torch
from contrastill.training.accumulation import chunks
from contrastill.core.crd.fresh import FreshCRDLoss

M, SIZES = 37, (9, 8, 2, 1, 9)

def everything(dim):
    return 2 + torch.randn(M, dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64)

def build(case, placement):
    torch.manual_seed(0)
    known = {"targets": torch.arange(M) % 4} if case.get("labelled", True) else {"num_samples": M}
    options = {"num_negatives": 9, "embed_dim": 8, "row_placement": placement} | case.get("options", {})
    loss = FreshCRDLoss(5, case.get("dims", 6), **known, **options).double()
    for number, rows in enumerate(loss.rows) if case.get("ahead") else ():
        values = everything(rows.dim)
        loss.prepare(number, values, zip(torch.arange(M).split(5), values.split(5)))
    return loss

def batches(case):
    # The last ones leave shares uneven and empty; samples come twice in one batch and again in others.
    for number, size in enumerate(SIZES):
        generator = torch.Generator().manual_seed(number)
        batch = {"student": torch.randn(size, 5, generator=generator, dtype=torch.float64)}
        batch |= {f"teacher.{n}": torch.randn(size, dim, generator=generator, dtype=torch.float64) for n, dim in enumerate(case.get("dims") or [6])}
        yield batch | {"index": torch.randint(M, (size,), generator=generator)}

def share(batch, rank, world):
    own = {name: value.tensor_split(world)[rank] for name, value in batch.items()}
    if len(own["index"]):
        return own
    return {name: value[-1:] for name, value in batch.items()} | {"is_padding": torch.ones(1, dtype=torch.bool)}

def steps(case, placement, parts):
    loss, passes, found = build(case, placement), case.get("passes", 1), {}
    if case.get("held", True):
        loss.hold(9, passes)
    for number, batch in enumerate(batches(case)):
        each, logs = [], []
        loss.zero_grad()
        for one, weight in parts(batch, passes):
            student = one["student"].clone().requires_grad_()
            teachers = [one[name] for name in sorted(one) if name.startswith("teacher")]
            values = loss.per_sample(student, teachers, one["index"])
            (values * weight).sum().backward()
            each.append(torch.cat((values.detach()[:, None], student.grad), 1) * weight[:, None])
            logs.append(torch.stack([value * weight.sum() for _, value in sorted(loss.logs.items())]))
        loss.commit()
        found[f"losses.{number}"] = torch.cat(each)
        found[f"logs.{number}"] = sum(logs)
        found |= {f"grad.{number}.{name}": parameter.grad.clone() for name, parameter in loss.named_parameters()}
        for place, rows in enumerate(loss.rows):
            found |= {f"rows.{number}.{place}": rows.embeddings, f"order.{number}.{place}": rows.sample[: int(rows.filled)].clone()}
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.mul_(0.95).add_(0.02)
    return found, {name: value.clone() for name, value in loss.state_dict().items()}, sum(len(rows.memory) - 1 for rows in loss.rows)
"""

RANK = (
    STEPS
    + """
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)

def parts(batch, passes):
    cut = chunks(share(batch, rank, world), passes)
    return [(chunk, torch.full((len(chunk["index"]),), float(size > 0), dtype=torch.float64)) for chunk, size in cut]

for name, case in eval(sys.argv[4]).items():
    for placement in ("sharded", "replicated"):
        torch.save(steps(case, placement, parts), f"{folder}/{name}-{placement}-{rank}.pt")
torch.distributed.destroy_process_group()
"""
)

exec(STEPS, one := {})


def cut(values, count):
    """The parts of a share in its passes and how many of each count; a part without a sample is the last one again."""
    return [(part, len(part)) if len(part) else (values[-1:], 0) for part in values.tensor_split(count)]


def united(world):
    """For each pass, what all ranks have in it, one after the other."""

    def parts(batch, passes):
        positions = torch.arange(len(batch["index"])).tensor_split(world)
        shares = [
            cut(own, passes) if len(own) else [(torch.tensor([len(batch["index"]) - 1]), 0)] * passes
            for own in positions
        ]
        for each in zip(*shares, strict=True):
            rows = torch.cat([part for part, _ in each])
            weight = torch.cat([torch.full((len(part),), float(size > 0), dtype=torch.float64) for part, size in each])
            yield {name: value[rows] for name, value in batch.items()}, weight

    return parts


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_are_one_process(ranks, tmp_path, world):
    ranks(RANK, world, tmp_path, CASES)
    for name, case in CASES.items():
        expected, state, _ = one["steps"](case, "replicated", united(world))
        for placement in ("sharded", "replicated"):
            got = [torch.load(tmp_path / f"{name}-{placement}-{rank}.pt", weights_only=True) for rank in range(world)]
            assert sum(held for _, _, held in got) == M * len(case.get("dims") or [6]) * (
                1 if placement == "sharded" else world
            )
            for key, value in expected.items():
                parts = [values[key] for values, _, _ in got]
                kind, number = key.split(".")[:2]
                if kind == "logs" and one["SIZES"][int(number)] < world * case.get("passes", 1):
                    continue  # one process takes what fills up a share into its mean
                if kind in ("logs", "grad"):
                    together = sum(parts)
                elif kind == "losses":  # each rank has those of its passes one after the other
                    together, value = (rows[rows[:, 0].argsort()] for rows in (torch.cat(parts), value))
                else:
                    assert all(part.equal(parts[0]) for part in parts), key
                    together = parts[0]
                torch.testing.assert_close(
                    together, value, rtol=1e-10, atol=1e-10, msg=partial("{} {} {}: {}".format, name, placement, key)
                )
            for _, theirs, _ in got:
                assert theirs.keys() == state.keys()
                for key, value in state.items():
                    torch.testing.assert_close(theirs[key], value, rtol=1e-10, atol=1e-10)


def test_a_checkpoint_of_shards_goes_on_in_one_place(ranks, tmp_path):
    cases = {name: CASES[name] for name in ("seen", "ahead", "few directions")}
    ranks(RANK, 2, tmp_path, cases)
    for name, case in cases.items():
        states = [
            torch.load(tmp_path / f"{name}-{placement}-{rank}.pt", weights_only=True)[1]
            for placement in ("sharded", "replicated")
            for rank in (0, 1)
        ]
        losses = []
        for state in states:
            loss = one["build"](case, "replicated")
            loss.load_state_dict(state)
            for batch in one["batches"](case):
                losses.append(loss(batch["student"], batch["teacher.0"], batch["index"]))
        assert losses[:5] == losses[5:10] == losses[10:15] == losses[15:], name


LIVE = """
import sys, torch
from contrastill.core.teachers.live import LiveTeacherOutputs, LiveTeachers
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.objectives.cross_entropy import CrossEntropy

def outputs(samples, rank=0, world=1):
    torch.manual_seed(0)
    images = PaddedImages.zeros(samples, 8, 8, 3, dtype=torch.uint8, padding=2)
    images.interior[:] = torch.randint(256, images.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = TensorSplit({"rgb": images}, targets=torch.arange(samples) % 3, num_classes=3, flip=True)
    teacher, student = build_network("resnet8", num_classes=3), build_network("resnet8", num_classes=3)
    loader = data.loader(batch_size=5, device="cpu", train=True, rank=rank, world=world)
    live = LiveTeacherOutputs(LiveTeachers(loader, Transfer([teacher], student, {"cross_entropy": CrossEntropy()})), 0)
    index, embeddings = zip(*((index, one.embedding) for index, one in live.all({"embedding"})))
    return torch.cat(index), torch.cat(embeddings), live.sample({"embedding"}).embedding
"""

LIVE_RANK = (
    LIVE
    + """
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.save([outputs(samples, rank, world) for samples in (3, 4, 9, 21)], f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""
)


def test_each_process_shows_a_live_teacher_its_share(ranks, tmp_path):
    exec(LIVE, alone := {})
    ranks(LIVE_RANK, 3, tmp_path)
    for rank in range(3):
        for samples, (index, embeddings, sample) in zip(
            (3, 4, 9, 21), torch.load(tmp_path / f"{rank}.pt", weights_only=True), strict=True
        ):
            assert index.tolist() == list(range(samples))
            for value, expected in zip((embeddings, sample), alone["outputs"](samples)[1:], strict=True):
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
