"""The learning curves of one run, from the rows of its metrics.jsonl."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..core.metric_names import HEADLINES, METRICS, is_term, measure_name
from .chart import Chart, Series
from .png import draw_charts

_ACCURACIES = (
    *METRICS.items(),
    *((f"validation_{key}", measure_name(f"validation_{key}")) for key in HEADLINES),
)


def draw_curves(history: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """Draw loss and its terms, accuracy on the test split and the learning rate, each against the epoch.

    Args:
        history: Rows of metrics.jsonl; not empty.
        path: The PNG to write.
    """
    # An initial stage has terms of its own.
    keys = dict.fromkeys(name for row in history for name in row)
    terms = [name for name in keys if is_term(name)]
    terms = terms if len(terms) > 1 else []
    loss = [Series("sum" if terms else "loss", epoch_points(history, "loss"))]
    loss += [Series(name, epoch_points(history, name), (), style, "dashed") for style, name in enumerate(terms, 1)]
    accuracy = [
        Series(f"{label}: {points[-1][1]:.1f} % at the last epoch", points, style=style)
        for style, (key, label) in enumerate(_ACCURACIES)
        if (points := epoch_points(history, key))
    ]
    title = "training loss" + (", terms before their weights" if terms else "")
    measured = "accuracy on the test split" if {*HEADLINES} & {*keys} else "accuracy"
    charts = [
        Chart(title, "epoch", "", loss, log=all(y > 0 for _, y in loss[0].points)),
        Chart(measured, "epoch", "%", accuracy, limits=(0, 100), log=False),
        Chart("learning rate", "epoch", "", [Series("learning rate", epoch_points(history, "lr"))], log=True),
    ]
    draw_charts([chart for chart in charts if chart.series], path)


def epoch_points(history: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch from 1 on, value) of the rows that have the metric."""
    return [(row["epoch"] + 1, row[key]) for row in history if row.get(key) is not None]
