"""Keys of a config that were set and that, beside the others, change nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from inspect import signature
from typing import Any

from pydantic import BaseModel

from ..core.config.schema import CacheConfig, EnsembleConfig, RunConfig, TrainConfig
from ..core.registry import DATASETS, OBJECTIVES
from ..datasets.io.packed_splits import group_names

_OF_MODALITY = {"void": "semantics", "semantic_names": "semantics", "depth_unit": "depth", "intrinsics": "depth"}


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


def unread_teacher_keys(config: RunConfig) -> list[str]:
    """A line about each key that is of teachers, where there are none, of several where there is one, or of their
    outputs where none are cached.

    Example:
        >>> from contrastill.core.config.loading import load_config
        >>> config = load_config("teachers/cifar100", ["data.path=.", "data.name=packed", "ensemble.rule=entropy"])
        >>> unread_teacher_keys(config)
        ['ensemble.rule=entropy changes nothing, as teachers is empty: leave it out, or add teachers.0.model=…']
    """
    train, lines = config.train, list[tuple[str, Any, str]]()
    of_cache = _set(config.cache, CacheConfig, "cache.", ("logits", "prediction", "precision", "parts"))
    of_several = _set(config.ensemble, EnsembleConfig, "ensemble.", ("rule", "batched"))
    of_several |= {f"objectives.{label}.rule": entry.rule for label, entry in config.objectives.items() if entry.rule}
    if not config.teachers:
        keys = of_several | of_cache
        keys |= _set(train, TrainConfig, "train.", ("teacher_precision", "fold_teachers", "teacher_cache"))
        lines = [
            (key, value, "teachers is empty: leave it out, or add teachers.0.model=…") for key, value in keys.items()
        ]
    elif train.views is None:
        lines = [(key, value, "train.views is not set: leave it out, or set both") for key, value in of_cache.items()]
    if config.teachers and train.views is not None:
        kinds = [(OBJECTIVES[entry.name or label], entry) for label, entry in config.objectives.items()]
        needs = {part for kind, entry in kinds for part in kind.needs_with(entry.options())}
        unpredicted = (
            [] if "prediction" in needs else [*_set(config.cache, CacheConfig, "cache.", ("prediction",)).items()]
        )
        lines += [(key, value, "no objective reads a prediction: leave it out") for key, value in unpredicted]
    if config.teachers and not any(OBJECTIVES[name].needs_teacher for name in _objectives(config)):
        reading = "none of " + ", ".join(_objectives(config)) + " reads one: leave them out, or add objectives.kd={}"
        lines.append(("teachers", ", ".join(teacher.model for teacher in config.teachers), reading))
    if len(config.teachers) == 1:
        alone = "there is one teacher alone: leave it out, or add teachers.1.model=…"
        lines += [(key, value, alone) for key, value in of_several.items()]
    elif config.teachers:
        lines += [
            (f"objectives.{label}.rule", entry.rule, f"{label} reads no teacher: leave it out")
            for label, entry in config.objectives.items()
            if entry.rule and not OBJECTIVES[entry.name or label].needs_teacher
        ]
    return [f"{key}={value} changes nothing, as {why}" for key, value, why in lines]


def unread_data_keys(config: RunConfig, modalities: Collection[str]) -> list[str]:
    """A line about each key of ``data`` that is of a modality which the data have not, or of one group for both splits.

    Args:
        config: Of the training.
        modalities: Of its training split.
    """
    fields, values = DATASETS[config.data.name or ""].Options.model_fields, config.data.options()
    lines = [
        f"data.{key}={values[key]} changes nothing, as it is of {modality}, and the data that are read have "
        f"{', '.join(modalities)}: leave it out"
        for key, modality in _OF_MODALITY.items()
        if key in fields and key in values and values[key] != fields[key].default and modality not in modalities
    ]
    if values.get("blocks") is not None and "blocks" in fields:
        splits = values.get("splits") or fields["splits"].default
        if not {*group_names(splits, "train")} & {*group_names(splits, "test")}:
            lines.append(
                f"data.blocks={values['blocks']} changes nothing, as train and test are different groups of the file: "
                "leave it out, or name one group for both in data.splits"
            )
    return lines


def _objectives(config: RunConfig) -> list[str]:
    return [entry.name or label for label, entry in config.objectives.items()]


def _set(section: Any, schema: type[BaseModel], prefix: str, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a section that are not their defaults, by dotted keys."""
    values = {name: getattr(section, name) for name in names}
    return {prefix + name: value for name, value in values.items() if value != schema.model_fields[name].default}


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
