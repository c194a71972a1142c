"""Trains a teacher and students with and without it, and compares them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..core.run import Run, writable_folder
from ..plots.comparison import ComparedRun, draw_comparison
from ..training.assemble import open_split
from ..training.run import train_unfinished
from .evaluate import measure_run

TEACHER, UNTAUGHT, KD, CRD = "teacher", "student, untaught", "student, KD", "student, CRD + KD"


def compare_compression(
    out: Path, seed: int, overrides: list[str], *, say: Callable[[str], None], progress: bool = True
) -> dict[str, Any]:
    """The demo of compression: a teacher, an untaught student and taught ones, all on rendered rooms.

    Args:
        out: The folder; finished runs in it are kept.
        seed: Of every training; the students start from the same weights.
        overrides: ``key=value`` for every training.
        say: Told what begins.
        progress: Whether to show each training's.

    Returns:
        ``title``, ``rows`` (``name``, ``run``, ``parameters``, ``top1``, ``way`` from the untaught student to the
        teacher, ``seconds``), ``seed``, ``images``, ``noise`` (two standard errors of a difference, points) and
        ``picture``.
    """
    writable_folder(out)
    configs = _configs(out, [*overrides, f"seed={seed}"])
    rows, contestants = [], []
    train_unfinished(configs, say, progress)
    for name, config in configs.items():
        history = Run(config.out).history()
        measured = measure_run(config.out, [])[0]
        rows.append({"name": f"{name} ({config.student.model})", "run": config.out,
            "parameters": measured["parameters"], "top1": measured["top1"],
                     "seconds": round(sum(row["seconds"] for row in history), 1)})  # fmt: skip
        contestants.append(ComparedRun(rows[-1]["name"], measured["top1"], history))
    top1 = dict(zip(configs, (row["top1"] for row in rows), strict=True))
    gap = top1[TEACHER] - top1[UNTAUGHT]
    for name, row in zip(configs, rows, strict=True):
        row["way"] = (top1[name] - top1[UNTAUGHT]) / gap if name not in (TEACHER, UNTAUGHT) and gap > 0 else None
    test = open_split(configs[TEACHER], "test")
    picture = out / "comparison.png"
    title = "Compression on rendered rooms: what a small network gains from a bigger one"
    _draw(contestants, test, picture, title)
    share = top1[UNTAUGHT] / 100
    noise = 200 * math.sqrt(2 * share * (1 - share) / test.num_samples)
    result = {
        "title": title,
        "rows": rows,
        "seed": seed,
        "images": test.num_samples,
        "noise": noise,
        "picture": str(picture),
    }
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    return result


def _configs(out: Path, overrides: list[str]) -> dict[str, RunConfig]:
    """The trainings by name, the teacher first."""
    taught = ["compression/rooms_crd", f"teachers.0.weights={out / 'teacher'}"]
    cells = {
        TEACHER: ["teachers/rooms", f"out={out / 'teacher'}"],
        UNTAUGHT: ["teachers/rooms", "student.model=resnet8", f"out={out / 'untaught'}"],
        KD: [*taught, "objectives.crd=null", f"out={out / 'kd'}"],
        CRD: [*taught, f"out={out / 'crd_kd'}"],
    }
    return {name: load_config(config, [*own, *overrides]) for name, (config, *own) in cells.items()}


def _draw(contestants: list[ComparedRun], test: Any, picture: Path, title: str) -> None:
    batch = next(test.loader(batch_size=20, device="cpu", train=False).epoch(0))
    images = batch["rgb"].permute(0, 2, 3, 1).numpy()
    labels = [test.classes[target] for target in batch["target"].tolist()]
    draw_comparison(contestants, images, labels, picture, title=title)
