"""One training with several seeds: a run for each in one folder, and their results together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.config.loading import to_yaml
from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.metric_names import METRICS, headline
from ..core.run import Run
from ..core.run_lock import run_lock
from ..core.seeds import member
from ..core.statistics import mean_std
from ..core.table import Table, TabularResult
from ..training.accelerator import prepare_accelerator
from ..training.run import train_run
from .diversity import measure_runs
from .diversity_result import DiversityResult
from .messages import printer
from .train import TrainResult


@dataclass(frozen=True)
class SeedsResult(TabularResult):
    """A training with several seeds.

    Attributes:
        out: The folder of the runs.
        runs: One per seed.
        diversity: How the networks differ, and their ensemble; None where they cannot be compared.
    """

    out: Path
    runs: tuple[TrainResult, ...]
    diversity: DiversityResult | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill train seeds=N --json`` prints them."""
        runs = [{"out": str(run.out), "seed": run.seed, **run.metrics} for run in self.runs]
        return {
            "out": str(self.out),
            "runs": runs,
            "diversity": None if self.diversity is None else self.diversity.to_dict(),
        }

    def tables(self) -> list[Table]:
        """One row per seed."""
        key, label = self._measure
        values = [run.metrics.get(key) for run in self.runs]
        rows = [
            [str(run.seed), str(run.out), None if value is None else f"{value:.2f}"]
            for run, value in zip(self.runs, values, strict=True)
        ]
        return [Table("", ("seed", "run", f"{label} %"), rows, [self.summary()])]

    @property
    def _measure(self) -> tuple[str, str]:
        """The accuracy that was measured: its key, and how it is written."""
        key = next((key for run in self.runs if (key := headline(run.metrics)) is not None), "top1")
        return key, METRICS[key]

    def summary(self) -> str:
        """The mean over seeds, in one line."""
        key, label = self._measure
        measured = [run.metrics[key] for run in self.runs if key in run.metrics]
        line = f"{self.out}, {len(self.runs)} run{'s' * (len(self.runs) > 1)}"
        line += f", {label} of the last epoch {mean_std(measured)} %" if measured else ""
        if self.diversity is None or len(self.diversity.networks) == 1:
            return line
        return f"{line}, of their ensemble {self.diversity.ensemble.top1:.2f} %"


@dataclass(frozen=True)
class RunSeries:
    """The runs of one config with ``seeds``, in ``seed-N`` of its folder."""

    config: RunConfig

    @cached_property
    def configs(self) -> list[RunConfig]:
        """The config of each run."""
        config = self.config
        seeds = range(config.seed, config.seed + (config.seeds or 1))
        return [
            config.model_copy(update={"out": str(member(config.out, seed)), "seed": seed, "seeds": None})
            for seed in seeds
        ]

    def unfinished(self) -> list[tuple[int, RunConfig]]:
        """Number, from 1, and config of each run that has no student yet."""
        return [(number, config) for number, config in enumerate(self.configs, 1) if not Run(config.out).finished]

    def check(self) -> None:
        """Compare the configs with the runs that are in the folder.

        Raises:
            UsageError: The folder is a run itself, or holds runs with other settings.
        """
        if Run(self.config.out).config.is_file():
            raise UsageError(
                f"{self.config.out} holds a run by itself, and seeds={self.config.seeds} asks for a folder of runs: "
                "choose another out=…"
            )

    def claim(self) -> None:
        """Check every run that is there before the first is trained: other settings would show hours later.

        Raises:
            UsageError: A run has other settings, or another process is writing it.
        """
        for config in self.configs:
            if (run := Run(config.out)).config.is_file():
                with run_lock(run.path):
                    run.claim(to_yaml(config))

    def make_folders(self) -> None:
        """From now on the folder shows how many runs there will be: as teachers it is refused until all have ended."""
        for config in self.configs:
            Path(config.out).mkdir(exist_ok=True)

    def results(self) -> tuple[TrainResult, ...]:
        """The last metrics of each run."""
        return tuple(
            TrainResult(Path(config.out), config.seed, (Run(config.out).history() or [{}])[-1])
            for config in self.configs
        )


def train_seeds(config: RunConfig, *, progress: bool = True) -> SeedsResult | None:
    """Train a config once for each of its ``seeds``; finished runs are kept.

    Args:
        config: Has ``seeds``.
        progress: Whether to show progress.

    Returns:
        The runs and their diversity; None on a process that is not the main one.

    Raises:
        UsageError: The folder holds a run of its own, or runs with other settings.
        ContrastillError: A training failed or was stopped; what was written before stays.
    """
    say, series = printer(progress), RunSeries(config)
    main = prepare_accelerator(config.model_copy(update={"trackers": []})).is_main_process
    series.check()
    if main:
        series.claim()
    for number, run in series.unfinished():
        if main:
            say(f"{number}/{len(series.configs)} seed {run.seed}: {run.student.model} in {run.out}")
        train_run(run, progress=progress)
        if main:
            series.make_folders()
    if not main:
        return None
    try:
        # Of those alone: the folder may have other seeds from before.
        diversity = measure_runs(Path(config.out), [Path(run.out) for run in series.configs])
    except UsageError as error:
        say(f"no report of diversity: {error}")
        diversity = None
    return SeedsResult(Path(config.out), series.results(), diversity)
