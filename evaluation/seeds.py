"""One training with several seeds: a run for each in one folder, and what they are worth together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.config.loading import to_yaml
from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.run import Run
from ..core.seeds import member
from ..core.statistics import mean_std
from ..training.assemble import prepare_accelerator
from ..training.run import train_run
from .diversity import measure_diversity


def train_seeds(
    config: RunConfig, *, progress: bool = True, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any] | None:
    """Train what a config describes once for each of its ``seeds``, in ``seed-N`` of its folder; finished runs are
    kept.

    Args:
        config: Has ``seeds``.
        progress: Whether to show each training's.
        say: Told what begins.

    Returns:
        ``out``, ``runs`` (for each ``out``, ``seed`` and its last row of metrics.jsonl) and ``diversity``, what
        :func:`~.diversity.measure_diversity` found, or None where the networks cannot be compared; None on a process
        that is not the main one.

    Raises:
        UsageError: The folder holds a run of its own, or runs with other settings.
        ContrastillError: A training failed or was stopped; what was written before stays.
    """
    configs = [_with_seed(config, seed) for seed in range(config.seed, config.seed + config.seeds)]
    main = prepare_accelerator(config.model_copy(update={"trackers": []})).is_main_process
    if Run(config.out).config.is_file():
        raise UsageError(
            f"{config.out} holds a run by itself, and seeds={config.seeds} asks for a folder of runs: choose "
            "another out=…"
        )
    for one in configs:
        # All of them before the first is trained: a run with other settings would be found hours later.
        if main and Run(one.out).config.is_file():
            Run(one.out).claim(to_yaml(one))
    done = [Run(one.out).student.is_file() for one in configs]
    for number, (one, finished) in enumerate(zip(configs, done, strict=True), 1):
        if finished:
            continue
        if main:
            say(f"{number}/{len(configs)} seed {one.seed}: {one.student.model} in {one.out}")
        train_run(one, progress=progress)
        if main:
            # From now on the folder says how many there are to be, and as teachers it is refused until the last has
            # ended.
            for other in configs:
                Path(other.out).mkdir(exist_ok=True)
    if not main:
        return None
    runs = [{"out": one.out, "seed": one.seed, **(Run(one.out).history() or [{}])[-1]} for one in configs]
    try:
        found = measure_diversity(config.out, say=say)
    except UsageError as error:
        say(f"no report of diversity: {error}")
        found = None
    return {"out": config.out, "runs": runs, "diversity": found}


def summary(result: dict[str, Any]) -> str:
    """What several seeds came to, in one line."""
    top1 = [run["top1"] for run in result["runs"] if "top1" in run]
    line = f"{result['out']}, {len(result['runs'])} run{'s' * (len(result['runs']) > 1)}" + (
        f", top-1 of the last epoch {mean_std(top1)} %" if top1 else ""
    )
    return (
        line
        if result["diversity"] is None or len(result["diversity"]["networks"]) == 1
        else f"{line}, of their ensemble {result['diversity']['ensemble']['top1']:.2f} %"
    )


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The config of one run."""
    return config.model_copy(update={"out": str(member(config.out, seed)), "seed": seed, "seeds": None})
