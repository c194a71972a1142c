"""The demo's transfer across modalities: what a depth network gains from an RGB teacher on rendered rooms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.config import load_config
from ..core.run import write_text
from ..core.schema import RunConfig
from .measure import measure_runs
from .run import train_unfinished

NAMES = {"random": "depth, untaught", "scratch": "depth, from its labels alone", "hint": "depth, hint", "crd": "depth, CRD", "teacher": "the teacher, on RGB"}


def compare_xmodal(out: Path, teacher: Path, seed: int, overrides: list[str], *, say: Callable[[str], None]) -> dict[str, Any]:
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
    configs = _configs(out, teacher, [*overrides, f"seed={seed}"])
    train_unfinished({NAMES[name]: config for name, config in configs.items()}, say)
    runs = [config.out for config in configs.values()]
    measured = measure_runs(runs, [], baselines=("random", "scratch", "teacher"), picture=out / "predictions.png", say=say)
    found: dict[str, dict[str, Any]] = {}
    for row in measured.rows:
        name = Path(row["run"]).name if row["role"] == "student" else row["role"]
        entry = found.setdefault(name, {"name": f"{NAMES[name]} ({row['model']})", "run": row["run"], "miou": None, "pixel_accuracy": None, "top1": None})
        entry |= {key: row[key] for key in ("miou", "pixel_accuracy") if key in row}
        if "layers" in row:
            entry["top1"] = row["layers"]["embedding"]["top1"]
    result = {
        "title": "RGB → depth on rendered rooms: what a depth network learns from an RGB teacher without a label",
        "rows": [found[name] for name in NAMES],
        "seed": seed,
        "images": measured.rows[0]["images"],
        "picture": str(measured.picture),
    }
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    return result


def _configs(out: Path, teacher: Path, overrides: list[str]) -> dict[str, RunConfig]:
    """The trainings by name."""
    hint = ["objectives.dense_crd=null", "objectives.fitnet.weight=1", "objectives.fitnet.pair=[-1,-1]", "objectives.fitnet.standardize=true"]
    common = ["xmodal/rooms_rgb_to_depth_crd", f"teachers.0.weights={teacher}"]
    cells = {"hint": [*common, *hint, f"out={out / 'hint'}"], "crd": [*common, f"out={out / 'crd'}"]}
    return {name: load_config(config, [*own, *overrides]) for name, (config, *own) in cells.items()}
