"""What each objective adds to a training step: the step with it beside the cross-entropy, over the step with plain KD,
in turn in one run.

    python benchmarks/objectives_cost.py
    python benchmarks/objectives_cost.py --teacher resnet56 --student resnet20 --device cuda

A step is the batch's views, both forwards (a live teacher), the losses, backward and the optimiser, B = 64; of an
objective with an initial stage that stage's step is timed too. A round times every objective once and KD before each of
them; the ratio is the median over rounds of the two next to each other.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation_spec import describe
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.objectives.cross_entropy import CrossEntropy

HERE = Path(__file__).resolve().parent
CLASSES = 100


def stepper(name: str, stage: str, arguments: argparse.Namespace, split: TensorSplit) -> Callable[[], float]:
    """A function that takes one step and returns its milliseconds."""
    torch.manual_seed(0)
    teacher, student = (
        build_network(network, num_classes=CLASSES) for network in (arguments.teacher, arguments.student)
    )
    sample = {"rgb": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    setting = Setting(describe(student, sample), describe(teacher, sample), split.num_samples, split.targets, 0)
    objective = OBJECTIVES[name]
    options = {"num_negatives": 4096, "negatives": "shared"} if name == "crd" else {}
    terms = {"cross_entropy": Term(CrossEntropy()), name: Term(objective.build(objective.Options(**options), setting))}
    transfer = Transfer([teacher], student, terms)
    transfer.train().to(arguments.device, memory_format=torch.channels_last)
    batches = split.loader(batch_size=64, device=arguments.device, train=True)
    transfer.prepare(batches)
    transfer.enter(stage, next(iter(batches.epoch(0))))
    optimizer = torch.optim.SGD(
        [parameter for parameter in transfer.parameters() if parameter.requires_grad], lr=1e-5, momentum=0.9
    )
    endless = itertools.chain.from_iterable(batches.epoch(k) for k in itertools.count())

    def step() -> float:
        began = time.perf_counter()
        transfer(next(endless)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if arguments.device != "cpu":
            torch.accelerator.synchronize()
        return 1e3 * (time.perf_counter() - began)

    step(), step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "results" / "objectives_cost.jsonl",
        help="append the result to this file, as a line of JSON",
    )
    arguments = parser.parse_args()
    samples = 20_000
    images = PaddedImages.zeros(samples, 32, 32, 3, dtype=torch.uint8, padding=4)
    images.interior[:] = torch.randint(256, images.interior.shape, dtype=torch.uint8)
    split = TensorSplit({"rgb": images}, targets=torch.arange(samples) % CLASSES, num_classes=CLASSES, flip=True)
    # Those of one teacher on one modality are the objectives' own folder.
    known = [
        name
        for name, objective in OBJECTIVES.items()
        if objective.needs_teacher and Path(inspect.getfile(objective)).parent.name == "objectives" and name != "kd"
    ]
    stages = [(name, stage) for name in known for stage in ("initial", "main") if takes_part(OBJECTIVES[name], stage)]
    steps = {key: stepper(*key, arguments, split) for key in stages}
    kd = stepper("kd", "main", arguments, split)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in stages}
    for _ in range(arguments.rounds):
        for key, step in steps.items():
            times[key].append((kd(), step()))
    base = statistics.median(before for pairs in times.values() for before, _ in pairs)
    print(f"KD {base:.1f} ms\n\n| objective | step, ms | over KD |\n|---|---|---|")
    lines = []
    for (name, stage), pairs in sorted(
        times.items(), key=lambda item: statistics.median(after / before for before, after in item[1])
    ):
        median, ratio = (
            statistics.median(after for _, after in pairs),
            statistics.median(after / before for before, after in pairs),
        )
        lines.append({"objective": name, "stage": stage, "ms": round(median, 2), "over_kd": round(ratio, 3)})
        print(
            f"| {name}{', initial stage' if stage == 'initial' else ''} | {median:.1f} | {100 * (ratio - 1):+.0f} % |"
        )
    row = {name: getattr(arguments, name) for name in ("teacher", "student", "rounds", "device")} | {
        "threads": torch.get_num_threads(),
        "kd_ms": round(base, 2),
    }
    with arguments.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | {"lines": lines}) + "\n")


def takes_part(objective: type, stage: str) -> bool:
    """Whether an objective has a part in a stage."""
    return objective.initial_epochs > 0 if stage == "initial" else not objective.only_initial


if __name__ == "__main__":
    main()
