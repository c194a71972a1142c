"""Which test images of a benchmark's data a network gets right."""

from __future__ import annotations

import os

import numpy as np
import torch

from ..compress.grid_data import opened
from ..core.config.schema import DataConfig, NetworkConfig
from ..core.errors import UsageError
from ..core.value_scale import note_once
from ..models.build import build_network
from ..training.data import open_loader
from .class_match import match_classes_of


@torch.no_grad()
def correct(entry: NetworkConfig, weights: str | os.PathLike, data: DataConfig) -> np.ndarray:
    """(N,) bool: which test images a network gets right.

    Args:
        entry: It in a config: what it reads, and how.
        weights: Its run or file.
        data: With a labelled test split.

    Raises:
        UsageError: The data has no labelled test split, or the network other classes.
    """
    split = opened(data, "test")
    if split is None or split.targets is None:
        raise UsageError(f"{data.path} has no test split with classes, and a benchmark needs one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, options = entry.model, entry.model_dump(exclude={"model", "weights", "num_classes", "class_map"})
    network = build_network(model, weights=weights, **options).freeze().to(device)
    if network.recipe["num_classes"] != split.num_classes:
        raise UsageError(
            f"{model} from {weights} tells {network.recipe['num_classes']} classes apart, and the data has "
            f"{split.num_classes}"
        )
    who, unnamed = f"{model} from {weights}", not network.recipe["classes"] and not split.classes
    match_classes_of(
        network,
        split,
        who,
        str(data.path or data.name),
        note_once,
        option=None,
        otherwise="name a network of the data's classes",
        own_data=unnamed,
    )
    right = []
    loader = open_loader(split, [network.modality], batch_size=500, device=device, train=False)
    for batch in loader.epoch(0):
        logits = network(batch, frozenset({"logits"})).logits
        assert logits is not None, "they were asked for"
        right.append((logits.argmax(1) == batch["target"]).cpu())
    return torch.cat(right).numpy()
