"""The demo's transfers across modalities, both on rendered rooms: from RGB to depth, and from lightness to colour."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.config import load_config
from ..core.run import write_text
from ..core.schema import RunConfig
from .measure import Measured, measure_runs
from .run import train_unfinished

HINT = ["objectives.fitnet.weight=1", "objectives.fitnet.pair=[-1,-1]", "objectives.fitnet.standardize=true"]


def compare_depth(out: Path, teacher: Path, seed: int, overrides: list[str], *, say: Callable[[str], None]) -> dict[str, Any]:
    """Teach a depth network twice without labels, by a hint and by dense CRD; then train a segmentation head on each frozen one.

    Args:
        out: The folder; finished runs in it are kept.
        teacher: Run of an RGB network on rendered rooms.
        seed: Of every training.
        overrides: ``key=value`` for every training.
        say: Told what begins.

    Returns:
        ``title``, ``rows`` (``name``, ``run``, ``miou``, ``pixel_accuracy``, ``top1`` of a linear probe for the main object, in per cent; None
        where it does not apply), ``seed``, ``images`` and ``picture``. Also in ``comparison.json``.
    """
    names = {"random": "depth, untaught", "scratch": "depth, from its labels alone", "hint": "depth, hint", "crd": "depth, CRD", "teacher": "the teacher, on RGB"}
    configs = _taught("xmodal/rooms_rgb_to_depth_crd", ["objectives.dense_crd=null", *HINT], out, teacher, seed, overrides)
    train_unfinished({names[name]: config for name, config in configs.items()}, say)
    runs = [config.out for config in configs.values()]
    measured = measure_runs(runs, [], baselines=("random", "scratch", "teacher"), picture=out / "predictions.png", say=say)
    title = "RGB → depth on rendered rooms: what a depth network learns from an RGB teacher without a label"
    return _written(out, {"title": title, **_rows(measured, names), "seed": seed, "picture": str(measured.picture)})


def compare_colour(out: Path, seed: int, overrides: list[str], *, say: Callable[[str], None]) -> dict[str, Any]:
    """Train a network that sees lightness alone; teach one that sees colour alone twice without labels, by a hint and by CRD; probe each frozen one.

    Args:
        out: The folder; finished runs in it are kept.
        seed: Of every training.
        overrides: ``key=value`` for every training.
        say: Told what begins.

    Returns:
        ``title``, ``rows`` (``name``, ``run``, ``top1`` of a linear probe for the main object in per cent), ``seed`` and ``images``. Also in ``comparison.json``.
    """
    names = {"random": "colour, untaught", "hint": "colour, hint", "crd": "colour, CRD", "teacher": "the teacher, on lightness"}
    teacher = load_config("teachers/rooms", ["student.modality=luminance", *overrides, f"seed={seed}", f"out={out / 'teacher'}"])
    train_unfinished({names["teacher"]: teacher}, say)
    configs = _taught("xmodal/rooms_luminance_to_chrominance_crd", ["objectives.crd=null", *HINT], out, Path(teacher.out), seed, overrides)
    train_unfinished({names[name]: config for name, config in configs.items()}, say)
    measured = measure_runs([config.out for config in configs.values()], [], baselines=("random", "teacher"), say=say)
    title = "L → ab on rendered rooms: what a network that sees colour alone learns from one that sees lightness alone, without a label"
    return _written(out, {"title": title, **_rows(measured, names), "seed": seed})


def _taught(config: str, hint: list[str], out: Path, teacher: Path, seed: int, overrides: list[str]) -> dict[str, RunConfig]:
    """The students' trainings by name."""
    common = [f"teachers.0.weights={teacher}", *overrides, f"seed={seed}"]
    return {name: load_config(config, [*own, *common, f"out={out / name}"]) for name, own in {"hint": hint, "crd": []}.items()}


def _rows(measured: Measured, names: dict[str, str]) -> dict[str, Any]:
    """What was measured, a row a network, in the order of ``names``."""
    found: dict[str, dict[str, Any]] = {}
    for row in measured.rows:
        name = Path(row["run"]).name if row["role"] == "student" else row["role"]
        entry = found.setdefault(name, {"name": f"{names[name]} ({row['model']})", "run": row["run"], "miou": None, "pixel_accuracy": None, "top1": None})
        entry |= {key: row[key] for key in ("miou", "pixel_accuracy") if key in row}
        if "layers" in row:
            entry["top1"] = row["layers"]["embedding"]["top1"]
    return {"rows": [found[name] for name in names], "images": measured.rows[0]["images"]}


def _written(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    return result
