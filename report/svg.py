"""Line charts as SVG whose words are text: they are found, read aloud and selected like the rest of the page."""

from __future__ import annotations

import json
import math

from ..plots.chart import Chart, Series
from .markup import Markup, element, number

_WIDTH, _HEIGHT = 460, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 42
_STYLES = 7  # colours, then the same with other dashes
_DASHES = (None, "7 4", "2 3", "9 3 2 3", "12 3 2 3 2 3")


def draw(chart: Chart) -> Markup:
    """The chart alone, without its legend; ``data-`` attributes hold what a pointer over it reads out."""
    axes = _Axes(chart)
    body = [*axes.grid(), *(_line(series, axes) for series in chart.series)]
    body.append(element("g", element("line", y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="cursor"), class_="pointer"))
    values = [
        {"name": series.name, "style": series.style % _STYLES, "points": [[x, _short(y)] for x, y in series.points]}
        for series in chart.series
    ]
    return element(
        "svg",
        element("title", chart.title),
        *body,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="chart",
        data_values=json.dumps(values, ensure_ascii=False),
        data_axis=json.dumps(axes.described()),
        data_places=json.dumps(list(chart.places)) if chart.places else None,
        data_x=chart.xlabel,
    )


def swatch(style: int) -> Markup:
    """A line's colour, dash and marker, as the legend shows them."""
    parts = [element("line", x1=1, x2=29, y1=7, y2=7, stroke_dasharray=_dash(style)), marker(15, 7, style)]
    return element("svg", *parts, viewBox="0 0 30 14", width=30, height=14, class_=_class(style), aria_hidden="true")


class _Axes:
    """From values to places in the picture."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        xs = [x for series in chart.series for x, _ in series.points]
        ys = [y for series in chart.series for _, y in series.points]
        ends = [*ys, *(end for series in chart.series for bounds in series.bounds for end in bounds)]
        self.log = chart.is_log
        # A band may reach down to 0 and below, where a logarithm has no place.
        low, high = (
            (min(ys), max(ends)) if self.log else (max(min(ends), chart.limits[0]), min(max(ends), chart.limits[1]))
        )
        if chart.places:  # room for their names
            xs = [-0.4, len(chart.places) - 0.6]
        self.x0, self.x1 = (min(xs) - 0.5, max(xs) + 0.5) if min(xs) == max(xs) else (min(xs), max(xs))
        self.ticks_y = _decades(low, high) if self.log else _ticks(low, high)
        self.y0, self.y1 = (min(low, self.ticks_y[0]), max(high, self.ticks_y[-1]))
        if self.log:
            self.y0, self.y1 = self.y0 / 1.1, self.y1 * 1.1

    def x(self, value: float) -> float:
        return round(_LEFT + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        scale = math.log10 if self.log else float
        low, high = scale(self.y0), scale(self.y1)
        value = min(max(value, self.y0), self.y1)
        return round(_HEIGHT - _BOTTOM - (scale(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def described(self) -> dict[str, float | bool]:
        """What a script needs to find the places again."""
        return {"x0": self.x0, "x1": self.x1, "y0": self.y0, "y1": self.y1, "log": self.log,
                "left": _LEFT, "right": _WIDTH - _RIGHT, "top": _TOP, "bottom": _HEIGHT - _BOTTOM}  # fmt: skip

    def grid(self) -> list[Markup]:
        """Lines, ticks and labels."""
        drawn = []
        digits = next((n for n in range(6, 16) if len({f"{y:.{n}g}" for y in self.ticks_y}) == len(self.ticks_y)), 16)
        for value in self.ticks_y:
            drawn.append(
                element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=self.y(value), y2=self.y(value), class_="grid")
            )
            drawn.append(
                element("text", number(value, f".{digits}g"), x=_LEFT - 6, y=self.y(value) + 4, text_anchor="end")
            )
        places = self.chart.places
        shown = range(len(places)) if places else _integers(self.x0, self.x1)
        turned = places is not None and sum(map(len, places)) > 44
        for value in shown:
            name = places[value] if places else number(value, "g")
            at = (
                {"transform": f"rotate(-20 {self.x(value)} {_HEIGHT - _BOTTOM + 15})", "text_anchor": "end"}
                if turned
                else {"text_anchor": "middle"}
            )
            drawn.append(
                element(
                    "line",
                    x1=self.x(value),
                    x2=self.x(value),
                    y1=_HEIGHT - _BOTTOM,
                    y2=_HEIGHT - _BOTTOM + 4,
                    class_="tick",
                )
            )
            drawn.append(element("text", name, x=self.x(value), y=_HEIGHT - _BOTTOM + 17, **at))
        drawn.append(
            element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM, class_="axis")
        )
        drawn.append(
            element(
                "text",
                self.chart.xlabel,
                x=(_LEFT + _WIDTH - _RIGHT) / 2,
                y=_HEIGHT - 6,
                text_anchor="middle",
                class_="label",
            )
        )
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        drawn.append(
            element(
                "text",
                self.chart.ylabel,
                x=13,
                y=middle,
                text_anchor="middle",
                transform=f"rotate(-90 13 {middle})",
                class_="label",
            )
        )
        return drawn


def _line(series: Series, axes: _Axes) -> Markup:
    """The line, its markers, and a band of its spread."""
    places = [(axes.x(x), axes.y(y)) for x, y in series.points]
    parts = []
    if series.bounds:
        above = [f"{axes.x(x)},{axes.y(high)}" for (x, _), (_, high) in zip(series.points, series.bounds, strict=True)]
        below = [f"{axes.x(x)},{axes.y(low)}" for (x, _), (low, _) in zip(series.points, series.bounds, strict=True)]
        parts.append(element("polygon", points=" ".join([*above, *reversed(below)]), class_="band"))
    parts.append(
        element("polyline", points=" ".join(f"{x},{y}" for x, y in places), stroke_dasharray=_dash(series.style))
    )
    every = max(1, -(-len(places) // 24))  # markers of their own for long trainings would hide the line
    marked = [place for number_, place in enumerate(places) if number_ % every == 0 or number_ == len(places) - 1]
    parts += [marker(x, y, series.style) for x, y in marked]
    return element("g", *parts, class_=f"series {_class(series.style)}", data_name=series.name)


def marker(x: float, y: float, style: int) -> Markup:
    """A circle, square, triangle or diamond: a line is known without its colour."""
    kind, r = style % 4, 3.2
    if kind == 0:
        return element("circle", cx=x, cy=y, r=r, class_="marker")
    if kind == 1:
        return element(
            "rect", x=round(x - r * 0.9, 1), y=round(y - r * 0.9, 1), width=r * 1.8, height=r * 1.8, class_="marker"
        )
    corners = ((0, -1.25), (1.15, 0.8), (-1.15, 0.8)) if kind == 2 else ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0))
    return element(
        "polygon",
        points=" ".join(f"{round(x + r * dx, 1)},{round(y + r * dy, 1)}" for dx, dy in corners),
        class_="marker",
    )


def _class(style: int) -> str:
    return f"c{style % _STYLES}"


def _dash(style: int) -> str | None:
    return _DASHES[(style // _STYLES + style % _STYLES % 2) % len(_DASHES)]


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers around a range.

    Example:
        >>> _ticks(0.3, 9.2)
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if high == low:  # in the middle of something
        low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * count >= span)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.10g}") for place in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range, or the powers alone where that is many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    if len(inside) > 7:
        inside = [value for value in inside if f"{value:e}".startswith("1.0")]
    return inside if len(inside) > 1 else [low, high]


def _integers(low: float, high: float) -> list[int]:
    """Whole numbers along an axis of epochs."""
    first, last = math.ceil(low), math.floor(high)
    step = next(
        step for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 5000, 10**9) if (last - first) / step <= 7
    )
    return [value for value in range(first, last + 1) if value % step == 0 or (value == first and step == 1)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
