"""A network's outputs for every sample of a split, computed once; the network is left exactly as it was."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ..core.arguments import checked
from ..core.atomic import read_tensors, write_tensors
from ..core.classes import check_highest_class
from ..core.distributed import all_gather_ragged, world_size
from ..core.errors import ContrastillError, UsageError, unknown_name
from ..core.fingerprint import network_fingerprint, tensors_hash
from ..core.loss_labels import whole_numbers
from ..core.modes import modes_of, restore_modes
from ..core.representation import Network
from ..core.teachers.same_outputs import near
from ..core.tensor_values import check_readable
from .layers import part_of, vector_of

# Samples on which cached features are compared with new ones.
_COMPARED = 8


@checked
@dataclass(frozen=True)
class Features:
    """One layer of a network on the N samples of a split, in the order of their index; on the CPU.

    Attributes:
        values: (N, D) float32; whole numbers become that.
        targets: (N,) int64 classes, or None; those of another dtype of integers become int64.
    """

    values: Tensor
    targets: Tensor | None

    def __post_init__(self) -> None:
        if not (self.values.is_floating_point() or self.values.is_complex() or self.values.is_quantized):
            object.__setattr__(self, "values", self.values.float())
        if self.targets is not None and whole_numbers(self.targets):  # as stored; they are taken as indices
            object.__setattr__(self, "targets", self.targets.long())


def copied(network: Network, *, trainable: bool) -> Network:
    """A copy with weights of its own: a teacher in eval mode for good, or one whose every parameter trains, whatever
    ``network`` is.
    """
    copy_ = Network(
        copy.deepcopy(network.module), taps=network.taps, preprocess=network.preprocess, modality=network.modality
    )
    return copy_.requires_grad_(True).train() if trainable else copy_.freeze()


@contextmanager
def frozen(network: Network) -> Iterator[Network]:
    """The network in eval mode without gradients: BatchNorm's statistics do not move; training flags are put back."""
    modes = modes_of(network)
    try:
        with torch.no_grad():
            yield network.eval()
    finally:
        restore_modes(modes)


@checked
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


@checked
def features_of(
    network: Network, loader: Any, layers: Sequence[str], spatial: int = 1, *, cache: str | os.PathLike | None = None
) -> dict[str, Features]:
    """:func:`features` of several layers, by one forward pass of each sample; a sample that comes more than once counts
    once.

    Where several processes work together each looks at what its loader hands out, its share or all, and each gets the
    features of all
    samples: all of them have to call this.

    With a folder, features are cached there, and read instead of computed whenever the same network reads the same
    data: file ``NETWORK/DATA-LAYER.h5``, named by hashes of the network's weights, taps and preprocessing, and of the
    data's number of samples, its classes, and its first, middle and last batch; of all batches of samples in memory, or
    where a loader has no ``len()`` and no ``targets``.

    Args:
        network, loader, spatial: As there.
        layers: Names of layers; each counts once.
        cache: The folder; None: no cache.

    Raises:
        UsageError: There is no such layer, or the network has no tap for it, ``spatial`` is less than 1, or the samples
            come from no loader.
        ContrastillError: A file in the folder is damaged, is of another network of the same weights (an attribute
            differs, say), or the loader is empty.
    """
    parts = {layer: part_of(layer) for layer in layers}
    layers = list(parts)
    if not hasattr(loader, "epoch"):
        raise UsageError(
            f"loader is of the class {type(loader).__name__}, which has no epoch(k): pass a split's "
            'loader(batch_size=64, device="cpu", seed=0, train=False), or datasets to contrastill.linear_probe'
        )
    if spatial < 1:
        raise UsageError(f"spatial={spatial} leaves nothing of a map: give 1 or more positions a side")
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    if cache is None:
        return _looked(network, loader, layers, spatial, device)
    data = _data_hash(loader, network.modality, device)
    fingerprint = network_fingerprint(network)
    folders = {part: Path(cache) / fingerprint.hash({part}) for part in {*parts.values()}}
    files = {
        layer: folders[part] / f"{data}-{layer}{f'-{spatial}' if part == 'maps' else ''}.h5"
        for layer, part in parts.items()
    }
    # Missing for all where it is missing for one, as the processes may not share a disk and have to look together.
    there = (
        all_gather_ragged(torch.tensor([[file.is_file() for file in files.values()]], dtype=torch.uint8), device)
        .all(0)
        .tolist()
    )
    missing = [layer for layer, known in zip(files, there, strict=True) if not known]
    computed = _looked(network, loader, missing, spatial, device) if missing else {}
    if world_size() == 1 or distributed.get_rank() == 0:
        for layer, value in computed.items():
            write_tensors(files[layer], {name: field for name, field in vars(value).items() if field is not None})
    cached = {layer: _read(file) for layer, file in files.items() if layer not in computed}
    _check_same(network, loader, cached, spatial, files, device)
    return {layer: computed[layer] if layer in computed else cached[layer] for layer in files}


def _check_same(
    network: Network,
    loader: Any,
    cached: Mapping[str, Features],
    spatial: int,
    files: Mapping[str, Path],
    device: torch.device,
) -> None:
    """Compare cached features with what the network gives for a few of the same samples, where rows can be told
    by their index.
    """
    batch = next(iter(loader.epoch(0)), None) if cached else None
    other: str | None = None
    if batch is not None and len(batch["index"]) and hasattr(loader, "num_samples"):
        few = {name: value[:_COMPARED] for name, value in batch.items()}
        rows = few["index"].cpu()
        with frozen(network):
            outputs = network(few, {part_of(layer) for layer in cached})
        for layer, value in cached.items():
            if len(value.values) == loader.num_samples > int(rows.max()) and not near(
                vector_of(outputs, layer, spatial).float().cpu(), value.values[rows], torch.float32
            ):
                other = other or layer
    if all_gather_ragged(torch.tensor([[other is not None]], dtype=torch.uint8), device).any():
        raise ContrastillError(
            f"{files[other or next(iter(files))]} holds other features of the same samples than the network gives "
            "now: they are of a network of the same weights that differs in something else, such as an attribute or a "
            "buffer that is not saved, or the file was damaged; remove it, or name another folder"
        )


def _looked(
    network: Network, loader: Any, layers: Sequence[str], spatial: int, device: torch.device
) -> dict[str, Features]:
    """The features of layers, computed now."""
    needs = {part_of(layer) for layer in layers}
    by_layer: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    index, targets = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    with frozen(network):
        for batch in loader.epoch(0):
            if not len(batch["index"]):  # this rank's share of a short batch
                continue
            outputs = network(batch, needs)
            for layer in layers:
                by_layer[layer].append(vector_of(outputs, layer, spatial).float().cpu())
            index.append(batch["index"].cpu())
            if "target" in batch:
                targets.append(batch["target"].cpu())
    rows = all_gather_ragged(torch.cat(index)[:, None], device)[:, 0]
    if not len(rows):
        raise ContrastillError(
            "the loader hands out no samples, so there is nothing to probe: give a split that has some"
        )
    order = _in_order(rows)
    classes = all_gather_ragged(torch.cat(targets)[:, None], device)[:, 0]
    # Not all at once: the parts of a layer are let go of before the next one is put together.
    values = {
        layer: all_gather_ragged(torch.cat(by_layer.pop(layer) or [torch.empty(0, 0)]), device)[order]
        for layer in layers
    }
    return {layer: Features(value, classes[order] if len(classes) else None) for layer, value in values.items()}


def _data_hash(loader: Any, modality: str, device: torch.device) -> str:
    """16 digits that stand for what a loader hands out in epoch 0, whichever of it is this rank's share; no network
    looks at it.
    """
    if hasattr(loader, "targets") and hasattr(loader, "__len__"):
        listing = loader.listing() if hasattr(loader, "listing") else None
        count, everywhere = len(loader), listing is None  # what is in no files is read as a whole
        places = [*range(count)] if everywhere else sorted({0, count // 2, count - 1})
        batches = loader.epoch(0) if everywhere else (next(iter(loader.epoch(0, place))) for place in places)
        known = [] if loader.targets is None else [loader.targets]
        header = f"{modality} {loader.num_samples} {places} {listing}"
    else:
        batches, known, header = loader.epoch(0), [], f"{modality} whole"
    parts = []
    for batch in batches:
        fields = [batch["index"], *([batch["target"]] if "target" in batch else [])]
        index, *shares = (
            all_gather_ragged(value.flatten(1) if value.ndim > 1 else value[:, None], device)
            for value in (*fields, batch[modality])
        )
        order = _in_order(index[:, 0])
        parts.append(
            tensors_hash(str(tuple(batch[modality].shape[1:])), [index[order], *(share[order] for share in shares)])
        )
    return tensors_hash(f"{header} {parts}", known)


def _in_order(index: Tensor) -> Tensor:
    """Where each sample is found first, in the order of their index."""
    order = index.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = index[order].diff() != 0
    return order[first]


def _read(path: Path) -> Features:
    fields = read_tensors(
        path, lambda name: name in ("values", "targets"), "features of an earlier probe", "they are computed again"
    )
    if "values" not in fields:
        raise ContrastillError(
            f"{path} does not hold the features of an earlier probe: remove it, and they are computed again"
        )
    return Features(fields["values"], fields.get("targets"))


UNSEEN = ("refused", "wrong")


def check_classes(
    train: Features, test: Features, num_classes: int | None = None, *, unseen: str = "refused"
) -> tuple[Tensor, Tensor]:
    """The classes of the training and of the test samples, once it is clear that a classifier can be fitted to them and
    measured on them.

    Args:
        train, test: Features of one layer.
        num_classes: C, where the training split says how many classes there are: each of 0…C−1 has to occur in it.
        unseen: ``"refused"`` or ``"wrong"``: what becomes of test samples of a class that no training sample has.

    Raises:
        UsageError: Samples without classes, a class without training samples, test samples of classes that no training
            sample has, features of different lengths, or that are not finite, not dense or not real, labels that
            are no whole numbers or can hardly number classes.
    """
    if train.targets is None or test.targets is None:
        raise UsageError("a probe needs classes, and the samples have none: give labelled splits")
    for part, targets in ((train, train.targets), (test, test.targets)):
        check_readable(values=part.values, targets=targets)
        if part.values.ndim != 2 or not part.values.shape[1] or targets.shape != (len(part.values),):
            raise UsageError(
                f"features of shape {tuple(part.values.shape)} and classes of shape {tuple(targets.shape)} do not fit: "
                "give (N, D) and (N,), with one number or more of each sample"
            )
        if not whole_numbers(targets):
            raise UsageError(f"the classes are {targets.dtype}: give whole numbers from 0 on")
        check_highest_class(int(targets.max()) if len(targets) else 0)
    known = set(train.targets.unique().tolist())
    empty = [number for number in range(num_classes or 0) if number not in known]
    if empty:
        raise UsageError(
            f"of {num_classes} classes {_listed(empty)} has no training sample: take more training samples, or "
            "only classes that have some"
        )
    if unseen not in UNSEEN:
        raise unknown_name("unseen", unseen, UNSEEN)
    unknown = sorted(set(test.targets.unique().tolist()) - known)
    if unknown and unseen == "refused":
        raise UsageError(
            f"the test samples have classes that no training sample has: {_listed(unknown)}; take splits of the "
            "same classes, or more training samples"
        )
    if train.values.shape[1] != test.values.shape[1]:
        lengths = f"{train.values.shape[1]} and {test.values.shape[1]}"
        raise UsageError(
            f"training and test features have {lengths} values: take both from one layer of one network, of "
            "samples of one size"
        )
    for name, part in (("training", train), ("test", test)):
        broken = int((~part.values.isfinite()).any(1).sum())
        if broken:
            raise UsageError(
                f"the features of {broken} of {len(part.values)} {name} samples are not finite: look at the "
                "network's weights and preprocessing"
            )
    return train.targets, test.targets


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
