"""A map of samples, coloured by their class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Markup, element
from .svg import marker

_SIDE, _EDGE = 380, 10
_SHOWN = 12
_COLOURS = 6  # the seventh is for the rest


@dataclass(frozen=True)
class Scatter:
    """Samples in two dimensions.

    Attributes:
        title: What they are.
        points: (n, 2) places.
        classes: n numbers of their classes; None where they have none, so that all have one colour.
        names: Of the classes.
    """

    title: str
    points: Sequence[Sequence[float]]
    classes: Sequence[int] | None
    names: Sequence[str]


def scatter(shown: Scatter) -> Markup:
    """The map with its legend; of many classes the most frequent ones have a colour and marker of their own, and
    without classes there is no legend.
    """
    classes = [0] * len(shown.points) if shown.classes is None else shown.classes
    counts = Counter(classes)
    style: dict[int | None, int] = {
        label: place for place, label in enumerate(sorted(label for label, _ in counts.most_common(_SHOWN)))
    }
    low = [min(point[axis] for point in shown.points) for axis in (0, 1)]
    # One scale for both axes: a map that is stretched would show distances that are not there.
    spans = [max(point[axis] for point in shown.points) - low[axis] for axis in (0, 1)]
    scale = (_SIDE - 2 * _EDGE) / (max(spans) or 1.0)
    height = round(spans[1] * scale) + 2 * _EDGE
    dots: dict[int | None, list[tuple[float, float]]] = {label: [] for label in [None, *style]}
    for (x, y), label in zip(shown.points, classes, strict=True):
        where = round(_EDGE + (x - low[0]) * scale, 1), round(height - _EDGE - (y - low[1]) * scale, 1)
        dots[label if label in style else None].append(where)
    groups = [_group(places, style.get(label), _name(shown, label, counts)) for label, places in dots.items() if places]
    svg = element(
        "svg", element("title", shown.title), groups, viewBox=f"0 0 {_SIDE} {height}", role="img", class_="map"
    )
    keys = [
        element("li", _swatch(style.get(label)), element("span", _name(shown, label, counts)))
        for label, places in [*list(dots.items())[1:], (None, dots[None])]
        if places
    ]
    return element(
        "figure",
        element("figcaption", shown.title),
        svg,
        None if shown.classes is None else element("ul", keys, class_="legend plain"),
        class_="chart-box",
    )


def _group(places: Sequence[tuple[float, float]], style: int | None, name: str) -> Markup:
    return element(
        "g",
        element("title", name),
        [marker(x, y, 0 if style is None else _kind(style)) for x, y in places],
        class_=_class(style),
    )


def _swatch(style: int | None) -> Markup:
    return element(
        "svg",
        marker(7, 7, 0 if style is None else _kind(style)),
        viewBox="0 0 14 14",
        width=14,
        height=14,
        class_=_class(style),
        aria_hidden="true",
    )


def _kind(style: int) -> int:
    return style // _COLOURS + style % 2 * 2


def _class(style: int | None) -> str:
    return "rest" if style is None else f"c{style % _COLOURS}"


def _name(shown: Scatter, label: int | None, counts: Counter) -> str:
    if shown.classes is None:
        return "samples"
    if label is None:
        return "other classes"
    named = shown.names[label] if 0 <= label < len(shown.names) else f"class {label}"
    return f"{named} ({counts[label]})"
