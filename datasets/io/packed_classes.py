"""The classes of the samples in a packed file, stored as integers, as names, or as integers with an enum of names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import h5py
import numpy as np
import torch

from ...core.classes import check_highest_class, check_numbers, listed, read_names
from ...core.errors import UsageError
from ...core.label_vectors import NUMBER_FOR_EACH, Labels, check_one_form, is_vectors, read_label_vectors
from ...core.value_scale import note_once
from .hdf5 import check_coding, location
from .packed_attributes import class_names, decoded
from .packed_splits import USUAL_GROUPS
from .values import warn_of_gaps

_ATTRIBUTE = "the attribute classes"
_NAMES = "names of classes"


def read_classes(
    file: h5py.File, name: str, groups: Iterable[str], training: Collection[str], *, named: bool = True
) -> tuple[dict[str, Labels], int, list[str] | None]:
    """Labels of all samples of each group, the number of classes of the data set, and their names.

    Args:
        file: The packed file.
        name: Field of the classes.
        groups: Of both splits of the data set, which number their classes together, those of training first.
        training: The groups of the training split; empty: there is none.
        named: Whether what is called ``classes`` holds their names.

    Raises:
        UsageError: The field is no list of integers or names and no numbers (N, C), or of another form in another
            group, or has classes that the file does not name.
    """
    read = {key: file[key][name] for key in groups if isinstance(file.get(key), h5py.Group) and name in file[key]}
    for key, field in read.items():
        # A field without a dataspace has no shape at all.
        one_each = field.ndim == 1 or (field.ndim == 2 and field.shape[1] == 1)
        if field.ndim == 0 or not (is_vectors(field) or (one_each and (field.dtype.kind in "iu" or _is_text(field)))):
            way = "if these number classes, store target.astype('int64'); " if field.dtype.kind in "fb" else ""
            raise UsageError(
                f"{location(file[key], name)} is {field.dtype} {field.shape}: classes are integers or names, "
                f"(N,), or numbers (N, C) of C classes; {way}data.target=null leaves them out"
            )
        if field.dtype.kind in "iuf":
            check_coding(field, location(file[key], name), labels=field[()])
    check_one_form({f"{file.filename}:{key}": _form(field) for key, field in read.items()})
    classes = _class_names(file, read, name) if named else None
    first = next(iter(read.values()))
    if is_vectors(first):
        return _vectors({key: field[()] for key, field in read.items()}, file, classes)
    if _is_named(first):
        texts = {key: _texts(field) for key, field in read.items()}
        source = _ATTRIBUTE
        if classes is None and _enum(first) is not None:
            source, classes = _enum_names(read, training)
        values, classes = _numbered(texts, classes, training, f"{file.filename}: {name}", source)
    else:
        values = {key: field[()].reshape(-1).astype(np.int64) for key, field in read.items()}
    highest = max((int(part.max()) for part in values.values() if len(part)), default=-1)
    lowest = min((int(part.min()) for part in values.values() if len(part)), default=0)
    if lowest < 0 or (classes is not None and highest >= len(classes)):
        known = f"0 to {len(classes) - 1}" if classes is not None else "0 upwards"
        raise UsageError(f"{file.filename}: {name} goes from {lowest} to {highest}, classes are {known}")
    check_highest_class(highest)
    trained = [part for key, part in values.items() if key in training]
    if classes is None and trained:
        warn_of_gaps(np.concatenate(trained), file.filename)
    labels = {key: Labels(torch.from_numpy(part), None) for key, part in values.items()}
    return labels, len(classes) if classes is not None else highest + 1, classes


def stored_names(file: h5py.File, name: str) -> list[str] | None:
    """Names of the classes as :func:`read_classes` has them, of the usual splits, or else of all groups; None where
    there are none.

    Args:
        file: The packed file.
        name: Field of the classes.

    Raises:
        UsageError: The groups name them differently, or a name is no UTF-8.
    """
    groups = [key for key in USUAL_GROUPS if isinstance(file.get(key), h5py.Group)]
    groups = groups or [key for key, item in file.items() if isinstance(item, h5py.Group)]
    read = {key: file[key][name] for key in groups if isinstance(file[key].get(name), h5py.Dataset)}
    read = {key: field for key, field in read.items() if field.ndim}
    if (names := _class_names(file, read, name)) is not None or not read:
        return names
    if _enum(next(iter(read.values()))) is not None:
        return _enum_names(read, "train")[1]
    texts = [_decoded_texts(field).ravel().tolist() for field in read.values() if _is_text(field)]
    return sorted({text for part in texts for text in part}) or None


def is_list_of_names(field: h5py.Dataset, target: str) -> bool:
    """Whether a field may be the names of classes, and no values of samples."""
    return field.name.rpartition("/")[2] == "classes" != target and field.ndim == 1 and _is_text(field)


def _vectors(
    values: dict[str, np.ndarray], file: h5py.File, classes: list[str] | None
) -> tuple[dict[str, Labels], int, list[str] | None]:
    """Labels that hold a number for each class."""
    labels, count = read_label_vectors(values, file.filename), next(iter(values.values())).shape[1]
    if classes is not None and len(classes) != count:
        raise UsageError(f"{file.filename} names {len(classes)} classes, and its labels are of {count}")
    return labels, count, classes


def _is_text(field: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(field.dtype) is not None


def _enum(field: h5py.Dataset) -> dict[int, str] | None:
    """The names that the field's type itself has for its integers, in their order; None where it has none."""
    numbers = h5py.check_enum_dtype(field.dtype)
    if numbers is None:
        return None
    where = f"the enum of {location(field)}"
    return {number: decoded(name, where) for name, number in sorted(numbers.items(), key=lambda pair: pair[1])}


def _enum_names(read: Mapping[str, h5py.Dataset], training: Collection[str]) -> tuple[str, list[str]]:
    """Where the names of classes are, and the names, by the enum of the first group, which others of the training
    split add theirs to.

    Args:
        read: Key of a group -> its field of the classes; the first has an enum.
        training: Keys of the groups of the training split.
    """
    first = next(iter(read))
    enums = {key: enum for key, field in read.items() if (enum := _enum(field)) and (key in training or key == first)}
    listings = [read_names(enum.values(), f"the enum of {location(read[key])}") for key, enum in enums.items()]
    return f"the enum of {' and '.join(enums)}", [*dict.fromkeys(name for names in listings for name in names)]


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
        return _decoded_texts(field).reshape(-1)
    numbers = field[()].reshape(-1).tolist()
    for sample, number in enumerate(numbers):
        if number not in enum:
            raise UsageError(
                f"{location(field)} of sample {sample} is {number}, which its enum does not name "
                f"({listed([*enum.values()])}): name it, or leave out samples without a class"
            )
    return np.array([enum[number] for number in numbers], dtype=object)


def _decoded_texts(field: h5py.Dataset) -> np.ndarray:
    """The texts of a field.

    Raises:
        UsageError: One is no UTF-8.
    """
    texts, where = field[()], location(field)
    return np.array([decoded(text, where) for text in texts.flat], dtype=object).reshape(texts.shape)


def _class_names(file: h5py.File, read: Mapping[str, h5py.Dataset], target: str) -> list[str] | None:
    """The names that the file's attribute has, or that its splits have, or a list of texts beside them.

    Args:
        file: The packed file.
        read: Key of a group -> its field of the classes.
        target: Name of that field.
    """
    names, where = class_names(file), _ATTRIBUTE
    if names is None:
        own = {key: stored for key, field in read.items() if (stored := _names_in_group(file[key], field, target))}
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


def _names_in_group(group: h5py.Group, field: h5py.Dataset, target: str) -> list[str] | None:
    """The names in the attribute ``classes`` of a split, or in a list beside its fields."""
    stored = class_names(group)
    if stored is None and target != "classes":
        stored = _listed_names(group)
        # Texts of the samples, not of the classes: one for each, and some of them twice.
        if stored is not None and len(stored) == len(field) and len({*stored}) < len(stored):
            return None
    return stored


def _listed_names(group: h5py.Group) -> list[str] | None:
    stored = group.get("classes")
    if isinstance(stored, h5py.Dataset) and stored.ndim == 1 and _is_text(stored):
        return _decoded_texts(stored).tolist()
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
    names: dict[str, np.ndarray], classes: list[str] | None, training: Collection[str], where: str, source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Names of classes as numbers, in the order of ``classes``, which are in ``source``, or of the sorted names of all
    groups; and that order.

    Raises:
        UsageError: A sample has no name, ``classes`` lack one, or without them a class is in no group of the
            ``training`` split, where there is one.
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
        trained = [key for key in names if key in training]
        known = {name for key in trained for name in names[key].tolist()}
        for key in names:
            if trained and (unknown := sorted({*names[key].tolist()} - known)):
                lacking = f"the split {trained[0]} lacks" if len(trained) == 1 else f"{' and '.join(trained)} lack"
                raise UsageError(f"the split {key} has the class {unknown[0]}, which {lacking}: add it there")
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
