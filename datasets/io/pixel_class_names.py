"""Names of the classes of label maps that a user's dataset hands out."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from ...core.classes import listed, note_repeated
from ...core.errors import UsageError
from ...core.value_scale import note_once
from .user_classes import attribute_of, class_names_of
from .values import NO_LABEL

log = logging.getLogger(__name__)


def pixel_class_names(dataset: Any, *, labelled: bool, highest: int) -> list[str] | None:
    """Names of the values 0, 1, … of the label maps: the dataset's ``semantic_classes``, of which the first names
    unlabelled pixels; else, where its samples have no class of their own, its ``classes``, those of 1, 2, ….

    Args:
        dataset: With label maps.
        labelled: Whether its samples have a class of their own, which ``classes`` then names.
        highest: The highest label of a few samples, but for void.

    Raises:
        UsageError: ``semantic_classes`` are no names, or do not begin with that of 0.
    """
    named, what = _stated(dataset)
    if named is None:
        own = None if labelled else class_names_of(dataset, columns=False)
        if own is None:
            return None
        named = own if own[0].lower() in NO_LABEL else ["unlabelled", *own]
        what = f"{what}.classes"
    note_repeated(named, what)
    if len(named) <= highest:
        log.warning(
            "%s names %d classes, and label maps go to %d: their classes have no names here",
            what,
            len(named) - 1,
            highest,
        )
        return None
    return named


def _stated(dataset: Any) -> tuple[list[str] | None, str]:
    """The ``semantic_classes`` of a dataset, of that of which it is a Subset, or of all of which it is put together, or
    None; and whose they are, for messages.
    """
    kind, names = type(dataset).__name__, attribute_of(dataset, "semantic_classes")
    what = f"{kind}.semantic_classes"
    if names is None and type(dataset) is Subset:
        return _stated(dataset.dataset)
    if names is None and type(dataset) is ConcatDataset:
        parts = [_stated(part) for part in dataset.datasets]
        known = [named for named, _ in parts if named is not None]
        if other := next((named for named in known if named != known[0]), None):
            raise UsageError(
                f"ConcatDataset puts together datasets whose semantic_classes are {listed(known[0])}, and "
                f"{listed(other)}: number all by one list of classes"
            )
        if known and len(known) < len(parts):
            note_once(
                f"ConcatDataset puts together datasets that name the values of their label maps ({listed(known[0])}) "
                "and others that do not, so they have no names here: give each a list semantic_classes"
            )
            return None, kind
        return (known[0], what) if known else (None, parts[0][1])
    if names is None:
        return None, kind
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{what} is no list of names: name the values of the label maps, from 0, which is unlabelled")
    if not names or names[0].lower() not in NO_LABEL:
        raise UsageError(f"{what} begins with {names[0] if names else 'nothing'}: the first names 0, unlabelled")
    return [*names], what
