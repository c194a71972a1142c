"""Finds the runs of a report and reads what they hold; what is damaged or missing is noted, and never ends the
report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.config.loading import load_config
from ..core.config.marks import decisive
from ..core.config.schema import ObjectiveConfig, RunConfig
from ..core.epochs import incomplete
from ..core.errors import ContrastillError, UsageError
from ..core.registry import OBJECTIVES
from ..core.run import Run, flatten, walk_runs
from ..core.run_data import compared_splits, other_data, other_teachers
from ..core.seeds import is_member
from .markup import is_number

_DEPTH = 5  # folders above a run: those of a benchmark are OUT/PAIR/OBJECTIVE/SETTING/seed-K
_RESULTS = ("comparison.json", "diversity.json", "probe.json", "results.jsonl")


@dataclass
class RunSeries:
    """Runs that differ in their seed alone: a row of the tables and a line of the charts.

    Attributes:
        name: As the page calls it.
        path: The run's folder, or the folder of seeds.
        runs: At least one.
        configs: That of each; None where it cannot be read.
    """

    name: str
    path: Path
    runs: list[Run] = field(default_factory=list)
    configs: list[RunConfig | None] = field(default_factory=list)

    @property
    def config(self) -> RunConfig | None:
        """That of the first run that has one."""
        return next((config for config in self.configs if config is not None), None)

    @property
    def histories(self) -> list[list[dict[str, Any]]]:
        """The rows of each run's metrics.jsonl."""
        return [run.history() for run in self.runs]

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
            f"{self.name}{f'/{run.path.name}' if several else ''}: {text}"
            for run, config in zip(self.runs, self.configs, strict=True)
            if (text := incomplete(run, config))
        ]

    def first_finished(self) -> tuple[Path, RunConfig] | None:
        """Folder and config of the first run whose training has ended."""
        pairs = zip(self.runs, self.configs, strict=True)
        return next(((run.path, config) for run, config in pairs if run.finished and config is not None), None)

    def last(self, key: str) -> list[float]:
        """The last values of a metric, of the runs that have it."""
        values = [[row[key] for row in rows if is_number(row.get(key))] for rows in self.histories]
        return [measured[-1] for measured in values if measured]


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
            group = groups.setdefault(where.resolve(), RunSeries(_relative(where, root), where))
            if all(run.path.resolve() != folder.resolve() for run in group.runs):
                run = Run(folder)
                group.configs.append(_read(run))
                group.runs.append(run)
    if not groups:
        raise UsageError(
            f"{', '.join(paths)} hold{'s' * (len(paths) == 1)} results and no run: name the runs too, or the "
            "folder above them"
        )
    series = [part for group in groups.values() for part in _by_settings(group)]
    for place, part in enumerate(series):
        # A run inside a run of the same name: scores go by the name.
        if part.name in {other.name for other in series[:place]}:
            part.name = str(part.path)
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
    """Whether an objective compares with a teacher, as one of a package that is not installed here is taken to."""
    name = objective_name(entry)
    return name not in OBJECTIVES or OBJECTIVES[name].needs_teacher


def _by_settings(group: RunSeries) -> list[RunSeries]:
    """The series, or its runs one by one where they differ in more than their seed."""
    each = [None if config is None else settings(config) for config in group.configs]
    if all(other == each[0] for other in each) and not _others_since(group):
        return [group]
    return [
        RunSeries(f"{group.name}/{run.path.name}" if group.name != "." else run.path.name, run.path, [run], [config])
        for run, config in zip(group.runs, group.configs, strict=True)
    ]


def _others_since(group: RunSeries) -> bool:
    """Whether data or teachers were replaced between the trainings of runs, which is noted in their problems."""
    first, splits = group.runs[0], compared_splits(None if group.config is None else group.config.train.validation)
    differences = [other_data(first, run, splits) or other_teachers(first, run) for run in group.runs]
    for run, what in zip(group.runs, differences, strict=True):
        if what:
            run.problems.append(f"It has a row of its own: {what} differ from those of {first.path.name}.")
    return any(differences)


def _read(run: Run) -> RunConfig | None:
    """A run's config, if it can be read; what its folder lacks is noted in the run's problems."""
    config = None
    try:
        config = load_config(str(run.config), trains=False)
    except (ContrastillError, OSError, ValueError) as error:
        run.problems.append(
            f"config.yaml cannot be read, so what was trained is not known: {' '.join(str(error).split())}"
        )
    if not run.finished:
        run.problems.append(
            "There is no student.safetensors: the training has not ended yet, was stopped, or its student was removed."
        )
    if not run.metrics.is_file():
        run.problems.append("There is no metrics.jsonl: no epoch has ended yet.")
    run.history()  # notes its damaged lines
    return config


def _relative(path: Path, root: Path) -> str:
    """A folder from the common one on; that itself by its name."""
    relative = os.path.relpath(os.path.abspath(path), root)
    return Path(os.path.abspath(path)).name if relative == "." else Path(relative).as_posix()
