"""Keys of the section ``train`` that were set and that, beside the others, change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature

from ..core.config.schema import TrainConfig


def unread_keys(config: TrainConfig, epochs: int) -> list[str]:
    """A line about each; a value that is the default is none that was set, as a run's own config names all keys.

    Args:
        config: Of the training.
        epochs: Its length, which the config may leave open.

    Example:
        >>> unread_keys(TrainConfig(schedule="cosine", gamma=0.5), 10)
        ['train.gamma=0.5 changes nothing, as train.schedule=cosine does not read it: leave one out']
    """
    lines = [
        f"train.{key}={getattr(config, key)} changes nothing, as train.{by}={getattr(config, by)} does not read it: "
        "leave one out"
        for key, by in _unread(config)
        if getattr(config, key) != TrainConfig.model_fields[key].default
    ]
    if config.warmup_epochs > epochs:
        lines.append(
            f"train.warmup_epochs={config.warmup_epochs:g} is longer than the training of {epochs} "
            f"epoch{'s' * (epochs > 1)}, so the rate ends at {epochs / config.warmup_epochs:.3g} of train.lr: lower it"
        )
    return lines


def _unread(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """The keys that this optimiser and this schedule do not read, and which key says so."""
    if config.optimizer != "sgd":
        yield "nesterov", "optimizer"
        if not _has_momentum(config.optimizer):
            yield "momentum", "optimizer"
    if config.schedule != "step":
        yield from (("milestones", "schedule"), ("gamma", "schedule"))


def _has_momentum(optimizer: str) -> bool:
    if not optimizer.startswith("timm/"):
        return False
    from timm.optim import get_optimizer_class

    kind = get_optimizer_class(optimizer.removeprefix("timm/"), bind_defaults=False)
    return "momentum" in signature(kind).parameters
