"""How many classes the label maps of an evaluation's data have."""

from __future__ import annotations

from typing import Any

from ..core.errors import UsageError

LABELS = "semantics"
"""The modality of the label maps."""

_MOST_PIXEL_CLASSES = 2**16 - 1  # the highest of 16 bits is a mark for none


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
