"""The parts of a page: tables that sort, charts with their values, pictures, notes, commands to copy."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..plots.chart import Chart
from .markup import Markup, element, is_number, join, number
from .svg import draw, swatch

_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 12_000_000  # bytes of a picture
_LONG = 40  # letters of a cell that gets more room
_ROWS = 60  # epochs in the table under a chart


@dataclass(frozen=True)
class Cell:
    """A cell that is shown in one way and sorted in another.

    Attributes:
        shown: Text or markup.
        value: What it is sorted by: a number, or None for last.
    """

    shown: Any
    value: float | None = None


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, notes: Sequence[str] = ()) -> Markup:
    """A table in a box that scrolls by itself; the first column names the rows, the others are numbers where all of
    them are.

    Args:
        caption: What it shows.
        columns: Heads.
        rows: Cells: texts, markup, numbers' :class:`Cell` or None.
        notes: Sentences below it.
    """
    rows = [[cell if isinstance(cell, Cell) else Cell("" if cell is None else cell) for cell in row] for row in rows]
    numeric = [any(is_number(row[place].value) for row in rows) for place in range(len(columns))]
    head = [
        element(
            "th",
            element("button", name, type="button", class_="sort"),
            scope="col",
            class_="number" if numeric[place] else None,
        )
        for place, name in enumerate(columns)
    ]
    body = [
        element(
            "tr",
            element("th", _breakable(row[0].shown), scope="row", data_value=row[0].value),
            [_cell(cell, numeric[place]) for place, cell in enumerate(row) if place],
        )
        for row in rows
    ]
    body_table = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", head)),
        element("tbody", body),
        class_="sortable",
    )
    box = element("div", body_table, class_="scroll", tabindex=0, role="region", aria_label=caption)
    return element("div", box, [element("p", note, class_="small") for note in notes], class_="table")


def _breakable(name: Any) -> Any:
    """A name that may go on in the next line behind a slash or an underscore."""
    if isinstance(name, Markup) or not isinstance(name, str):
        return name
    return join(
        [element("wbr") if part is None else part for piece in re.split(r"(?<=[/_])", name) for part in (piece, None)][
            :-1
        ]
    )


def _cell(cell: Cell, numeric: bool) -> Markup:
    long = len(str(cell.shown)) > _LONG
    return element("td", cell.shown, data_value=cell.value, class_="number" if numeric else "long" if long else None)


def measured(value: Any, form: str = ".2f", unit: str = "") -> Cell:
    """A number's cell."""
    return Cell(number(value, form) + (unit if is_number(value) else ""), value if is_number(value) else None)


def figure(chart: Chart) -> Markup:
    """A chart with its legend, what the pointer is at, and its values as a table that is folded away."""
    names = [
        element(
            "li",
            element("button", swatch(series.style), element("span", series.name), type="button", aria_pressed="true"),
        )
        for series in chart.series
    ]
    keys = element("ul", names, class_="legend", aria_label=f"Lines of {chart.title}")
    readout = element(
        "p",
        "Point at the chart, or focus it and use the arrow keys, to read values.",
        class_="readout small",
        aria_live="polite",
    )
    drawn = element(
        "div", draw(chart), class_="plot", tabindex=0, role="group", aria_label=f"{chart.title}: arrow keys read values"
    )
    return element(
        "figure", element("figcaption", chart.title), drawn, keys, readout, _values(chart), class_="chart-box"
    )


def _values(chart: Chart) -> Markup:
    """The values of a chart, of a long training those of evenly spaced epochs of each line and its last."""
    all_places, chosen = set(), set()
    for places in ([x for x, _ in series.points] for series in chart.series):
        all_places |= {*places}
        chosen |= {*places[:: max(1, -(-len(places) // _ROWS))], *places[-1:]}
    shown = sorted(chosen)
    values = [dict(series.points) for series in chart.series]
    rows = [[_place(chart, x), *(measured(by.get(x), ".4g") for by in values)] for x in shown]
    caption = f"{chart.title}: values" + (f" of some {chart.xlabel}s" if len(chosen) < len(all_places) else "")
    return element(
        "details",
        element("summary", "Values as a table"),
        table(caption, [chart.xlabel, *(series.name for series in chart.series)], rows),
    )


def _place(chart: Chart, x: float) -> Cell:
    return Cell(chart.places[int(x)] if chart.places else number(x, "g"), x)


def picture(path: Path, alt: str) -> Markup:
    """A PNG inside the page; a sentence where it is missing or damaged."""
    try:
        content = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:
        return warning(f"The picture {path.name} is not there.")
    if not content.startswith(_PNG) or b"IEND" not in content[-16:]:
        return warning(f"The picture {path.name} is damaged or too large to be shown.")
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return element("figure", element("img", src=source, alt=alt), element("figcaption", alt), class_="picture")


def warning(text: str) -> Markup:
    """What is missing or damaged, where it would have been."""
    return element("p", element("strong", "Note: "), text, class_="warning", role="note")


def copyable(command: str, label: str) -> Markup:
    """A command with a button that copies it."""
    return element(
        "div",
        element("pre", element("code", command), tabindex=0, aria_label=label),
        element("button", "Copy", type="button", class_="copy"),
        class_="command",
    )


def folded(title: str, *children: Any, opened: bool = False) -> Markup:
    """Something long behind its title."""
    return element("details", element("summary", title), *children, open=opened)
