"""What a further teacher costs: time of a whole step and peak memory for n = 1, 2, 4, 8 teachers, in turn and batched,
CRD with separate and with shared student sides.

    python benchmarks/ensemble_cost.py
    python benchmarks/ensemble_cost.py --teacher resnet56 --student resnet20 --device cuda

A step is the batch's views, all forwards, CE + KD + CRD, backward, the optimiser and the banks' update. Each line is
measured in a process of its own, so that its peak memory is its own; rounds alternate between the lines, and a time is
the median over rounds. The last column divides a step by n times the step with one teacher.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COUNTS = (1, 2, 4, 8)
WAYS = {"in turn": ("separate", False), "batched": ("separate", True), "in turn, shared side": ("shared", False)}
CLASSES = 100


def measure(arguments: argparse.Namespace) -> None:
    """In a process of its own: time the steps that the parent asks for, a line of JSON each; at the end the peak
    memory.
    """
    import torch

    from contrastill.core.objective import Setting
    from contrastill.core.representation_spec import describe
    from contrastill.core.term import Term
    from contrastill.core.transfer import Transfer
    from contrastill.datasets.io.in_memory import TensorSplit
    from contrastill.datasets.io.views import PaddedImages
    from contrastill.ensemble.batched import BatchedTeachers
    from contrastill.models.build import build_network
    from contrastill.objectives.crd import CRD
    from contrastill.objectives.cross_entropy import CrossEntropy
    from contrastill.objectives.kd import KD

    side, batched = WAYS[arguments.way]
    torch.manual_seed(0)
    images = PaddedImages.zeros(arguments.num_samples, 32, 32, 3, dtype=torch.uint8, padding=4)
    images.interior[:] = torch.randint(256, images.interior.shape, dtype=torch.uint8)
    split = TensorSplit(
        {"rgb": images}, targets=torch.arange(arguments.num_samples) % CLASSES, num_classes=CLASSES, flip=True
    )
    student = build_network(arguments.student, num_classes=CLASSES)
    teachers = [build_network(arguments.teacher, num_classes=CLASSES) for _ in range(arguments.count)]
    sample = {"rgb": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    settings = [
        Setting(describe(student, sample), describe(teacher, sample), split.num_samples, split.targets, 0)
        for teacher in teachers
    ]
    options = CRD.Options(num_negatives=arguments.num_negatives, negatives="shared", student_side=side)
    terms = {
        "cross_entropy": Term(CrossEntropy()),
        "kd": Term([KD() for _ in teachers]),
        "crd": Term(CRD.build_each(options, settings)),
    }
    transfer = Transfer(teachers, student, terms, source=BatchedTeachers(teachers) if batched else None)
    transfer.train().to(arguments.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        [parameter for parameter in transfer.parameters() if parameter.requires_grad], lr=1e-4, momentum=0.9
    )
    batches = split.loader(batch_size=64, device=arguments.device, train=True).epoch(0)

    def step() -> float:
        began = time.perf_counter()
        transfer(next(batches)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began)

    step(), step()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(statistics.median(step() for _ in range(3)), flush=True)
    peak = (
        torch.cuda.max_memory_allocated()
        if arguments.device != "cpu"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    print(peak / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--num-samples", type=int, default=20_000)
    parser.add_argument("--num-negatives", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--out",
        default=str(HERE / "results" / "ensemble_cost.jsonl"),
        help="append the result to this file, as a line of JSON",
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        return measure(arguments)
    lines = {(way, count): None for way in WAYS for count in COUNTS}
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    for way, count in lines:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--count", str(count)]
        lines[way, count] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if lines[way, count].stdout.readline().strip() != "ready":
            sys.exit(f"{way} with {count} teachers did not start")
    times: dict[tuple[str, int], list[float]] = {line: [] for line in lines}
    for _ in range(arguments.rounds):
        for line, process in lines.items():  # the others wait for their turn
            process.stdin.write("\n")
            process.stdin.flush()
            times[line].append(float(process.stdout.readline()))
    row = {
        name: getattr(arguments, name)
        for name in ("teacher", "student", "num_samples", "num_negatives", "rounds", "device")
    } | {"lines": []}
    single = statistics.median(times["in turn", 1])
    print("| teachers | way | step, ms | peak memory, MiB | of n single-teacher steps |\n|---|---|---|---|---|")
    for (way, count), process in lines.items():
        peak = float(process.communicate()[0])
        median = statistics.median(times[way, count])
        row["lines"].append({"way": way, "teachers": count, "ms": round(median, 2), "peak_mib": round(peak, 1)})
        print(f"| {count} | {way} | {median:.1f} | {peak:.0f} | {median / (count * single):.2f} |")
    with open(arguments.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
