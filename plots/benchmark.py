"""Pictures of a benchmark: accuracy by objective for each pair of networks, and against the value of a setting in an
ablation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .figure import COLOURS, figure

_MARKERS = "osD^vP*X"
_COLUMNS = 4
_DECADE = 10


@dataclass(frozen=True)
class Score:
    """Accuracy of trainings that differ in their seed alone.

    Attributes:
        mean: Top-1 over them, per cent.
        std: Standard deviation over them; None for a single one.
        seeds: How many they are.
        published: The published figure to compare with, or None.
    """

    mean: float
    std: float | None
    seeds: int
    published: float | None = None


@dataclass(frozen=True)
class Ablation:
    """What a setting does to one pair of networks.

    Attributes:
        title: The pair.
        curves: Scores by value, by objective.
        lines: Scores of what the setting does not change, by objective.
    """

    title: str
    curves: Mapping[str, Mapping[str, Score]]
    lines: Mapping[str, Score]


def draw_table(pairs: Mapping[str, Mapping[str, Score]], path: str | os.PathLike) -> None:
    """Draw a dot with its standard deviation for each objective, a panel for each pair; a published figure is a hollow
    diamond.

    Args:
        pairs: Scores by objective, by pair.
        path: The PNG to write.
    """
    names = list(dict.fromkeys(name for scores in pairs.values() for name in scores))
    place = {name: -number for number, name in enumerate(names)}
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    with figure(path, max(5.6, 1.6 + 2.7 * columns), rows * (1.1 + 0.23 * len(names)) + 0.5) as drawn:
        drawn.suptitle("top-1 of the last epoch: mean ± standard deviation over seeds", fontsize=11)
        grid = drawn.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(pairs) :]:
            axes.set_axis_off()
        for axes, (title, scores) in zip(grid.flat, pairs.items(), strict=False):
            for name, score in scores.items():
                colour = "black" if name in ("teacher", "student") else COLOURS[0]
                axes.errorbar(
                    score.mean, place[name], xerr=score.std or None, fmt="o", color=colour, markersize=4.5, capsize=2.5
                )
                if score.published is not None:
                    axes.plot(
                        score.published, place[name], "D", color=COLOURS[1], markerfacecolor="none", markersize=5.5
                    )
            if "student" in scores:
                axes.axvline(scores["student"].mean, color="black", linestyle="--", linewidth=0.9)
            axes.set_yticks(list(place.values()), names)
            axes.set_ylim(-len(names) + 0.4, 0.6)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("top-1, %")
            axes.margins(x=0.12)
        if any(score.published is not None for scores in pairs.values() for score in scores.values()):
            from matplotlib.lines import Line2D

            marks = [
                Line2D([], [], marker="o", linestyle="", color=COLOURS[0], markersize=4.5, label="these runs"),
                Line2D(
                    [],
                    [],
                    marker="D",
                    linestyle="",
                    color=COLOURS[1],
                    markerfacecolor="none",
                    markersize=5.5,
                    label="published",
                ),
            ]
            drawn.legend(handles=marks, loc="outside lower center", ncols=2)


def draw_ablation(ablations: Sequence[Ablation], setting: str, path: str | os.PathLike) -> None:
    """Draw accuracy against the value of a setting: a curve an objective, horizontal lines for what the setting does
    not change.

    Numbers over more than a decade have a logarithmic axis; values that are no numbers stand side by side.

    Args:
        ablations: A panel each.
        setting: Its name.
        path: The PNG to write.
    """
    values = list(
        dict.fromkeys(value for ablation in ablations for scores in ablation.curves.values() for value in scores)
    )
    numbers = _numbers(values)
    where = numbers or {value: float(place) for place, value in enumerate(values)}
    logarithmic = (
        numbers is not None and min(numbers.values()) > 0 and max(numbers.values()) / min(numbers.values()) > _DECADE
    )
    columns = min(3, len(ablations))
    rows = -(-len(ablations) // columns)
    entries = max(len(ablation.curves) + len(ablation.lines) for ablation in ablations)
    with figure(path, 5.2 * columns, rows * (3.4 + 0.2 * entries)) as drawn:
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(ablations) :]:
            axes.set_axis_off()
        for axes, ablation in zip(grid.flat, ablations, strict=False):
            _curves(axes, ablation, where, numbers is not None)
            if logarithmic:
                axes.set_xscale("log")
            axes.set_xticks(list(where.values()), list(where), rotation=0 if len(where) < 7 else 30)
            axes.minorticks_off()
            axes.set(title=ablation.title, xlabel=setting, ylabel="top-1 of the last epoch, %")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=8)


def _curves(axes: Any, ablation: Ablation, where: Mapping[str, float], connected: bool) -> None:
    for number, (name, scores) in enumerate(ablation.curves.items()):
        points = sorted(((where[value], score) for value, score in scores.items()), key=lambda point: point[0])
        axes.errorbar(
            [place for place, _ in points],
            [score.mean for _, score in points],
            [score.std or 0 for _, score in points],
            label=f"{name}, {_seeds([score for _, score in points])}",
            color=COLOURS[number % 6],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            capsize=3,
            linestyle="-" if connected else "",
            linewidth=1.4,
        )
    for number, (name, score) in enumerate(ablation.lines.items()):
        colour = "black" if name == "student" else COLOURS[(len(ablation.curves) + number) % 6]
        spread = "" if score.std is None else f" ± {score.std:.2f}"
        axes.axhline(
            score.mean,
            color=colour,
            linestyle=("--", ":", "-.")[number % 3],
            linewidth=1.2,
            label=f"{name}: {score.mean:.2f}{spread}, {_seeds([score])}",
        )
        if score.std:
            axes.axhspan(score.mean - score.std, score.mean + score.std, color=colour, alpha=0.08, linewidth=0)
    if not connected:
        axes.set_xlim(min(where.values()) - 0.5, max(where.values()) + 0.5)


def _seeds(scores: Sequence[Score]) -> str:
    few, many = min(score.seeds for score in scores), max(score.seeds for score in scores)
    return f"n = {few}" if few == many else f"n = {few} to {many}"


def _numbers(values: Sequence[str]) -> dict[str, float] | None:
    """The values as numbers, or None where one is none."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return None
