"""Diversity of several networks, and the accuracy of their ensemble."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figure import COLOURS, figure

_COLOUR = {"networks": COLOURS[5], "ensemble": COLOURS[0], "student": COLOURS[1]}
_MARKER = {"networks": "o", "ensemble": "s", "student": "^"}
_WIDEST = 26  # letters of a network's name in a line


@dataclass(frozen=True)
class Bar:
    """Accuracy of one network.

    Attributes:
        name: As the picture shows it.
        top1: Per cent.
        role: networks, ensemble or student: its colour.
    """

    name: str
    top1: float
    role: str = "networks"


@dataclass(frozen=True)
class Curve:
    """Reliability of one network, by bins of confidence.

    Attributes:
        name: As the legend shows it.
        confidence: (b,) mean confidence in [0, 1]; NaN in an empty bin.
        accuracy: (b,) share of right predictions.
        share: (b,) share of the samples.
        role: networks, ensemble or student: its colour.
    """

    name: str
    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    role: str


def draw_diversity(
    keys: Sequence[str],
    disagreement: np.ndarray,
    bars: Sequence[Bar],
    curves: Sequence[Curve],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
    """Draw how often networks differ, how good each is, and whether they are right as often as they are sure.

    Args:
        keys: A short name for each row of ``disagreement``.
        disagreement: (k, k) per cent of the samples for which two networks predict different classes.
        bars: Networks, in the order to show them.
        curves: Their reliability.
        path: The PNG to write.
        title: Above it all.
    """
    side = max(3.4, 0.42 * len(keys) + 1.4)
    with figure(path, side + 8.6, max(3.8, side, 0.3 * len(bars) + 1.6)) as drawn:
        drawn.suptitle(title, fontsize=11)
        heat, accuracy, reliability = drawn.subplots(1, 3, width_ratios=(side, 4.4, 3.8))
        _heat(heat, keys, disagreement)
        _bars(accuracy, bars)
        _reliability(reliability, curves)


def _heat(axes: Any, keys: Sequence[str], values: np.ndarray) -> None:
    """The matrix with its numbers; the diagonal, which is 0, stays empty."""
    off_diagonal = ~np.eye(len(keys), dtype=bool)
    shown = np.where(off_diagonal, values, np.nan)
    top = float(values.max()) or 1.0
    # From 0, so that differences between pairs are not made more of than they are.
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=1.4 * top, aspect="equal")
    for row, column in np.argwhere(off_diagonal):
        value = values[row, column]
        axes.text(
            column,
            row,
            f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if value > 0.85 * top else "black",
        )
    if len(keys) == 1:
        axes.text(0, 0, "one network", ha="center", va="center", color="grey")
    longest = max(len(key) for key in keys)
    crowded = longest > 3 and len(keys) > 3
    axes.set_xticks(range(len(keys)), keys, rotation=90 if crowded else 0)
    axes.set_yticks(range(len(keys)), keys)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title("predicted classes differ, % of the samples")


def _bars(axes: Any, bars: Sequence[Bar]) -> None:
    places = np.arange(len(bars))[::-1]
    axes.barh(places, [bar.top1 for bar in bars], color=[_COLOUR[bar.role] for bar in bars], height=0.7)
    for place, bar in zip(places, bars, strict=True):
        axes.annotate(f"{bar.top1:.1f}", (bar.top1, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(
        places, ["\n".join(textwrap.wrap(bar.name, _WIDEST)) for bar in bars], fontsize=8 if len(bars) < 8 else 7
    )
    axes.set(title="top-1, %", xlim=(0, 1.14 * max(1.0, *(bar.top1 for bar in bars))), ylim=(-0.6, len(bars) - 0.4))
    axes.grid(axis="y", visible=False)


def _reliability(axes: Any, curves: Sequence[Curve]) -> None:
    """Accuracy against confidence; a marker's area shows how many samples its bin holds."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for curve in curves:
        there = np.isfinite(curve.confidence)
        colour = _COLOUR[curve.role]
        axes.plot(
            curve.confidence[there],
            curve.accuracy[there],
            color=colour,
            linewidth=1,
            label=curve.name,
            marker=_MARKER[curve.role],
            markersize=2,
        )
        axes.scatter(
            curve.confidence[there],
            curve.accuracy[there],
            s=4 + 260 * curve.share[there],
            color=colour,
            marker=_MARKER[curve.role],
            alpha=0.45,
            linewidths=0,
        )
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", title="share that is right, by confidence")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", fontsize=8)
