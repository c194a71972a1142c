"""The demo's transfers across modalities, both on rendered rooms: from RGB to depth, and from lightness to colour."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..training.run import train_unfinished
from .evaluate import measure_runs

BASELINES = ("random", "scratch", "teacher")


def compare_depth(
    out: Path, teacher: Path, seed: int, overrides: list[str], *, say: Callable[[str], None], progress: bool = True
) -> dict[str, Any]:
    """Teach a depth network twice without labels, by a hint and by dense CRD; then train a segmentation head on each
    frozen one.

    Args:
        out: The folder; finished runs in it are kept.
        teacher: Run of an RGB network on rendered rooms.
        seed: Of every training.
        overrides: ``key=value`` for every training.
        say: Told what begins.
        progress: Whether to show each training's.

    Returns:
        ``title``, ``rows`` (``name``, ``run``, ``miou``, ``pixel_accuracy``, ``top1`` of a linear probe for the main
        object, in per cent; None where it does not apply), ``seed``, ``images`` and ``picture``. Also in
        ``comparison.json``.
    """
    names = {
        "random": "depth, untaught",
        "scratch": "depth, from its labels alone",
        "hint": "depth, hint",
        "crd": "depth, CRD",
        "teacher": "the teacher, on RGB",
    }
    hint = [
        "objectives.dense_crd=null",
        "objectives.fitnet.weight=1",
        "objectives.fitnet.pair=[-1,-1]",
        "objectives.fitnet.standardize=true",
    ]
    common = ["xmodal/rooms_rgb_to_depth_crd", f"teachers.0.weights={teacher}"]
    configs = {
        name: _config(out / name, [*common, *own], seed, overrides) for name, own in {"hint": hint, "crd": []}.items()
    }
    return _compared(
        "RGB → depth on rendered rooms: what a depth network learns from an RGB teacher without a label",
        out,
        names,
        configs,
        seed,
        say,
        progress,
    )


def compare_colour(
    out: Path, seed: int, overrides: list[str], *, say: Callable[[str], None], progress: bool = True
) -> dict[str, Any]:
    """Train a network that sees lightness alone, teach one that sees colour alone by dense CRD without labels, and
    measure it as the depth networks are.

    Args:
        out: The folder; finished runs in it are kept.
        seed: Of every training.
        overrides: ``key=value`` for every training.
        say: Told what begins.
        progress: Whether to show each training's.

    Returns:
        As :func:`compare_depth`.
    """
    names = {
        "random": "colour, untaught",
        "scratch": "colour, from its labels alone",
        "crd": "colour, CRD",
        "teacher": "the teacher, on lightness",
    }
    taught = _config(
        out / "crd",
        ["xmodal/rooms_luminance_to_chrominance_crd", f"teachers.0.weights={out / 'teacher'}"],
        seed,
        overrides,
    )
    frames = f"data.train_samples={taught.data.options()['train_samples']}"
    teacher = _config(out / "teacher", ["teachers/rooms", "student.modality=luminance", frames], seed, overrides)
    train_unfinished({names["teacher"]: teacher}, say, progress)
    return _compared(
        "L → ab on rendered rooms: what a network that sees colour alone learns from one that sees lightness",
        out,
        names,
        {"crd": taught},
        seed,
        say,
        progress,
    )


def _config(out: Path, arguments: list[str], seed: int, overrides: list[str]) -> RunConfig:
    config, *own = arguments
    return load_config(config, [*own, *overrides, f"seed={seed}", f"out={out}"])


def _compared(
    title: str,
    out: Path,
    names: dict[str, str],
    configs: dict[str, RunConfig],
    seed: int,
    say: Callable[[str], None],
    progress: bool,
) -> dict[str, Any]:
    """Train what is to be taught, measure it beside its baselines, and write the comparison; ``names`` holds all of
    them, in the order to show.
    """
    train_unfinished({names[name]: config for name, config in configs.items()}, say, progress)
    measured = measure_runs(
        [config.out for config in configs.values()], [], baselines=BASELINES, picture=out / "predictions.png", say=say
    )
    found: dict[str, dict[str, Any]] = {}
    for row in measured.rows:
        name = Path(row["run"]).name if row["role"] == "student" else row["role"]
        entry = found.setdefault(
            name,
            {
                "name": f"{names[name]} ({row['model']})",
                "run": row["run"],
                "miou": None,
                "pixel_accuracy": None,
                "top1": None,
            },
        )
        entry |= {key: row[key] for key in ("miou", "pixel_accuracy") if key in row}
        if "layers" in row:
            entry["top1"] = row["layers"]["embedding"]["top1"]
    rows = [found[name] for name in names]
    result = {
        "title": title,
        "rows": rows,
        "seed": seed,
        "images": measured.rows[0]["images"],
        "picture": str(measured.picture),
    }
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    return result
