"""What the demo comes to: a comparison of networks for each transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.table import Table, TabularResult


@dataclass(frozen=True)
class ComparisonRow:
    """One network of a comparison.

    Attributes:
        name: The network.
        run: Its folder; None of an ensemble.
        measures: By name; None where one does not apply.
    """

    name: str
    run: str | None
    measures: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        run = {} if self.run is None else {"run": self.run}
        return {"name": self.name, **run, **self.measures}


@dataclass(frozen=True)
class Comparison(TabularResult):
    """Networks beside each other.

    Attributes:
        title: What is compared.
        columns: Heading -> measure and its format.
        rows: One per network.
        seed: Of the trainings.
        images: Number of test images.
        note: What the numbers rest on.
        details: Further numbers, by name.
        picture: The figure; None without.
    """

    title: str
    columns: Mapping[str, tuple[str, str]]
    rows: tuple[ComparisonRow, ...]
    seed: int
    images: int
    note: str
    details: Mapping[str, Any] = field(default_factory=dict)
    picture: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as comparison.json holds them."""
        values = {"title": self.title, "rows": [row.to_dict() for row in self.rows], "seed": self.seed}
        picture = {} if self.picture is None else {"picture": str(self.picture)}
        return {**values, "images": self.images, **self.details, **picture}

    def tables(self) -> list[Table]:
        """One row per network."""
        rows = [
            [row.name, *(_cell(row.measures[measure], form) for measure, form in self.columns.values())]
            for row in self.rows
        ]
        notes = [f"one seed ({self.seed}), {self.note}"]
        notes += [] if self.picture is None else [f"picture: {self.picture}"]
        return [Table(self.title, ("network", *self.columns), rows, notes)]


@dataclass(frozen=True)
class DemoResult(TabularResult):
    """The comparisons of the demo: ``compression``, ``ensemble``, ``rgb_to_depth``, ``luminance_to_chrominance``,
    ``segmentation`` and ``probe``.
    """

    comparisons: Mapping[str, Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: comparison.to_dict() for name, comparison in self.comparisons.items()}

    def tables(self) -> list[Table]:
        """One table per comparison."""
        return [table for comparison in self.comparisons.values() for table in comparison.tables()]


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    return f"{value[0]:{form}} to {value[1]:{form}}" if isinstance(value, tuple) else f"{value:{form}}"
