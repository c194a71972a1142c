"""The error of students against the number of their teachers, as in the paper (Tian et al., ICLR 2020, section 4.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .chart import Chart, Series, series_with_std
from .png import draw_charts


@dataclass(frozen=True)
class Point:
    """Runs that differ in their seed alone.

    Attributes:
        teachers: How many they have.
        error: Mean of 100 − top-1, per cent.
        std: Standard deviation over them (of a sample, n − 1); None for a single one.
        runs: How many they are.
        data: What tells the data of teachers from those of others in the panel, ``data.path=easy.h5``; else empty.
    """

    teachers: int
    error: float
    std: float | None
    runs: int
    data: str = ""


@dataclass(frozen=True)
class Panel:
    """Students of one architecture.

    Attributes:
        student: Its name.
        lines: Points by the objectives' label, by rising number of teachers.
        baselines: The same architecture without a teacher, by label.
        teachers: Mean error of the teachers themselves, by their data and number.
        ensembles: Error of the teachers' ensemble, by their data and number.
    """

    student: str
    lines: dict[str, list[Point]]
    baselines: dict[str, Point]
    teachers: list[Point]
    ensembles: list[Point]

    @property
    def teacher_lines(self) -> dict[str, list[Point]]:
        """The points of the teachers by label, one for each of their data."""
        return _by_data("the teachers, mean", self.teachers)

    @property
    def ensemble_lines(self) -> dict[str, list[Point]]:
        """The points of the teachers' ensemble by label, one for each of their data."""
        return _by_data("the teachers' ensemble", self.ensembles)


def _by_data(label: str, points: Sequence[Point]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(f"{label}, {point.data}" if point.data else label, []).append(point)
    return lines


def draw_teachers(panels: Sequence[Panel], path: str | os.PathLike) -> None:
    """Draw a panel for each architecture; a line has the same colour in all of them.

    Args:
        panels: At least one; together they have at least one line or baseline.
        path: The PNG to write.
    """
    title = "error of students against the number of their teachers"
    draw_charts(teacher_charts(panels), path, title=title, legend="below")


def teacher_charts(panels: Sequence[Panel]) -> list[Chart]:
    """A chart for each architecture: its students, baselines as levels, and what their teachers come to."""
    styles = {
        label: style for style, label in enumerate(dict.fromkeys(name for panel in panels for name in panel.lines))
    }
    return [
        Chart(
            f"student {panel.student}",
            "teachers",
            "error of the last epoch, %",
            _series(panel, styles),
            log=False,
        )
        for panel in panels
    ]


def _series(panel: Panel, styles: dict[str, int]) -> list[Series]:
    measured = [*panel.lines.values(), panel.teachers, panel.ensembles]
    counts = sorted({point.teachers for points in measured for point in points}) or [1]
    series = [
        series_with_std(f"{label}, {_runs(points)}", _values(points), styles[label])
        for label, points in panel.lines.items()
    ]
    for style, (label, point) in enumerate(panel.baselines.items(), len(styles)):
        spread = "" if point.std is None else f" ± {point.std:.2f}"
        name = f"{label}: {point.error:.2f}{spread} ({_runs([point])})"
        series.append(series_with_std(name, [(count, point.error, point.std) for count in counts], style, "level"))
    teachers = {**panel.teacher_lines, **panel.ensemble_lines}
    for style, (name, points) in enumerate(teachers.items(), len(styles) + len(panel.baselines)):
        series.append(Series(name, [(point.teachers, point.error) for point in points], (), style, "dotted"))
    return series


def _values(points: Sequence[Point]) -> list[tuple[float, float, float | None]]:
    return [(point.teachers, point.error, point.std) for point in points]


def _runs(points: Sequence[Point]) -> str:
    """``n = 5``, or ``n = 3 to 5`` where the points are of different numbers of runs."""
    few, many = min(point.runs for point in points), max(point.runs for point in points)
    return f"n = {few}" if few == many else f"n = {few} to {many}"
