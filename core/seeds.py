"""A folder of seeds: one training several times, each a run ``seed-N`` in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError
from .registry import PRETRAINED
from .run import Run

if TYPE_CHECKING:
    from .config.schema import NetworkConfig

_PREFIX = "seed-"


def member(folder: str | os.PathLike, seed: int) -> Path:
    """Where in a folder of seeds the run of one is."""
    return Path(folder) / f"{_PREFIX}{seed}"


def members(folder: str | os.PathLike) -> list[Path]:
    """The runs of a folder of seeds, by number; none where it is no such folder, as a run itself is not."""
    folder = Path(folder)
    if not folder.is_dir() or Run(folder).config.is_file() or Run(folder).student.is_file():
        return []
    numbered = {
        int(number): path
        for path in folder.iterdir()
        if path.is_dir() and (number := path.name.removeprefix(_PREFIX)).isdigit() and number != path.name
    }
    return [numbered[number] for number in sorted(numbered)]


def each_seed(networks: Iterable[NetworkConfig]) -> list[NetworkConfig]:
    """Teachers, where each whose ``weights`` are a folder of seeds is replaced by one for each run in it.

    Raises:
        UsageError: One of its trainings has not ended.
    """
    found: list[NetworkConfig] = []
    for number, network in enumerate(networks):
        runs = members(network.weights) if network.weights not in (None, PRETRAINED) else []
        for run in runs:
            if not Run(run).student.is_file():
                raise UsageError(
                    f"teachers.{number}.weights={network.weights} stands for the {len(runs)} runs in it, and "
                    f"{run.name} has no {Run(run).student.name} yet: "
                    "let its training end, or name the finished runs one by one"
                )
        found += [network.model_copy(update={"weights": str(run)}) for run in runs] or [network]
    return found
