"""Data sets of a user's own, checked as they are registered, and their splits as they are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import fits
from .classes import read_names
from .config.schema import DataConfig
from .entry_checks import check_call, check_methods, check_options_class, kind_of
from .errors import UsageError
from .registry import DATASETS
from .user_code import explained, is_own, origin
from .value_scale import note_once

_ATTRIBUTES = ("num_samples", "modalities", "targets", "num_classes", "classes", "camera", "loader")
_BYTES = 20.0  # floats that go higher, and never below 0, are bytes
_LOADER = ("batch_size", "device", "seed", "train", "rank", "world", "views")


def check_entry(name: str, entry: Any) -> None:
    """Refuse what is registered as a data set and cannot be opened.

    Raises:
        UsageError: It cannot be called with its options, or has no ``Options`` or no ``open``.
    """
    what = f"dataset {name} ({origin(entry)})"
    if not callable(entry) or (isinstance(entry, type) and not hasattr(entry, "open")):
        has = "has no open" if isinstance(entry, type) else f"is {kind_of(entry)}"
        raise UsageError(f"{what} {has}: register a class with Options, __init__(self, options) and open(self, split)")
    check_options_class(what, entry, set(DataConfig.model_fields) - {"path"})
    check_call(f"{what}, called with its options,", entry, ("options",))
    if isinstance(entry, type):
        check_methods(what, entry, {"open": ("split",)})
        if hasattr(entry, "recognises"):  # asked of the class, before there are options
            check_call(f"{what}: recognises, which wants @staticmethod above it,", entry.recognises, ("path",))


class _UserData:
    """A data set of a user's own: what goes wrong as it opens a split is one sentence, and so is what the split lacks.

    All else is the data set's own.
    """

    def __init__(self, what: str, dataset: Any) -> None:
        self.what, self.dataset = what, dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)

    def open(self, split: str) -> Any:
        with explained(f"{self.what}, opened as {split},", type(self.dataset)):
            try:
                result = self.dataset.open(split)
            except UsageError as error:
                raise UsageError(f"{self.what}, opened as {split}: {error}") from error
            if result is not None or split == "train":
                check_split(f"{self.what}: the split {split}", result)
            return result


def dataset_of(name: str, options: Any) -> Any:
    """The data set of that name with these options, whose ``open`` gives a split, or None where there is no such split.

    Args:
        name: Of the data set.
        options: Of its ``Options``.

    Raises:
        ContrastillError: A data set of the user's own fails; its splits are checked as they are opened.
    """
    dataset = DATASETS[name]
    what = f"dataset {name} ({origin(dataset)})"
    with explained(f"{what}, called with its options,", dataset):
        result = dataset(options)
    return result if is_own(dataset) else _UserData(what, result)


def check_split(what: str, split: Any) -> None:
    """Refuse a split that lacks something of :class:`~contrastill.Split`; its first two samples are read.

    Args:
        what: Names it in the message.
        split: As ``open`` returned it.

    Raises:
        UsageError: Something is not there, or of another kind.
    """
    missing = [name for name in _ATTRIBUTES if not hasattr(split, name)]
    if missing:
        lack = "" if split is None else f", which has no {' and no '.join(missing)}"
        raise UsageError(
            f"{what} is {kind_of(split)}{lack}: let open return a contrastill.Split, such as a TensorSplit; what the "
            "data does not have is None"
        )
    if not fits(split.num_samples, int) or split.num_samples < 1:
        raise UsageError(
            f"{what} has num_samples={_shown(split.num_samples)}: give the number of its samples, from 1 on"
        )
    shapes = split.modalities
    if not isinstance(shapes, Mapping) or not shapes or not all(_is_shape(shape) for shape in shapes.values()):
        raise UsageError(f'{what} has modalities {shapes!r}: give shapes (C, H, W), as {{"rgb": (3, 32, 32)}}')
    _check_labels(what, split)
    for arguments in (_LOADER, ("batch_size", "device", "train")):  # the others have defaults
        check_call(f"{what}: loader", split.loader, arguments, keywords=True)
    loader = split.loader(batch_size=2, device="cpu", seed=0, train=False, rank=0, world=1, views=None)
    missing = [name for name in ("epoch", "__len__", "num_samples") if not hasattr(loader, name)]
    if missing:
        raise UsageError(
            f"{what}: loader returns {kind_of(loader)}, which has no {' and no '.join(missing)}: return a "
            "contrastill.Loader"
        )
    check_call(f"{what}: epoch of its loader", loader.epoch, ("k", "start"))
    batches = loader.epoch(0, 0)
    batch = next(iter(batches), None) if hasattr(batches, "__iter__") else batches
    if batch is None:
        raise UsageError(f"{what}: epoch of its loader yields no batch: yield dicts of tensors")
    _check_batch(f"{what}: its first batch", batch, split)


def check_targets(what: str, targets: Tensor, num_samples: int) -> None:
    """Refuse targets that do not number the class of each sample.

    Raises:
        UsageError: They are no whole numbers, or not one for each sample.
    """
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if targets.ndim != 1 or len(targets) != num_samples or not whole:
        raise UsageError(
            f"{what} has targets of shape {tuple(targets.shape)} and {targets.dtype}: give the number of each "
            f"sample's class, ({num_samples},) int64"
        )


def _check_labels(what: str, split: Any) -> None:
    targets, count, names = split.targets, split.num_classes, split.classes
    if targets is not None:
        if not isinstance(targets, Tensor):
            raise UsageError(
                f"{what} has targets that are {kind_of(targets)}: give a tensor, as torch.tensor(…) makes it"
            )
        check_targets(what, targets, split.num_samples)
    if count is not None and (not fits(count, int) or count < 1):
        raise UsageError(f"{what} has num_classes={_shown(count)}: give the number of classes, or None without labels")
    if targets is not None and count is not None and int(targets.max()) >= count:
        raise UsageError(f"{what} has the class {int(targets.max())} and num_classes={count}: classes count from 0")
    if names is not None:
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(one, str) for one in names):
            raise UsageError(f"{what} has classes {_shown(names)}: give a list of names, or None")
        if count is not None and len(names) != count:
            raise UsageError(f"{what} has {len(names)} names of classes and num_classes={count}: name each class")
        read_names(names, f"{what}: classes")


def _check_batch(what: str, batch: Any, split: Any) -> None:
    if not isinstance(batch, Mapping):
        raise UsageError(f"{what} is {kind_of(batch)}: yield a dict of modalities, index and target")
    labelled = () if split.targets is None else ("target",)
    for name in ("index", *labelled, *split.modalities):
        if name not in batch:
            raise UsageError(f"{what} has no {name}: it has {', '.join(map(str, batch))}")
        if not isinstance(batch[name], Tensor):
            raise UsageError(f"{what} has {name} that is {kind_of(batch[name])}: yield tensors")
    index = batch["index"]
    if (
        index.ndim != 1
        or index.is_floating_point()
        or not 0 <= int(index.min()) <= int(index.max()) < split.num_samples
    ):
        raise UsageError(
            f"{what} has index {_shown(index.tolist())}: give each sample's place in the split, (B,) int64 from 0 to "
            f"{split.num_samples - 1}"
        )
    for name, shape in split.modalities.items():
        value = batch[name]
        if value.ndim != 4 or len(value) != len(index) or value.shape[1] != shape[0]:
            raise UsageError(
                f"{what} has {name} of shape {tuple(value.shape)}, and modalities says {tuple(shape)}: give "
                f"({len(index)}, {shape[0]}, H, W), channels first"
            )
        if name == "rgb" and value.is_floating_point() and value.min() >= 0 and value.max() > _BYTES:
            note_once(
                f"{what} has rgb in floats up to {value.max():g}, and networks take uint8, or floats in [0, 1]: divide "
                "by 255, or give uint8"
            )
    # Of labels with a number for each class the targets are the most probable classes.
    if labelled and getattr(split, "label_vectors", None) is None:
        own, targets = batch["target"], split.targets.cpu()[index]
        if own.shape != targets.shape or not torch.equal(own, targets):
            raise UsageError(
                f"{what} has target {_shown(own.tolist())} and the split's targets of these index are "
                f"{_shown(targets.tolist())}: give both the same classes"
            )


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) == 3 and all(fits(side, int) and side > 0 for side in shape)


def _shown(value: Any) -> str:
    """A value for a message: of anything long its kind."""
    text = repr(value)
    return text if len(text) <= 60 else kind_of(value)
