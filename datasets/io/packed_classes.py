"""The classes of the samples in a packed file, stored as integers or as names."""

from __future__ import annotations

from collections.abc import Iterable

import h5py
import numpy as np
import torch

from ...core.classes import check_highest_class, listed, read_names
from ...core.errors import UsageError
from ...core.label_vectors import NUMBER_FOR_EACH, Labels, check_one_form, is_vectors, read_label_vectors
from .hdf5 import check_coding, class_names, location
from .values import warn_of_gaps


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
        named: Whether the attribute ``classes`` holds their names.

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
    if _is_text(first):
        texts = {key: field.asstr()[()].reshape(-1) for key, field in read.items()}
        values, classes = _numbered(texts, classes, f"{file.filename}: {name}")
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


def _form(field: h5py.Dataset) -> str:
    return NUMBER_FOR_EACH if is_vectors(field) else "names of classes" if _is_text(field) else "numbers of classes"


def _class_names(file: h5py.File, groups: Iterable[str]) -> list[str] | None:
    """The names that the file's attribute has, or that its splits have, or a list of texts beside them."""
    names, where = class_names(file), "the attribute classes"
    if names is None:
        own = {key: stored for key in groups if (stored := class_names(file[key]))}
        for key, stored in own.items():
            first = next(iter(own))
            if stored != own[first]:
                raise UsageError(
                    f"{file.filename}: {first} names the classes {listed(own[first])}, and {key} {listed(stored)}: "
                    "number both by one list, and write it as file.attrs['classes']"
                )
        names = next(iter(own.values()), None)
    stored = file.get("classes")
    if names is None and isinstance(stored, h5py.Dataset) and stored.ndim == 1 and _is_text(stored):
        names, where = stored.asstr()[()].tolist(), "classes"
    return read_names(names, f"{file.filename}: {where}") if names else None


def _numbered(
    names: dict[str, np.ndarray], classes: list[str] | None, where: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Names of classes as numbers, in the order of ``classes``, or of the sorted names of all splits; and that order.

    Raises:
        UsageError: A sample has no name, ``classes`` lack one, or without them a class is in a further split alone.
    """
    for key, part in names.items():
        if len(blank := np.flatnonzero(part == "")):
            raise UsageError(f"{where} of sample {blank[0]} of {key} is empty: leave out samples without a class")
        if classes is not None and (unknown := sorted({*part.tolist()} - {*classes})):
            raise UsageError(
                f"{where} of {key} has the class {unknown[0]}, which the attribute classes lacks ({listed(classes)}): "
                "add it there, or delete the attribute"
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
    return {
        key: np.array([number[name] for name in part.tolist()], dtype=np.int64) for key, part in names.items()
    }, classes
