"""The range of the colours that a dataset of one's own hands out as floats: one for all its samples, in both splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ...core.errors import ContrastillError, UsageError
from ...core.value_scale import OTHER_UNIT, in_unit_range
from .values import RGB

if TYPE_CHECKING:
    from .user_samples import UserSamples

_BYTES = 20.0  # floats that go higher, and never below 0, are bytes: normalised colours stay far below
_LOW = -0.5  # no colour in [0, 1] is lower, whatever resized or jittered it; normalised ones are
# As wide as [0, 1] is after a normalisation by a deviation of 0.2, those of usual data: dark samples alone say less.
_NORMALISED = 5.0


@dataclass(frozen=True)
class ValueRange:
    """Lowest and highest value that the colours of a sample may have.

    Attributes:
        low, high: Both of the range itself.
        margin: How far beyond a sample may go, as augmentation and other scenes take it.
    """

    low: float
    high: float
    margin: float

    @classmethod
    def of(cls, samples: Iterable[Tensor], name: str) -> ValueRange:
        """That of a few samples.

        Args:
            samples: Their colours, floats.
            name: Of the dataset, for the message.

        Raises:
            UsageError: They are bytes as floats, which nothing tells from normalised colours later.
        """
        limits = [(float(values.min()), float(values.max())) for values in samples]
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        if low >= 0 and high > _BYTES:
            raise UsageError(
                f"the images of {name} are floats from {low:.3g} to {high:.3g}: hand out uint8, or floats in [0, 1]"
            )
        return cls(low, high, max(high - low, 1.0 if in_unit_range(low, high) else _NORMALISED))

    def check(self, values: Tensor, where: str) -> None:
        """Complain of a sample in another range.

        Raises:
            ContrastillError: It is beyond the margin.
        """
        low, high = float(values.min()), float(values.max())
        if low < self.low - self.margin or high > self.high + self.margin:
            raise ContrastillError(
                f"{where} goes from {low:.3g} to {high:.3g}, and other samples from {self.low:.3g} to {self.high:.3g}: "
                "bring all samples of both datasets to one range"
            )

    def check_like(self, other: ValueRange, name: str) -> None:
        """Complain where one dataset is normalised, or scaled, and the other is not.

        Args:
            other: That of the test dataset.
            name: Of it, for the message.

        Raises:
            UsageError: Only one goes below 0, or beyond [0, 1], as normalised colours do; or one is far narrower.
        """
        spans = (
            f"the images of the test dataset {name} go from {other.low:.3g} to {other.high:.3g}, and those of the "
            f"training dataset from {self.low:.3g} to {self.high:.3g}"
        )
        units = [in_unit_range(part.low, part.high) for part in (self, other)]
        if units[0] != units[1] or (self.low < _LOW) != (other.low < _LOW):
            raise UsageError(f"{spans}: normalise both, or neither")
        low, high = sorted((self.high, other.high))
        if all(units) and 0 < low < high / OTHER_UNIT:
            raise UsageError(f"{spans}: bring both to one range, as uint8 or floats in [0, 1]")


UNIT = ValueRange(0.0, 1.0, 0.25)
"""Of colours in [0, 1], which resizing and augmentation may take a little beyond."""


def check_unit_range(colours: np.ndarray, where: str) -> None:
    """Refuse stored colours in floats that are not in [0, 1].

    Raises:
        UsageError: They are bytes as floats, normalised, or not finite.
    """
    if not np.isfinite(colours).all():
        raise UsageError(f"{where} holds NaN or infinite values: repair the images, or leave them out")
    if colours.min(initial=0) < 0 or colours.max(initial=0) > 1:
        raise UsageError(f"{where} goes from {colours.min():g} to {colours.max():g}: rgb is uint8, or floats in [0, 1]")


def share_range(train: UserSamples, test: UserSamples | None) -> None:
    """Have each sample of a training and a test dataset compared with the range that the training dataset's have.

    Args:
        train, test: Their ``rgb_range`` is set where they hand out floats, and nobody set it before.

    Raises:
        UsageError: Their ranges differ, or are those of bytes as floats.
    """
    ours = _range_of(train)
    if ours is None:
        return
    if test is not None and (theirs := _range_of(test)) is not None:
        ours.check_like(theirs, test.name)
    for samples in (train, test):
        if samples is not None and samples.rgb_range is None and samples.hands_out_float_colours:
            samples.rgb_range = ours


def _range_of(samples: UserSamples) -> ValueRange | None:
    """That of its colours, [0, 1] of uint8; None where it has none."""
    if samples.rgb_range is not None:
        return samples.rgb_range
    if samples.hands_out_float_colours:
        return ValueRange.of(samples.colours(), samples.name)
    return UNIT if RGB in samples.shapes else None
