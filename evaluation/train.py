"""Trains what a config describes, with one seed or several."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.arguments import plain_number
from ..core.config.loading import load_config, make_config
from ..core.config.schema import RunConfig
from ..core.config.stated import check_agreement
from ..core.config.yaml_values import override_value, values_of
from ..core.errors import UsageError
from ..core.generators import own_generators
from ..core.torch_settings import own_settings
from ..training.processes import parting
from ..training.progress import accuracy_text
from ..training.run import train_run

if TYPE_CHECKING:
    from .seeds import SeedsResult

ConfigLike = str | os.PathLike | RunConfig
"""A YAML file, the name of a shipped config, or a config."""

Overrides = Iterable[str] | Mapping[str, Any]
"""``"key=value"`` strings, or values by dotted keys."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        out: The run's folder.
        seed: Its seed.
        metrics: The last row of metrics.jsonl: ``loss``, each objective, ``top1`` in per cent, ….
    """

    out: Path
    seed: int
    metrics: Mapping[str, Any]

    @property
    def top1(self) -> float | None:
        """Accuracy of the last epoch on the test split, per cent; None where it was not measured."""
        return self.metrics.get("top1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill train --json`` prints them."""
        return {"out": str(self.out), **self.metrics}

    def __str__(self) -> str:
        measured = accuracy_text(self.metrics)
        return f"{self.out}, of the last epoch {measured}" if measured else f"{self.out}"


@own_settings()
@own_generators()
@parting()
def train(config: ConfigLike, overrides: Overrides = (), *, progress: bool = True) -> TrainResult | SeedsResult | None:
    """Train what a config describes, going on where an earlier call was stopped; the same as ``contrastill train``.

    Args:
        config: A YAML file, the name of a shipped config such as ``compression/cifar100_crd``, or a config.
        overrides: ``"key=value"`` strings such as ``train.epochs=10``, or values by dotted keys.
        progress: Whether to show progress on standard error.

    Returns:
        The run and its last metrics; with ``seeds`` in the config those of each seed; None on a process that is not
        the main one.

    Raises:
        UsageError: The config is not valid, does not fit the data, or its folder holds another run.
        ContrastillError: The training failed or was stopped; what was written before stays.
    """
    resolved = resolve_config(config, overrides)
    if resolved.seeds:
        from .seeds import train_seeds

        return train_seeds(resolved, progress=progress)
    metrics = train_run(resolved, progress=progress)
    return None if metrics is None else TrainResult(Path(resolved.out), resolved.seed, metrics)


def resolve_config(config: ConfigLike, overrides: Overrides = ()) -> RunConfig:
    """The validated config with its overrides.

    Raises:
        UsageError: No such config, an unknown key or name, a value that is not allowed or not set.

    Example:
        >>> config = resolve_config("teachers/rooms", {"train.epochs": 3, "student.model": "resnet8"})
        >>> resolve_config(config, ["train.epochs=4"]).train.epochs, config.train.epochs
        (4, 3)
    """
    if not isinstance(config, RunConfig):
        if not isinstance(config, (str, os.PathLike)):
            raise UsageError(
                f"config is {config!r}: pass a file, a RunConfig, or the name of a shipped config, "
                "such as compression/cifar100_crd"
            )
        return load_config(os.fspath(config), overrides_as_text(overrides))
    values = overrides if isinstance(overrides, Mapping) else dict(map(_parsed, overrides))
    if isinstance(overrides, Mapping):
        check_agreement((f"overrides[{key!r}]", key, value) for key, value in overrides.items())
    return make_config(config.model_dump(), values) if values else config


def overrides_as_text(overrides: Overrides) -> list[str]:
    """Overrides as ``key=value`` strings.

    Example:
        >>> overrides_as_text({"train.epochs": 3, "objectives.crd": None})
        ['train.epochs=3', 'objectives.crd=null']
    """
    if not isinstance(overrides, Mapping):
        if isinstance(overrides, str) or not isinstance(overrides, Iterable):
            raise UsageError(f'overrides is {overrides!r}: pass a list such as ["train.epochs=10"], or a dict')
        return list(overrides)
    check_agreement((f"overrides[{key!r}]", key, value) for key, value in overrides.items())
    return [f"{key}={_flow(value)}" for key, value in overrides.items()]


def _flow(value: Any) -> str:
    """A value as YAML in one line: JSON, but for the keys that are whole numbers, which JSON would make text."""
    if isinstance(value, Mapping):
        keys = [plain_number(key) for key in value]
        written = [str(key) if type(key) is int else json.dumps(str(key), ensure_ascii=False) for key in keys]
        return f"{{{', '.join(f'{key}: {_flow(one)}' for key, one in zip(written, value.values(), strict=True))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    return json.dumps(value, default=_written, ensure_ascii=False)


def _written(value: Any) -> Any:
    """A path or a number of numpy as JSON has it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    number = plain_number(value)
    if number is value:
        raise UsageError(f"a value of the overrides is {value!r}: pass numbers, text, lists or dicts")
    return number


def _parsed(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r} is no override: write key=value, such as train.epochs=10")
    return key, values_of(override_value(text)) if text else None
