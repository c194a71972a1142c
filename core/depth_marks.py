"""Which values of depth stand for nothing measured."""

from __future__ import annotations

from typing import Any

from torch import Tensor

SATURATED = 65.535
"""Metres: the highest of 16 bits in millimetres, which many sensors store where nothing was measured."""
_FARTHEST = 1e4  # metres; beyond, and beyond the other in an unknown unit, a value is a mark: no sensor measures there
_HUGEST = 1e9
_METRES = {"m": 1.0, "mm": 1e-3}


def metres_of(unit: str | float | None) -> float | None:
    """Metres to a stored unit; None: relative, or not known."""
    if unit is None:
        return None
    return _METRES.get(unit) if isinstance(unit, str) else float(unit)


def not_measured(depth: Tensor, unit: str | float | None) -> Tensor:
    """Where depth is a mark of nothing measured: 0, negative, NaN, infinite; in metres and millimetres also 65.535 m,
    the highest of 16 bits, in other steps 65535 of them, and 10 km or more.

    Args:
        depth: Any shape, floats: in metres, of a relative or unknown unit as stored, where 1e9 and more is a mark.
        unit: Of what was stored; None: not known.
    """
    return ~measured_between(depth, depth, unit)


def measured_between(low: Any, high: Any, unit: str | float | None, *, stored: bool = False) -> Any:
    """Where no mark of nothing measured, see :func:`not_measured`, lies between two depths, themselves included.

    Args:
        low, high: Arrays or tensors of one shape.
        unit: Of what was stored; None: not known.
        stored: Whether they are in that unit; otherwise in metres.
    """
    metres = metres_of(unit)
    if metres is None:
        return (low > 0) & (high < _HUGEST)
    saturated, near = (SATURATED, 1e-4) if isinstance(unit, str) else (65535 * metres, metres / 4)
    step = metres if stored else 1.0
    farthest, below, above = (mark / step for mark in (_FARTHEST, saturated - near, saturated + near))
    # NaN is on neither side of anything.
    return (low > 0) & (high < farthest) & ~((low < above) & (high > below))
