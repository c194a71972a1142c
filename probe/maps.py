"""Batches of labelled frames for a segmentation head: the maps of a frozen encoder, kept, or the labelled rows of a
loader.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.hashing import hash64

log = logging.getLogger(__name__)

_ORDER = 0x6F72
_SINGLE_BYTES, _MOST_BYTES = 1 << 30, 2 << 30
"""Up to so many bytes the maps are kept in single precision; up to so many in half precision; beyond, not at all."""
_AT_ONCE = 32


class KeptMaps:
    """The standardised maps and the labels of n training frames, in memory on the CPU.

    Args:
        maps: (n, C_i, H_i, W_i) float32 or float16 each.
        labels: (n, 1, H, W).
    """

    def __init__(self, maps: list[Tensor], labels: Tensor) -> None:
        self.maps, self.labels = maps, labels

    def batch(self, rows: Tensor, device: torch.device) -> tuple[list[Tensor], Tensor]:
        """Maps and labels of some frames, in float32 on the device."""
        return [maps[rows].to(device).float() for maps in self.maps], self.labels[rows].to(device)


@torch.no_grad()
def keep_maps(model: Any, loader: Any, rows: Tensor, labels: str) -> KeptMaps | None:
    """Compute the maps of the training frames ``rows`` once, and set the head's standardisation to their statistics.

    Args:
        model: Its encoder is frozen; the running statistics of ``model.head.norms`` are set.
        loader: Batches in order, not augmented.
        rows: (n,) rising positions of the split.
        labels: Key of the label maps.

    Returns:
        None, with the head as it was, where they would take more than 2 GB.
    """
    model.eval()
    places = _places(rows, loader.num_samples)
    cache: KeptMaps | None = None
    written = 0
    for batch in loader.epoch(0):
        to = places[batch["index"].cpu()]
        here = to >= 0
        if not here.any():
            continue
        picked = {
            name: value[here.to(value.device)]
            for name, value in batch.items()
            if name in (model.encoder.modality, labels)
        }
        maps = model.encoder(picked, ("maps",)).maps
        if cache is None:
            cache = _room(maps, picked[labels], len(rows))
            if cache is None:
                return None
        for stored, part in zip([*cache.maps, cache.labels], [*maps, picked[labels]], strict=True):
            stored[to[here]] = (part.clamp(-65504, 65504) if stored.dtype == torch.float16 else part).to(
                "cpu", stored.dtype
            )
        written += int(here.sum())
    if cache is None or written < len(rows):
        raise UsageError(
            f"the loader gave {written} of {len(rows)} labelled training frames: its index must be their place in "
            "the split"
        )
    for norm, stored in zip(model.head.norms, cache.maps, strict=True):
        _standardise(norm, stored)
    return cache


def labelled_frames(loader: Any, labels: str) -> Tensor:
    """int64, rising positions of the frames with a labelled pixel; the loader's batches are not augmented."""
    labelled = []
    for batch in loader.epoch(0):
        _check_label_maps(batch, labels)
        labelled.append(batch["index"].cpu()[(batch[labels].cpu() > 0).flatten(1).any(1)])
    return torch.cat(labelled).sort().values


def _check_label_maps(batch: Mapping[str, Tensor], labels: str) -> None:
    """Refuse data without label maps.

    Raises:
        UsageError: A batch has none of that name.
    """
    if labels not in batch:
        there = ", ".join(sorted(name for name in batch if name not in ("index", "target", "camera")))
        raise UsageError(f"the data has no label maps called {labels}: it has {there}; name their modality")


def _room(maps: Collection[Tensor], labels: Tensor, count: int) -> KeptMaps | None:
    """Memory for ``count`` frames like the first of these."""
    single = 4 * count * sum(value[0].numel() for value in maps)
    if single > 2 * _MOST_BYTES:
        log.info(
            "the maps of %d frames would take %.1f GB: they are computed again in each epoch", count, single / 2 / 1e9
        )
        return None
    dtype = torch.float32 if single <= _SINGLE_BYTES else torch.float16
    room = [torch.empty((count, *value.shape[1:]), dtype=dtype, memory_format=torch.channels_last) for value in maps]
    return KeptMaps(room, torch.empty((count, *labels.shape[1:]), dtype=labels.dtype))


def _standardise(norm: torch.nn.BatchNorm2d, maps: Tensor) -> None:
    """Give ``norm`` the statistics of all frames and positions, and apply it in place."""
    parts = maps.split(_AT_ONCE)
    count = maps.shape[0] * maps.shape[2] * maps.shape[3]
    mean = sum(part.double().sum((0, 2, 3)) for part in parts) / count
    variance = sum((part.double() - mean[:, None, None]).square().sum((0, 2, 3)) for part in parts) / count
    # A channel that hardly ever changes in training would be blown up on a test frame where it does: each has at least
    # a small share of the map's own variance, whatever the map's scale.
    norm.eps = max(1e-3 * variance.mean().item(), 1e-12)
    assert norm.running_mean is not None and norm.running_var is not None, "the heads' norms track statistics"
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    scale = (variance + norm.eps).rsqrt()
    for part in parts:
        part.copy_((part.double() - mean[:, None, None]) * scale[:, None, None])


def shuffled_rows(count: int, batch_size: int, steps: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Row numbers of ``steps`` batches, int64 (batch_size,): one permutation of 0…count−1 after the other, a function
    of (seed, epoch).
    """
    number, waiting = 0, torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(waiting) < batch_size:
            order = hash64(torch.arange(count), _ORDER, seed, epoch, number).argsort(stable=True)
            waiting, number = torch.cat([waiting, order]), number + 1
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def batches_of(
    loader: Any, epoch: int, rows: Tensor, names: Collection[str], batch_size: int, steps: int, seed: int, part: bool
) -> Iterator[dict[str, Tensor]]:
    """``steps`` full batches of the frames ``rows``, from the views of an epoch.

    All labelled frames stream; of a part of them, the epoch's views are gathered first and handed out repeatedly, so no
    epoch costs more than one pass.
    """
    if len(rows) == loader.num_samples:
        full = (batch for batch in loader.epoch(epoch) if len(batch["index"]) == batch_size)
        yield from (batch for _, batch in zip(range(steps), full, strict=False))
        return
    places = _places(rows, loader.num_samples)
    if not part:
        regrouped = _regrouped(loader, epoch, places, names, batch_size)
        yield from (batch for _, batch in zip(range(steps), regrouped, strict=False))
        return
    gathered: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in loader.epoch(epoch):
        here = places[batch["index"].cpu()] >= 0
        for name, parts in gathered.items():
            parts.append(batch[name][here.to(batch[name].device)])
    views = {name: torch.cat(parts) for name, parts in gathered.items()}
    for picked in shuffled_rows(len(rows), batch_size, steps, seed, epoch):
        yield {name: value[picked.to(value.device)] for name, value in views.items()}


def _regrouped(
    loader: Any, epoch: int, places: Tensor, names: Collection[str], batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """Full batches of the frames that have a place, in the order in which an epoch hands them out."""
    waiting: dict[str, Tensor] = {}
    for batch in loader.epoch(epoch):
        here = places[batch["index"].cpu()] >= 0
        for name in names:
            value = batch[name][here.to(batch[name].device)]
            waiting[name] = torch.cat([waiting[name], value]) if name in waiting else value
        while all(len(value) >= batch_size for value in waiting.values()):
            yield {name: value[:batch_size] for name, value in waiting.items()}
            waiting = {name: value[batch_size:] for name, value in waiting.items()}


def _places(rows: Tensor, num_samples: int) -> Tensor:
    """(num_samples,) place of a sample in ``rows``, −1 for those that are not in it."""
    places = torch.full((num_samples,), -1, dtype=torch.int64)
    places[rows] = torch.arange(len(rows))
    return places
