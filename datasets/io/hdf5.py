"""Opening packed files, and the words that their errors use."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...core.errors import ContrastillError, UsageError, looked_in, names_beside, nearest
from ...core.value_scale import note_once

SUFFIXES = (".h5", ".hdf5")


@contextmanager
def open_packed(path: str | PathLike) -> Iterator[h5py.File]:
    """The file, opened for reading.

    Raises:
        UsageError: There is no such file.
        ContrastillError: It is truncated, damaged or no HDF5, now or while it is read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a packed HDF5 file: contrastill data pack makes one")
        raise UsageError(
            f"{path} does not exist{looked_in(path)}: "
            f"{nearest(str(path), names_beside(path), 'name a packed HDF5 file that is there')}"
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        # h5py says damage in any of the three: KeyError for a lost group, RuntimeError for a lost link table.
        raise ContrastillError(
            f"{path} cannot be read: it is truncated, damaged or no HDF5 file; copy or pack it again ({error})"
        ) from error


def check_coding(
    field: h5py.Dataset, where: str, void: Collection[float] = (), *, labels: np.ndarray | None = None
) -> None:
    """Complain of values that are not in the file, and of attributes by which netCDF and its kin decode stored ones, as
    nothing here applies them.

    Args:
        field: A field of images, or of classes.
        where: Of it, for the message.
        void: Values that stand for nothing measured here too.
        labels: What a field of classes holds, where another value for none does no harm as long as it does not occur.

    Raises:
        UsageError: Values are scaled or shifted, another value stands for nothing measured, or they lie in another
            file that is not there.
    """
    if field.is_virtual:
        folder = Path(field.file.filename).parent
        sources = [source.file_name for source in field.virtual_sources() if source.file_name != "."]
        lacking = next((name for name in sources if not (folder / name).is_file() and not Path(name).is_file()), None)
        if lacking is not None and "%" not in lacking:  # HDF5 fills a pattern of names itself
            raise UsageError(
                f"{where} is a virtual dataset of {lacking}, which is not there, and would be read as the fill value "
                f"{field.fillvalue}: put that file back beside {Path(field.file.filename).name}"
            )
    elif field.chunks is not None and field.size:
        chunks = math.prod(-(-length // part) for length, part in zip(field.shape, field.chunks, strict=True))
        if (written := field.id.get_num_chunks()) < chunks:
            note_once(
                f"{where}: {chunks - written} of {chunks} chunks were never written, as where a program was stopped, "
                f"and are read as {field.fillvalue}"
            )
    for attribute, plain in (("scale_factor", 1), ("add_offset", 0)):
        value = field.attrs.get(attribute)
        if value is not None and np.any(np.asarray(value) != plain):
            raise UsageError(
                f"{where} has the attribute {attribute} = {_shown(value)}, which is not applied here: "
                "store the decoded values, and delete the attribute"
            )
    for attribute in ("_FillValue", "missing_value"):
        values = np.asarray(field.attrs.get(attribute, np.nan)).ravel()
        values = values[:0] if values.dtype.kind not in "iufb" else values  # a text is no value of a number's field
        if labels is not None:
            if np.isin(values, labels).any():
                raise UsageError(
                    f"{where} has the attribute {attribute} = {values[0]:g}, which would be read as a class: leave out "
                    "the samples of it, and delete the attribute"
                )
        elif any(value == value and value not in void for value in values):
            raise UsageError(
                f"{where} has the attribute {attribute} = {values[0]:g}, which would be read as a value: store NaN in "
                "its place, and delete the attribute"
            )


def _shown(attribute: Any) -> str:
    """The first value of an attribute, for messages."""
    values = np.asarray(attribute).ravel()
    return f"{values[0]:g}" if values.dtype.kind in "iufb" else str(values[0])


def location(group: h5py.Group, field: str | None = None) -> str:
    """``FILE:GROUP/FIELD``."""
    return f"{group.file.filename}:{group.name.strip('/')}{'/' + field if field else ''}"
