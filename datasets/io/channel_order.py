"""Which side of an image's shape its channels are."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import UsageError
from .values import warn_once


def check_channel_order(name: str, shape: Sequence[int], where: str, way: str, *, first: bool) -> None:
    """Refuse an image whose channels stand at the other end: rows of pixels would be taken for them. Where the pixels
    of the other reading are more nearly square, as those of a small patch with many bands, or channels are as many as
    a side of the pixels, log once how the shape is read.

    Args:
        name: Of the modality.
        shape: Its three sides, as stored.
        where: What has them, for the message: ``depth is a tensor of shape (10, 12, 1)``.
        way: What to do.
        first: Whether channels are read from the first side; else the last.

    Raises:
        UsageError: A few beside wide sides, or fewer than the sides of a square.
    """
    channels, *sides = shape if first else (shape[2], *shape[:2])
    other, *rest = (shape[2], *shape[:2]) if first else shape
    if other <= 4 < min(rest) or (4 < other < rest[0] and rest[0] == rest[1]):
        raise UsageError(f"{where}: {way}")
    as_many = channels >= min(sides) and (channels > 4 or rest[0] == rest[1])
    if 1 < channels and sides[0] != sides[1] and (as_many or (channels > 4 and _aspect(sides) > 2 * _aspect(rest))):
        warn_once(f"{where}: {name} is read as {channels} channels of {sides[0]}×{sides[1]} pixels (height × width)")


def _aspect(sides: Sequence[int]) -> float:
    return max(sides) / max(min(sides), 1)
