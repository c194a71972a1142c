"""Whether a test split means the same by its values as the training split."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ...core.classes import check_highest_class
from ...core.data import Split
from ...core.errors import UsageError
from .camera import Camera
from .file_views import LABELS
from .values import RGB, VECTORS

log = logging.getLogger(__name__)


def check_splits(train: Split | None, test: Split | None) -> None:
    """Raise an error where a test split means other things by its values than the training split; a line where it has
    classes that no training sample has, or samples of few of the classes alone.

    Raises:
        UsageError: A modality's name in capitals, labels that can hardly number classes, depth of another unit, frames
            of another size with the same intrinsics, modalities of another kind of numbers or number of channels, other
            classes or another number of them.
    """
    for split in (train, test):
        _check_names(() if split is None else split.modalities)
        check_highest_class((getattr(split, "num_classes", None) or 0) - 1)
        if split is not None and split.modalities.get("depth", (1,))[0] != 1:
            raise UsageError(
                f"depth has {split.modalities['depth'][0]} channels, and should have one: keep one, or give it "
                "another name, such as hha"
            )
    if train is None or test is None:
        return
    units = [None if split.camera is None else split.camera.unit for split in (train, test)]
    if "depth" in train.modalities and "depth" in test.modalities and units[0] != units[1]:
        raise UsageError(
            f"depth of the training split is in {units[0]}, that of the test split in {units[1]}: bring both to "
            "one unit, or set data.depth_unit"
        )
    _check_frames(train.camera, test.camera)
    kinds = [getattr(split, "kinds", {}) for split in (train, test)]
    for name in train.modalities:
        if name not in test.modalities or name == LABELS:
            continue
        channels = [split.modalities[name][0] for split in (train, test)]
        if channels[0] != channels[1]:
            raise UsageError(
                f"{name} has {channels[0]} channels in the training split and {channels[1]} in the test split: "
                "bring both to one kind"
            )
        ours, theirs = (kind.get(name) for kind in kinds)
        if name != RGB and ours and theirs and ours != theirs and not (name == "depth" and units[0] in ("m", "mm")):
            raise UsageError(
                f"{name} is stored as {ours} in the training split and as {theirs} in the test split, whose scales "
                "differ: bring both to one kind"
            )
    _warn_of_unseen(train.targets, test.targets)
    counts = [getattr(split, "num_classes", None) for split in (train, test)]
    if None not in counts and counts[0] != counts[1]:
        raise UsageError(
            f"the training split has {counts[0]} classes and the test split {counts[1]}: number both by one list "
            "of classes"
        )
    _warn_of_few_classes(test.targets, counts[1])
    for what, attribute in (("classes", "classes"), ("label maps' classes", "semantic_classes")):
        names = [getattr(split, attribute, None) for split in (train, test)]
        if names[0] is not None and names[1] is not None and list(names[0]) != list(names[1]):
            raise UsageError(
                f"the {what} of the training split are {_few(names[0])}, those of the test split "
                f"{_few(names[1])}: number both by one list of names"
            )


def _check_frames(train: Camera | None, test: Camera | None) -> None:
    """Refuse intrinsics, which are in pixels of a frame, that are the same for frames of two sizes."""
    if train is None or test is None or train.intrinsics is None or train.intrinsics != test.intrinsics:
        return
    if train.frame is not None and test.frame is not None and train.frame != test.frame:
        (height, width), (rows, columns) = train.frame, test.frame
        raise UsageError(
            f"intrinsics are of frames of one size, and depth is {height}×{width} in training and {rows}×{columns} "
            "in the test: bring both to one size, or leave the intrinsics out (data.intrinsics, or the attribute of a "
            "packed file)"
        )


def _check_names(modalities: Collection[str]) -> None:
    """Refuse a modality whose meaning its name would give, were it not for capitals: Depth has neither a unit nor
    values that were not measured.
    """
    for name in modalities:
        if name != name.lower() and name.lower() in (RGB, "depth", LABELS, *VECTORS):
            raise UsageError(
                f"the samples have {name}, which is no modality that is known, as {name.lower()} is: call it "
                f"{name.lower()}"
            )


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"


def _warn_of_unseen(train: Tensor | None, test: Tensor | None) -> None:
    """Log which classes (M,) of the test samples no training sample has."""
    if train is None or test is None:
        return
    there = torch.isin(test, train) | (test < 0)
    if bool(there.all()):
        return
    unseen = test[~there]
    numbers = unseen.unique().tolist()
    shown = ", ".join(map(str, numbers[:3])) + (f" and {len(numbers) - 3} more" if len(numbers) > 3 else "")
    log.warning(
        "no training sample is of class %s, and %d of the %d test samples are, which nothing teaches: number both "
        "splits alike, or train on these classes too",
        shown,
        len(unseen),
        len(test),
    )


def _warn_of_few_classes(targets: Tensor | None, num_classes: int | None) -> None:
    """Log where the test samples (M,) are of less than half as many classes as there would be place for: those of files
    in which the classes take turns, of which every tenth is taken, are of one.
    """
    if targets is None or num_classes is None:
        return
    present = len(targets[targets >= 0].unique())
    if 2 * present < min(num_classes, len(targets)):
        log.warning(
            "the %d test samples are of %d of the %d classes, so accuracies say nothing of the others: test on samples "
            "of all (data.limit takes evenly spaced ones, which may all fall on a few classes: change it then)",
            len(targets),
            present,
            num_classes,
        )
