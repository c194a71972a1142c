"""How many epochs a training has, of its config and data, and how many of them a run's metrics.jsonl has rows of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .config.schema import RunConfig
from .registry import OBJECTIVES
from .run import Run

# Samples that a training of default length shows the student, and the bounds of its epochs.
SAMPLES, SHORTEST, LONGEST = 3_000_000, 20, 240


def default_epochs(num_samples: int) -> int:
    """Epochs that suit the size of the data: as many as show the student some three million samples, between 20 and
    240.

    Example:
        >>> [default_epochs(count) for count in (1000, 20_000, 50_000, 1_281_167)]
        [240, 150, 60, 20]
    """
    return min(max(round(SAMPLES / num_samples), SHORTEST), LONGEST)


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
