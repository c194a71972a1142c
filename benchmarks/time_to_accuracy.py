"""Minutes until the classic CRD loop's final accuracy is reached, by the classic loop itself and by contrastill.

    python benchmarks/time_to_accuracy.py --data ../shared/data/cifar100_subset.h5 --epochs 10
    python benchmarks/time_to_accuracy.py --table

resnet20 -> resnet8 with cross-entropy and CRD at K = 4096 on a packed file of the form of CIFAR-100. All start from the
same student and teacher weights and have one seed, one cosine schedule and one order of samples:

- **classic**: benchmarks/classic_loop.py, K negatives of other classes drawn for each sample, a live teacher;
- **live**: ``contrastill train`` with negatives=shared and a live teacher;
- **memory**: the same, with four views of each image, at which the teacher looks once;
- with ``--longer E`` both also over E epochs: what was saved may be spent on more of them;
- **default, E epochs**, with ``--short E``: what ``contrastill.distill`` trains where nothing is said, contrast with
  fresh rows and WTTM, teacher outputs of two views kept, over so few epochs.

Each is evaluated after every epoch; evaluation, checkpoints and reading the file are outside the clock for all of them
alike, the teacher's looks are inside. A finished training is a row of the results, and a second call trains only what
is missing. Without ``--teacher`` the teacher is trained first, once.
"""

from __future__ import annotations

import os

# Threads that spin while they wait distort whatever runs beside.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from classic_loop import ClassicDataset, ClassicLoop  # noqa: E402

from contrastill.core.config.loading import load_config  # noqa: E402
from contrastill.core.config.schema import RunConfig  # noqa: E402
from contrastill.core.run import Run  # noqa: E402
from contrastill.datasets.io.views import epoch_order  # noqa: E402
from contrastill.training.accuracy import evaluate  # noqa: E402
from contrastill.training.assemble import assemble  # noqa: E402
from contrastill.training.data import open_split  # noqa: E402
from contrastill.training.run import train_run  # noqa: E402

HERE = Path(__file__).resolve().parent
SETTING = ("data", "limit", "epochs", "lr", "num_negatives", "seed", "threads")
OURS = {"live": [], "memory": ["train.views=4"]}
DEFAULT = ["objectives.crd=null", "objectives.fresh_crd={weight: 0.8}", "objectives.wttm={weight: 1}", "train.views=2"]
# Seconds and top-1 in per cent of each epoch.
Epochs = list[tuple[float, float]]


def shared_overrides(arguments: argparse.Namespace) -> list[str]:
    limit = [f"data.limit={arguments.limit}"] if arguments.limit else []
    return [
        "data.name=packed",
        f"data.path={arguments.data}",
        *limit,
        "train.schedule=cosine",
        f"train.lr={arguments.lr}",
        f"seed={arguments.seed}",
    ]


def student_config(arguments: argparse.Namespace, teacher: Path, out: str, *more: str) -> RunConfig:
    crd = ["objectives.crd.negatives=shared", f"objectives.crd.num_negatives={arguments.num_negatives}"]
    networks = ["teachers.0.model=resnet20", f"teachers.0.weights={teacher}", "student.model=resnet8"]
    return load_config(
        "compression/cifar100_crd",
        [*shared_overrides(arguments), *networks, *crd, f"train.epochs={arguments.epochs}", f"out={out}", *more],
    )


def trained_teacher(arguments: argparse.Namespace) -> Path:
    """The run folder of the teacher: the one that was named, or one that is trained here unless it is there."""
    if arguments.teacher:
        return arguments.teacher
    out = arguments.runs / "teacher"
    if not (out / "student.safetensors").is_file():
        print("training the teacher", flush=True)
        train_run(
            load_config(
                "teachers/cifar100",
                [
                    *shared_overrides(arguments),
                    "student.model=resnet20",
                    f"train.epochs={arguments.epochs}",
                    f"out={out}",
                ],
            )
        )
    return out


def train_ours(arguments: argparse.Namespace, teacher: Path, overrides: list[str]) -> Epochs:
    """A run of contrastill in a folder of its own, from its start: resumed, it would not know the minutes before."""
    with tempfile.TemporaryDirectory() as folder:
        train_run(student_config(arguments, teacher, f"{folder}/run", *overrides), progress=False)
        return [(row["seconds"], row["top1"]) for row in Run(f"{folder}/run").history()]


def train_classic(arguments: argparse.Namespace, teacher: Path) -> Epochs:
    """The classic loop, on the networks that contrastill would begin with."""
    config = student_config(arguments, teacher, "unused")
    parts, split = assemble(config), open_split(config, "train")
    transfer, recipe, student = parts.transfer, config.train, parts.transfer.student
    normalisation = student.preprocess
    images = split.images["rgb"].interior.contiguous().numpy()
    data = ClassicDataset(images, split.targets.numpy(), arguments.num_negatives, normalisation.mean, normalisation.std)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    loop = ClassicLoop(
        transfer.teachers[0].module,
        student.module,
        data,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * -(-len(data) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, T_max=steps)
    epochs: Epochs = []
    for epoch in range(recipe.epochs):
        began = time.perf_counter()
        for batch in loop.batches(epoch_order(config.seed, epoch, len(data)).tolist(), recipe.batch_size):
            loop.step(batch)
            schedule.step()
        epochs.append((time.perf_counter() - began, evaluate(student, parts.test, parts.accelerator)["top1"]))
    return epochs


def minutes_until(epochs: Epochs, top1: float) -> float | None:
    """Minutes of training up to the end of the first epoch that is as good; None if none is."""
    spent: Iterator[float] = itertools.accumulate(seconds for seconds, _ in epochs)
    return next((seconds / 60 for seconds, (_, reached) in zip(spent, epochs, strict=True) if reached >= top1), None)


def table(rows: dict[str, Epochs]) -> str:
    """All trainings of one setting as a Markdown table."""
    lines = [
        "| loop | seconds an epoch | minutes in all | top-1, last epoch | minutes to the classic loop's last |",
        "|---|---|---|---|---|",
    ]
    for name, epochs in rows.items():
        seconds = [spent for spent, _ in epochs]
        reached = minutes_until(epochs, rows["classic"][-1][1]) if "classic" in rows else None
        shown = "not reached" if reached is None else f"{reached:.2f}"
        lines.append(f"| {name} | {np.median(seconds):.1f} | {sum(seconds) / 60:.2f} | {epochs[-1][1]:.2f} | {shown} |")
    return "\n".join(lines)


def finished(path: Path, setting: dict) -> dict[str, Epochs]:
    """The trainings of a setting that are in the file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {
        row["loop"]: [tuple(epoch) for epoch in row["each_epoch"]]
        for row in rows
        if all(row.get(key) == value for key, value in setting.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        default=os.environ.get("CONTRASTILL_DATA", "../shared/data") + "/cifar100_subset.h5",
        help="a packed file with classes",
    )
    parser.add_argument("--limit", type=int, help="samples of each split, evenly spaced; left out: all")
    parser.add_argument("--teacher", type=Path, help="run folder of a resnet20; left out: trained here")
    parser.add_argument("--runs", type=Path, default=Path("runs/time_to_accuracy"), help="where the teacher goes")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--longer", type=int, help="epochs of two more trainings of contrastill")
    parser.add_argument("--short", type=int, nargs="*", default=[], help="epochs of trainings by the default recipe")
    parser.add_argument("--only", nargs="*", help="these loops alone")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--num-negatives", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "time_to_accuracy.jsonl", help="rows of finished trainings"
    )
    parser.add_argument("--table", action="store_true", help="print the table and train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = {name: getattr(arguments, name) for name in SETTING} | {
        "data": Path(arguments.data).name,
        "teacher": arguments.teacher and arguments.teacher.name,
    }
    rows = finished(arguments.out, setting)
    if not arguments.table:
        if not Path(arguments.data).is_file():
            print(
                f"skipped: there is no {arguments.data}; name a packed file with --data, or its folder in "
                "CONTRASTILL_DATA"
            )
            return
        teacher = trained_teacher(arguments)
        loops: dict[str, Callable[[], Epochs]] = {"classic": lambda: train_classic(arguments, teacher)}
        ours = dict(OURS)
        if arguments.longer:
            ours |= {
                f"{name}, {arguments.longer} epochs": [*overrides, f"train.epochs={arguments.longer}"]
                for name, overrides in OURS.items()
            }
        ours |= {f"default, {epochs} epochs": [*DEFAULT, f"train.epochs={epochs}"] for epochs in arguments.short}
        loops |= {
            name: lambda overrides=overrides: train_ours(arguments, teacher, overrides)
            for name, overrides in ours.items()
        }
        for name in [name for name in arguments.only or loops if name not in rows]:
            print(f"training {name}", flush=True)
            rows[name] = loops[name]()
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps(
                        {
                            **setting,
                            "loop": name,
                            "torch": torch.__version__,
                            "each_epoch": [(round(s, 3), round(t, 4)) for s, t in rows[name]],
                        }
                    )
                    + "\n"
                )
    print(table(rows))


if __name__ == "__main__":
    main()
