"""Whether a user's own dataset hands out other labels than those that its names of classes are of, as after a
``target_transform``, also of a dataset within it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from ...core.errors import UsageError
from .user_classes import attribute_of, names_its_own
from .user_labels import listed_labels, read_label

_NAMES, _LISTS = ("classes", "class_to_idx"), ("targets", "labels")


def why_names_are_of_others(dataset: Any, labels: Tensor) -> str | None:
    """What says that the names of a dataset's classes are not those of its labels, for a line; None where nothing does.

    Args:
        dataset: May be a Subset, some put together, or hand on the names of a dataset within it.
        labels: Of all samples: classes (N,), or a number for each class (N, C).
    """
    rows = _listed_rows(dataset)
    if rows is not None and _differ(rows, labels):
        return f"{_source(dataset)} lists other labels than its samples have"
    if rows is None or None in rows:
        changing = _changing(dataset)
        if changing is not None:
            return f"the target_transform of {changing} gives other labels than those that it names"
    return None


def changes_labels(dataset: Any, numbers: Iterable[int]) -> bool:
    """Whether a dataset's own ``target_transform`` makes another class of one of some numbers; not where it takes none,
    as it then numbers the classes itself.
    """
    transform = attribute_of(dataset, "target_transform")
    if not callable(transform):
        return False
    try:
        for number in numbers:
            label = read_label(transform(number), "")
            if isinstance(label, Tensor):
                label = number if number < len(label) and label[number] == label.max() else -1
            if label != number:
                return True
    except Exception:  # a user's own code may raise anything
        return False
    return False


def _listed_rows(dataset: Any) -> list[int | None] | None:
    """The class of each row as what the names come from lists it, None of rows that are not listed; None where no row
    is.
    """
    if type(dataset) is Subset and not names_its_own(dataset):
        inner = _listed_rows(dataset.dataset)
        return None if inner is None else [inner[row] for row in dataset.indices]
    if type(dataset) is ConcatDataset and not names_its_own(dataset):
        parts: list[tuple[int, Any]] = [(len(cast(Sized, part)), _listed_rows(part)) for part in dataset.datasets]
        if all(rows is None for _, rows in parts):
            return None
        return [row for count, rows in parts for row in ([None] * count if rows is None else rows)]
    inner = _named_by(dataset)
    own = any(_is_own(dataset, name) for name in _NAMES)
    if inner is not None and not own and len(inner) == len(dataset):
        return _listed_rows(inner)
    for name in _LISTS:
        # A list that a wrapper hands on is not of the names that it has itself.
        if own and inner is None and not _is_own(dataset, name):
            continue
        listed = attribute_of(dataset, name)
        values = None if listed is None else listed_labels(listed, len(dataset))
        if values is not None:
            return values.tolist()
    return None


def _differ(rows: list[int | None], labels: Tensor) -> bool:
    """Whether samples are of other classes than is listed; of labels that are no class alone most of them."""
    known = torch.tensor([place for place, row in enumerate(rows) if row is not None])
    listed = torch.tensor([row for row in rows if row is not None])
    if not len(known):
        return False
    if labels.ndim == 1:
        return not torch.equal(labels[known], listed)
    labels = labels[known]
    if int(listed.max()) >= labels.shape[1]:
        return True
    others = labels.gather(1, listed[:, None])[:, 0] < labels.max(1).values
    of_one_class = bool(((labels != 0).sum(1) == 1).all())
    return bool(others.any()) if of_one_class else float(others.float().mean()) > 0.5


def _changing(dataset: Any) -> str | None:
    """The kind of a dataset between the names and the samples whose ``target_transform`` changes labels."""
    if type(dataset) is Subset and not names_its_own(dataset):
        return _changing(dataset.dataset)
    if type(dataset) is ConcatDataset and not names_its_own(dataset):
        return next((name for part in dataset.datasets if (name := _changing(part)) is not None), None)
    names = [attribute_of(dataset, name) for name in _NAMES]
    count = next((len(given) for given in names if hasattr(given, "__len__")), 0)
    if changes_labels(dataset, range(count)):
        return type(dataset).__name__
    inner = _named_by(dataset)
    return None if inner is None else _changing(inner)


def _source(dataset: Any) -> str:
    """The kind of dataset that names come from."""
    while type(dataset) in (Subset, ConcatDataset) and not names_its_own(dataset):
        dataset = dataset.dataset if type(dataset) is Subset else dataset.datasets[0]
    return type(dataset).__name__


def _named_by(dataset: Any) -> Any:
    """The dataset within a wrapper that has the same names of classes, so that they come from there; or None."""
    for name in _NAMES:
        names = attribute_of(dataset, name)
        if names is None:
            continue
        for inner in getattr(dataset, "__dict__", {}).values():
            if inner is dataset or not (hasattr(inner, "__getitem__") and hasattr(inner, "__len__")):
                continue
            if _same(_names_within(inner, name), names):
                return inner
    return None


def _names_within(dataset: Any, name: str) -> Any:
    while type(dataset) in (Subset, ConcatDataset) and not names_its_own(dataset):
        dataset = dataset.dataset if type(dataset) is Subset else dataset.datasets[0]
    try:
        return attribute_of(dataset, name)
    except UsageError:  # it is not said to be read
        return None


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, (list, tuple, dict)) and type(one) is type(other) and one == other)


def _is_own(dataset: Any, name: str) -> bool:
    """Whether an attribute is the object's or its class's, and not handed on from elsewhere."""
    return inspect.getattr_static(dataset, name, None) is not None
