"""Finds the runs of a report and reads what they hold; what is damaged or missing is noted, and never ends the
report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.config.loading import load_config
from ..core.config.marks import decisive
from ..core.config.schema import ObjectiveConfig, RunConfig
from ..core.errors import ContrastillError, UsageError
from ..core.registry import OBJECTIVES
from ..core.run import Run, flatten, walk_runs
from ..core.seeds import is_member
from .markup import is_number

_DEPTH = 5  # folders above a run: those of a benchmark are OUT/PAIR/OBJECTIVE/SETTING/seed-K
_RESULTS = ("comparison.json", "diversity.json", "probe.json", "results.jsonl")


@dataclass
class TrainedRun:
    """One run as it is on the disk.

    Attributes:
        path: Its folder.
        config: Its config; None where that cannot be read.
        history: The rows of metrics.jsonl that can be read.
        finished: Whether its student is there.
        problems: Sentences about what is missing or damaged.
    """

    path: Path
    config: RunConfig | None
    history: list[dict[str, Any]]
    finished: bool
    problems: list[str] = field(default_factory=list)

    @property
    def incomplete(self) -> str:
        """How far its numbers go, where they are not of the last epoch; else empty."""
        epochs = None if self.config is None else self.config.train.epochs
        ended = int(self.history[-1]["epoch"]) + 1 if self.history else 0
        if not self.finished:
            return f"unfinished: {ended} of {'?' if epochs is None else max(epochs, ended)} epochs"
        return f"metrics.jsonl is cut off after {ended} of {epochs} epochs" if epochs and ended < epochs else ""

    def last(self, key: str) -> float | None:
        """The last measured value of a metric."""
        return next((row[key] for row in reversed(self.history) if is_number(row.get(key))), None)

    def read_json(self, name: str) -> Any:
        """A file of the run; None where there is none or it is damaged, which is noted."""
        return read_json(self.path / name, self.problems)


@dataclass
class RunSeries:
    """Runs that differ in their seed alone: a row of the tables and a line of the charts.

    Attributes:
        name: As the page calls it.
        path: The run's folder, or the folder of seeds.
        runs: At least one.
    """

    name: str
    path: Path
    runs: list[TrainedRun]

    @property
    def config(self) -> RunConfig | None:
        """That of the first run that has one."""
        return next((run.config for run in self.runs if run.config is not None), None)

    @property
    def problems(self) -> list[str]:
        """Those of its runs."""
        several = len(self.runs) > 1
        return [f"{f'{run.path.name}: ' if several else ''}{problem}" for run in self.runs for problem in run.problems]

    @property
    def incomplete(self) -> list[str]:
        """Of each run whose numbers are not of its last epoch, how far they go."""
        several = len(self.runs) > 1
        return [
            f"{self.name}{f'/{run.path.name}' if several else ''}: {run.incomplete}"
            for run in self.runs
            if run.incomplete
        ]

    def first_finished(self) -> tuple[Path, RunConfig] | None:
        """Folder and config of the first run whose training has ended."""
        finished = ((run.path, run.config) for run in self.runs if run.finished and run.config is not None)
        return next(finished, None)

    def last(self, key: str) -> list[float]:
        """The last values of a metric, of the runs that have it."""
        return [value for run in self.runs if (value := run.last(key)) is not None]


@dataclass
class RunFolders:
    """What the folders hold.

    Attributes:
        root: The folder that names are relative to.
        groups: The runs.
        folders: Folders that hold a result of their own, beside the runs' folders.
    """

    root: Path
    groups: list[RunSeries]
    folders: list[Path]

    def name(self, path: Path) -> str:
        """A folder as the page calls it."""
        return _relative(path, self.root)


def find(paths: Sequence[str]) -> RunFolders:
    """Look through folders for runs and for results that were written beside them.

    Args:
        paths: Runs, folders of seeds, or folders of those.

    Raises:
        UsageError: One that is no folder, or holds neither a run nor a result; no run at all.
    """
    folders: dict[Path, Path] = {}
    groups: dict[Path, RunSeries] = {}
    root = Path(os.path.commonpath([os.path.abspath(path) for path in paths]))
    for text in paths:
        path = Path(text)
        if not path.is_dir():
            raise UsageError(f"{text} is no folder: name what contrastill train or demo wrote (its out=…)")
        there = [
            folder
            for folder in walk_runs(path, _DEPTH)
            if Run(folder).config.is_file() or any((folder / name).is_file() for name in _RESULTS)
        ]
        if not there:
            raise UsageError(
                f"{text} holds no run: name what contrastill train, demo or bench wrote (its out=…), or a folder "
                "above it"
            )
        for folder in there:
            if not Run(folder).config.is_file():
                folders.setdefault(folder.resolve(), folder)
                continue
            where = folder.parent if is_member(folder) and folder.resolve() != path.resolve() else folder
            group = groups.setdefault(where.resolve(), RunSeries(_relative(where, root), where, []))
            if all(run.path.resolve() != folder.resolve() for run in group.runs):
                group.runs.append(_read(folder))
    if not groups:
        raise UsageError(
            f"{', '.join(paths)} hold{'s' * (len(paths) == 1)} results and no run: name the runs too, or the "
            "folder above them"
        )
    series = [part for group in groups.values() for part in _by_settings(group)]
    if len(paths) == 1:  # else the order is the user's
        series.sort(
            key=lambda group: (len(group.path.parts), group.path.parent, bool(group.config and group.config.teachers))
        )
    return RunFolders(root, series, list(folders.values()))


def settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a training, flat, without those that change nothing in what is learnt."""
    return {key: value for key, value in decisive(flatten(config.model_dump(mode="json"))).items() if key != "seed"}


def objective_name(entry: ObjectiveConfig) -> str:
    """The registered objective; validation sets it where a config leaves it out."""
    return entry.name or ""


def reads_teacher(entry: ObjectiveConfig) -> bool:
    """Whether an objective compares with a teacher."""
    return OBJECTIVES[objective_name(entry)].needs_teacher


def read_json(path: Path, problems: list[str]) -> Any:
    """A JSON file; None where there is none or it is damaged, which is noted."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} is damaged and left out ({type(error).__name__}).")
        return None


def _by_settings(group: RunSeries) -> list[RunSeries]:
    """The series, or its runs one by one where they differ in more than their seed."""
    each = [None if run.config is None else settings(run.config) for run in group.runs]
    if all(other == each[0] for other in each) or len(group.runs) == 1:
        return [group]
    return [
        RunSeries(f"{group.name}/{run.path.name}" if group.name != "." else run.path.name, run.path, [run])
        for run in group.runs
    ]


def _read(path: Path) -> TrainedRun:
    """One run's folder."""
    run, problems = Run(path), []
    try:
        config = load_config(str(run.config))
    except (ContrastillError, OSError, ValueError) as error:
        config = None
        problems.append(f"config.yaml cannot be read, so what was trained is not known: {' '.join(str(error).split())}")
    finished = run.student.is_file()
    if not finished:
        problems.append(
            "There is no student.safetensors: the training has not ended yet, was stopped, or its student was removed."
        )
    return TrainedRun(path, config, _history(run, problems), finished, problems)


def _history(run: Run, problems: list[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that can be read; a last line that was cut off is left out silently, as a
    training in progress leaves it so.
    """
    if not run.metrics.is_file():
        problems.append("There is no metrics.jsonl: no epoch has ended yet.")
        return []
    try:
        lines = run.metrics.read_bytes().split(b"\n")
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror}.")
        return []
    rows, damaged = [], []
    for place, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode("utf-8")) if line.strip() else None
        except ValueError:
            row = ...
        if isinstance(row, dict) and is_number(row.get("epoch")):
            rows.append(row)
        elif row is not None and place < len(lines):
            damaged.append(place)
    if damaged:
        where = (
            f"Line{'s' * (len(damaged) > 1)} "
            f"{', '.join(map(str, damaged[:5]))}{' and more' if len(damaged) > 5 else ''}"
        )
        problems.append(f"{where} of metrics.jsonl cannot be read and {'are' if len(damaged) > 1 else 'is'} left out.")
    return sorted(rows, key=lambda row: row["epoch"])


def _relative(path: Path, root: Path) -> str:
    """A folder from the common one on; that itself by its name."""
    relative = os.path.relpath(os.path.abspath(path), root)
    return Path(os.path.abspath(path)).name if relative == "." else Path(relative).as_posix()
