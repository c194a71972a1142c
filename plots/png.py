"""Draws charts as one PNG, a panel each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .chart import Chart, Series
from .figure import COLOURS, figure

_MARKERS = "osD^vP*X"
_DOTTED = "1x2+34"
_GREY = "#777777"
_LEVELS = ("--", (0, (6, 2, 1, 2)))
_TICKS = 8  # numbers along x that each have a tick

Legend = Literal["inside", "below", "shared"]


def draw_charts(
    charts: Sequence[Chart], path: str | os.PathLike, *, title: str = "", legend: Legend = "inside"
) -> None:
    """Draw charts side by side.

    Args:
        charts: At least one, each with at least one line.
        path: The PNG to write.
        title: Above all of them.
        legend: Inside each panel, below each, or one for all.
    """
    columns = columns_of(len(charts))
    rows = -(-len(charts) // columns)
    names = list(dict.fromkeys(series.name for chart in charts for series in chart.series))
    beside = len(names)
    if legend == "shared":
        width = max(6.5, columns * max(4.2, 0.75 * max(len(chart.places or ()) for chart in charts) + 1.4))
        beside = max(1, min(len(names), int(width // (0.55 + 0.085 * max(map(len, names))))))
        height = 3.4 * rows + 0.5 + 0.22 * -(-len(names) // beside)
    elif legend == "below":
        width, height = 4.6 * columns + 0.4, rows * (3.5 + 0.2 * max(len(chart.series) for chart in charts))
    else:
        width, height = 3.5 * columns, 3.2 * rows
    plain = legend == "inside" and not title
    with figure(path, width, height, constrained=not plain) as drawn:
        if plain:
            _margins(drawn, rows, columns)
        if title:
            drawn.suptitle(title, fontsize=11)
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(charts) :]:
            axes.set_axis_off()
        handles: dict[str, Any] = {}
        for axes, chart in zip(grid.flat, charts, strict=False):
            drawn_lines = _draw(axes, chart)
            handles = drawn_lines | handles
            if legend == "inside" and [*drawn_lines] != [chart.title]:
                axes.legend()
            elif legend == "below":  # beside lines that cross, no corner is free
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
        if legend == "shared":
            drawn.legend([handles[name] for name in names], names, loc="outside lower center", ncols=beside)


def _margins(drawn: Any, rows: int, columns: int) -> None:
    """Room for ticks, their labels and titles around each panel, in inches."""
    left, right, bottom, top = 0.62, 0.12, 0.5, 0.34
    width, height = drawn.get_size_inches()
    panel_width, panel_height = width / columns - left - right, height / rows - bottom - top
    drawn.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height,
        wspace=(left + right) / panel_width, hspace=(bottom + top) / panel_height,
    )  # fmt: skip


def columns_of(count: int) -> int:
    """How many panels stand beside each other."""
    return 2 if count == 4 else min(3, count)


def _draw(axes: Any, chart: Chart) -> dict[str, Any]:
    """The lines and both axes; the handles of a legend by name."""
    xs = sorted({x for series in chart.series for x, _ in series.points})
    span = xs[-1] - xs[0]
    barred = [series for series in chart.series if series.bounds and series.line != "level"]
    step = 0.3 / max(1, len(barred)) if chart.places else 0.012 * max(1.0, span)
    # Slightly apart, so that bars of equal points do not hide each other.
    shifts = {series.name: step * (place - (len(barred) - 1) / 2) for place, series in enumerate(barred)}
    levels = [series for series in chart.series if series.line == "level"]
    handles = {
        series.name: _level(axes, series, levels.index(series))
        if series in levels
        else _line(axes, series, shifts.get(series.name, 0.0))
        for series in chart.series
    }
    axes.set(title=chart.title, xlabel=chart.xlabel, ylabel=chart.ylabel)
    if chart.places:
        crowded = max(map(len, chart.places)) > 9 and len(chart.places) > 4
        axes.set_xticks(range(len(chart.places)), chart.places, rotation=30 if crowded else 0)
        axes.set_xlim(-0.4, len(chart.places) - 0.6)
    else:
        if len(xs) <= _TICKS:
            axes.set_xticks(xs)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        margin = min(0.5, 0.06 * span) if span else 0.5
        axes.set_xlim(xs[0] - margin, xs[-1] + margin)
    _scale(axes, chart)
    return handles


def _scale(axes: Any, chart: Chart) -> None:
    if chart.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        low, high = axes.get_ylim()
        # Within a decade powers of ten alone would leave most values without a tick; over several, all others would
        # overlap, and each takes a thousandth of a second.
        if high < 10 * low:
            axes.yaxis.set_minor_formatter("{x:g}")
        else:
            axes.yaxis.minorticks_off()
    elif np.isfinite(chart.limits).all():
        low, high = axes.get_ylim()
        margin = 0.03 * (chart.limits[1] - chart.limits[0])
        axes.set_ylim(max(low, chart.limits[0] - margin), min(high, chart.limits[1] + margin))


def _line(axes: Any, series: Series, shift: float) -> Any:
    """A line with its bars; points are marked, because a line through a single one is invisible."""
    xs, ys = np.array(series.points).T
    options: dict[str, Any] = {"label": series.name, "color": COLOURS[series.style % len(COLOURS)]}
    if series.line == "dotted":
        options |= {"color": _GREY, "linestyle": ":", "marker": _DOTTED[series.style % len(_DOTTED)], "markersize": 6}
    elif series.bounds:
        options |= {"marker": _MARKERS[series.style % len(_MARKERS)], "markersize": 4.5, "linewidth": 1.3}
    else:
        options |= {"linestyle": "--" if series.line == "dashed" else "-", "marker": "o", "markersize": 2.5}
    if not series.bounds:
        return axes.plot(xs, ys, **options)[0]
    low, high = np.array(series.bounds).T
    return axes.errorbar(xs + shift, ys, np.abs([ys - low, high - ys]), capsize=2.5, **options)


def _level(axes: Any, series: Series, number: int) -> Any:
    """A horizontal line with a band."""
    style = _LEVELS[number % len(_LEVELS)]
    line = axes.axhline(series.points[0][1], color="black", linestyle=style, linewidth=1.1, label=series.name)
    if series.bounds:
        axes.axhspan(*series.bounds[0], color="black", alpha=0.07, linewidth=0)
    return line
