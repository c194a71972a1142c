"""The camera that a data set's depth comes from: its unit, its intrinsics, and what crops, resizes and mirrors make of
them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from ...core.depth_marks import metres_of, not_measured
from ...core.errors import UsageError
from ...core.value_scale import BYTES, FLOATS, SIGNED_BYTES, shown_percent
from .values import warn_once

log = logging.getLogger(__name__)

NAMED_UNITS = ("m", "mm", "relative")
_OTHERS = {"cm": 0.01, "dm": 0.1, "km": 1000, "um": 1e-6, "µm": 1e-6, "in": 0.0254, "inch": 0.0254, "ft": 0.3048}


def _checked_unit(value: Any) -> Any:
    """``value``, if it is a named unit or a number of metres.

    Raises:
        ValueError: It is neither, with the number of metres where it names another unit.
    """
    if value in NAMED_UNITS:
        return value
    try:
        metres = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        metres = math.nan
    if not 0 < metres < math.inf:
        name = value if isinstance(value, str) and value in _OTHERS else "cm"
        raise ValueError(
            f"it is one of {', '.join(NAMED_UNITS)}, or the metres of one step, as {_OTHERS[name]:g} for {name}"
        )
    return value


Unit = Annotated[
    Literal["m", "mm", "relative"] | Annotated[float, Field(gt=0, allow_inf_nan=False)], BeforeValidator(_checked_unit)
]
"""Of stored depth: metres, millimetres, a scale that differs from frame to frame, or the metres of one step: 0.0002
where 5000 are a metre.
"""
UNIT_HELP = (
    "m, mm, relative, or the metres of one step, as 0.0002 (TUM: 5000 to a metre) or 0.00390625 (KITTI: 256); null:"
)


@dataclass(frozen=True)
class Camera:
    """What is known of the depth of a split.

    Attributes:
        unit: Of the stored values.
        intrinsics: fx, fy, cx, cy of a pinhole, in pixels of a stored frame; the centre of pixel (u, v) is at (u, v).
            None: not known.
        frame: Height and width of a stored frame of depth; None: not known.
    """

    unit: Unit
    intrinsics: tuple[float, float, float, float] | None = None
    frame: tuple[int, int] | None = field(default=None, compare=False)


# Focal lengths, in sides of a frame, and places of the principal point, in sides from the middle, that cameras have.
_FOCAL, _OFF_CENTRE = (0.2, 20.0), 0.25


def check_intrinsics(intrinsics: Sequence[float], size: tuple[int, int], where: object) -> None:
    """Refuse intrinsics that no camera of such frames has; those that hardly one has get a line.

    Args:
        intrinsics: fx, fy, cx, cy in pixels.
        size: Height and width of a frame.
        where: The file or folder, for the message.

    Raises:
        UsageError: A focal length is not above 0, the principal point is far outside of the frame, or one of them is no
            number.
    """
    fx, fy, cx, cy = intrinsics
    height, width = size
    shown = ", ".join(f"{value:g}" for value in intrinsics)
    what = f"{where}: intrinsics (fx, fy, cx, cy) = ({shown})"
    frames = f"its frames are {height}×{width} (height, width)"
    for name, value in (("fx", fx), ("fy", fy)):
        if not 0 < value < math.inf:
            raise UsageError(
                f"{what} have {name}={value:g}, and a focal length is above 0 and finite: set data.intrinsics to those "
                f"of the camera, in pixels; {frames}"
            )
    places = (("cx", cx, fx, width), ("cy", cy, fy, height))
    for name, value, _, side in places:
        # That of a frame which was cut out of a larger one may be beside it.
        if not -side <= value <= 2 * side:
            raise UsageError(
                f"{what} have {name}={value:g}, which is far outside of the frame: {frames}; if they are of frames of "
                "another size, scale them and set data.intrinsics, and mind the order fx, fy, cx, cy"
            )
    odd = [
        *(name for name, value, _, side in places if abs(value - side / 2) > _OFF_CENTRE * side),
        *(f"f{name[1]}" for name, _, focal, side in places if not _FOCAL[0] * side <= focal <= _FOCAL[1] * side),
    ]
    if odd:
        warn_once(
            f"{what} are unlikely in {' and '.join(odd)}, as {frames}: if they are of frames of another size, scale "
            "them, and mind the order fx, fy, cx, cy",
            size,
        )


def view_camera(
    intrinsics: tuple[float, float, float, float],
    *,
    top: Tensor,
    left: Tensor,
    height: Tensor | int,
    width: Tensor | int,
    size: tuple[int, int],
    flip: Tensor,
) -> Tensor:
    """The intrinsics of views that were cut out of a frame, resized, then mirrored.

    Args:
        intrinsics: Of the whole frame.
        top, left: (B,) upper left pixel of each cut, in pixels of the frame; may be negative where a border was added.
        height, width: Of each cut, in pixels of the frame.
        size: Height and width of the views.
        flip: (B,) bool, mirrored left to right.

    Shape:
        - returns (B, 4) float32: fx, fy, cx, cy in pixels of the view.
    """
    fx, fy, cx, cy = intrinsics
    down, across = (
        size[0] / torch.as_tensor(height, dtype=torch.float32),
        size[1] / torch.as_tensor(width, dtype=torch.float32),
    )
    # Pixel centres are at whole numbers, so it is the pixels' edges, half a pixel away, that scale.
    x = (cx - left.float() + 0.5) * across - 0.5
    y = (cy - top.float() + 0.5) * down - 0.5
    x = torch.where(flip, size[1] - 1 - x, x)
    return torch.stack(torch.broadcast_tensors(fx * across, fy * down, x, y), 1)


def in_metres(depth: Tensor, unit: Unit | None) -> Tensor:
    """Stored depth as float32 in metres, or as it is where the unit is relative or not known."""
    metres = metres_of(unit)
    # A division by 1000 gives the float nearest to the metres, so both units end in the same bits.
    return depth.float() if metres is None else depth.float() / (1 / metres)


def clean_depth(depth: Tensor, camera: Camera | None) -> Tensor:
    """Stored depth as metres, or as it is if it is relative or its unit is not known; NaN where it is a mark of nothing
    measured, see :func:`not_measured`.

    Shape:
        - depth: (B, 1, H, W), in the camera's unit - returns (B, 1, H, W) float32.

    Raises:
        UsageError: depth is in half precision.
    """
    if depth.dtype in (torch.float16, torch.bfloat16):
        raise UsageError(
            f"depth of {depth.dtype} has lost millimetres to metres of what was measured: store it as float32, or "
            "as whole millimetres"
        )
    unit = None if camera is None else camera.unit
    values = in_metres(depth, unit)
    return torch.where(not_measured(values, unit), torch.nan, values)


# Share of the highest value, and times as high as all others, that no surface has.
_SPIKE, _BEYOND = 0.01, 2
# Medians of whole frames that a room, a street or a table can have.
_PLAUSIBLE = {"m": (0.05, 100.0), "mm": (50.0, 100_000.0)}


def unit_of(kind: str) -> Unit:
    """What depth of a :func:`~.values.number_kind` is taken to be in by default: floats metres, 8 bits
    relative, wider integers millimetres.
    """
    units: dict[str, Unit] = {FLOATS: "m", BYTES: "relative", SIGNED_BYTES: "relative"}
    return units.get(kind, "mm")


def warn_of_unit(depth: Tensor, unit: Unit, where: object, key: object = None) -> None:
    """Log a warning if depth can hardly be in its unit, which of its values are taken for marks of nothing measured,
    beside 0 and NaN, and which may be one.

    Args:
        depth: A few frames, any shape, as stored.
        unit: Their declared unit.
        where: The file or folder, for the message.
        key: Marks are logged once for each place and key.
    """
    marks = not_measured(in_metres(depth, unit), unit)
    odd = depth[marks & (depth != 0) & ~depth.isnan()].float()
    if len(odd):
        shown = ", ".join(f"{value:g}" for value in odd.unique()[:3].tolist())
        warn_once(
            f"{where}: depth of {shown} ({unit}; {shown_percent(len(odd) / depth.numel())} of the values read) is "
            "taken for not measured, as 0 is",
            key,
        )
    valid = depth[~marks].float()
    if metres_of(unit) is None or not len(valid):
        return
    top = valid.max()
    share, below = float((valid == top).sum() / depth.numel()), valid[valid < top]
    if share > _SPIKE and len(below) and top > _BEYOND * below.max():
        warn_once(
            f"{where}: {shown_percent(share)} of the depth values read are {top:g} ({unit}), and the next are up to "
            f"{below.max():g}: if it marks what was not measured, store 0 or NaN there",
            key,
        )
    low, high = _PLAUSIBLE[unit] if isinstance(unit, str) else (bound / unit for bound in _PLAUSIBLE["m"])
    if not low <= valid.median() <= high:
        likely = next(
            (name for name, (least, most) in _PLAUSIBLE.items() if least <= valid.median() <= most), "relative"
        )
        log.warning(
            "%s: depth goes from %.4g to %.4g (median %.4g), which can hardly be %s: set data.depth_unit=%s, "
            "or what it is",
            where, valid.min(), valid.max(), valid.median(), unit, likely,
        )  # fmt: skip
