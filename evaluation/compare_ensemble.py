"""The demo's ensemble: what a student gains from a second teacher on rendered rooms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..training.run import train_unfinished
from .diversity import measure_diversity
from .evaluate import measure_run


def compare_ensemble(
    out: Path,
    teacher: Path,
    alone: Path,
    seed: int,
    overrides: list[str],
    *,
    say: Callable[[str], None],
    progress: bool = True,
) -> dict[str, Any]:
    """Train a second teacher of another architecture, then a student of both, and measure them beside the two teachers'
    mean.

    Args:
        out: The folder; finished runs in it are kept.
        teacher: Run of the first teacher.
        alone: Run of a student that learnt from the first teacher alone, by the same objectives.
        seed: Of the student; the second teacher has the next one.
        overrides: ``key=value`` for every training.
        say: Told what begins.
        progress: Whether to show each training's.

    Returns:
        ``title``, ``rows`` (``name``, ``top1`` in per cent, ``nll`` in nats, ``ece`` in per cent; None where it was not
        measured), ``disagreement`` of the two teachers in per cent, ``seed``, ``images`` and ``picture``. Also in
        ``comparison.json``.
    """
    configs = _configs(out, teacher, seed, overrides)
    train_unfinished(configs, say, progress)
    found = measure_diversity(configs[STUDENT].out, say=say)
    student = configs[STUDENT].student.model
    rows = [_row(f"teacher ({network['model']})", network) for network in found["networks"]]
    rows.append(_row("both teachers, mean of their probabilities", found["ensemble"]))
    rows.append(
        {
            "name": f"student of the first ({student})",
            "top1": measure_run(alone, [])[0]["top1"],
            "nll": None,
            "ece": None,
        }
    )
    rows.append(_row(f"student of both ({student})", found["student"]))
    result = {
        "title": "Ensemble on rendered rooms: what a student gains from a second teacher",
        "rows": rows,
        "disagreement": found["mean_disagreement"],
        "seed": seed,
        "images": found["samples"],
        "picture": found["picture"],
    }
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    return result


SECOND, STUDENT = "second teacher", "student of both teachers"


def _configs(out: Path, teacher: Path, seed: int, overrides: list[str]) -> dict[str, RunConfig]:
    """The trainings by name."""
    weights = [f"teachers.0.weights={teacher}", f"teachers.1.weights={out / 'second'}"]
    cells = {
        SECOND: ["teachers/rooms", "student.model=resnet14", *overrides, f"seed={seed + 1}", f"out={out / 'second'}"],
        STUDENT: ["ensemble/rooms_crd", *weights, *overrides, f"seed={seed}", f"out={out / 'student'}"],
    }
    return {name: load_config(config, own) for name, (config, *own) in cells.items()}


def _row(name: str, quality: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "top1": quality["top1"], "nll": quality["nll"], "ece": 100 * quality["ece"]}
