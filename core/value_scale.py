"""What the values of a network's modality were in its training, and whether other data can be of that scale."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from .depth_marks import metres_of
from .errors import UsageError

log = logging.getLogger(__name__)

MARGIN = 0.25
"""How far beyond [0, 1] resizing and augmentation take colours."""
OTHER_UNIT = 30
"""Times the deviation: metres and millimetres, or bytes and counts, are further apart."""
# Times the deviation, and times as wide or narrow, as other scenes hardly are.
_FAR, _WIDER = 4, 3
# Times the mean of what has a zero, as depth: relative and inverse depth vary about as much as metres do.
_HIGHER = 4
NEARLY_BLACK = 1.01 / 255
"""The highest colour in [0, 1] that is divided by 255 once more."""
BYTES = "8-bit integers"
SIGNED_BYTES = "signed 8-bit integers"
UNSIGNED_16 = "unsigned 16-bit integers"
FLOATS = "floats"


@dataclass(frozen=True)
class ValueScale:
    """What the values of a network's modality were in its training.

    Attributes:
        kind: Of the stored numbers, such as ``"8-bit integers"`` or ``"floats"``; None: not known.
        unit: Of depth as it was stored: ``"m"``, ``"mm"``, ``"relative"`` or the metres of one step; of others None.
        mean, std: Of each channel as the network read it, depth in metres; of ``rgb`` None.
        low, high: Of ``rgb`` in floats: the range of the training images.
    """

    kind: str | None = None
    unit: str | float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> ValueScale | None:
        """That of a student's recipe; None where it has none, as those of older versions."""
        return None if recipe.get("scale") is None else cls(**recipe["scale"])

    def to_recipe(self) -> dict[str, Any]:
        """What is known, as plain values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def stored(self) -> bool:
        """Whether the data had the values, in place of what they are made of; where it is not known, False."""
        return self.kind is not None

    @property
    def metres(self) -> float | None:
        """Metres to a stored unit; None: relative, or not depth."""
        return metres_of(self.unit)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std, where they are known."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    @property
    def in_unit_range(self) -> bool:
        """Whether colours were uint8, or floats in [0, 1]; where nothing else is known, they were."""
        return self.low is None or self.high is None or in_unit_range(self.low, self.high)

    def __str__(self) -> str:
        parts = [self.kind or "values"]
        if self.unit is not None:
            parts.append(f"in {self.unit}" if self.unit != "relative" else "without a unit (relative)")
        if self.statistics is not None:
            parts.append(f"of {shown_statistics(*self.statistics)}{' m' if self.metres else ''} (mean ± deviation)")
        return " ".join(parts)


def in_unit_range(low: float, high: float) -> bool:
    """Whether colours from ``low`` to ``high`` are in [0, 1], or as far beyond as resizing takes them."""
    return low >= -MARGIN and high <= 1 + MARGIN


def shown_statistics(mean: Sequence[float], std: Sequence[float]) -> str:
    """Mean ± deviation of each channel."""
    return ", ".join(f"{value:g} ± {deviation:g}" for value, deviation in zip(mean, std, strict=True))


def shown_percent(share: float) -> str:
    """A share in percent, of two figures.

    Example:
        >>> shown_percent(1.0), shown_percent(0.996), shown_percent(0.0123)
        ('100 %', '100 %', '1.2 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def compare_statistics(
    expected: tuple[Sequence[float], Sequence[float]],
    measured: tuple[Sequence[float], Sequence[float]],
    who: str,
    modality: str,
    *,
    notes: bool,
    narrow: bool = False,
    refuse: bool = True,
    takes: str = "was trained on",
    close: bool = False,
) -> bool:
    """Refuse a modality in another unit than that of a network's training; whether a line was logged.

    Args:
        expected: Mean and std of its training, a value for each channel.
        measured: Those of the data.
        who, modality: For the message.
        notes: Whether to log a line where they are far apart and may be right all the same.
        narrow: Whether values that vary by less than a thirtieth are refused too: of many samples, not of one batch.
        refuse: Whether ``expected`` are known to be of its training; else a line is logged in place of the error.
        takes: What ``expected`` are to the network, for the message.
        close: Whether what may be right elsewhere is refused, as of a network that was trained in another unit.

    Raises:
        UsageError: All channels are further off, or wider, than other scenes of one sensor make them.
    """
    channels = [*zip(*expected, *measured, strict=True)]
    text = (
        f"{who} {takes} {modality} of {shown_statistics(*expected)} (mean ± deviation), and that of this data "
        f"is {shown_statistics(*measured)}"
    )
    ours, theirs = (_range_of_directions(*statistics) for statistics in (expected, measured))
    if _are_other_directions(ours, theirs):
        message = f"{text}: directions (normals) in {ours} there and in {theirs} here, so bring them to {ours}"
        if refuse:
            raise UsageError(message)
        note_once(message)
        return True
    if _is_other_unit(channels, narrow):
        message = f"{text}: bring the data to its unit, or set mean and std of this network if they are meant to differ"
        if refuse:
            raise UsageError(message)
        note_once(message)
        return True
    if (notes or close) and _may_be_other_unit(channels, narrow):
        if close:
            raise UsageError(
                f"{text}, of another unit than that of its training: set mean and std to those of the data"
            )
        note_once(f"{text}: it is right only if both are in one unit")
        return True
    return False


def compare_splits(
    train: tuple[Sequence[float], Sequence[float]],
    test: tuple[Sequence[float], Sequence[float]],
    modality: str,
    *,
    refuse: bool,
    dark: bool,
) -> None:
    """Refuse a test split in another unit than the training split, or log one line where both may be right.

    Args:
        train, test: Mean and std of each, a value for each channel.
        modality: For the message.
        refuse: Whether enough is known to refuse; else a line is logged in place of the error.
        dark: Whether frames may be of values near 0 in its own unit, as pictures at night and no depths are.

    Raises:
        UsageError: They are further apart than other scenes of one sensor are.
    """
    channels = [*zip(*train, *test, strict=True)]
    other = _are_other_directions(_range_of_directions(*train), _range_of_directions(*test))
    if not other and not _is_other_unit(channels, True) and not _may_be_other_unit(channels, True):
        return
    text = (
        f"{modality} is {shown_statistics(*train)} in the training split and {shown_statistics(*test)} in the test "
        "split (mean ± deviation)"
    )
    # Near the mean of the training a narrow test split may be of one wall, or of darkness.
    certain = _is_other_unit(channels, False) or (
        _is_other_unit(channels, True)
        and all(
            abs(mean - its_mean) > _FAR * its_std or (not dark and _times_as_high(mean, std, its_mean, its_std))
            for its_mean, its_std, mean, std in channels
        )
    )
    if refuse and (other or certain):
        raise UsageError(f"{text}, in another unit: bring both to one, or leave the test split out")
    note_once(f"{text}: accuracies are right only if both are in one unit")


def compare_colours(train: float, test: float, *, refuse: bool) -> None:
    """Refuse a test split whose colours are nearly black where those of the training split are not, or the reverse, or
    log one line where both may be right.

    Args:
        train, test: The highest value of samples of each, in 0 … 1.
        refuse: Whether enough is known to refuse; else a line is logged in place of the error.

    Raises:
        UsageError: One is all black but for masks of 0 and 1 in bytes, or floats that somebody divided by 255 twice.
    """
    low, high = sorted((train, test))
    if low * OTHER_UNIT >= high:
        return
    dark, bright = ("test", "training") if test < train else ("training", "test")
    text = f"rgb goes to {low:.3g} in the {dark} split and to {high:.3g} in the {bright} split (1 is white)"
    if refuse and 0 < low <= NEARLY_BLACK:
        raise UsageError(
            f"{text}: the {dark} split is nearly black, as masks of 0 and 1 in bytes are, and floats that were divided "
            "by 255 twice: bring both to one scale, or leave the test split out"
        )
    note_once(f"{text}: accuracies are right only if both are in one scale")


def _is_other_unit(channels: Sequence[tuple[float, ...]], narrow: bool) -> bool:
    """Whether all channels, each of mean and std of the training and of the data, are further apart than other scenes
    make them.
    """
    return all(
        abs(mean - its_mean) > OTHER_UNIT * its_std
        or std > OTHER_UNIT * its_std
        or (narrow and std < its_std / OTHER_UNIT)
        for its_mean, its_std, mean, std in channels
    )


def _may_be_other_unit(channels: Sequence[tuple[float, ...]], narrow: bool) -> bool:
    """Whether they are further apart than other scenes mostly make them."""
    return all(
        0 < std
        and (
            abs(mean - its_mean) > _FAR * its_std
            or std > _WIDER * its_std
            or std < its_std / (_WIDER if narrow else OTHER_UNIT)
            or _times_as_high(mean, std, its_mean, its_std)
        )
        for its_mean, its_std, mean, std in channels
    )


def _are_other_directions(ours: str | None, theirs: str | None) -> bool:
    """Whether both are known ranges of vectors of length 1, and two."""
    return None not in (ours, theirs) and ours != theirs


def _times_as_high(mean: float, std: float, its_mean: float, its_std: float) -> bool:
    """Whether a mean is several times the other, of values that hardly have a sign."""
    if mean < std / 2 or its_mean < its_std / 2:
        return False
    return max(mean, its_mean) > _HIGHER * min(mean, its_mean)


def _range_of_directions(mean: Sequence[float], std: Sequence[float]) -> str | None:
    """The range in which vectors of length 1, such as normals, are written, by their second moments; None where they
    are no such vectors, or it is not clear.
    """
    if len(mean) != 3:
        return None
    channels = [*zip(mean, std, strict=True)]
    ranges = (("−1 … 1", 0.0, 1.0), ("0 … 1", 0.5, 0.5), ("0 … 255", 127.5, 127.5), ("0 … 65535", 32767.5, 32767.5))
    for name, zero, unit in ranges:
        square = sum(((value - zero) ** 2 + deviation**2) / unit**2 for value, deviation in channels)
        # Those with a sign have values below 0, the others none: uniform noise in 0 … 1 is of length 1 in either.
        signed = any(value < deviation for value, deviation in channels)
        if abs(square - 1) < 0.1 and signed == (zero == 0):
            return name
    return None


@lru_cache(maxsize=256)
def note_once(message: str) -> None:
    """Log a warning, once in a process."""
    log.warning("%s", message)
