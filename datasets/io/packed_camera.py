"""Unit and intrinsics of the depth in a packed file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import h5py
import numpy as np

from ...core.errors import UsageError
from .camera import NAMED_UNITS, Camera, Unit, check_intrinsics, unit_of
from .packed_attributes import single_value
from .packed_groups import GroupSamples
from .values import number_kind


def packed_camera(file: h5py.File, parts: Sequence[GroupSamples], options: Any) -> Camera | None:
    """Unit and intrinsics of the field of depth, from the options, from the file, or by its dtype.

    Args:
        file: Open.
        parts: The groups of the split.
        options: With ``fields``, ``depth_unit`` and ``intrinsics``.

    Raises:
        UsageError: The file's own are none, or the unit by dtype differs between the groups.
    """
    if "depth" not in options.fields:
        return None
    name = options.fields["depth"]
    unit: Unit | None = options.depth_unit or stored_unit(file)
    if unit is None:
        units = [unit_of(number_kind(part.group[name].dtype)) for part in parts]
        unit, first = units[0], parts[0]
        for part, other in zip(parts, units, strict=True):
            if other != unit:
                raise UsageError(
                    f"the groups of data.splits differ in the unit of depth: {first.field(name)} is taken for {unit}, "
                    f"and {part.field(name)} for {other}: bring both to one unit in the file, with one kind of numbers"
                )
    stored = stored_intrinsics(file) if options.intrinsics is None else options.intrinsics
    if stored is None:
        return Camera(unit)
    # (N, H, W), (N, H, W, 1) or (N, 1, H, W), as the file has them.
    sides = [side for side in parts[0].group[name].shape[1:] if side > 1]
    if len(sides) != 2:
        return Camera(unit, stored)
    frame = sides[0], sides[1]
    check_intrinsics(stored, frame, file.filename)
    return Camera(unit, stored, frame)


def stored_unit(file: h5py.File) -> Unit | None:
    """The attribute ``depth_unit`` of a packed file; None where it has none.

    Raises:
        UsageError: It is no unit.
    """
    value = single_value(file, "depth_unit")
    if value is None or (isinstance(value, str) and value in NAMED_UNITS):
        return cast("Unit | None", value)
    try:
        metres = math.nan if isinstance(value, (bool, np.bool_)) else float(value)
    except (TypeError, ValueError):
        metres = math.nan
    if not 0 < metres < math.inf:
        raise UsageError(
            f"{file.filename}: the attribute depth_unit is {value}, and should be {', '.join(NAMED_UNITS)} or "
            "the metres of one step: set data.depth_unit, or write it anew"
        )
    return metres


def stored_intrinsics(file: h5py.File) -> tuple[float, float, float, float] | None:
    """The attribute ``intrinsics`` of a packed file, fx, fy, cx, cy in pixels; None where it has none.

    Raises:
        UsageError: It is neither these four numbers nor the matrix of them.
    """
    attribute = file.attrs.get("intrinsics")
    if attribute is None:
        return None
    values = np.asarray(attribute)
    numbers, holds = values.dtype.kind in "iuf", "it holds fx, fy, cx, cy, or the matrix (3, 3) of them"
    if not numbers or values.shape not in ((4,), (3, 3)):
        what = f"has the shape {values.shape}" if numbers else f"is {str(attribute)[:40]!r}"
        raise UsageError(f"{file.filename}: the attribute intrinsics {what}: {holds}")
    if values.shape == (3, 3):
        if values[2].tolist() != [0, 0, 1]:
            raise UsageError(
                f"{file.filename}: the attribute intrinsics is a matrix whose last row is "
                f"{', '.join(f'{value:g}' for value in values[2])}, and should be 0, 0, 1: {holds}, not transposed"
            )
        values = values[[0, 1, 0, 1], [0, 1, 2, 2]]
    fx, fy, cx, cy = map(float, values)
    return fx, fy, cx, cy
