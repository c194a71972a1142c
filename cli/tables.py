"""How the commands print tables and results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.table import Table, TabularResult


def show(result: TabularResult, *, styles: Mapping[str, str] | None = None) -> None:
    """Print a result's tables on standard output, once where a launcher started several processes."""
    if not _is_first():
        return
    for table in result.tables():
        print_table(table, styles or {})


def print_table(table: Table, styles: Mapping[str, str]) -> None:
    """Print a table; as wide as it needs where a pipe has no width of its own.

    Args:
        table: It.
        styles: Text of a cell -> its style on a terminal.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=140)
    grid = Grid(title=escape(table.title) or None, title_justify="left")
    for place, column in enumerate(table.columns):
        grid.add_column(escape(column), justify="right" if table.is_numeric(place) else "left", overflow="fold")
    for row in table.rows:
        cells = ["–" if cell is None else cell for cell in row]
        grid.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in cells))
    console.print(grid)
    for note in table.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def print_json(result: Any) -> None:
    """Print a result as JSON on standard output, once where a launcher started several processes."""
    if _is_first():
        print(json.dumps(result.to_dict()))


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"
