"""Unit and intrinsics of the depth in a packed file."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from ...core.errors import UsageError
from .camera import NAMED_UNITS, Camera, check_intrinsics, unit_of
from .values import number_kind


def packed_camera(file: h5py.File, group: h5py.Group, options: Any) -> Camera | None:
    """Unit and intrinsics of the field of depth, from the options, from the file, or by its dtype.

    Args:
        file: Open.
        group: Of the split.
        options: With ``fields``, ``depth_unit`` and ``intrinsics``.

    Raises:
        UsageError: The file's own are none.
    """
    if "depth" not in options.fields:
        return None
    stored = file.attrs.get("depth_unit")
    dtype = group[options.fields["depth"]].dtype
    stored = stored.decode() if isinstance(stored, bytes) else stored
    unit: Any = options.depth_unit or stored or unit_of(number_kind(dtype))
    if not isinstance(unit, str):
        unit = float(unit)
    if unit not in NAMED_UNITS and not (isinstance(unit, float) and unit > 0):
        raise UsageError(
            f"{file.filename}: the attribute depth_unit is {unit}, and should be {', '.join(NAMED_UNITS)} or "
            "the metres of one step: set data.depth_unit"
        )
    intrinsics = options.intrinsics or file.attrs.get("intrinsics")
    if intrinsics is None:
        return Camera(unit)
    values = np.asarray(intrinsics)
    # Four numbers, or the matrix that has them.
    values = values[[0, 1, 0, 1], [0, 1, 2, 2]] if values.shape == (3, 3) else values
    if values.shape != (4,) or values.dtype.kind not in "iuf":
        raise UsageError(
            f"{file.filename}: the attribute intrinsics has the shape {values.shape}: it holds fx, fy, cx, "
            "cy, or the matrix (3, 3) of them"
        )
    fx, fy, cx, cy = map(float, values)
    # (N, H, W), (N, H, W, 1) or (N, 1, H, W), as the file has them.
    sides = [side for side in group[options.fields["depth"]].shape[1:] if side > 1]
    if len(sides) == 2:
        check_intrinsics((fx, fy, cx, cy), (sides[0], sides[1]), file.filename)
    return Camera(unit, (fx, fy, cx, cy))
