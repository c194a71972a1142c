"""The learning curves of one run, from the rows of its metrics.jsonl."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .figure import COLOURS, figure

_NOT_TERMS = ("stage", "epoch", "step", "lr", "loss", "top1", "top5", "seconds", "samples_per_second", "skipped")


def draw_curves(history: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """Draw loss and its terms, accuracy on the test split and the learning rate, each against the epoch.

    Args:
        history: Rows of metrics.jsonl; not empty.
        path: The PNG to write.
    """
    # An initial stage has terms of its own.
    terms = [
        name
        for name in dict.fromkeys(name for row in history for name in row)
        if name not in _NOT_TERMS and "/" not in name
    ]
    measured = [row for row in history if "top1" in row]
    with figure(path, 10.5, 3.2) as drawn:
        loss, accuracy, rate = drawn.subplots(1, 3)
        _line(loss, history, "loss", "sum" if len(terms) > 1 else "loss", COLOURS[0])
        for name, colour in zip(terms if len(terms) > 1 else (), COLOURS[1:] * len(terms), strict=False):
            _line(loss, history, name, name, colour, linestyle="--")
        loss.set(title="training loss" + (", terms before their weights" if len(terms) > 1 else ""), xlabel="epoch")
        if all(row["loss"] > 0 for row in history):
            loss.set_yscale("log")
            loss.yaxis.set_major_formatter("{x:g}")
            low, high = loss.get_ylim()
            # Within a decade powers of ten alone would leave most losses without a tick; over several, all others would
            # overlap.
            loss.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")
        loss.legend()
        for name, label, colour in (("top1", "top-1", COLOURS[0]), ("top5", "top-5", COLOURS[1])):
            rows = [row for row in measured if name in row]
            if rows:
                _line(accuracy, rows, name, f"{label}: {rows[-1][name]:.1f} % at the last epoch", colour)
        accuracy.set(title="accuracy on the test split", xlabel="epoch", ylabel="%")
        if measured:
            accuracy.legend()
        _line(rate, history, "lr", "learning rate", COLOURS[0])
        rate.set(title="learning rate", xlabel="epoch", yscale="log")
        for axes in (loss, accuracy, rate):
            axes.set_xlim(0.5, history[-1]["epoch"] + 1.5)
            axes.xaxis.get_major_locator().set_params(integer=True)


def _line(axes: Any, rows: Sequence[dict[str, Any]], name: str, label: str, colour: str, linestyle: str = "-") -> None:
    """One curve; single epochs are marked, because a line through one point is invisible."""
    epochs = [row["epoch"] + 1 for row in rows]
    axes.plot(epochs, [row.get(name) for row in rows], linestyle, color=colour, label=label, marker="o", markersize=2.5)
