"""The parts of the GPU check, see gpu.py: each prints its rows as lines of JSON, as soon as they are measured."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from contrastill.core.crd.fresh import FreshCRDLoss
from contrastill.core.crd.loss import CRDLoss
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import describe
from contrastill.core.teachers.live import LiveTeachers
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.models.build import build_network
from contrastill.training.compiled import compiled

HERE = Path(__file__).resolve().parent
DIM, EMBED, CLASSES = 256, 128, 1000
# Whether networks are compiled, one after the other.
COMPILE = (False, True)


def emit(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measured(step: Callable[[], Any], device: str, rounds: int, warm: int) -> dict[str, float]:
    """Milliseconds of a step, and the most memory that it and what it needs take, in MiB (CUDA alone)."""
    for _ in range(warm):
        step()
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(rounds):
        step()
    wait(device)
    values = {"ms": round(1e3 * (time.perf_counter() - began) / rounds, 3)}
    if device == "cuda":
        values["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return values


def waits(step: Callable[[], Any], device: str) -> str:
    """Whether the host waits for the device within a step: ``"no"``, or where it does."""
    if device != "cuda":
        return "no GPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0][:120]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


# The loss alone


class Gathered(nn.Module):
    """CRD as one would write it: K rows gathered for each anchor, gradients by autograd."""

    def __init__(self, num_samples: int, num_negatives: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(DIM, EMBED) for _ in range(2))
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, torch.randn(num_samples, EMBED) / math.sqrt(EMBED))
        self.num_negatives, self.temperature = num_negatives, 0.07
        self.bias = math.log(num_negatives) + 1 / (2 * EMBED * self.temperature**2)

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        anchors = [normalize(embed(values)) for embed, values in zip(self.maps, (student, teacher), strict=True)]
        banks = (self.teacher_bank, self.student_bank)
        others = torch.randint(len(banks[0]), (len(index), self.num_negatives), device=index.device)
        rows, total = torch.cat((index[:, None], others), 1), student.new_zeros(())
        for anchor, bank in zip(anchors, banks, strict=True):
            score = torch.bmm(bank[rows.view(-1)].view(*rows.shape, EMBED), anchor[:, :, None])[:, :, 0]
            score = score / self.temperature - self.bias
            total = total + (softplus(-score[:, 0]) + softplus(score[:, 1:]).sum(1)).mean()
        with torch.no_grad():
            for anchor, bank in zip(anchors, reversed(banks), strict=True):
                bank[index] = normalize(0.5 * bank[index] + 0.5 * anchor)
        return total


def loss_of(name: str, num_samples: int, num_negatives: int, device: str) -> nn.Module:
    if name == "gathered":
        return Gathered(num_samples, num_negatives).to(device)
    targets = torch.arange(num_samples) % CLASSES
    if name.startswith("fresh"):
        loss = FreshCRDLoss(
            DIM, DIM, targets=targets, num_negatives=4096, row_dtype="fp16", teacher_map=name.removeprefix("fresh ")
        ).to(device)
        places = torch.arange(num_samples, device=device).split(2**17)
        batches = ((place, torch.randn(len(place), DIM, device=device)) for place in places)
        loss.prepare(0, torch.randn(4096, DIM, device=device), batches)
        return loss
    return CRDLoss(DIM, DIM, targets=targets, num_negatives=num_negatives, negatives=name).to(device)


def part_loss(device: str, small: bool) -> None:
    """Forward, backward and update of the CRD loss in each of its modes, against a version that gathers."""
    names = ("shared", "sampled", "all", "fresh whitened", "fresh learned", "gathered")
    sizes = [(8, 64, 500)] if small else [(b, 16_384, m) for m in (50_000, 1_280_000, 17_000_000) for b in (64, 256)]
    for batch, negatives, samples in sizes:
        for name in names:
            row = {"loss": name, "B": batch, "K": negatives if not name.startswith("fresh") else 4096, "M": samples}
            try:
                loss = loss_of(name, samples, negatives, device)
                student = torch.randn(batch, DIM, device=device, requires_grad=True)
                teacher = torch.randn(batch, DIM, device=device)
                index = torch.randperm(samples, device=device)[:batch]

                def step(loss=loss, student=student, teacher=teacher, index=index) -> None:
                    loss(student, teacher, index).backward()
                    student.grad = None
                    loss.zero_grad(set_to_none=True)

                row |= measured(step, device, rounds=2 if small else 20, warm=1 if small else 5)
                row["waits"] = waits(step, device)
            except torch.OutOfMemoryError:
                row["failed"] = "out of memory"
            emit(**row)
            loss = student = teacher = index = None
            if device == "cuda":
                torch.cuda.empty_cache()


# Whole steps


class Outputs(LiveTeachers):
    """Cached outputs of one teacher: time does not depend on their values."""

    def __init__(self, outputs: Representation) -> None:
        super().__init__([])
        self._outputs = outputs

    def outputs(self, batch: Mapping[str, Tensor], numbers: Any, needs: Any) -> list[Representation]:
        return [self._outputs]


TERMS: dict[str, dict[str, dict[str, Any]]] = {
    "baseline": {},
    "kd": {"kd": {}},
    "crd": {"crd": {"negatives": "shared"}},
    "fresh_crd": {"fresh_crd": {}},
}


def batches_of(device: str, batch: int, size: int, samples: int) -> Iterator[dict[str, Tensor]]:
    """A few batches of random pixels that are on the device, over and over."""
    images = [torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, device=device) for _ in range(2)]
    images = [one.contiguous(memory_format=torch.channels_last) for one in images]
    number = 0
    while True:
        index = (torch.arange(batch, device=device) + number * batch) % samples
        yield {"rgb": images[number % 2], "index": index, "target": index % CLASSES}
        number += 1


def transfer_of(
    objective: str, cached: bool, small: bool, device: str, batch: int, size: int, samples: int
) -> Transfer:
    teacher_name, student_name = ("resnet14", "resnet8") if small else ("torchvision/resnet34", "torchvision/resnet18")
    teacher, student = (build_network(name, num_classes=CLASSES) for name in (teacher_name, student_name))
    example = {"rgb": torch.zeros(2, 3, size, size, dtype=torch.uint8)}
    setting = Setting(
        describe(student, example), describe(teacher, example), samples, torch.arange(samples) % CLASSES, 0
    )
    cross_entropy = OBJECTIVES["cross_entropy"]
    terms = {"cross_entropy": Term(cross_entropy.build_each(cross_entropy.Options(), [setting]))}
    for name, options in TERMS[objective].items():
        terms[name] = Term(OBJECTIVES[name].build_each(OBJECTIVES[name].Options(**options), [setting]))
    teachers = [teacher] if objective != "baseline" else []
    transfer = Transfer(teachers, student, terms).train().to(device, memory_format=torch.channels_last)
    if objective == "fresh_crd":
        dim = setting.teacher.embedding_dim
        places = torch.arange(samples, device=device).split(2**16)
        rows = ((place, torch.randn(len(place), dim, device=device)) for place in places)
        terms[name].objectives[0].loss.prepare(0, torch.randn(2048, dim, device=device), rows)
    if cached:
        random = {"logits": torch.randn(batch, CLASSES, device=device)}
        random["embedding"] = torch.randn(batch, setting.teacher.embedding_dim, device=device)
        transfer.source = Outputs(Representation(**random))
    return transfer


def part_step(device: str, small: bool) -> None:
    """Images a second of a whole step, ResNet-34 to ResNet-18 at 224, batch 256, bf16, channels_last."""
    batch, size, samples = (8, 32, 64) if small else (256, 224, 1_280_000)
    cases = [("baseline", False), *((name, cached) for name in ("kd", "crd", "fresh_crd") for cached in (False, True))]
    for compile_networks in COMPILE:
        for objective, cached in cases[:2] if small and compile_networks else cases:
            row: dict[str, Any] = {"objective": objective, "teacher": "cached" if cached else "live"}
            row |= {"compile": compile_networks, "B": batch, "size": size}
            if objective == "baseline":
                row["teacher"] = "none"
            try:
                transfer = transfer_of(objective, cached, small, device, batch, size, samples)
                trained = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
                optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=1e-4)
                batches = batches_of(device, batch, size, samples)

                def step(transfer=transfer, optimizer=optimizer, batches=batches) -> None:
                    with torch.autocast(device, dtype=torch.bfloat16, enabled=not small):
                        loss = transfer(next(batches)).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

                with ExitStack() as stack:
                    if compile_networks:
                        stack.enter_context(compiled(transfer))
                    row |= measured(step, device, rounds=2 if small else 20, warm=1 if small else 5)
                    row["images_per_second"] = round(1e3 * batch / row["ms"])
                    row["waits"] = waits(step, device)
            except Exception as error:  # one case less, named in its row
                row["failed"] = f"{type(error).__name__}: {error}"[:200]
            emit(**row)
            transfer = optimizer = step = None
            if device == "cuda":
                torch.cuda.empty_cache()


# Two processes on one device

# Without a network the host's own name may lead nowhere.
LOOPBACK = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else dict(os.environ)


def ended_ranks(world: int, folder: str, device: str) -> list[str]:
    """Run gpu_rank.py in ``world`` processes; a first try that a signal ended is told and repeated once.

    SystemExit where a process failed, with the end of what each wrote. The crash of a library under load is no
    difference between two processes and one, which is what the part is about; its row names it all the same.
    """
    crashes: list[str] = []
    while True:
        (Path(folder) / "store").unlink(missing_ok=True)
        ranks = [
            subprocess.Popen(
                [sys.executable, "-X", "faulthandler", HERE / "gpu_rank.py", str(rank), str(world), folder, device],
                stderr=subprocess.PIPE,
                text=True,
                env=LOOPBACK,
            )
            for rank in range(world)
        ]
        errors = [rank.communicate()[1].strip() for rank in ranks]
        if not any(rank.returncode for rank in ranks):
            return crashes
        ends = "; ".join(
            f"rank {number} of {world}, exit code {rank.returncode}: {' '.join(error[-400:].split())}"
            for number, (rank, error) in enumerate(zip(ranks, errors, strict=True))
        )
        if crashes or all(rank.returncode >= 0 for rank in ranks):
            raise SystemExit(ends)
        crashes.append(ends)


def part_processes(device: str, small: bool) -> None:
    """Two processes on one device, by gloo, against one: banks and maps after three steps."""
    with tempfile.TemporaryDirectory() as folder:
        crashes = [crash for world in (1, 2) for crash in ended_ranks(world, folder, device)]
        alone, first, second = (
            torch.load(f"{folder}/{name}.pt", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2")
        )
    for name in ("all", "sampled", "fresh"):
        keys = [key for key in alone if key.startswith(f"{name}.") and alone[key].is_floating_point()]
        ranks_differ, worlds_differ = (
            max(float((one[key] - other[key]).abs().max()) for key in keys)
            for one, other in ((first, second), (first, alone))
        )
        row = {"loss": name, "tensors": len(keys), "largest_difference_of_ranks": ranks_differ}
        row["largest_difference_of_two_and_one"] = worlds_differ
        if crashes:
            row["crashes"] = crashes
        if ranks_differ > 0 or worlds_differ > 1e-4:
            row["failed"] = "two processes are not one"
        emit(**row)


# The tests


def part_tests(device: str, small: bool) -> None:
    """The tests that wait for a GPU; in a rehearsal they are skipped, and counted."""
    tests = HERE.parent / "tests" / "training" / "test_gpu.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header", "-rf", str(tests)],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
    )
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    failures = re.findall(r"^(?:FAILED|ERROR) \S*?::(\S+)", done.stdout, re.MULTILINE)
    emit(**{key: counts.get(key, 0) for key in ("passed", "skipped", "failed")}, failures=failures[:20])
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout[-300:] + done.stderr[-300:])


PARTS = {"loss": part_loss, "step": part_step, "processes": part_processes, "tests": part_tests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--cpu-rehearsal", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    PARTS[arguments.part]("cpu" if arguments.cpu_rehearsal else "cuda", arguments.cpu_rehearsal)


if __name__ == "__main__":
    main()
