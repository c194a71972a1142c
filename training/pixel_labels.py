"""The classes of label maps: how many there are, and what a segmenter's answers are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.config.schema import NetworkConfig
from ..core.errors import UsageError
from ..core.registry import MODELS

LABELS = "semantics"
"""The modality of the label maps."""
DEPTH = "depth"

_MOST_PIXEL_CLASSES = 2**16 - 1  # the highest of 16 bits is a mark for none


@dataclass(frozen=True)
class PixelLabels:
    """The classes of a split's label maps in the place of those of its samples, for networks that answer for each
    position.

    Attributes:
        num_classes: C, without the 0 of unlabelled pixels; None where the split has no label maps.
        classes: Their names, in the order of the channels.
        targets: Empty; None where there are no label maps.
    """

    num_classes: int | None
    classes: tuple[str, ...] | None
    targets: Tensor | None

    @classmethod
    def of(cls, split: Any, num_classes: int | None) -> PixelLabels:
        if split is None or LABELS not in split.modalities:
            return cls(None, None, None)
        names = split.semantic_classes
        return cls(num_classes, None if names is None else tuple(names[1:]), torch.empty(0))


def answers_for_positions(model: str) -> bool:
    """Whether a network of that name answers for each position rather than for the sample."""
    return bool(getattr(MODELS[model], "dense", False))


def pixel_labels(splits: Mapping[str, Any], where: str = "the data") -> dict[str, PixelLabels]:
    """What the answers of segmenters are compared with, by the name of the split.

    Args:
        splits: ``train`` and ``test``; None for one that there is not.
        where: The data, for messages.

    Raises:
        UsageError: See :func:`pixel_classes`.
    """
    labelled = [split for split in splits.values() if split is not None and LABELS in split.modalities]
    count = pixel_classes(labelled[0], labelled[-1], where) if labelled else None
    return {name: PixelLabels.of(split, count) for name, split in splits.items()}


def check_some_label(split: Any) -> None:
    """Refuse label maps without a label, from which a segmenter without a teacher cannot learn.

    Raises:
        UsageError: No pixel of the split is labelled.
    """
    if LABELS in split.modalities and not _any_above_0(split, LABELS):
        raise UsageError(
            "no pixel of the training split's label maps is labelled: 0 stands for no label, and classes are 1, 2, "
            "…; give label maps, or a teacher"
        )


def check_pixel_validation(split: Any, outputs: int | None, classes: int | None) -> None:
    """Refuse samples for validation by which answers for each position cannot be measured.

    Args:
        split: The samples of ``train.validation``.
        outputs: C of the student's prediction, 1 for a quantity; None where no objective trains it.
        classes: Of the label maps; None where there are none.

    Raises:
        UsageError: They are no such samples.
    """
    modality, measure = (DEPTH, "δ < 1.25 of depth") if outputs == 1 else (LABELS, "mIoU of the student's prediction")
    if outputs is None:
        reason = "no objective trains that:"
    elif modality not in split.modalities:
        reason = f"the training split has no {modality} to compare it with:"
    elif outputs not in (1, classes):
        hint = zero_hint(split, outputs, classes)
        reason = f"that has {outputs} classes and the label maps {classes}: {hint}give the student {classes}, or"
    elif not _any_above_0(split, modality):
        reason = (
            f"none of the {split.num_samples} samples set apart has a pixel with {modality}: set a larger share, or"
        )
    else:
        return
    raise UsageError(f"train.validation measures {measure}, and {reason} leave it out")


def zero_hint(split: Any, outputs: int, classes: int | None) -> str:
    """What to do besides where the student has one class more than the label maps, in which 0 occurs: it may be meant
    as a class. Else empty.
    """
    if classes is None or outputs != classes + 1 or split.semantic_classes is not None:
        return ""
    loader = split.loader(batch_size=16, device="cpu", seed=0, train=False)
    if not any(bool((batch[LABELS] == 0).any()) for batch in loader.epoch(0)):
        return ""
    return "0 counts as unlabelled: if it is a class of yours, so that labels start at 0, add 1 to all; else "


def measurable_samples(split: Any, student: NetworkConfig) -> Tensor | None:
    """(N,) of bool: by which samples of a split the answers of a student for each position can be measured, those with
    a labelled pixel, or with depth where it predicts a quantity; None where it answers for the sample.
    """
    modality = DEPTH if student.num_classes == 1 else LABELS
    if not answers_for_positions(student.model):
        return None
    if modality not in split.modalities:
        return torch.ones(split.num_samples, dtype=torch.bool)
    loader = split.loader(batch_size=64, device="cpu", seed=0, train=False)
    return torch.cat([(batch[modality] > 0).flatten(1).any(1) for batch in loader.epoch(0)])[: split.num_samples]


def _any_above_0(split: Any, modality: str) -> bool:
    """Whether a pixel of the split's label maps is labelled, or of its depth measured."""
    loader = split.loader(batch_size=16, device="cpu", seed=0, train=False)
    return any(bool((batch[modality] > 0).any()) for batch in loader.epoch(0))


def pixel_classes(train: Any, test: Any, where: str) -> int:
    """Number of classes of the label maps: by their names, else the highest that occurs.

    Args:
        train, test: Splits with the modality ``semantics``.
        where: The data, for messages.

    Raises:
        UsageError: The splits name other numbers of classes, no pixel is labelled, or labels that can hardly number
            classes.
    """
    names = [split.semantic_classes for split in (train, test)]
    if names[0] != names[1]:
        counts = [0 if part is None else len(part) - 1 for part in names]
        raise UsageError(
            f"the label maps of {where} have {counts[0]} named classes in the train split and {counts[1]} in the test "
            "split"
        )
    if names[0] is not None:
        return len(names[0]) - 1
    loaders = [split.loader(batch_size=64, device="cpu", seed=0, train=False) for split in (train, test)]
    highest = max(int(batch[LABELS].max()) for loader in loaders for batch in loader.epoch(0))
    if highest < 1:
        raise UsageError(
            f"no pixel of the label maps of {where} is labelled: 0 stands for no label, and classes are 1, 2, … (if "
            "0 is a class of yours, add 1 to all)"
        )
    if highest >= _MOST_PIXEL_CLASSES:
        raise UsageError(
            f"the label maps of {where} go to {highest}, as if there were as many classes: set data.void={highest} if "
            "it stands for no label, or number the classes from 1 on, without gaps"
        )
    return highest
