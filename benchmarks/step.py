"""What CRD and FreshCRD add to a whole training step: resnet32x4 -> resnet8x4, live teacher, batch 64, against the same
step with KD alone.

    python benchmarks/step.py
    python benchmarks/step.py --rounds 20 --teacher resnet20 --student resnet8 --num-samples 20000 --num-negatives 4096

A step is the batch's views, both forwards, the losses, backward, the optimiser and the bank's update. The steps run in
turn in one process on the same batches, each step with CRD or FreshCRD between two with KD alone; a share is the median
over rounds of (that step − mean of its two KD steps) / that mean. FreshCRD's rows are filled ahead, and as many are
drawn as it draws by default; `whitened` is FreshCRD with the teacher's fixed map, as the default recipe has it.
"""

from __future__ import annotations

import os

# Threads that spin while they wait distort whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from contrastill.core.config.schema import TrainConfig  # noqa: E402
from contrastill.core.objective import Setting  # noqa: E402
from contrastill.core.representation_spec import describe  # noqa: E402
from contrastill.core.term import Term  # noqa: E402
from contrastill.core.transfer import Transfer  # noqa: E402
from contrastill.datasets.io.in_memory import TensorSplit  # noqa: E402
from contrastill.datasets.io.views import PaddedImages  # noqa: E402
from contrastill.models.build import build_network  # noqa: E402
from contrastill.objectives.crd import CRD  # noqa: E402
from contrastill.objectives.cross_entropy import CrossEntropy  # noqa: E402
from contrastill.objectives.fresh_crd import FreshCRD  # noqa: E402
from contrastill.objectives.kd import KD  # noqa: E402

CLASSES = 100
MODES = ("kd", "shared", "all", "sampled", "fresh_crd", "whitened")


def random_split(num_samples: int) -> TensorSplit:
    """Random pixels: the time of a step does not depend on what is in them."""
    images = PaddedImages.zeros(num_samples, 32, 32, 3, dtype=torch.uint8, padding=4)
    images.interior[:] = torch.randint(256, images.interior.shape, dtype=torch.uint8)
    return TensorSplit({"rgb": images}, targets=torch.arange(num_samples) % CLASSES, num_classes=CLASSES, flip=True)


def step_of(mode: str, arguments: argparse.Namespace, split: TensorSplit) -> Callable[[dict], None]:
    """A whole optimiser step with KD, or with KD and CRD in one of its modes, or with KD and FreshCRD."""
    torch.manual_seed(0)
    student = build_network(arguments.student, num_classes=CLASSES)
    teacher = build_network(arguments.teacher, num_classes=CLASSES)
    terms: dict[str, Term] = {"cross_entropy": Term(CrossEntropy()), "kd": Term(KD())}
    if mode != "kd":
        specs = [
            describe(network, {"rgb": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}) for network in (student, teacher)
        ]
        setting = Setting(*specs, split.num_samples, split.targets, 0)
        if mode in ("fresh_crd", "whitened"):
            teacher_map = "whitened" if mode == "whitened" else "learned"
            options = FreshCRD.Options(num_negatives=arguments.fresh_negatives, teacher_map=teacher_map)
            objective = FreshCRD.build(options, setting)
            embeddings = torch.randn(split.num_samples, specs[1].embedding_dim)
            objective.loss.prepare(0, embeddings[:2048], [(torch.arange(split.num_samples), embeddings)])
        else:
            objective = CRD.build(CRD.Options(num_negatives=arguments.num_negatives, negatives=mode), setting)
        terms[mode] = Term(objective)
    transfer = Transfer([teacher], student, terms).train().to(memory_format=torch.channels_last)
    recipe = TrainConfig()
    trained = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    def step(batch: dict) -> None:
        transfer(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--num-samples", type=int, default=50_000)
    parser.add_argument("--num-negatives", type=int, default=16384)
    parser.add_argument("--fresh-negatives", type=int, default=4096, help="rows that FreshCRD draws")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", help="append the result to this file, as a line of JSON")
    arguments = parser.parse_args()
    split = random_split(arguments.num_samples)
    steps = {mode: step_of(mode, arguments, split) for mode in MODES}
    batches = split.loader(batch_size=64, device="cpu", train=True).epoch(0)
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    shares: dict[str, list[float]] = {mode: [] for mode in MODES[1:]}

    def timed(mode: str, batch: dict) -> float:
        began = time.perf_counter()
        steps[mode](batch)
        times[mode].append(1e3 * (time.perf_counter() - began))
        return times[mode][-1]

    for turn in range(arguments.rounds + 1):
        if turn == 1:  # the first round warmed up
            for values in (*times.values(), *shares.values()):
                values.clear()
        batch = next(batches)
        before = timed("kd", batch)
        for mode in MODES[1:]:
            with_crd, after = timed(mode, batch), timed("kd", batch)
            shares[mode].append(2 * with_crd / (before + after) - 1)
            before = after
    row = {
        "teacher": arguments.teacher,
        "student": arguments.student,
        "M": arguments.num_samples,
        "K": arguments.num_negatives,
        "fresh_K": arguments.fresh_negatives,
    }
    row |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": arguments.rounds}
    print(
        f"{arguments.teacher} -> {arguments.student}, B=64, K={arguments.num_negatives}, "
        f"M={arguments.num_samples}, {arguments.rounds} rounds"
    )
    for mode in MODES:
        share = statistics.median(shares.get(mode, [0.0]))
        row[mode] = {"ms": round(statistics.median(times[mode]), 1), "share": round(share, 4)}
        print(f"  {mode:9s} {row[mode]['ms']:8.1f} ms" + ("" if mode == "kd" else f"   {100 * share:+.1f} %"))
    if arguments.out:
        with Path(arguments.out).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
