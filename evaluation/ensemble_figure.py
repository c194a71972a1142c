"""The figure of students' error against the number of their teachers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..core.arguments import Paths, checked, path_list
from ..core.config.loading import load_config
from ..core.config.marks import decisive
from ..core.config.schema import RunConfig
from ..core.epochs import incomplete
from ..core.errors import ContrastillError, UsageError, names_beside, nearest
from ..core.metric_names import METRICS, headline
from ..core.registry import OBJECTIVES
from ..core.run import Run, flatten, walk_runs, writable_folder
from ..core.run_data import compared_splits, other_data
from ..core.table import Table, TabularResult
from ..plots.teachers import Panel, draw_teachers
from .diversity_file import foreign_measures
from .evaluation_data import named_objectives
from .figure_lines import RunEntry, panel_of
from .messages import print_message

_DEPTH = 2  # levels of folders above a run: a folder of folders of seeds
# Keys of a config that are an axis of the figure, or that a moved file changes.
_IGNORED = ("seed", "teachers", "data.path")


@dataclass(frozen=True)
class FigurePoint:
    """One point of the figure.

    Attributes:
        student: Architecture of the students.
        label: The line it is on.
        kind: ``baseline`` (without a teacher), ``distilled``, ``teachers`` or ``ensemble``.
        teachers: Number of teachers.
        error: 100 − top-1 of the last epoch, per cent; mean over the runs.
        std: Standard deviation over the runs; None of a single one.
        n: Number of runs.
    """

    student: str
    label: str
    kind: str
    teachers: int
    error: float
    std: float | None
    n: int


@dataclass(frozen=True)
class EnsembleFigure(TabularResult):
    """The figure of error against the number of teachers: its points and the picture."""

    points: tuple[FigurePoint, ...]
    picture: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill ensemble figure --json`` prints them."""
        return {"points": [vars(point) for point in self.points], "picture": str(self.picture)}

    def tables(self) -> list[Table]:
        """One row per point."""
        rows = [
            [
                point.student,
                point.label,
                str(point.teachers),
                f"{point.error:.2f}" + ("" if point.std is None else f" ± {point.std:.2f}"),
                str(point.n),
            ]
            for point in self.points
        ]
        title = "error of the last epoch, mean ± standard deviation over n runs"
        columns = ("student", "objectives", "teachers", "error %", "n")
        return [Table(title, columns, rows, [f"picture: {self.picture}"])]


@checked
def ensemble_figure(runs: Paths, out: str | os.PathLike = "teachers.png") -> EnsembleFigure:
    """Draw the error of students against the number of their teachers, mean ± standard deviation over seeds.

    Args:
        runs: Runs, folders of runs (of seeds, for one), or folders of those.
        out: The PNG to write.

    Raises:
        UsageError: A path with no run in it, or none with a teacher; another format than PNG.
        ContrastillError: No run has ended, or a file is damaged.
    """
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {out} is no PNG: give a name that ends in .png")
    panels = gather(path_list(runs, "runs", "run folder", "runs/ensemble"), warn=print_message)
    writable_folder(path.parent)
    draw_teachers(panels, path)
    return EnsembleFigure(tuple(point for panel in panels for point in _points(panel)), path)


def _points(panel: Panel) -> Iterator[FigurePoint]:
    """A panel's points, line by line."""
    lines = [
        *((label, "baseline", [point]) for label, point in panel.baselines.items()),
        *((label, "distilled", points) for label, points in panel.lines.items()),
        *((label, "teachers", points) for label, points in panel.teacher_lines.items()),
        *((label, "ensemble", points) for label, points in panel.ensemble_lines.items()),
    ]
    for label, kind, points in lines:
        for point in points:
            yield FigurePoint(panel.student, label, kind, point.teachers, point.error, point.std, point.runs)


def gather(paths: Sequence[str | os.PathLike], *, warn: Callable[[str], None] = lambda text: None) -> list[Panel]:
    """The panels of the figure from run folders, or folders of them.

    Runs belong to one line if nothing but seed, teachers and what does not change the result differs; where two lines
    would have one label, their differences are added.

    Args:
        paths: Runs, folders of runs (of seeds, for one), or folders of those.
        warn: Takes messages about runs that are left out, or that count twice.

    Returns:
        A panel for each architecture of a student.

    Raises:
        UsageError: A path with no run in it, or none with a teacher.
        ContrastillError: No run has ended, or a file is damaged.
    """
    runs: dict[Path, Path] = {}
    for path in paths:
        inside = [folder for folder in walk_runs(path, _DEPTH) if Run(folder).config.is_file()]
        if not inside:
            hint = nearest(str(path), names_beside(path), "name the folders that trainings wrote (their out=…)")
            raise UsageError(f"{path} is no run and holds none: {hint}")
        runs |= {run.resolve(): run for run in inside}
    entries, why = [], []
    for run in runs.values():
        if reason := _unusable(run):
            why.append(reason)
            continue
        config = _config(run)
        if reason := incomplete(Run(run), config):
            why.append(f"{run}: {reason}")
        else:
            entries.append(_entry(run, config, warn))
    if not entries:
        raise ContrastillError(f"there is nothing to draw: {'; '.join(why)}")
    for reason in why:
        warn(f"left out: {reason}")
    _tell_data_apart(entries)
    if not any(entry.label for entry in entries):
        raise UsageError(
            "none of these runs has a teacher: name runs that were distilled, and baselines to compare them with"
        )
    return [
        panel_of(student, [entry for entry in entries if entry.student == student], warn)
        for student in dict.fromkeys(entry.student for entry in entries)
    ]


def _tell_data_apart(entries: Sequence[RunEntry]) -> None:
    """Add to the settings of runs whose data were replaced under one path which of them they are of."""
    seen: dict[str, list[Run]] = {}
    for entry in entries:
        validation = entry.settings.get("train.validation")
        data = {key: value for key, value in entry.settings.items() if key.startswith("data.")}
        run, splits = Run(entry.path), compared_splits(validation)
        known = seen.setdefault(json.dumps([data, validation], sort_keys=True), [])
        place = next((place for place, other in enumerate(known) if not other_data(other, run, splits)), len(known))
        if place == len(known):
            known.append(run)
        if place:
            entry.settings["data"] = f"replaced {place}"


def _unusable(path: Path) -> str:
    """Why a run cannot be in the figure; empty if it can."""
    if not Run(path).finished:
        return f"{path} has not ended"
    history = Run(path).history()
    if history and "top1" in history[-1]:
        return ""
    kind = headline(history[-1]) if history else None
    beside = f" (its student answers for each position and has {METRICS[kind]})" if kind in ("miou", "delta1") else ""
    return f"{path} has no top-1 on a test split{beside}"


def _config(path: Path) -> RunConfig:
    try:
        return load_config(str(Run(path).config))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _entry(path: Path, config: RunConfig, warn: Callable[[str], None]) -> RunEntry:
    label = _label(config)
    flat = flatten(config.model_dump(mode="json"))
    settings = {
        key: value
        for key, value in decisive(flat).items()
        if not any(key == part or key.startswith(f"{part}.") for part in _IGNORED)
    }
    if config.data.path:  # a file may have been moved; another one has mostly another name
        settings["data.path"] = Path(config.data.path).name
    if not label:
        settings = {key: value for key, value in settings.items() if not key.startswith("ensemble.")}
    return RunEntry(
        path,
        config.student.model,
        label,
        len(config.teachers) if label else 0,
        config.seed,
        100 - Run(path).history()[-1]["top1"],
        settings,
        _teacher_errors(path, config, warn) if label else None,
    )


def _label(config: RunConfig) -> str:
    """``CRD + KD``; with the rule that combines the teachers where it is not their sum, as ``CRD (gradient)``."""
    names = sorted(
        (name, entry.rule or config.ensemble.rule)
        for name, entry in named_objectives(config)
        if OBJECTIVES[name].needs_teacher
    )
    rules = {rule for _, rule in names}
    if len(rules) <= 1:
        label = " + ".join(_display_name(name) for name, _ in names)
        return label if not rules or rules == {"sum"} else f"{label} ({rules.pop()})"
    return " + ".join(_display_name(name) + ("" if rule == "sum" else f" ({rule})") for name, rule in names)


def _display_name(name: str) -> str:
    """``kd`` as KD, ``dense_crd`` as dense CRD."""
    return " ".join(part.upper() if len(part) <= 3 else part for part in name.split("_"))


def _teacher_errors(path: Path, config: RunConfig, warn: Callable[[str], None]) -> tuple[float, float] | None:
    """Mean error of the run's own teachers and of their ensemble, from diversity.json, if that is of the run."""
    file = path / "diversity.json"
    if not file.is_file():
        return None
    try:
        measures = json.loads(file.read_text(encoding="utf-8"))
        if why := foreign_measures(Run(path), config, config.data, measures):
            warn(
                f"the teachers' errors in {file} are left out, as {why}: make it again with contrastill ensemble "
                f"diversity {path}"
            )
            return None
        return 100 - fmean(network["top1"] for network in measures["networks"]), 100 - measures["ensemble"]["top1"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContrastillError(
            f"{file} cannot be read: make it again with contrastill ensemble diversity {path}"
        ) from error
