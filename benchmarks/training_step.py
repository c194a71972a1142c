"""A whole training step with CRD against the classic loop's: resnet32x4 -> resnet8x4, batch 64, M = 50 000, K = 16 384.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --warm --rounds 20 --no-bf16

A step is data, teacher, student, loss, backward, optimiser and the banks' update. The classic loop
(benchmarks/classic_loop.py) and ours take turns in one process on the same images, each on the batch of the same
samples; a ratio is the median over rounds of (classic / ours) of the same round. **Stock** is the program as it starts;
with ``--warm`` it starts itself again with glibc told to keep its pages, as half of a gathering loss's time may be page
faults of its temporaries. Last comes what a step with a cached teacher cannot do without: the student's own forward and
backward, timed alone in the same rounds.
"""

from __future__ import annotations

import os

# Threads that spin while they wait distort whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from classic_loop import ClassicDataset, ClassicLoop  # noqa: E402

from contrastill.core.config.schema import TrainConfig  # noqa: E402
from contrastill.core.objective import Setting  # noqa: E402
from contrastill.core.representation import Network, Representation  # noqa: E402
from contrastill.core.representation_spec import describe  # noqa: E402
from contrastill.core.teachers.live import LiveTeachers  # noqa: E402
from contrastill.core.term import Term  # noqa: E402
from contrastill.core.transfer import Transfer  # noqa: E402
from contrastill.datasets.io.in_memory import TensorSplit  # noqa: E402
from contrastill.datasets.io.views import PaddedImages, epoch_order  # noqa: E402
from contrastill.models.build import build_network  # noqa: E402
from contrastill.models.resnet import CIFAR100_MEAN, CIFAR100_STD  # noqa: E402
from contrastill.objectives.crd import CRD  # noqa: E402
from contrastill.objectives.cross_entropy import CrossEntropy  # noqa: E402
from contrastill.training.folding import fold_batchnorm  # noqa: E402

HERE = Path(__file__).resolve().parent
WARM = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**28)}
CLASSES, BATCH = 100, 64
# name -> folded teacher, its precision, whether what it said is kept, autocast of the rest.
OURS = {
    "live, fp32": (False, None, False, False),
    "live, folded": (True, None, False, False),
    "live, folded, bf16 teacher": (True, "bf16", False, False),
    "cached, fp32": (False, None, True, False),
    "cached, bf16 student": (False, None, True, True),
}
# What a stock ratio should come to, and the student's share of a cached step.
GOALS = {"live, fp32": 2.4, "live, folded, bf16 teacher": 4.5, "cached, fp32": 6.5, "cached, bf16 student": 11.0}
SHARE_GOAL = 0.9
Step = Callable[[], None]


class Rows(LiveTeachers):
    """Cached outputs of one teacher: the time does not depend on their values."""

    def __init__(self, embeddings: torch.Tensor) -> None:
        super().__init__([])
        self.embeddings = embeddings

    def outputs(self, batch: Mapping, numbers: Sequence[int], needs: Collection[str]) -> list[Representation]:
        return [Representation(embedding=self.embeddings[batch["index"]])]


def networks(arguments: argparse.Namespace) -> tuple[Network, Network]:
    """Teacher and student, the same weights at every call."""
    torch.manual_seed(0)
    return build_network(arguments.teacher, num_classes=CLASSES), build_network(arguments.student, num_classes=CLASSES)


def classic_step(arguments: argparse.Namespace, images: np.ndarray, targets: np.ndarray, order: torch.Tensor) -> Step:
    teacher, student = networks(arguments)
    recipe = TrainConfig()
    data = ClassicDataset(images, targets, arguments.num_negatives, CIFAR100_MEAN, CIFAR100_STD)
    loop = ClassicLoop(
        teacher.module, student.module, data, lr=1e-4, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    batches = loop.batches(order.tolist(), BATCH)
    return lambda: loop.step(next(batches)) and None


def our_step(arguments: argparse.Namespace, split: TensorSplit, name: str) -> Step:
    folded, precision, cached, lower = OURS[name]
    teacher, student = networks(arguments)
    sample = {"rgb": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    setting = Setting(describe(student, sample), describe(teacher, sample), split.num_samples, split.targets, 0)
    crd = CRD.build(CRD.Options(num_negatives=arguments.num_negatives, negatives=arguments.negatives), setting)
    transfer = Transfer([teacher], student, {"cross_entropy": Term(CrossEntropy()), "crd": Term(crd)}).train()
    if folded:
        fold_batchnorm(teacher, {"rgb": torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)})
    teacher.compute_in(precision)
    transfer.to(memory_format=torch.channels_last)
    if cached:
        transfer.source = Rows(torch.randn(split.num_samples, setting.teacher.embedding_dim))
    recipe = TrainConfig()
    trained = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    batches = our_batches(split)

    def step() -> None:
        batch = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
            loss = transfer(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def student_alone(arguments: argparse.Namespace, split: TensorSplit) -> Step:
    """The student's forward and backward, in float32, on batches that are there."""
    _, student = networks(arguments)
    student.train().to(memory_format=torch.channels_last)
    batch = next(our_batches(split))

    def step() -> None:
        outputs = student(batch, {"logits", "embedding"})
        (outputs.logits.sum() + outputs.embedding.sum()).backward()
        student.zero_grad(set_to_none=True)

    return step


def our_batches(split: TensorSplit) -> Iterator[dict]:
    return split.loader(batch_size=BATCH, device="cpu", train=True).epoch(0)


def in_turn(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step, round by round, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-1, rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - began))
    return times


def processor() -> str:
    """The vector units that PyTorch uses, and whether there is one for bf16."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    units = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return f"{torch.backends.cpu.get_cpu_capability()}, {' and '.join(units) or 'no unit for bf16'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="resnet32x4", help="a CIFAR ResNet")
    parser.add_argument("--student", default="resnet8x4", help="a CIFAR ResNet")
    parser.add_argument("--num-samples", type=int, default=50_000)
    parser.add_argument("--num-negatives", type=int, default=16384)
    parser.add_argument(
        "--negatives",
        default="auto",
        help="of ours: auto, all, shared or sampled; the classic loop draws for each sample",
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--no-bf16",
        action="store_true",
        help="leave out what computes in bf16, which takes ten times as long where there is no unit for it",
    )
    parser.add_argument("--warm", action="store_true", help="glibc keeps its pages")
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "results" / "training_step.jsonl",
        help="append the result to this file, as a line of JSON",
    )
    arguments = parser.parse_args()
    if arguments.warm and any(os.environ.get(key) != value for key, value in WARM.items()):
        # glibc reads them once, when a program starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WARM})
    arguments.num_samples = max(arguments.num_samples, BATCH * (arguments.rounds + 1))
    # Random pixels: the time of a step does not depend on what is in them.
    images = torch.randint(256, (arguments.num_samples, 32, 32, 3), dtype=torch.uint8)
    padded = PaddedImages.zeros(arguments.num_samples, 32, 32, 3, dtype=torch.uint8, padding=4)
    padded.interior[:] = images
    targets = torch.arange(arguments.num_samples) % CLASSES
    split = TensorSplit({"rgb": padded}, targets=targets, num_classes=CLASSES, flip=True)
    steps = {
        "classic": classic_step(arguments, images.numpy(), targets.numpy(), epoch_order(0, 0, arguments.num_samples))
    }
    ours = [name for name in OURS if not (arguments.no_bf16 and "bf16" in name)]
    steps |= {name: our_step(arguments, split, name) for name in ours} | {
        "student alone": student_alone(arguments, split)
    }
    report(arguments, in_turn(steps, arguments.rounds))


def report(arguments: argparse.Namespace, times: dict[str, list[float]]) -> None:
    malloc = "warm" if arguments.warm else "stock"
    row = {name: value for name, value in vars(arguments).items() if name not in ("out", "warm", "no_bf16")}
    row |= {
        "malloc": malloc,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": processor(),
        "steps": {},
    }
    print(
        f"{arguments.teacher} -> {arguments.student}, B={BATCH}, K={arguments.num_negatives}, "
        f"M={arguments.num_samples}, {arguments.rounds} rounds, {malloc}"
    )
    print(
        f"{row['threads']} threads, {row['processor']}\n\n| step | ms | classic / this | goal, stock "
        "|\n|---|---|---|---|"
    )
    for name, values in times.items():
        ratio = statistics.median(classic / ours for classic, ours in zip(times["classic"], values, strict=True))
        row["steps"][name] = {"ms": round(statistics.median(values), 1), "ratio": round(ratio, 2)}
        goal = (
            f"≥ {GOALS[name]}"
            if name in GOALS and (arguments.teacher, arguments.student) == ("resnet32x4", "resnet8x4")
            else ""
        )
        print(f"| {name} | {row['steps'][name]['ms']:.0f} | {ratio:.1f} | {goal} |")
    share = statistics.median(
        alone / cached for alone, cached in zip(times["student alone"], times["cached, fp32"], strict=True)
    )
    row["student_share"] = round(share, 3)
    print(
        f"\nThe student's own forward and backward are {100 * share:.0f} % of the cached step in fp32 (goal ≥ "
        f"{100 * SHARE_GOAL:.0f} %)."
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
