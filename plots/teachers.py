"""The error of students against the number of their teachers, as in the paper (Tian et al., ICLR 2020, section 4.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .figure import COLOURS, figure

_MARKERS = "osD^vP*X"
_GREY = "#777777"


@dataclass(frozen=True)
class Point:
    """Runs that differ in their seed alone.

    Attributes:
        teachers: How many they have.
        error: Mean of 100 − top-1, per cent.
        std: Standard deviation over them (of a sample, n − 1); None for a single one.
        runs: How many they are.
    """

    teachers: int
    error: float
    std: float | None
    runs: int


@dataclass(frozen=True)
class Panel:
    """Students of one architecture.

    Attributes:
        student: Its name.
        lines: Points by the objectives' label, by rising number of teachers.
        untaught: The same architecture without a teacher, by label.
        teachers: Mean error of the teachers themselves, by their number.
        ensembles: Error of the teachers' ensemble, by their number.
    """

    student: str
    lines: dict[str, list[Point]]
    untaught: dict[str, Point]
    teachers: list[Point]
    ensembles: list[Point]


def draw_teachers(panels: Sequence[Panel], path: str | os.PathLike) -> None:
    """Draw a panel for each architecture; a line has the same colour in all of them.

    Args:
        panels: At least one; together they have at least one line or untaught student.
        path: The PNG to write.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    style = {label: (COLOURS[number % 6], _MARKERS[number % len(_MARKERS)]) for number, label in enumerate(labels)}
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    # Every panel has its own legend, under it: beside lines that cross, no corner is free.
    entries = max(len(panel.lines) + len(panel.untaught) + 2 for panel in panels)
    with figure(path, 4.6 * columns + 0.4, rows * (3.5 + 0.2 * entries)) as drawn:
        drawn.suptitle("error of students against the number of their teachers", fontsize=11)
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid.flat, panels, strict=False):
            _panel(axes, panel, style)


def _panel(axes: Any, panel: Panel, style: dict[str, tuple[str, str]]) -> None:
    counts = sorted(
        {point.teachers for points in [*panel.lines.values(), panel.teachers, panel.ensembles] for point in points}
    ) or [1]
    shift = 0.012 * max(1, counts[-1] - counts[0])  # so that bars of equal points do not hide each other
    for number, (label, points) in enumerate(panel.lines.items()):
        colour, marker = style[label]
        places = [point.teachers + shift * (number - (len(panel.lines) - 1) / 2) for point in points]
        bars = [point.std or 0 for point in points]
        axes.errorbar(
            places,
            [point.error for point in points],
            bars,
            label=f"{label}, {_runs(points)}",
            color=colour,
            marker=marker,
            markersize=5,
            capsize=3,
            linewidth=1.4,
        )
    for number, (label, point) in enumerate(panel.untaught.items()):
        spread = "" if point.std is None else f" ± {point.std:.2f}"
        axes.axhline(
            point.error,
            color="black",
            linestyle=("--", (0, (6, 2, 1, 2)))[number % 2],
            linewidth=1.1,
            label=f"{label}: {point.error:.2f}{spread} ({_runs([point])})",
        )
        if point.std:
            axes.axhspan(point.error - point.std, point.error + point.std, color="black", alpha=0.07, linewidth=0)
    for points, label, marker in (
        (panel.teachers, "the teachers, mean", "1"),
        (panel.ensembles, "the teachers' ensemble", "x"),
    ):
        if points:
            axes.plot(
                [point.teachers for point in points],
                [point.error for point in points],
                color=_GREY,
                linestyle=":",
                marker=marker,
                markersize=6,
                label=label,
            )
    axes.set(title=f"student {panel.student}", xlabel="teachers", ylabel="error of the last epoch, %", xticks=counts)
    margin = 0.06 * max(1, counts[-1] - counts[0]) if len(counts) > 1 else 0.5
    axes.set_xlim(counts[0] - margin, counts[-1] + margin)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)


def _runs(points: Sequence[Point]) -> str:
    """``n = 5``, or ``n = 3 to 5`` where the points are of different numbers of runs."""
    few, many = min(point.runs for point in points), max(point.runs for point in points)
    return f"n = {few}" if few == many else f"n = {few} to {many}"
