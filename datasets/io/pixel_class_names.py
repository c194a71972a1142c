"""Names of the classes of label maps that a user's dataset hands out."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import Subset

from ...core.classes import note_repeated
from ...core.errors import UsageError
from .user_classes import attribute_of, class_names_of
from .values import NO_LABEL

log = logging.getLogger(__name__)


def pixel_class_names(dataset: Any, *, labelled: bool, highest: int) -> list[str] | None:
    """Names of the values 0, 1, … of the label maps: the dataset's ``semantic_classes``, of which the first names
    unlabelled pixels; else, where its samples have no class of their own, its ``classes``, those of 1, 2, ….

    Args:
        dataset: With label maps.
        labelled: Whether its samples have a class of their own, which ``classes`` then names.
        highest: The highest label of a few samples; 255 is void by default.

    Raises:
        UsageError: ``semantic_classes`` are no names, or do not begin with that of 0.
    """
    inner = dataset
    while type(inner) is Subset:
        inner = inner.dataset
    names: Any = attribute_of(inner, "semantic_classes")
    what = f"{type(inner).__name__}.semantic_classes"
    if names is not None:
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise UsageError(
                f"{what} is no list of names: name the values of the label maps, from 0, which is unlabelled"
            )
        if not names or names[0].lower() not in NO_LABEL:
            raise UsageError(f"{what} begins with {names[0] if names else 'nothing'}: the first names 0, unlabelled")
        named = [*names]
    else:
        own = None if labelled else class_names_of(dataset, columns=False)
        if own is None:
            return None
        named = own if own[0].lower() in NO_LABEL else ["unlabelled", *own]
        what = f"{type(inner).__name__}.classes"
    note_repeated(named, what)
    if len(named) <= highest != 255:
        log.warning(
            "%s names %d classes, and label maps go to %d: their classes have no names here",
            what,
            len(named) - 1,
            highest,
        )
        return None
    return named
