"""Names of the classes of a user's own dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from ...core.arguments import plain_number
from ...core.class_entries import class_record
from ...core.classes import listed, read_names
from ...core.errors import UsageError
from ...core.value_scale import note_once
from .table_classes import table_names

_NUMBER = re.compile(r"-?[0-9]+")


def class_names_of(dataset: Any, *, columns: bool = True) -> list[str] | None:
    """A dataset's ``classes``, else those of which it is a Subset, or those of all of which it is put together; numbers
    from 0 on are no names.

    ``classes``, or ``class_to_idx`` where there are none, may be a mapping from names to numbers; ``classes`` also
    records of them with a ``name`` and, where they are not in order, an ``id``. A dataset of Hugging Face without
    either has the names of its column of classes.

    Args:
        dataset: Of the user.
        columns: Whether the names of a column are those that are asked for.

    Raises:
        UsageError: Datasets that number their classes in different ways are put together; the names are a text, a set
            or an iterator, or lack one; ``class_to_idx`` contradicts them.
    """
    while type(dataset) is Subset and not names_its_own(dataset):
        dataset = dataset.dataset
    if type(dataset) is ConcatDataset and not names_its_own(dataset):
        parts = [class_names_of(part, columns=columns) for part in dataset.datasets]
        known = [names for names in parts if names is not None]
        if any(names != known[0] for names in known):
            other = next(names for names in known if names != known[0])
            raise UsageError(
                f"ConcatDataset puts together datasets whose classes are {listed(known[0])}, and {listed(other)}: "
                "number all by one list of classes"
            )
        if known and len(known) < len(parts):
            note_once(
                f"ConcatDataset puts together datasets that name their classes ({listed(known[0])}) and others that "
                "do not, so they are matched by number alone and have no names here: give each a list classes"
            )
            return None
        return known[0] if known else None
    what = f"{type(dataset).__name__}.classes"
    names: Any = plain_number(attribute_of(dataset, "classes"))
    numbers = attribute_of(dataset, "class_to_idx")
    if names is None and numbers is None:
        return table_names(dataset) if columns else None
    if names is None:
        names = numbers
    if isinstance(names, Mapping):
        names = _in_order(names, what if names is not numbers else f"{type(dataset).__name__}.class_to_idx")
    if not hasattr(names, "__iter__"):  # as a number of classes, or a method
        return None
    if not isinstance(names, (str, bytes)) and hasattr(names, "__len__"):
        entries = [plain_number(name) for name in names]
        if all(isinstance(entry, (int, float)) for entry in entries) and entries == [*range(len(entries))]:
            return None
        if (numbered := _by_their_ids(entries)) is not None:
            ordered = _in_order(numbered, what)
            return None if ordered is None else read_names(ordered, what)
        if isinstance(numbers, Mapping) and all(isinstance(name, str) for name in entries):
            _check_agreement(entries, numbers, what)
    return read_names(names, what)


def names_its_own(dataset: Any) -> bool:
    """Whether a Subset or a ConcatDataset was given names of its own, which are of labels as it hands them out."""
    return any(attribute_of(dataset, name) is not None for name in ("classes", "class_to_idx"))


def attribute_of(dataset: Any, name: str) -> Any:
    """An attribute of a user's own dataset; None where it has none.

    Raises:
        UsageError: It is computed, and that fails.
    """
    try:
        return getattr(dataset, name, None)
    except NotImplementedError:  # a base class's, for those that have one
        return None
    except Exception as error:  # a user's own code may raise anything
        raise UsageError(
            f"{type(dataset).__name__}.{name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _by_their_ids(entries: Sequence[Any]) -> dict[int, Any] | None:
    """Number -> entry of records of classes that say their ``id``, without those below 0, which number none; None where
    they are others.
    """
    records = [class_record(entry) for entry in entries]
    stated = [None if record is None else plain_number(record.get("id")) for record in records]
    ids = [number for number in stated if isinstance(number, int)]
    if not ids or len({*ids}) < len(stated):
        return None
    return {number: entry for number, entry in zip(ids, entries, strict=True) if number >= 0}


def _in_order(names: Mapping[Any, Any], what: str) -> list[Any] | None:
    """Names in the order of their numbers; None where the numbers, as a line says, are not those from 0 on, or where it
    is another mapping.
    """
    pairs = [*names.items()]
    if pairs and all(isinstance(plain_number(key), int) for key in names):
        pairs = [(name, number) for number, name in pairs]
    if not all(_NUMBER.fullmatch(str(plain_number(number))) for _, number in pairs):
        return None
    named: dict[int, Any] = {}
    for name, text in pairs:
        number = int(str(plain_number(text)))
        if number in named:
            note_once(
                f"{what}: class {number} is called both {named[number]} and {name}, so its classes have no names here: "
                "give a list classes with one name for each"
            )
            return None
        named[number] = name
    missing = [number for number in range(len(named)) if number not in named]
    if missing:
        note_once(
            f"{what} has {len(named)} names with the numbers {min(named)} to {max(named)}, and none for class "
            f"{missing[0]}, so its classes have no names here: number them from 0 without gaps"
        )
        return None
    return [named[number] for number in range(len(named))]


def _check_agreement(names: list[str], numbers: Mapping[Any, Any], what: str) -> None:
    """Refuse a name that has another place in ``names`` than its number in ``class_to_idx``."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    for place, name in enumerate(names):
        number = plain_number(numbers.get(name))
        if isinstance(number, int) and name not in repeated and number != place:
            raise UsageError(
                f"{what} has {name} at {place}, and class_to_idx says that it is class {number}: correct one of them, "
                "or take it away"
            )
