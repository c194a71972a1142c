"""The lines of the figure of students' error: runs that differ in nothing but their seed and teachers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.statistics import mean_std
from ..plots.teachers import Panel, Point

_KEYS = 3  # settings that a label names


@dataclass(frozen=True)
class RunEntry:
    """One finished run of the figure.

    Attributes:
        path: Its folder.
        student: Its student's architecture.
        label: Which objectives read a teacher, such as ``CRD + KD``; empty without a teacher.
        teachers: How many it has.
        seed: Its own.
        error: 100 − top-1 of the last epoch, per cent.
        settings: All other settings of its training, flat.
        teacher_errors: Mean error of its teachers, and that of their ensemble; None where they were not measured.
    """

    path: Path
    student: str
    label: str
    teachers: int
    seed: int
    error: float
    settings: dict[str, Any]
    teacher_errors: tuple[float, float] | None


def panel_of(student: str, entries: Sequence[RunEntry], warn: Callable[[str], None]) -> Panel:
    """The panel of an architecture.

    Args:
        student: Its name.
        entries: Its runs.
        warn: Takes messages about runs that count twice.
    """
    lines: dict[str, list[Point]] = {}
    baselines: dict[str, Point] = {}
    for label, line in _named(entries).items():
        points = [
            _point([entry for entry in line if entry.teachers == count], warn)
            for count in sorted({entry.teachers for entry in line})
        ]
        if line[0].label:
            lines[label] = points
        else:
            baselines[label] = points[0]
    teachers, ensembles = _teachers([entry for entry in entries if entry.teacher_errors])
    return Panel(student, dict(sorted(lines.items())), baselines, teachers, ensembles)


def _teachers(entries: Sequence[RunEntry]) -> tuple[list[Point], list[Point]]:
    """The points of teachers and of their ensembles: errors on different data have no mean."""
    groups: dict[str, list[RunEntry]] = {}
    for entry in entries:
        groups.setdefault(json.dumps(_data_settings(entry), sort_keys=True), []).append(entry)
    differences = _differences([_data_settings(group[0]) for group in groups.values()])
    points: tuple[list[Point], list[Point]] = ([], [])
    for group, own in zip(groups.values(), differences, strict=True):
        for count in sorted({entry.teachers for entry in group}):
            errors = [entry.teacher_errors for entry in group if entry.teachers == count and entry.teacher_errors]
            for place, kind in enumerate(points):
                kind.append(_mean(count, [pair[place] for pair in errors], ", ".join(own)))
    return points


def _data_settings(entry: RunEntry) -> dict[str, Any]:
    return {key: value for key, value in entry.settings.items() if key == "data" or key.startswith("data.")}


def _differences(every: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Of each of several settings, the first that are not the same in all, as ``key=value``."""
    keys = [
        key
        for key in {key: None for settings in every for key in settings}
        if len({json.dumps(settings.get(key)) for settings in every}) > 1
    ]
    return [
        [f"{key.removeprefix('objectives.').removeprefix('train.')}={settings.get(key)}" for key in keys[:_KEYS]]
        for settings in every
    ]


def _named(entries: Iterable[RunEntry]) -> dict[str, list[RunEntry]]:
    """Lines by their label; equal labels of different settings name the first differences."""
    groups: dict[str, dict[str, list[RunEntry]]] = {}
    for entry in entries:
        groups.setdefault(entry.label or "baseline", {}).setdefault(
            json.dumps(entry.settings, sort_keys=True), []
        ).append(entry)
    named: dict[str, Any] = {}
    for label, lines in groups.items():
        differences = _differences([line[0].settings for line in lines.values()])
        for line, own in zip(lines.values(), differences, strict=True):
            full = ", ".join([label, *own])
            again = sum(other == full or other.startswith(f"{full} #") for other in named)
            named[f"{full} #{again + 1}" if again else full] = line
    return named


def _point(entries: list[RunEntry], warn: Callable[[str], None]) -> Point:
    """The mean over seeds."""
    seeds: dict[int, Path] = {}
    for entry in entries:
        if entry.seed in seeds:
            warn(f"{seeds[entry.seed]} and {entry.path} are alike in everything but perhaps their teachers: both count")
        seeds.setdefault(entry.seed, entry.path)
    return _mean(entries[0].teachers, [entry.error for entry in entries])


def _mean(teachers: int, errors: list[float], data: str = "") -> Point:
    error = mean_std(errors)
    return Point(teachers, error.mean, error.std, error.count, data)
