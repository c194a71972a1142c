"""One table, however it is shown: plain text, Markdown, a terminal's (cli/tables.py) or a page's
(report/page_parts.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under columns; what a result prints.

    Attributes:
        title: One line above it; empty for none.
        columns: Their headings.
        rows: A cell a column, as text; None is shown as a dash.
        notes: Lines below it.

    Example:
        >>> print(Table("Accuracy", ("network", "top-1"), [("resnet8", "61.2")]))
        Accuracy
        network  top-1
        resnet8   61.2
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Plain text; columns of numbers are aligned on the right."""
        cells = [list(self.columns), *(self._texts(row) for row in self.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        numbers = [self.is_numeric(place) for place in range(len(self.columns))]
        lines = [
            "  ".join(
                text.rjust(width) if number else text.ljust(width)
                for text, width, number in zip(row, widths, numbers, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([*([self.title] if self.title else []), *lines, *self.notes])

    def to_markdown(self) -> str:
        """The table as GitHub and most other readers of Markdown show it; a ``|`` within a cell is escaped."""
        heads = [":-" if not self.is_numeric(place) else "-:" for place in range(len(self.columns))]
        lines = [list(self.columns), heads, *(self._texts(row) for row in self.rows)]
        table = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
        title = [f"**{self.title}**", ""] if self.title else []
        return "\n".join([*title, table, *(f"\n{note}" for note in self.notes)]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }

    def is_numeric(self, place: int) -> bool:
        """Whether the cells of this column, but for empty ones, begin as numbers do."""
        cells = [row[place] for row in self.rows if row[place]]
        return bool(cells) and all(str(cell).lstrip("+-−–±.").strip()[:1].isdigit() for cell in cells)

    def _texts(self, row: Sequence[str | None]) -> list[str]:
        return ["–" if cell is None else str(cell) for cell in row]


class TabularResult(ABC):
    """Base of what a command comes to: ``print(result)`` shows its tables as plain text."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """The tables to show, in their order."""

    def __str__(self) -> str:
        return "\n\n".join(str(table) for table in self.tables())
