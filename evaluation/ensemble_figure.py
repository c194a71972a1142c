"""Gathers runs into the figure of error against the number of teachers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError, UsageError, names_beside, nearest
from ..core.registry import OBJECTIVES
from ..core.run import Run, flatten, walk_runs
from ..core.statistics import mean_std
from ..plots.teachers import Panel, Point

_KEYS = 3  # settings that a label names
_DEPTH = 2  # levels of folders above a run: a folder of folders of seeds
# Keys of a config that do not say what is learnt, or that are an axis of the figure.
_APART = ("out", "seed", "seeds", "trackers", "teachers", "evaluation", "data.path", "ensemble.batched")
_HOUSEKEEPING = (
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
)


@dataclass(frozen=True)
class Entry:
    """One finished run of the figure.

    Attributes:
        path: Its folder.
        student: Its student's architecture.
        label: Which objectives read a teacher, such as ``CRD + KD``; empty without a teacher.
        teachers: How many it has.
        seed: Its own.
        error: 100 − top-1 of the last epoch, per cent.
        settings: Everything else that its training was told, flat.
        own: Mean error of its teachers, and that of their ensemble, if they were measured.
    """

    path: Path
    student: str
    label: str
    teachers: int
    seed: int
    error: float
    settings: dict[str, Any]
    own: tuple[float, float] | None


def gather(paths: Sequence[str | os.PathLike], *, warn: Callable[[str], None] = lambda text: None) -> list[Panel]:
    """The panels of the figure from run folders, or folders of them.

    Runs belong to one line if nothing but seed, teachers and what does not change the result differs; where two lines
    would bear one label, it says in what they differ.

    Args:
        paths: Runs, folders of runs (of seeds, for one), or folders of those.
        warn: Told what is left out, and of runs that count twice.

    Returns:
        A panel for each architecture of a student.

    Raises:
        UsageError: A path with no run in it, or none with a teacher.
        ContrastillError: No run has ended, or a file is damaged.
    """
    runs: dict[Path, Path] = {}
    for path in paths:
        found = [folder for folder in walk_runs(path, _DEPTH) if Run(folder).config.is_file()]
        if not found:
            hint = nearest(str(path), names_beside(path), "name the folders that trainings wrote (their out=…)")
            raise UsageError(f"{path} is no run and holds none: {hint}")
        runs |= {run.resolve(): run for run in found}
    entries, why = [], []
    for run in runs.values():
        if reason := _unusable(run):
            why.append(reason)
        else:
            entries.append(_entry(run))
    if not entries:
        raise ContrastillError(f"there is nothing to draw: {'; '.join(why)}")
    for reason in why:
        warn(f"left out: {reason}")
    if not any(entry.label for entry in entries):
        raise UsageError(
            "none of these runs has a teacher: name runs that were taught, and untaught ones to compare them with"
        )
    return [
        _panel(student, [entry for entry in entries if entry.student == student], warn)
        for student in dict.fromkeys(entry.student for entry in entries)
    ]


def _unusable(path: Path) -> str:
    """Why a run cannot be in the figure; empty if it can."""
    if not Run(path).student.is_file():
        return f"{path} has not ended"
    history = Run(path).history()
    return "" if history and "top1" in history[-1] else f"{path} has no top-1 on a test split"


def _entry(path: Path) -> Entry:
    try:
        config = load_config(str(Run(path).config))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    label = _label(config)
    flat = flatten(config.model_dump(mode="json"))
    settings = {
        key: value
        for key, value in flat.items()
        if key not in _HOUSEKEEPING and not any(key == part or key.startswith(f"{part}.") for part in _APART)
    }
    if config.data.path:  # a file may have been moved; another one has mostly another name
        settings["data.path"] = Path(config.data.path).name
    if not label:
        settings = {key: value for key, value in settings.items() if not key.startswith("ensemble.")}
    return Entry(
        path,
        config.student.model,
        label,
        len(config.teachers) if label else 0,
        config.seed,
        100 - Run(path).history()[-1]["top1"],
        settings,
        _own(path, config) if label else None,
    )


def _label(config: RunConfig) -> str:
    """``CRD + KD``; with the rule that combines the teachers where it is not their sum, as ``CRD (gradient)``."""
    names = sorted(
        (entry.name, entry.rule or config.ensemble.rule)
        for entry in config.objectives.values()
        if OBJECTIVES[entry.name].needs_teacher
    )
    rules = {rule for _, rule in names}
    if len(rules) <= 1:
        label = " + ".join(_spoken(name) for name, _ in names)
        return label if not rules or rules == {"sum"} else f"{label} ({rules.pop()})"
    return " + ".join(_spoken(name) + ("" if rule == "sum" else f" ({rule})") for name, rule in names)


def _spoken(name: str) -> str:
    """``kd`` as KD, ``dense_crd`` as dense CRD."""
    return " ".join(part.upper() if len(part) <= 3 else part for part in name.split("_"))


def _own(path: Path, config: RunConfig) -> tuple[float, float] | None:
    """What diversity.json says of the teachers on the run's own data: their mean error and that of their ensemble."""
    file = path / "diversity.json"
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["data"] != config.data.model_dump(mode="json"):
            return None
        return 100 - fmean(network["top1"] for network in found["networks"]), 100 - found["ensemble"]["top1"]
    except (ValueError, KeyError, TypeError) as error:
        raise ContrastillError(
            f"{file} cannot be read: make it again with contrastill ensemble diversity {path}"
        ) from error


def _panel(student: str, entries: list[Entry], warn: Callable[[str], None]) -> Panel:
    lines: dict[str, list[Point]] = {}
    untaught: dict[str, Point] = {}
    for label, line in _named(entries).items():
        points = [
            _point([entry for entry in line if entry.teachers == count], warn)
            for count in sorted({entry.teachers for entry in line})
        ]
        if line[0].label:
            lines[label] = points
        else:
            untaught[label] = points[0]
    measured = [entry for entry in entries if entry.own]
    counts = sorted({entry.teachers for entry in measured})
    teachers, ensembles = (
        [_mean(count, [entry.own[place] for entry in measured if entry.teachers == count]) for count in counts]
        for place in (0, 1)
    )
    return Panel(student, dict(sorted(lines.items())), untaught, teachers, ensembles)


def _named(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Lines by their label; equal labels of different settings say the first differences."""
    groups: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        groups.setdefault(entry.label or "untaught", {}).setdefault(
            json.dumps(entry.settings, sort_keys=True), []
        ).append(entry)
    named: dict[str, Any] = {}
    for label, alike in groups.items():
        every = [line[0].settings for line in alike.values()]
        keys = [
            key
            for key in {key: None for settings in every for key in settings}
            if len({json.dumps(settings.get(key)) for settings in every}) > 1
        ]
        for line in alike.values():
            said = [
                f"{key.removeprefix('objectives.').removeprefix('train.')}={line[0].settings.get(key)}"
                for key in keys[:_KEYS]
            ]
            full = ", ".join([label, *said])
            again = sum(other == full or other.startswith(f"{full} #") for other in named)
            named[f"{full} #{again + 1}" if again else full] = line
    return named


def _point(entries: list[Entry], warn: Callable[[str], None]) -> Point:
    """The mean over seeds."""
    seeds: dict[int, Path] = {}
    for entry in entries:
        if entry.seed in seeds:
            warn(f"{seeds[entry.seed]} and {entry.path} are alike in everything but perhaps their teachers: both count")
        seeds.setdefault(entry.seed, entry.path)
    return _mean(entries[0].teachers, [entry.error for entry in entries])


def _mean(teachers: int, errors: list[float]) -> Point:
    error = mean_std(errors)
    return Point(teachers, error.mean, error.std, error.count)
