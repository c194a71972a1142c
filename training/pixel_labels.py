"""The classes of label maps: how many there are, and what a segmenter's answers are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.config.schema import NetworkConfig
from ..core.errors import UsageError
from ..core.registry import MODELS
from ..core.value_scale import note_once
from ..datasets.io.file_splits import read_here
from ..datasets.io.modality_folders import LABEL_NAMES

LABELS = "semantics"
"""The modality of the label maps."""
DEPTH = "depth"

_TEST_SAMPLES, _TRAINING_SAMPLES = 64, 512  # whose label maps are looked at for classes of the test split alone
_AT_ONCE = 4
_MOST_PIXEL_CLASSES = 2**16 - 1  # the highest of 16 bits is a mark for none


@dataclass(frozen=True)
class PixelLabels:
    """The classes of a split's label maps in the place of those of its samples, for networks that answer for each
    position.

    Attributes:
        num_classes: C, without the 0 of unlabelled pixels; None where the split has no label maps.
        classes: Their names, in the order of the channels.
        targets: Empty; None where there are no label maps.
        called: Where there are none, a modality that is called as label maps often are, such as ``mask``; or None.
    """

    num_classes: int | None
    classes: tuple[str, ...] | None
    targets: Tensor | None
    called: str | None = None

    @classmethod
    def of(cls, split: Any, num_classes: int | None) -> PixelLabels:
        if split is None or LABELS not in split.modalities:
            names = () if split is None else split.modalities
            return cls(None, None, None, next((name for name in names if name.lower() in LABEL_NAMES), None))
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


def counted_with(labels: PixelLabels, other: Any) -> PixelLabels:
    """Classes of label maps that have no names, as many as another split of the same data has too: the highest may be
    in that one alone.

    Args:
        labels: Of one split.
        other: The other, without label maps or None where there is none.
    """
    if labels.classes is not None or labels.num_classes is None or other is None or LABELS not in other.modalities:
        return labels
    with suppress(UsageError):  # no pixel of it is labelled
        return replace(labels, num_classes=max(labels.num_classes, pixel_classes(other, other, "the data")))
    return labels


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
        shown = ["no names" if part is None else f"{len(part) - 1} named classes" for part in names]
        if shown[0] == shown[1]:
            pairs = zip(*(part or () for part in names), strict=True)
            shown = next([f"class {n} called {one}", other] for n, (one, other) in enumerate(pairs) if one != other)
        raise UsageError(
            f"the label maps of {where} have {shown[0]} in the train split and {shown[1]} in the test split: give both "
            "the same names in the same order, of a dataset in its list semantic_classes"
        )
    if names[0] is not None:
        _note_unseen(train, test, names[0])
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
            "it stands for no label (as 0 does where a data set has no such option), or number the classes from 1 on, "
            "without gaps"
        )
    _note_unseen(train, test, None)
    return highest


def _note_unseen(train: Any, test: Any, names: Sequence[str] | None) -> None:
    """Log which classes the label maps of test samples have, and none of the training samples; both are evenly spaced.
    Nothing of training samples without a label, which a teacher may teach.

    Args:
        train, test: Splits with the modality ``semantics``.
        names: Of the values, from 0; None: they have none.

    Raises:
        UsageError: A test sample has labels beyond the names.
    """
    if train is test:
        return
    tested = [labels for samples in _labels_of(test, _TEST_SAMPLES) for labels in samples]
    unseen, looked_at, labelled = {label for labels in tested for label in labels}, 0, False
    for samples in _labels_of(train, _TRAINING_SAMPLES) if unseen else ():
        looked_at += len(samples)
        seen = {label for labels in samples for label in labels}
        labelled |= bool(seen)
        unseen -= seen
        if not unseen:
            break
    if names is not None and (highest := max(unseen, default=0)) >= len(names):
        raise UsageError(
            f"label maps of test samples go to {highest}, and {len(names) - 1} classes are named (1 to "
            f"{len(names) - 1}): name all of them, or set data.void={highest} if it stands for no label"
        )
    if not unseen or not labelled:
        return
    numbers = sorted(unseen)
    shown = [str(number) if names is None else f"{number} ({names[number]})" for number in numbers[:3]]
    rest = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    note_once(
        f"no label map of {_of(looked_at, train)} training samples has class {', '.join(shown)}{rest}, and "
        f"{sum(not unseen.isdisjoint(labels) for labels in tested)} of {_of(len(tested), test)} test samples do, which "
        "nothing teaches: number both splits alike, or train on these classes too"
    )


def _of(count: int, split: Any) -> str:
    return f"the {count}" if count == split.num_samples else f"{count} of the {split.num_samples}"


def _labels_of(split: Any, samples: int) -> Iterator[list[set[int]]]:
    """The labels above 0 that occur in the label map of each sample, in batches that are evenly spaced over a split, of
    about so many samples.
    """
    loader = read_here(split).loader(batch_size=_AT_ONCE, device="cpu", seed=0, train=False)
    step = max(1, len(loader) * _AT_ONCE // samples)
    for place in range(0, len(loader), step):
        maps = next(iter(loader.epoch(0, place)))[LABELS]
        yield [{*labels.unique().tolist()} - {0} for labels in maps]
