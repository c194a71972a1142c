"""The data of a benchmark's trainings: opened once in a process, and which of its test images a network gets right."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..core.classes import answer_as
from ..core.config.schema import DataConfig
from ..core.errors import UsageError
from ..core.registry import DATASETS
from ..core.split_checks import dataset_of
from ..datasets.io.fingerprint import fingerprint
from ..models.build import build_network


@torch.no_grad()
def correct(model: str, weights: str | os.PathLike, data: DataConfig) -> np.ndarray:
    """(N,) bool: which test images a network gets right.

    Raises:
        UsageError: The data has no labelled test split, or the network other classes.
    """
    split = _open(_key(data), "test")
    if split is None or split.targets is None:
        raise UsageError(f"{data.path} has no test split with classes, and a benchmark needs one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_network(model, weights=weights).freeze().to(device)
    if network.recipe["num_classes"] != split.num_classes:
        raise UsageError(
            f"{model} from {weights} tells {network.recipe['num_classes']} classes apart, and the data has "
            f"{split.num_classes}"
        )
    if network.recipe["classes"] and split.classes:
        answer_as(network, split.classes, f"{model} from {weights}", "the data", "name a network of the data's classes")
    right = []
    for batch in split.loader(batch_size=500, device=device, train=False).epoch(0):
        logits = network(batch, frozenset({"logits"})).logits
        assert logits is not None, "they were asked for"
        right.append((logits.argmax(1) == batch["target"]).cpu())
    return torch.cat(right).numpy()


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
def _count(key: str) -> int:
    return _open.__wrapped__(key, "train").num_samples


def facts_of(data: DataConfig, split: str) -> dict[str, Any]:
    """The fingerprint of a split as a run's folder holds it."""
    return _facts(_key(data), split)


def num_train_images(data: DataConfig) -> int:
    """How many training images the data have."""
    return _count(_key(data))


def forget() -> None:
    """Open the data anew when they are next asked for."""
    for opened in (_open, _facts, _count):
        opened.cache_clear()
