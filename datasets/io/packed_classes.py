"""The classes of the samples in a packed file, stored as integers, as names, or as integers with an enum of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import h5py
import numpy as np
import torch

from ...core.classes import check_highest_class, check_numbers, listed, read_names
from ...core.errors import UsageError
from ...core.label_vectors import NUMBER_FOR_EACH, Labels, check_one_form, is_vectors, read_label_vectors
from ...core.value_scale import note_once
from .hdf5 import check_coding, class_names, location
from .values import warn_of_gaps

_ATTRIBUTE = "the attribute classes"
_NAMES = "names of classes"


def read_classes(
    file: h5py.File,
    group: h5py.Group,
    name: str,
    groups: Iterable[str],
    rows: slice | np.ndarray,
    *,
    named: bool = True,
) -> tuple[Labels, int, list[str] | None]:
    """Labels of the samples, the number of classes of the data set, and their names.

    Args:
        file: The packed file.
        group: The split that is read.
        name: Field of the classes.
        groups: All splits of the data set, which number their classes together.
        rows: Samples of the split.
        named: Whether what is called ``classes`` holds their names.

    Raises:
        UsageError: The field is no list of integers or names and no numbers (N, C), or of another form in another
            split, or has classes that the file does not name.
    """
    read = {key: file[key][name] for key in groups if isinstance(file.get(key), h5py.Group) and name in file[key]}
    for key, field in read.items():
        one_each = field.ndim == 1 or field.shape[1:] == (1,)
        if not is_vectors(field) and not (one_each and (field.dtype.kind in "iu" or _is_text(field))):
            way = "if these number classes, store target.astype('int64'); " if field.dtype.kind in "fb" else ""
            raise UsageError(
                f"{location(file[key], name)} is {field.dtype} {field.shape}: classes are integers or names, "
                f"(N,), or numbers (N, C) of C classes; {way}data.target=null leaves them out"
            )
        if field.dtype.kind in "iuf":
            check_coding(field, location(file[key], name), labels=field[()])
    check_one_form({f"{file.filename}:{key}": _form(field) for key, field in read.items()})
    classes = _class_names(file, read) if named else None
    first = next(iter(read.values()))
    if is_vectors(first):
        return _vectors({key: field[()] for key, field in read.items()}, file, group, rows, classes)
    if _is_named(first):
        texts = {key: _texts(field) for key, field in read.items()}
        source, (key, enum) = _ATTRIBUTE, (next(iter(read)), _enum(first))
        if classes is None and enum is not None:
            source, classes = f"the enum of {key}", read_names(enum.values(), f"the enum of {location(first)}")
        values, classes = _numbered(texts, classes, f"{file.filename}: {name}", source)
    else:
        values = {key: field[()].reshape(-1).astype(np.int64) for key, field in read.items()}
    highest = max((int(part.max()) for part in values.values() if len(part)), default=-1)
    lowest = min((int(part.min()) for part in values.values() if len(part)), default=0)
    if lowest < 0 or (classes is not None and highest >= len(classes)):
        known = f"0 to {len(classes) - 1}" if classes is not None else "0 upwards"
        raise UsageError(f"{file.filename}: {name} goes from {lowest} to {highest}, classes are {known}")
    split = group.name.strip("/")
    check_highest_class(highest)
    if classes is None:
        warn_of_gaps(next(iter(values.values())), file.filename)
    return (
        Labels(torch.from_numpy(values[split][rows].copy()), None),
        len(classes) if classes is not None else highest + 1,
        classes,
    )


def _vectors(
    values: dict[str, np.ndarray],
    file: h5py.File,
    group: h5py.Group,
    rows: slice | np.ndarray,
    classes: list[str] | None,
) -> tuple[Labels, int, list[str] | None]:
    """Labels that hold a number for each class."""
    labels, count = read_label_vectors(values, file.filename), next(iter(values.values())).shape[1]
    if classes is not None and len(classes) != count:
        raise UsageError(f"{file.filename} names {len(classes)} classes, and its labels are of {count}")
    own = labels[group.name.strip("/")]
    targets, vectors = (part if part is None else part[rows].clone() for part in (own.targets, own.vectors))
    return Labels(targets, vectors), count, classes


def _is_text(field: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(field.dtype) is not None


def _enum(field: h5py.Dataset) -> dict[int, str] | None:
    """The names that the field's type itself has for its integers, in their order; None where it has none."""
    numbers = h5py.check_enum_dtype(field.dtype)
    return None if numbers is None else dict(sorted((number, name) for name, number in numbers.items()))


def _is_named(field: h5py.Dataset) -> bool:
    """Whether the samples themselves have the names of their classes."""
    return _is_text(field) or _enum(field) is not None


def _form(field: h5py.Dataset) -> str:
    return NUMBER_FOR_EACH if is_vectors(field) else _NAMES if _is_named(field) else "numbers of classes"


def _texts(field: h5py.Dataset) -> np.ndarray:
    """The name of each sample's class (N,).

    Raises:
        UsageError: A number that the field's enum does not name.
    """
    enum = _enum(field)
    if enum is None:
        return field.asstr()[()].reshape(-1)
    numbers = field[()].reshape(-1).tolist()
    for sample, number in enumerate(numbers):
        if number not in enum:
            raise UsageError(
                f"{location(field)} of sample {sample} is {number}, which its enum does not name "
                f"({listed([*enum.values()])}): name it, or leave out samples without a class"
            )
    return np.array([enum[number] for number in numbers], dtype=object)


def _class_names(file: h5py.File, read: Mapping[str, h5py.Dataset]) -> list[str] | None:
    """The names that the file's attribute has, or that its splits have, or a list of texts beside them.

    Args:
        file: The packed file.
        read: Key of a group -> its field of the classes.
    """
    names, where = class_names(file), _ATTRIBUTE
    if names is None:
        own = {key: stored for key, field in read.items() if (stored := _names_in_group(file[key], field))}
        for key, stored in own.items():
            first = next(iter(own))
            if stored != own[first]:
                raise UsageError(
                    f"{file.filename}: {first} names the classes {listed(own[first])}, and {key} {listed(stored)}: "
                    "number both by one list, and write it as file.attrs['classes']"
                )
        for key, field in read.items():
            if own and key not in own and _form(field) != _NAMES:
                _match_numbers(file.filename, next(iter(own)), key, next(iter(own.values())))
        names = next(iter(own.values()), None)
    if names is None:
        names, where = _listed_names(file), "classes"
    return read_names(names, f"{file.filename}: {where}") if names else None


def _names_in_group(group: h5py.Group, field: h5py.Dataset) -> list[str] | None:
    """The names in the attribute ``classes`` of a split, or in a list beside its fields."""
    stored = class_names(group)
    if stored is None and field.name != f"{group.name}/classes":
        stored = _listed_names(group)
        # Texts of the samples, not of the classes: one for each, and some of them twice.
        if stored is not None and len(stored) == len(field) and len({*stored}) < len(stored):
            return None
    return stored


def _listed_names(group: h5py.Group) -> list[str] | None:
    stored = group.get("classes")
    if isinstance(stored, h5py.Dataset) and stored.ndim == 1 and _is_text(stored):
        return stored.asstr()[()].tolist()
    return None


def _match_numbers(where: str, named: str, nameless: str, names: list[str]) -> None:
    """Say that a split without names is matched by number with one that has some.

    Raises:
        UsageError: The names are numbers in another order.
    """
    way = "write them as file.attrs['classes']"
    check_numbers(names, f"{where}:{named}", f"{where}:{nameless}", way)
    note_once(
        f"{where}: the classes of {named} and {nameless} are matched by number alone, as {nameless} has no names for "
        f"them: {way}"
    )


def _numbered(
    names: dict[str, np.ndarray], classes: list[str] | None, where: str, source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Names of classes as numbers, in the order of ``classes``, which are in ``source``, or of the sorted names of all
    splits; and that order.

    Raises:
        UsageError: A sample has no name, ``classes`` lack one, or without them a class is in a further split alone.
    """
    for key, part in names.items():
        if len(blank := np.flatnonzero(part == "")):
            raise UsageError(f"{where} of sample {blank[0]} of {key} is empty: leave out samples without a class")
        if classes is not None and (unknown := sorted({*part.tolist()} - {*classes})):
            raise UsageError(
                f"{where} of {key} has the class {unknown[0]}, which {source} lacks ({listed(classes)}): "
                f"add it there{', or delete the attribute' if source == _ATTRIBUTE else ''}"
            )
    if classes is None:
        classes = sorted({name for part in names.values() for name in part.tolist()})
        first, *others = names
        for key in others:
            if unknown := sorted({*names[key].tolist()} - {*names[first].tolist()}):
                raise UsageError(
                    f"the split {key} has the class {unknown[0]}, which the split {first} lacks: add it there"
                )
    number = {name: place for place, name in enumerate(classes)}
    twice = next((name for place, name in enumerate(classes) if number[name] != place), None)
    if twice is not None:
        raise UsageError(
            f"{where} are names, and the attribute classes has {twice} more than once, so which class it is is not "
            "known: name each class once there, or delete the attribute"
        )
    return {
        key: np.array([number[name] for name in part.tolist()], dtype=np.int64) for key, part in names.items()
    }, classes
