"""What a packed HDF5 file holds, read to its last value, so that a damaged one is found out."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .hdf5 import open_packed
from .packed_attributes import class_names
from .packed_camera import stored_intrinsics, stored_unit
from .packed_classes import is_list_of_names, stored_names

_BYTES_AT_ONCE = 1 << 26


def describe_packed(path: str | PathLike, *, target: str = "target") -> dict[str, Any]:
    """Splits, fields, shapes, dtypes, ranges of values and samples a class of a packed file; plain values, ready for
    JSON.

    Args:
        target: The field of classes.

    Returns:
        ``path``, ``bytes``, ``classes`` (names or None), ``semantic_classes`` (names of the values of label maps, or
        None), ``depth_unit`` (or None), ``intrinsics`` (fx, fy, cx, cy in pixels, or None), ``splits``: name ->
        ``samples`` (None where the fields differ) and ``fields``: name -> ``shape``, ``dtype``, ``min``, ``max`` and,
        for the target, ``classes`` and ``per_class``.

    Raises:
        UsageError: There is no such file, or its ``classes``, ``depth_unit`` or ``intrinsics`` are none.
        ContrastillError: It is truncated or damaged.
    """
    with open_packed(path) as file:
        splits = {name: _split(group, target) for name, group in file.items() if isinstance(group, h5py.Group)}
        named = {"classes": stored_names(file, target), "semantic_classes": class_names(file, "semantic_classes")}
        intrinsics = stored_intrinsics(file)
        camera = {"depth_unit": stored_unit(file), "intrinsics": None if intrinsics is None else list(intrinsics)}
        return {"path": str(path), "bytes": Path(path).expanduser().stat().st_size, **named, **camera, "splits": splits}


def _split(group: h5py.Group, target: str) -> dict[str, Any]:
    stored = {name: field for name, field in group.items() if isinstance(field, h5py.Dataset)}
    fields = {name: _field(field, is_target=name == target) for name, field in stored.items()}
    # There are as many names of classes as classes.
    of_samples = [name for name, field in stored.items() if not is_list_of_names(field, target)] or [*fields]
    lengths = {next(iter(fields[name]["shape"]), 0) for name in of_samples}
    return {"samples": lengths.pop() if len(lengths) == 1 else None, "fields": fields}


def _field(field: h5py.Dataset, *, is_target: bool) -> dict[str, Any]:
    numeric = field.dtype.kind in "iufb"
    description: dict[str, Any] = {"shape": list(field.shape or ()), "dtype": field.dtype.name if numeric else "text"}
    ranges = [(part.min().item(), part.max().item()) for part in _parts(field) if numeric and part.size]
    if ranges:
        description |= {"min": min(low for low, _ in ranges), "max": max(high for _, high in ranges)}
    if is_target and field.ndim == 1 and field.dtype.kind in "iu" and len(field):
        counts = np.unique(field[()], return_counts=True)[1]
        description |= {"classes": len(counts), "per_class": {"min": int(counts.min()), "max": int(counts.max())}}
    return description


def _parts(field: h5py.Dataset) -> Iterator[np.ndarray]:
    """The values in pieces of bounded size, without NaN and infinities."""
    if field.shape is None:  # declared without a dataspace
        return
    rows = max(1, _BYTES_AT_ONCE // max(1, field.nbytes // max(1, len(field)))) if field.shape else 1
    for begin in range(0, len(field) if field.shape else 1, rows):
        part = np.asarray(field[begin : begin + rows] if field.shape else field[()])
        yield part[np.isfinite(part)] if part.dtype.kind == "f" else part
