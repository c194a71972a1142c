"""What frozen representations are worth: curves over layers and over labels, and heat maps of two networks side by
side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figure import COLOURS, figure

_MARKERS = "osD^vP*X"
_NAMED = 20  # classes whose names find room beside a heat map


@dataclass(frozen=True)
class Line:
    """One network.

    Attributes:
        name: As the legend says it.
        values: Its accuracy at each place of the panel, per cent; None where it has none.
        low, high: Ends of its bars.
    """

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]


@dataclass(frozen=True)
class Panel:
    """One data set, or one layer on it.

    Attributes:
        title: Above it.
        places: What stands along its axis: layers, or numbers of labels.
        lines: Its networks.
    """

    title: str
    places: Sequence[str]
    lines: Sequence[Line]


@dataclass(frozen=True)
class Heat:
    """A matrix.

    Attributes:
        title: Above it.
        values: (rows, columns).
        rows, columns: Names along its sides; None: numbers.
        row_name, column_name: What the sides are.
    """

    title: str
    values: np.ndarray
    rows: Sequence[str] | None
    columns: Sequence[str] | None
    row_name: str
    column_name: str


def draw_lines(panels: Sequence[Panel], path: str | os.PathLike, *, title: str, xlabel: str) -> None:
    """Draw accuracy against layers, or against labelled samples a class; a network has the same colour in all panels.

    Args:
        panels: At least one.
        path: The PNG to write.
        title: Above it all: what the bars are.
        xlabel: What the places are.
    """
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    columns = _across(len(panels))
    rows = -(-len(panels) // columns)
    places = max(len(panel.places) for panel in panels)
    wide = max(4.2, 0.75 * places + 1.4)
    width = max(6.5, wide * columns)
    beside = max(1, min(len(names), int(width // (0.55 + 0.085 * max(len(name) for name in names)))))
    with figure(path, width, 3.4 * rows + 0.5 + 0.22 * -(-len(names) // beside)) as drawn:
        drawn.suptitle(title, fontsize=11)
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        shown: dict[str, Any] = {}
        for axes, panel in zip(grid.flat, panels, strict=False):
            for line in panel.lines:
                number = names.index(line.name)
                # A little apart, so that bars of equal values do not hide each other.
                shift = 0.3 * ((number + 0.5) / len(names) - 0.5)
                shown.setdefault(
                    line.name,
                    _line(axes, line, shift, COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]),
                )
            bottom, top = axes.get_ylim()
            axes.set_ylim(max(bottom, -3), min(top, 103))
            crowded = max(map(len, panel.places)) > 9 and len(panel.places) > 4
            axes.set_xticks(range(len(panel.places)), panel.places, rotation=30 if crowded else 0)
            axes.set(title=panel.title, xlabel=xlabel, ylabel="top-1, %", xlim=(-0.4, len(panel.places) - 0.6))
        drawn.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=beside)


def _line(axes: Any, line: Line, shift: float, colour: str, marker: str) -> Any:
    there = [place for place, value in enumerate(line.values) if value is not None]
    values = np.array([line.values[place] for place in there])
    ends = [
        [end if end is not None else value for end, value in ((part[place], line.values[place]) for place in there)]
        for part in (line.low, line.high)
    ]
    bars = np.abs(np.array(ends) - values)
    return axes.errorbar(
        np.array(there) + shift, values, bars, color=colour, marker=marker, markersize=4.5, capsize=2.5, linewidth=1.3
    )


def draw_cka(heats: Sequence[Heat], path: str | os.PathLike) -> None:
    """Draw how alike the layers of two networks are, with the numbers, from 0 to 1.

    Args:
        heats: A matrix for each network and data set.
        path: The PNG to write.
    """
    rows, columns = (max(heat.values.shape[side] for heat in heats) for side in (0, 1))
    across = _across(len(heats))
    with figure(
        path, across * max(4.0, 0.62 * columns + 1.9) + 0.8, -(-len(heats) // across) * max(3.4, 0.5 * rows + 1.9) + 0.4
    ) as drawn:
        drawn.suptitle("layers side by side: linear CKA, unbiased", fontsize=11)
        image = None
        for axes, heat in zip(_grid(drawn, len(heats), across), heats, strict=False):
            # Unbiased, it may come out a little below 0.
            image = axes.imshow(heat.values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            for row, column in np.ndindex(*heat.values.shape):
                value = heat.values[row, column]
                shown = f"{value:.2f}".replace("-0.00", "0.00")
                axes.text(
                    column, row, shown, ha="center", va="center", fontsize=7, color="black" if value > 0.6 else "white"
                )
            _sides(axes, heat)
        drawn.colorbar(image, ax=drawn.axes, shrink=0.8, label="CKA")


def draw_correlation(heats: Sequence[Heat], path: str | os.PathLike) -> None:
    """Draw differences of correlations between classes (Tian et al., ICLR 2020), all on one scale that is symmetric
    around 0.

    Args:
        heats: A matrix for each network and data set.
        path: The PNG to write.
    """
    top = max(1e-6, *(float(np.abs(heat.values).max()) for heat in heats))
    across = _across(len(heats))
    named = any(heat.rows for heat in heats)
    side = 4.4 if named else 3.7
    with figure(path, across * side + 1.0, -(-len(heats) // across) * (side + 0.1) + 0.5) as drawn:
        drawn.suptitle("correlations between class logits: teacher − student", fontsize=11)
        image = None
        for axes, heat in zip(_grid(drawn, len(heats), across), heats, strict=False):
            image = axes.imshow(heat.values, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
            _sides(axes, heat)
        drawn.colorbar(image, ax=drawn.axes, shrink=0.8, label="difference of Pearson correlations")


def _across(count: int) -> int:
    return 2 if count == 4 else min(3, count)


def _grid(drawn: Any, count: int, across: int) -> list[Any]:
    """Axes in rows, as many as are needed."""
    return [drawn.add_subplot(-(-count // across), across, number + 1) for number in range(count)]


def _sides(axes: Any, heat: Heat) -> None:
    names = [names if names and len(names) <= _NAMED else None for names in (heat.rows, heat.columns)]
    if names[0]:
        axes.set_yticks(range(len(names[0])), names[0], fontsize=8)
    if names[1]:
        crowded = sum(map(len, names[1])) > 40
        axes.set_xticks(range(len(names[1])), names[1], fontsize=8, rotation=90 if crowded else 0)
    axes.set_title(heat.title, fontsize=9)
    axes.set(xlabel=heat.column_name, ylabel=heat.row_name)
    axes.tick_params(length=0 if any(names) else 3)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
