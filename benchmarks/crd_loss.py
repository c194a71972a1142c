"""Speed of the CRD loss: forward, backward and bank update, against torchdistill's and a plain gather-and-multiply.

    pip install '.[benchmark]'
    python benchmarks/crd_loss.py                      # all settings, both allocators
    python benchmarks/crd_loss.py --setting main --rounds 30

Contenders run in turn in one process on the same inputs; a ratio is the median over rounds of (torchdistill /
contender) of the same round. Everything runs under two allocators, each in a process of its own: **stock**, and
**warm**, where glibc is told to keep its pages (half of a gathering version's time is page faults of its temporaries,
so warm is the honest ratio). The reference's negatives are handed to it ready-made, as its dataset would: their draw is
not in its time; it is in ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WARM = {"MALLOC_MMAP_THRESHOLD_": str(2**34), "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**28)}
SETTINGS = {
    "main": dict(B=64, K=16384, M=50_000),
    "B256": dict(B=256, K=16384, M=50_000),
    "K4096": dict(B=64, K=4096, M=50_000),
    "M1.28M": dict(B=64, K=16384, M=1_280_000),
    "small": dict(B=64, K=1024, M=20_000),
}
DIM, EMBED, CLASSES, BATCHES = 256, 128, 100, 3


def reference_class():
    """torchdistill's CRDLoss, or an exit that says how to install it."""
    try:
        from torchdistill.losses.mid_level import CRDLoss
    except ImportError:
        sys.exit(
            "this benchmark compares with torchdistill: pip install '.[benchmark]' (or pip install --no-deps "
            "torchdistill)"
        )
    return CRDLoss


def build_inputs(setting: dict) -> tuple:
    """Class labels, and a few batches (student, teacher, index, rows of negatives without the own class)."""
    import torch

    B, K, M = setting["B"], setting["K"], setting["M"]
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(CLASSES, (M,), generator=generator)
    batches = []
    for _ in range(BATCHES):
        index = torch.randperm(M, generator=generator)[:B]
        rows = torch.empty(B, K, dtype=torch.int64)
        for anchor, sample in enumerate(index.tolist()):
            others = torch.nonzero(targets != targets[sample])[:, 0]
            rows[anchor] = others[torch.randperm(len(others), generator=generator)[:K]]
        student, teacher = (torch.randn(B, DIM, generator=generator) for _ in range(2))
        batches.append((student, teacher, index, rows))
    return targets, batches


def normalised(layer, features):
    embedding = layer(features)
    return embedding / embedding.pow(2).sum(1, keepdim=True).sqrt()


def torchdistill_call(setting: dict):
    """The released algorithm as torchdistill ships it; linear maps and normalisation as its wrapper does them."""
    import torch

    cls = reference_class()

    def no_alias(self, probs) -> None:
        # Takes a minute at 1.28 million rows and is not used when negatives are handed over.
        self.probs = self.alias = torch.zeros(1)

    cls.init_prob_alias = no_alias
    loss = cls("norm", "empty", "norm", EMBED, setting["M"], setting["K"], setting["M"])
    student_map, teacher_map = torch.nn.Linear(DIM, EMBED), torch.nn.Linear(DIM, EMBED)

    def call(student, teacher, index, rows):
        supplement = {"pos_idx": index, "contrast_idx": torch.cat((index[:, None], rows), 1)}
        taps = {"norm": {"output": normalised(student_map, student)}, "empty": {"input": supplement}}
        loss(taps, {"norm": {"output": normalised(teacher_map, teacher)}}).sum().backward()

    return call


def plain_call(setting: dict):
    """Gather-and-multiply as one would write it: the stable form of the loss, gradients by autograd."""
    import math

    import torch
    from torch.nn.functional import normalize, softplus

    M, K, tau = setting["M"], setting["K"], 0.07
    bias = math.log(K) + 1 / (2 * EMBED * tau**2)
    banks = [torch.randn(M, EMBED) / math.sqrt(EMBED) for _ in range(2)]
    maps = [torch.nn.Linear(DIM, EMBED) for _ in range(2)]

    def call(student, teacher, index, rows):
        named = torch.cat((index[:, None], rows), 1)
        anchors = [normalised(layer, features) for layer, features in zip(maps, (student, teacher), strict=True)]
        total = 0.0
        for anchor, bank in zip(anchors, reversed(banks), strict=True):
            score = torch.bmm(bank[named.view(-1)].view(*named.shape, EMBED), anchor[:, :, None])[:, :, 0] / tau
            total = total + (softplus(bias - score[:, 0]) + softplus(score[:, 1:] - bias).sum(1)).mean()
        total.backward()
        with torch.no_grad():
            for anchor, bank in zip(anchors, banks, strict=True):
                bank[index] = normalize(0.5 * bank[index] + 0.5 * anchor, dim=1)

    return call


def ours_call(setting: dict, targets, negatives: str, explicit: bool = False):
    from contrastill.core.crd.loss import CRDLoss

    crd = CRDLoss(DIM, DIM, targets=targets, num_negatives=setting["K"], negatives=negatives)

    def call(student, teacher, index, rows):
        crd(student, teacher, index, rows=rows if explicit else None).backward()

    return call


def contenders(setting: dict, targets) -> dict:
    return {
        "torchdistill": torchdistill_call(setting),
        "gather-multiply": plain_call(setting),
        "shared": ours_call(setting, targets, "shared"),
        "all": ours_call(setting, targets, "all"),
        "sampled": ours_call(setting, targets, "sampled"),
        "sampled, given rows": ours_call(setting, targets, "sampled", explicit=True),
    }


def timed(call, batch) -> float:
    """Milliseconds of one call; the features want gradients, as a student's do."""
    student, teacher, index, rows = batch
    student, teacher = student.detach().requires_grad_(), teacher.detach()
    begin = time.perf_counter()
    call(student, teacher, index, rows)
    return (time.perf_counter() - begin) * 1e3


def peak_mb(call, batch) -> float:
    """Most memory that a first call takes at a time, in MB, what it keeps for the next ones included."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        timed(call, batch)
    allocated = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            most = max(most, allocated)
    return most / 2**20


def in_turn(calls: dict, batches: list, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every contender, round by round, after one round of warming up."""
    times: dict[str, list[float]] = {key: [] for key in calls}
    for turn in range(-1, rounds):
        for key, call in calls.items():
            value = timed(call, batches[turn % BATCHES])
            if turn >= 0:
                times[key].append(value)
    return times


def measure(name: str, rounds: int) -> dict:
    """Interleaved rounds of one setting: contender -> milliseconds, ratio to torchdistill, temporaries in MB."""
    setting = SETTINGS[name]
    targets, batches = build_inputs(setting)
    calls = contenders(setting, targets)
    memory = {key: peak_mb(call, batches[0]) for key, call in calls.items()}
    times = in_turn(calls, batches, rounds)
    base = times["torchdistill"]
    return {
        key: {
            "ms": statistics.median(values),
            "ratio": statistics.median(r / v for r, v in zip(base, values, strict=True)),
            "mb": memory[key],
        }
        for key, values in times.items()
    }


def in_child(arguments: list[str], malloc: str) -> dict:
    """Run this file again under one allocator; its last line is JSON."""
    environment = {key: value for key, value in os.environ.items() if key not in WARM}
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    if malloc == "warm":
        environment |= WARM
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="default: all of them")
    parser.add_argument("--malloc", choices=("stock", "warm"), action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    mallocs = options.malloc or ("stock", "warm")
    rounds = ["--rounds", str(options.rounds)]
    if options.child:
        print(json.dumps(measure(options.child, options.rounds)))
    else:
        reference_class()
        for name in options.setting or SETTINGS:
            results = {malloc: in_child(["--child", name, *rounds], malloc) for malloc in mallocs}
            sizes = " ".join(f"{key}={value}" for key, value in SETTINGS[name].items())
            print(f"\n{name}: {sizes} D={EMBED}, {options.rounds} rounds")
            report(results)


def report(results: dict[str, dict]) -> None:
    for key in next(iter(results.values())):
        cells = {
            malloc: f"{r[key]['ms']:8.1f} ms {r[key]['ratio']:6.1f}x {r[key]['mb']:7.1f} MB"
            for malloc, r in results.items()
        }
        print(f"  {key:20s} " + "  |  ".join(f"{malloc} {cell}" for malloc, cell in cells.items()), flush=True)


if __name__ == "__main__":
    main()
