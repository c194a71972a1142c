"""Curves of the contrast with fresh rows, from the rows of benchmarks/grid.py: over the length of the training, the
number of rows and the temperature.

python benchmarks/contrast_curves.py docs/contrast_curves.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import rows_of

from contrastill.core.statistics import mean_std
from contrastill.plots.figure import COLOURS, figure

RESULTS = Path(__file__).resolve().parent / "results"
LENGTHS = (3, 6, 10, 15)
OBJECTIVES = {
    "baseline": "no teacher",
    "crd": "CRD, K = 4096",
    "infonce": "InfoNCE",
    "whitened": "fresh rows",
    "fresh": "fresh rows, learned map",
    "wttm": "WTTM",
    "whitened_wttm": "fresh rows + WTTM",
}
# The cell "fresh" has K = 4096 and τ = 0.07, and a learned map as the others of these.
ROWS = {256: "K=256", 1024: "K=1024", 4096: "fresh", 16384: "K=16384"}
TEMPERATURES = {0.04: "tau=0.04", 0.07: "fresh", 0.1: "tau=0.1", 0.2: "tau=0.2"}


def mean_of(
    rows: Mapping[tuple[str, int], Mapping[str, Any]], cell: str, seeds: int | None = None
) -> tuple[float, float] | None:
    """Mean and standard deviation of top-1 over the seeds of a cell; None where it has no row."""
    values = [row["top1"] for (name, seed), row in rows.items() if name == cell and (seeds is None or seed < seeds)]
    if not values:
        return None
    top1 = mean_std(values)
    return top1.mean, top1.std or 0.0


def draw(path: Path) -> None:
    """Three panels; of a cell with several seeds mean and deviation. The variants have seed 0 alone, and so has what
    they are compared with.
    """
    grids = {length: rows_of(RESULTS / f"contrast_{length}.jsonl") for length in LENGTHS}
    with figure(path, 11, 3.4) as drawn:
        length, rows, temperature = drawn.subplots(1, 3)
        for (cell, label), colour in zip(OBJECTIVES.items(), COLOURS, strict=False):
            points = [(epochs, *measured) for epochs, grid in grids.items() if (measured := mean_of(grid, cell))]
            if points:
                length.errorbar(
                    *zip(*points, strict=True), label=label, color=colour, marker="o", markersize=3, capsize=2
                )
        length.set(title="objectives beside cross-entropy", xlabel="epochs", ylabel="top-1, %")
        length.set_ylim(bottom=12)  # room for the legend below the curves
        length.legend(fontsize=7, loc="lower right")
        for axes, cells, name, title in (
            (rows, ROWS, "K, rows drawn at each step", "number of rows"),
            (temperature, TEMPERATURES, "τ", "temperature"),
        ):
            points = [
                (value, measured[0]) for value, cell in cells.items() if (measured := mean_of(grids[6], cell, seeds=1))
            ]
            axes.plot(*zip(*points, strict=True), color=COLOURS[3], marker="o", markersize=4)
            axes.set(title=f"{title}, 6 epochs, seed 0", xlabel=name, ylabel="top-1, %", xscale="log")
            axes.set_xticks([*cells], [f"{value:g}" for value in cells])
            axes.minorticks_off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    draw(parser.parse_args().path)


if __name__ == "__main__":
    main()
