"""Heat maps of two networks side by side: debiased linear CKA of layers, correlations between class logits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figure import figure
from .png import columns_of

_NAMED = 20  # classes whose names find room beside a heat map


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


def draw_cka(heats: Sequence[Heat], path: str | os.PathLike) -> None:
    """Draw how alike the layers of two networks are, with the numbers, from 0 to 1.

    Args:
        heats: A matrix for each network and data set.
        path: The PNG to write.
    """
    rows, columns = (max(heat.values.shape[side] for heat in heats) for side in (0, 1))
    across = columns_of(len(heats))
    with figure(
        path, across * max(4.0, 0.62 * columns + 1.9) + 0.8, -(-len(heats) // across) * max(3.4, 0.5 * rows + 1.9) + 0.4
    ) as drawn:
        drawn.suptitle("layers side by side: debiased linear CKA", fontsize=11)
        image: Any = None
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
    across = columns_of(len(heats))
    named = any(heat.rows for heat in heats)
    side = 4.4 if named else 3.7
    with figure(path, across * side + 1.0, -(-len(heats) // across) * (side + 0.1) + 0.5) as drawn:
        drawn.suptitle("correlations between class logits: teacher − student", fontsize=11)
        image: Any = None
        for axes, heat in zip(_grid(drawn, len(heats), across), heats, strict=False):
            image = axes.imshow(heat.values, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
            _sides(axes, heat)
        drawn.colorbar(image, ax=drawn.axes, shrink=0.8, label="difference of Pearson correlations")


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
