"""Several runs on the same data side by side: what they saw, how good they became, and how they got there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figure import COLOURS, figure


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: As the picture shows it, such as ``student, CRD``.
        top1: Accuracy of the last epoch, per cent.
        history: Its rows of metrics.jsonl.
    """

    name: str
    top1: float
    history: Sequence[dict[str, Any]]


def draw_comparison(
    contestants: Sequence[ComparedRun],
    images: np.ndarray,
    labels: Sequence[str],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
    """Draw sample images, a bar for each run and their accuracy against the epoch.

    Args:
        contestants: The runs, in the order to show them.
        images: (n, H, W, 3) uint8 samples of the test split.
        labels: n names of their classes.
        path: The PNG to write.
        title: Above it all: what was transferred, on which data.
    """
    with figure(path, 11, 6.2) as drawn:
        drawn.suptitle(title, fontsize=11)
        above, below = drawn.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.25))[:, 0]
        _samples(above, images, labels)
        bars, curves = below.subplots(1, 2, width_ratios=(1, 1.1))
        colours = {contestant.name: COLOURS[number % len(COLOURS)] for number, contestant in enumerate(contestants)}
        places = np.arange(len(contestants))[::-1]
        bars.barh(places, [contestant.top1 for contestant in contestants], color=list(colours.values()), height=0.65)
        for place, contestant in zip(places, contestants, strict=True):
            bars.text(contestant.top1 + 0.5, place, f"{contestant.top1:.1f}", va="center")
        bars.set_yticks(places, list(colours))
        bars.set(
            title="top-1 on the test split, last epoch, %",
            xlim=(0, min(100, 1.15 * max(contestant.top1 for contestant in contestants))),
        )
        bars.grid(axis="y", visible=False)
        for contestant in contestants:
            measured = [row for row in contestant.history if "top1" in row]
            curves.plot(
                [row["epoch"] + 1 for row in measured],
                [row["top1"] for row in measured],
                label=contestant.name,
                color=colours[contestant.name],
                marker="o",
                markersize=2.5,
            )
        curves.set(title="top-1 on the test split, %", xlabel="epoch")
        curves.xaxis.get_major_locator().set_params(integer=True)
        curves.legend(loc="lower right")


def _samples(part: Any, images: np.ndarray, labels: Sequence[str]) -> None:
    """Two rows of images with their classes."""
    columns = -(-len(images) // 2)
    for axes, image, label in zip(part.subplots(2, columns).flat, images, labels, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(label, fontsize=7, pad=2)
        axes.set_axis_off()
