"""Measures of a network on a split, as the columns of metrics.jsonl have them, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def headline(row: Mapping[str, Any]) -> str | None:
    """The key of the measure by which the network of a row of metrics.jsonl is judged; None where nothing was
    measured.
    """
    return next((key for key in HEADLINES if row.get(key) is not None), None)
