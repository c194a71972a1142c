"""Line charts as data: plots/png.py draws them as a picture, report/svg.py as a part of a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

LineStyle = Literal["solid", "dashed", "dotted", "level"]


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: As the legend shows it.
        points: (x, y) pairs by rising x.
        bounds: (low, high) of the error bar or band at each point; empty for none.
        style: Which of the colours and markers; the same network has the same in every chart.
        line: How a picture draws it; ``level`` is a horizontal line of one value across the axes, such as a baseline.
    """

    name: str
    points: Sequence[tuple[float, float]]
    bounds: Sequence[tuple[float, float]] = ()
    style: int = 0
    line: LineStyle = "solid"


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Attributes:
        title: What is drawn.
        xlabel, ylabel: What the axes are.
        series: The lines.
        places: Names of the places 0, 1, … along the x axis; None: numbers.
        limits: Bounds of y, such as 0 and 100 per cent; error bars and bands end there.
        log: Whether y is logarithmic; None: where the values are positive and span more than a decade.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    places: Sequence[str] | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    log: bool | None = None

    @property
    def is_log(self) -> bool:
        """Whether y is logarithmic."""
        if self.log is not None:
            return self.log
        values = [y for series in self.series for _, y in series.points]
        return min(values) > 0 and max(values) > 10 * min(values)


def series_with_std(
    name: str, points: Iterable[tuple[float, float, float | None]], style: int = 0, line: LineStyle = "solid"
) -> Series:
    """A line through (x, mean, standard deviation or None)."""
    points = list(points)
    several = any(std for _, _, std in points)
    bounds = [(mean - (std or 0.0), mean + (std or 0.0)) for _, mean, std in points] if several else ()
    return Series(name, [(x, mean) for x, mean, _ in points], bounds, style, line)


def series_at_places(
    name: str,
    values: Sequence[float | None],
    low: Sequence[float | None],
    high: Sequence[float | None],
    style: int = 0,
) -> Series:
    """A line through a value for each place of a chart; None where there is none."""
    points: list[tuple[float, float]] = []
    bounds: list[tuple[float, float]] = []
    for place, (value, bottom, top) in enumerate(zip(values, low, high, strict=True)):
        if value is not None:
            points.append((place, value))
            bounds.append((value if bottom is None else bottom, value if top is None else top))
    return Series(name, points, bounds, style)
