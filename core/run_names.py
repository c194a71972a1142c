"""Paths that are to name a run and do not: what they are, and what to name instead."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import UsageError, names_beside, nearest
from .run import Run, walk_runs

TEACHER = re.compile(r"(?P<run>.+):(?:teacher|teachers\.(?P<number>\d+))")
"""``RUN:teacher`` and ``RUN:teachers.1``, as probes name a run's teachers."""


def no_run(path: str | os.PathLike[str], *, best: str = "", teacher: str = " for its student") -> UsageError:
    """The error for what is no run; suggests the run that it is of, those in it, or those beside it.

    Args:
        path: It.
        best: What may be done, after the run's name, where it is the file of the run's best student.
        teacher: The same where it names a teacher of a run.
    """
    if inside := [str(run) for run in walk_runs(path, depth=2) if Run(run).config.is_file()]:
        more = f" or another of {len(inside)}" if len(inside) > 3 else ""
        return UsageError(f"{path} is no run, but a folder of runs: name {', '.join(inside[:3])}{more}")
    if is_file_of_run(path):
        owner = Run(Path(path).parent)
        way = best if Path(path) == owner.best_student else ""
        return UsageError(f"{path} is a file of a run: name the run, {owner.path}{way}")
    match = TEACHER.fullmatch(str(path))
    if match and Run(match["run"]).config.is_file():
        return UsageError(f"{path} is a teacher of a run: name the run, {match['run']}{teacher}")
    hint = nearest(str(path), runs_beside(path), "name the folder that a training wrote (its out=…)")
    return UsageError(f"{path} is no run: it has no config.yaml; {hint}")


def is_file_of_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file in a run's folder."""
    return Path(path).is_file() and Run(Path(path).parent).config.is_file()


def runs_beside(path: str | os.PathLike[str]) -> list[str]:
    """The runs in the parent folder of ``path``."""
    return [name for name in names_beside(path) if Run(name).config.is_file()]
