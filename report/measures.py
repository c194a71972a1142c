"""What an evaluation measured of a network, and how: a head's number depends on the head and its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.metric_names import SCALED
from .markup import is_number

OWN = "its own outputs"
"""How a number was measured that no head was trained for."""
# Settings of an evaluation that a number of these tasks depends on; others stand in the row.
_SETTINGS = {"segmentation": ("epochs", "batch_size", "lr"), "classification": ("spatial",)}


def evaluation_rows(evaluation: Any) -> list[dict[str, Any]]:
    """The rows of an evaluation, each with the settings of its task under ``settings``."""
    evaluation = evaluation if isinstance(evaluation, dict) else {}
    rows, options = evaluation.get("rows"), evaluation.get("evaluation")
    options = options if isinstance(options, dict) else {}
    return [
        row | {"settings": {key: options.get(key) for key in _SETTINGS.get(str(row.get("task")), ())}}
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    ]


def measures_of(rows: Sequence[dict[str, Any]], role: str) -> dict[str, tuple[float, str]]:
    """What an evaluation found of a role, with the most labels, and how; a network's own outputs before a head's."""
    heads: dict[str, tuple[float, str]] = {}
    own: dict[str, tuple[float, str]] = {}
    rows = sorted(
        (row for row in rows if row.get("role") == role),
        key=lambda row: row["labels"] if is_number(row.get("labels")) else 1.0,
    )
    for row in rows:
        options = {key: row[key] for key in ("head", "mode", "labels") if key in row} | row["settings"]
        options |= {"training images": row["train_images"]} if "train_images" in row else {}
        text = ", ".join(f"{key} {value}" for key, value in options.items())
        if row.get("task") == "accuracy":
            names = ("miou", "pixel_accuracy", "delta1", *(("top1", "mAP") if role == "teacher" else ()))
            way = OWN if row.get("align") in (None, "none") else f"{OWN}, {SCALED}"
            own |= {key: (row[key], way) for key in names if is_number(row.get(key))}
            continue
        heads |= {key: (row[key], text) for key in ("miou", "pixel_accuracy") if is_number(row.get(key))}
        layers = row.get("layers")
        if (
            isinstance(layers, dict)
            and isinstance(layers.get("embedding"), dict)
            and is_number(layers["embedding"].get("top1"))
        ):
            heads["probe"] = layers["embedding"]["top1"], text
    return heads | own


def but_mode(way: str) -> str:
    """How a number was measured, but for what was trained along with the head.

    Example:
        >>> but_mode("head linear, mode frozen, labels 1.0")
        'head linear, labels 1.0'
    """
    return ", ".join(part for part in way.split(", ") if not part.startswith("mode "))
