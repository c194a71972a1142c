"""Names of the classes of a user's own dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from ...core.classes import check_ordered, listed
from ...core.errors import UsageError


def class_names_of(dataset: Any) -> list[str] | None:
    """A dataset's ``classes``, those of which it is a Subset, or those of all of which it is put together; numbers from
    0 on are no names.

    ``classes``, or ``class_to_idx`` where there are none, may be a mapping from names to numbers.

    Raises:
        UsageError: Datasets that number their classes in different ways are put together; the names are a set.
    """
    while type(dataset) is Subset:
        dataset = dataset.dataset
    if type(dataset) is ConcatDataset:
        parts = [class_names_of(part) for part in dataset.datasets]
        known = [names for names in parts if names is not None]
        if any(names != known[0] for names in known):
            other = next(names for names in known if names != known[0])
            raise UsageError(
                f"ConcatDataset puts together datasets whose classes are {listed(known[0])}, and {listed(other)}: "
                "number all by one list of classes"
            )
        return known[0] if known and len(known) == len(parts) else None
    names: Any = getattr(dataset, "classes", None)
    if names is None:
        names = getattr(dataset, "class_to_idx", None)
    check_ordered(names, f"{type(dataset).__name__}.classes")
    if isinstance(names, Mapping):
        # From a name to its number, or from a number to its name; another mapping says nothing that is known.
        if names and all(isinstance(number, int) for number in names):
            names = {name: number for number, name in names.items()}
        named = {str(number): name for name, number in names.items()}
        names = [named.get(str(number)) for number in range(len(names))]
        names = None if None in names else names
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__") or not hasattr(names, "__len__"):
        return None
    listed_names = [*names]
    if not listed_names or listed_names == [*range(len(listed_names))]:
        return None
    return [str(name) for name in listed_names]
