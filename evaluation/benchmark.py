"""Trains a published benchmark and puts the results beside the published figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compress import results
from ..compress.benchmark import (
    BENCHMARKS,
    STUDENT,
    TEACHER,
    Benchmark,
    Request,
    Training,
    parse_objectives,
    parse_pairs,
)
from ..compress.grid_rows import check_rows, teacher_row
from ..compress.results import Summary, append_row, read_rows, summarise
from ..compress.run_grid import Grid, check
from ..compress.trainings import trainings
from ..core.arguments import checked
from ..core.errors import UsageError, unknown_name
from ..core.generators import own_generators
from ..core.run import writable_folder
from ..core.spawned import leave_script
from ..core.table import Table, TabularResult
from ..core.torch_settings import own_settings
from .benchmark_accuracy import correct
from .benchmark_figures import write_table
from .messages import Say, printer
from .train import Overrides, overrides_as_text, train

_RESULTS = "results.jsonl"
_PAIRS_PER_TABLE = 3


@dataclass(frozen=True)
class BenchmarkResult(TabularResult):
    """A benchmark's table.

    Attributes:
        summary: The numbers.
        failed: Name of each training that failed -> its error.
        written: The files of the table.
    """

    summary: Summary
    failed: dict[str, str]
    written: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill bench --json`` prints them."""
        return {
            "table": results.as_json(self.summary),
            "comparable": self.summary.comparable,
            "notes": self.summary.notes,
            "failed": self.failed,
            "written": [str(path) for path in self.written],
        }

    def tables(self) -> list[Table]:
        """Accuracies, and differences to the baselines, for a few pairs at a time."""
        summary = self.summary
        tables = [
            table
            for begin in range(0, len(summary.pairs), _PAIRS_PER_TABLE)
            for table in results.tables_of(summary, summary.pairs[begin : begin + _PAIRS_PER_TABLE])
        ]
        notes = [*summary.notes, *(f"written: {path}" for path in self.written)]
        *before, last = tables or [Table("", (), [])]
        return [*before, Table(last.title, last.columns, last.rows, notes)]


@checked
@own_settings()
@own_generators()
def run_benchmark(
    benchmark: str = "cifar100",
    *,
    data: str | os.PathLike | None = None,
    pairs: str | Sequence[str] = "",
    objectives: str | Sequence[str] = "",
    seeds: int = 1,
    out: str | os.PathLike = "runs/bench",
    teachers: str | os.PathLike | None = None,
    overrides: Overrides = (),
    teacher_overrides: Overrides = (),
    vary: str | None = None,
    jobs: int = 1,
    threads: int | None = None,
    train_missing: bool = True,
    markdown: str | os.PathLike | None = None,
    progress: bool = True,
) -> BenchmarkResult:
    """Train pairs of networks by objectives over several seeds, and put them beside the published figures.

    Each training runs in a spawned process; what is finished is not trained again. Where it is called from a script,
    the call has to be under ``if __name__ == "__main__":``.

    Args:
        benchmark: ``cifar100``.
        data: A packed file, or the folder that holds cifar-100-python.
        pairs: ``TEACHER:STUDENT``, or ``all``, the published pairs.
        objectives: Such as ``kd``, ``crd``, ``crd+kd``; ``all``: each that needs one teacher.
        seeds: Trainings of each.
        out: The folder to write.
        teachers: Folder of trained teachers; missing ones are trained first.
        overrides: Settings of every training, such as ``train.epochs=12``.
        teacher_overrides: Settings of teachers that are trained.
        vary: ``KEY=V1,V2,…``: train with each value of a setting, for one pair.
        jobs: Trainings at a time; GPUs are shared among them.
        threads: Of each training on a CPU; None: the cores are shared.
        train_missing: Whether to train; else the table of what is finished, of ``pairs`` and ``objectives`` if given.
        markdown: Another file for the table.
        progress: Whether to show progress on standard error.

    Returns:
        The table. A training that failed is in ``failed``; nothing is raised for it.

    Raises:
        UsageError: Unknown names or settings, missing data, or a folder with other settings.
        Stopped: Asked to stop; the trainings under way wrote a checkpoint each.
    """
    leave_script()
    if benchmark not in BENCHMARKS:
        raise unknown_name("benchmark", benchmark, BENCHMARKS)
    chosen, folder = BENCHMARKS[benchmark], Path(out)
    pair_text, objective_text = (text if isinstance(text, str) else ",".join(text) for text in (pairs, objectives))
    networks = parse_pairs(pair_text, chosen) if pair_text or train_missing else []
    names = parse_objectives(objective_text)
    failed: dict[str, str] = {}
    if train_missing:
        if data is None:
            raise UsageError("--data is not set: name a packed .h5 file, or the folder that holds cifar-100-python")
        request = Request(
            chosen,
            os.fspath(data),
            folder,
            networks,
            names,
            seeds,
            overrides_as_text(overrides),
            overrides_as_text(teacher_overrides),
            _varied(vary, networks),
            None if teachers is None else os.fspath(teachers),
        )
        failed = _train_missing(request, jobs, threads, printer(progress))
        summary = _summary(chosen, folder, [], [])
    else:
        if not (folder / _RESULTS).is_file():
            raise UsageError(
                f"{out} holds no results of a benchmark yet: name the folder with --out, or train without --table"
            )
        summary = _summary(chosen, folder, [":".join(pair) for pair in networks], names)
    written = write_table(summary, folder, None if markdown is None else Path(markdown))
    return BenchmarkResult(summary, failed, tuple(written))


def _varied(text: str | None, pairs: Sequence[tuple[str, str]]) -> tuple[str, list[str]] | None:
    """Key and values of an ablation."""
    if text is None:
        return None
    key, _, listed = text.partition("=")
    values = list(dict.fromkeys(value.strip() for value in listed.split(",") if value.strip()))
    if not key or not values:
        raise UsageError(
            f"--vary {text} names no values: write KEY=V1,V2,…, such as objectives.crd.num_negatives=64,256,1024"
        )
    if len(pairs) > 1:
        raise UsageError(f"--vary is for one pair, and --pairs names {len(pairs)}: choose one of them")
    return key, values


def _train_missing(request: Request, jobs: int, threads: int | None, say: Say) -> dict[str, str]:
    """Train what is missing; name and error of what failed."""
    requested = trainings(request)
    check(requested)
    file = writable_folder(request.out) / _RESULTS
    check_rows(requested, request.teacher_files, file)
    grid = Grid(requested, file, train_quietly, correct, jobs=jobs, threads=threads, say=say)
    _measure_teachers(request, requested, file, say)
    grid.run()
    return grid.failed


def train_quietly(config: str, overrides: Sequence[str]) -> None:
    """What each spawned process does."""
    train(config, overrides, progress=False)


def _measure_teachers(request: Request, requested: Sequence[Training], file: Path, say: Say) -> None:
    """Write the rows of teachers that were trained before."""
    rows = read_rows(file)
    for name, weights in request.teacher_files.items():
        say(f"teacher {name}: {weights}")
        training = next((training for training in requested if training.pair.startswith(f"{name}:")), None)
        if training and (name, TEACHER, None, 0) not in rows and (row := teacher_row(name, weights, training, correct)):
            append_row(file, row)


def _summary(benchmark: Benchmark, folder: Path, pairs: Sequence[str], objectives: Sequence[str]) -> Summary:
    """The table of everything in a folder, or of some pairs and objectives of it."""
    rows = list(read_rows(folder / _RESULTS).values())
    if objectives:
        rows = [row for row in rows if row["objective"] in (*objectives, STUDENT, TEACHER)]
    if pairs:
        names = {*pairs, *(name for pair in pairs for name in pair.split(":"))}
        rows = [row for row in rows if row["pair"] in names]
    return summarise(rows, benchmark)
