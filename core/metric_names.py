"""Measures of a network on a split, as the columns of metrics.jsonl have them, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import UsageError

METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "mAP": "mAP",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy of the classes",
    "delta1": "δ < 1.25",
    "delta2": "δ < 1.25²",
    "delta3": "δ < 1.25³",
}
"""In per cent, more is better."""

ERRORS = {"abs_rel": "absolute relative error", "rmse": "root of the mean squared error"}
"""Less is better."""

HEADLINES = ("top1", "mAP", "miou", "delta1")
"""The one by which a network is judged, for each kind of answer."""

SCALED = "scale of each frame by its median"
"""How predicted depth was measured whose unit is not known."""

_VALIDATION = "validation_"
_OTHERS = ("stage", "epoch", "step", "lr", "loss", "seconds", "samples_per_second", "skipped", "gradient_norm")


def measure_name(key: str) -> str | None:
    """What a column of metrics.jsonl measures of the network, and on what; None of another column.

    Example:
        >>> measure_name("miou"), measure_name("validation_top1"), measure_name("loss")
        ('mIoU on the test split', 'top-1 on the validation samples', None)
    """
    name = (METRICS | ERRORS).get(key.removeprefix(_VALIDATION))
    where = "validation samples" if key.startswith(_VALIDATION) else "test split"
    return None if name is None else f"{name} on the {where}"


def is_term(key: str) -> bool:
    """Whether a column of metrics.jsonl is a term of the loss, before its weight; what an objective reports beside its
    loss is ``LABEL/NAME``.
    """
    return "/" not in key and key not in _OTHERS and measure_name(key) is None


def names_column(label: str) -> bool:
    """Whether a term with this label would have the name of another column of metrics.jsonl.

    Example:
        >>> names_column("loss"), names_column("validation_kd"), names_column("kd")
        (True, True, False)
    """
    return label in (*_OTHERS, *METRICS, *ERRORS) or label.startswith((_VALIDATION, "samples of "))


def refuse_columns(labels: Iterable[str]) -> None:
    """Refuse terms of the loss that are called as a column of metrics.jsonl, of which one would replace the other.

    Raises:
        UsageError: There is one.
    """
    for label in labels:
        if names_column(label):
            raise UsageError(
                f"objective {label} is called as another column of metrics.jsonl is: give it a label of its own, with "
                f"its name beside it, as objectives.my_{label}.name=…"
            )


def headline(row: Mapping[str, Any]) -> str | None:
    """The key of the measure by which the network of a row of metrics.jsonl is judged; None where nothing was
    measured.
    """
    return next((key for key in HEADLINES if row.get(key) is not None), None)
