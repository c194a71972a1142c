"""How many epochs a run's metrics.jsonl has rows of, and how many its training has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.config.schema import RunConfig
from ..core.registry import OBJECTIVES
from ..core.run import Run
from .schedule import default_epochs


def initial_epochs(config: RunConfig) -> int:
    """Epochs of the stage before the training proper, that some objectives have; 0 without."""
    names = {entry.name or "" for entry in config.objectives.values()}
    published = max((OBJECTIVES[name].initial_epochs for name in names if name in OBJECTIVES), default=0)
    return config.train.initial_epochs or published


def incomplete(run: Run, config: RunConfig | None) -> str:
    """How far a run's numbers go, where they are not of the last epoch; else empty."""
    rows = run.history()
    epochs = None if config is None else _epochs(run, config, rows)
    ended = rows[-1]["epoch"] + 1 if rows else 0
    if not run.finished:
        return f"unfinished: {ended} of {'?' if epochs is None else max(epochs, ended)} epochs"
    return f"metrics.jsonl is cut off after {ended} of {epochs} epochs" if epochs and ended < epochs else ""


def _epochs(run: Run, config: RunConfig, rows: Sequence[dict[str, Any]]) -> int | None:
    """Those of the whole training, of which metrics.jsonl has a row each; None where the number is not known."""
    epochs = config.train.epochs
    if epochs is None:
        facts = run.data_facts().get("train")
        samples = facts.get("samples") if isinstance(facts, dict) else None
        epochs = default_epochs(samples) if isinstance(samples, int) and samples > 0 else None
    if epochs is None:
        return None
    # Of an objective that is not installed here the rows say it.
    there = sum(row.get("stage") == "initial" for row in rows)
    return epochs + (initial_epochs(config) or there)
