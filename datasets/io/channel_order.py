"""Which side of an image's shape its channels are."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import UsageError
from .values import warn_once


def check_channel_order(name: str, shape: Sequence[int], where: str, way: str, *, first: bool) -> None:
    """Refuse an image whose channels stand at the other end: rows of pixels would be taken for them. Where channels are
    many and outnumber a side of the pixels, log once how the shape is read.

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
    if channels > max(4, min(sides)) and sides[0] != sides[1]:
        warn_once(f"{where}: {name} is read as {channels} channels of {sides[0]}×{sides[1]} pixels (height × width)")
