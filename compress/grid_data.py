"""The data of a benchmark's trainings, opened once in a process."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ..core.config.schema import DataConfig, RunConfig
from ..core.fingerprint import text_hash
from ..core.registry import DATASETS
from ..core.split_checks import dataset_of
from ..datasets.io.fingerprint import fingerprint
from ..datasets.io.subset import split_off


def opened(data: DataConfig, split: str) -> Any:
    """A split; the same one as long as the data are not forgotten."""
    return _open(_key(data), split)


def _key(data: DataConfig) -> str:
    return json.dumps(data.model_dump(mode="json"), sort_keys=True)


@lru_cache(maxsize=2)
def _open(key: str, name: str) -> Any:
    """A split of the data that a :class:`DataConfig`, as JSON, describes."""
    values = json.loads(key)
    dataset = values.pop("name")
    options = DATASETS[dataset].Options
    return dataset_of(
        dataset, options(**{key: value for key, value in values.items() if key in options.model_fields})
    ).open(name)


@lru_cache(maxsize=8)
def _facts(key: str, name: str) -> dict[str, Any]:
    return json.loads(json.dumps(fingerprint(_open.__wrapped__(key, name))))


@lru_cache(maxsize=64)
def _count(key: str, validation: float | None) -> int:
    # Whatever the seed, as many samples are for validation.
    split = _open.__wrapped__(key, "train")
    return (split if validation is None else split_off(split, validation, 0)[0]).num_samples


def facts_of(data: DataConfig, split: str) -> dict[str, Any]:
    """The fingerprint of a split as a run's folder holds it."""
    return _facts(_key(data), split)


def split_hash(data: DataConfig, split: str) -> str:
    """Stands for the images and classes of a split."""
    return text_hash(json.dumps(facts_of(data, split), sort_keys=True))


def num_train_images(config: RunConfig) -> int:
    """How many images a run is trained on, without those of ``train.validation``."""
    return _count(_key(config.data), config.train.validation)


def forget() -> None:
    """Open the data anew when they are next asked for."""
    for opened in (_open, _facts, _count):
        opened.cache_clear()
