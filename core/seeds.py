"""A folder of seeds: one training several times, each a run ``seed-N`` in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError
from .registry import PRETRAINED
from .run import Run, walk_runs

if TYPE_CHECKING:
    from .config.schema import NetworkConfig

_PREFIX = "seed-"


def member(folder: str | os.PathLike, seed: int) -> Path:
    """The run of one seed in a folder of seeds."""
    return Path(folder) / f"{_PREFIX}{seed}"


def members(folder: str | os.PathLike) -> list[Path]:
    """The runs in a folder of seeds, by number; none of another folder, such as a run."""
    if Run(folder).finished:
        return []
    return [path for path in walk_runs(folder, depth=1) if path != Path(folder) and is_member(path)]


def is_member(path: Path) -> bool:
    """Whether a folder is called as the run of one seed is."""
    return path.name.startswith(_PREFIX) and path.name.removeprefix(_PREFIX).isdecimal()


def check_no_seeds(folder: str | os.PathLike) -> None:
    """Complain where a run of its own would hide the runs of seeds that are in a folder.

    Raises:
        UsageError: It would.
    """
    seeds = [] if Run(folder).config.is_file() else [run for run in members(folder) if Run(run).config.is_file()]
    if seeds:
        raise UsageError(
            f"{folder} is a folder of several runs, such as {seeds[0].name}, and a run in it would hide them: choose "
            "another out=…, or give seeds=N to go on with them"
        )


def each_seed(networks: Iterable[NetworkConfig]) -> list[NetworkConfig]:
    """Teachers, where each whose ``weights`` are a folder of seeds is replaced by one for each run in it.

    Raises:
        UsageError: One of its trainings has not ended.
    """
    networks_by_seed: list[NetworkConfig] = []
    for number, network in enumerate(networks):
        runs = members(network.weights) if network.weights not in (None, PRETRAINED) else []
        for run in runs:
            if not Run(run).finished:
                raise UsageError(
                    f"teachers.{number}.weights={network.weights} stands for the {len(runs)} runs in it, and "
                    f"{run.name} has no {Run(run).student.name} yet: "
                    "let its training end, or name the finished runs one by one"
                )
        networks_by_seed += [network.model_copy(update={"weights": str(run)}) for run in runs] or [network]
    return networks_by_seed
