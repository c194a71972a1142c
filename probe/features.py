"""What a network says of every sample of a split, once, with the network exactly as it was afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.representation import Network, Representation


@dataclass(frozen=True)
class Features:
    """One layer of a network on the N samples of a split, in the order of their index; on the CPU.

    Attributes:
        values: (N, D) float32.
        targets: (N,) int64 classes, or None.
    """

    values: Tensor
    targets: Tensor | None


def copied(network: Network, *, trainable: bool) -> Network:
    """A copy with weights of its own: a teacher in eval mode for good, or one whose every parameter trains, whatever ``network`` is."""
    copy_ = Network(copy.deepcopy(network.module), taps=network.taps, preprocess=network.preprocess, modality=network.modality)
    return copy_.requires_grad_(True).train() if trainable else copy_.freeze()


@contextmanager
def frozen(network: Network) -> Iterator[Network]:
    """The network in eval mode without gradients: BatchNorm's statistics do not move; training flags are put back."""
    flags = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            yield network.eval()
    finally:
        for module, training in flags:
            module.training = training


def features(network: Network, loader: Any, layer: str, spatial: int = 1) -> Features:
    """One layer on every sample of a loader.

    Args:
        network: Left exactly as it is.
        loader: Batches on the network's device.
        layer: ``"embedding"``, ``"logits"``, or ``"maps.0"``, ``"maps.1"`` …
        spatial: Maps are averaged to ``spatial`` × ``spatial`` positions and flattened: D = C·spatial².

    Raises:
        UsageError: There is no such layer, or the network has no tap for it.
    """
    return features_of(network, loader, (layer,), spatial)[layer]


def features_of(network: Network, loader: Any, layers: Sequence[str], spatial: int = 1) -> dict[str, Features]:
    """:func:`features` of several layers, by one forward pass of each sample."""
    needs = {_part(layer) for layer in layers}
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    index, targets = [], []
    with frozen(network):
        for batch in loader.epoch(0):
            said = network(batch, needs)
            for layer in layers:
                found[layer].append(_vector(said, layer, spatial).float().cpu())
            index.append(batch["index"].cpu())
            if "target" in batch:
                targets.append(batch["target"].cpu())
    order = torch.cat(index).argsort(stable=True)
    classes = torch.cat(targets)[order] if targets else None
    return {layer: Features(torch.cat(parts)[order], classes) for layer, parts in found.items()}


def _part(layer: str) -> str:
    """The part of a representation that a layer is in."""
    part, dot, number = layer.partition(".")
    if layer in ("embedding", "logits") or (part == "maps" and dot and number.isdecimal()):
        return part
    raise UsageError(f"layer {layer!r} is none of a representation's: give embedding, logits, or maps.0, maps.1, …")


def _vector(said: Representation, layer: str, spatial: int) -> Tensor:
    """(B, D) of a layer."""
    if layer in ("embedding", "logits"):
        return getattr(said, layer)
    number = int(layer.partition(".")[2])
    if number >= len(said.maps):
        raise UsageError(f"layer {layer} does not exist: the network gives {len(said.maps)} maps, maps.0 to maps.{len(said.maps) - 1}")
    return F.adaptive_avg_pool2d(said.maps[number], spatial).flatten(1)
