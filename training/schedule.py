"""The course of the learning rate."""

from __future__ import annotations

import math

from ..core.config.schema import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int, initial_epochs: int = 0) -> float:
    """The rate of optimiser step ``step`` (from 0): a function of the step alone, so a resumed run needs no scheduler
    state.

    Args:
        config: Rate at the start, schedule, warmup, and epochs, which have to be set.
        step: Counted from the first step of the initial stage, if there is one.
        steps_per_epoch: Batches of an epoch.
        initial_epochs: Length of the initial stage.

    Raises:
        ValueError: The number of epochs is not set.

    Example:
        >>> config = TrainConfig(epochs=10, lr=0.1, milestones=(0.5,))
        >>> [round(learning_rate(config, step, 1), 6) for step in (0, 4, 5, 9)]
        [0.1, 0.1, 0.01, 0.01]
    """
    step -= initial_epochs * steps_per_epoch
    if step < 0:
        return config.initial_lr or config.lr
    if config.epochs is None:
        raise ValueError(
            "epochs is not set, on which the rate of a step depends: take those of default_epochs(num_samples)"
        )
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        # The last step of a warm-up that is no whole number of steps would be above the rate.
        return config.lr * min(1.0, (step + 1) / warmup)
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= round(milestone * total) for milestone in config.milestones)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return config.lr
