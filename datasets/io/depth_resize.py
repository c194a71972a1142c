"""Metric depth between its pixels: interpolated within a surface, never across an edge or from what was not
measured.
"""

from __future__ import annotations

import numpy as np

from ...core.depth_marks import measured_between
from .camera import Unit

# Shares of the greatest of four inverse depths. A step that the slopes beside it leave unexplained by more than the
# first, 1 cm at 1 m, is an edge; one of the second is an edge in any case: hardly a surface is as steep.
_EDGE = 0.01
_STEEPEST = 0.2


def interpolated_depth(depth: np.ndarray, nearest: np.ndarray, y: np.ndarray, x: np.ndarray, unit: Unit) -> np.ndarray:
    """Depth at places between its pixels: bilinear in 1 / depth, which is linear across the picture of a plane, where
    the four pixels around a place were measured and lie on one surface; elsewhere that of the nearest pixel.

    Neighbours lie on one surface if their inverse depths differ by at most 1 %, or by 1 % from what the slope on one
    side of them goes on to, and by less than a fifth: so a slanted plane is one surface at any resolution, and an
    object and the wall behind it are two. Up to half a pixel outside the outermost pixels' centres the slope goes on.

    Args:
        depth: (H, W), as stored.
        nearest: (h, w), its values at the nearest pixels.
        y, x: (h,) and (w,), ascending; centres of pixels are at whole numbers.
        unit: Of ``depth``, a metric one.

    Returns:
        (h, w) float32, in the unit, not rounded to whole steps; ``nearest`` where all places are centres of pixels.
    """
    values = nearest.astype(np.float32, copy=False)
    if min(depth.shape) < 2 or ((y == np.rint(y)).all() and (x == np.rint(x)).all()):
        return values
    (rows, down), (columns, across) = _cells(y, depth.shape[0]), _cells(x, depth.shape[1])
    # Rows first, with all columns of the depth's: whole rows are copied fast.
    left, places = columns[0], columns - columns[0]
    part = depth[:, left : columns[-1] + 2]
    above, below = part[rows], part[rows + 1]
    with np.errstate(all="ignore"):
        smooth = _smooth(above, below, depth, rows, left, unit).take(places, axis=1)
        above, below = (np.divide(1, row, dtype=np.float32) for row in (above, below))
        inverse = _blended(above, below, down[:, None])
        inverse = _blended(inverse.take(places, axis=1), inverse.take(places + 1, axis=1), across)
        return np.where(smooth, np.divide(1, inverse, out=inverse), values)


def _cells(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first of the two pixels that each place lies between or beside, and the second's share."""
    first = np.clip(np.floor(places).astype(np.int64), 0, count - 2)
    return first, (places - first).astype(np.float32)


def _blended(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """first + (second − first) · share, in the memory of ``second``."""
    second -= first
    second *= share
    second += first
    return second


def _smooth(
    above: np.ndarray, below: np.ndarray, depth: np.ndarray, rows: np.ndarray, left: int, unit: Unit
) -> np.ndarray:
    """Where two neighbours of ``above`` and the two under them of ``below`` lie on one surface.

    Args:
        above, below: (h, w + 1), the ``rows`` of the depth, and the next ones, from the column ``left`` on.

    Returns:
        (h, w) bool.
    """
    low, high = np.minimum(above, below), np.maximum(above, below)
    low = np.minimum(low[:, :-1], low[:, 1:]).astype(np.float32, copy=False)
    high = np.maximum(high[:, :-1], high[:, 1:]).astype(np.float32, copy=False)
    possible = measured_between(low, high, unit, stored=True)
    # 1 − low / high: of the inverse depths too.
    spread = np.divide(np.subtract(high, low, out=low), high, out=low)
    possible &= spread < _STEEPEST
    smooth = possible & (spread <= _EDGE)
    # Few, as most surfaces are less steep: these need the pixels beyond the four.
    steep = np.flatnonzero(possible ^ smooth)
    if steep.size:
        row, column = np.unravel_index(steep, smooth.shape)
        smooth.flat[steep] = _slopes(depth, rows[row], column + left, unit)
    return smooth


def _slopes(depth: np.ndarray, rows: np.ndarray, columns: np.ndarray, unit: Unit) -> np.ndarray:
    """Whether the steps between four pixels, the first of which is at (N,) rows and columns, are those of a slope."""
    (height, width), pixels, around = depth.shape, depth.ravel(), np.arange(-1, 3)[:, None]
    y, x = np.clip(rows + around, 0, height - 1) * width, np.clip(columns + around, 0, width - 1)
    # (4, 4, N): the two rows and the two columns of the four, with a pixel beyond them on either side.
    lines = np.concatenate([pixels.take(y[1:3, None] + x), pixels.take(x[1:3, None] + y)]).astype(np.float32)
    inverse = 1 / np.where(measured_between(lines, lines, unit, stored=True), lines, np.nan)
    before, step, after = (inverse[:, 1:] - inverse[:, :-1]).swapaxes(0, 1)
    unexplained = np.fmin(abs(step), np.fmin(abs(step - before), abs(step - after)))
    return (unexplained <= _EDGE * inverse[:2, 1:3].max((0, 1))).all(0)
