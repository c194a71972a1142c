"""Whether what diversity.json holds is of its run: an earlier version wrote there what it measured of others too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.config.schema import DataConfig, RunConfig
from ..core.run import Run
from ..core.run_weights import WeightsRecord
from .evaluation_data import measured_elsewhere


def foreign_measures(
    run: Run, config: RunConfig, own: DataConfig, measures: Mapping[str, Any], *, of_teachers: bool = True
) -> str:
    """By what measures are not a run's own, in words; empty where nothing says so.

    Args:
        run: The run, or one of a folder of seeds.
        config: Its config.
        own: The data that are its own: of its training, or of its evaluations.
        measures: The contents of diversity.json.
        of_teachers: Whether the networks are the run's teachers.
    """
    if what := measured_elsewhere(run, config.data, own, measures):
        return f"it is of other data ({what} differs)"
    if not of_teachers:
        return ""
    networks, recorded = measures["networks"], WeightsRecord(run).read()
    if len(networks) != len(config.teachers):
        return f"it is of {len(networks)} teachers, and the run has {len(config.teachers)}"
    for number, network in enumerate(networks):
        teacher = recorded.get(f"teachers.{number}")
        # A file of an older version has no hash, and is taken at its word.
        if teacher is not None and network.get("hash", teacher.hash) != teacher.hash:
            return f"teachers.{number} ({network['weights']}) is not the teacher of {run.path}"
    return ""
