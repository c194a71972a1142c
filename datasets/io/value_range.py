"""The range of the colours that a dataset of one's own hands out as floats: one for all its samples, in both splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ...core.errors import ContrastillError, UsageError

_BYTES = 20.0  # floats that go higher, and never below 0, are bytes: normalised colours stay far below
_LOW = -0.5  # no colour in [0, 1] is lower, whatever resized or jittered it; normalised ones are


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
        return cls(low, high, max(high - low, 1.0))

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
        """Complain where one dataset is normalised and the other is not.

        Args:
            other: That of the test dataset.
            name: Of it, for the message.

        Raises:
            UsageError: Only one goes below 0 as normalised colours do.
        """
        if (self.low < _LOW) != (other.low < _LOW):
            raise UsageError(
                f"the images of the test dataset {name} go from {other.low:.3g} to {other.high:.3g}, and those of the "
                f"training dataset from {self.low:.3g} to {self.high:.3g}: normalise both, or neither"
            )


UNIT = ValueRange(0.0, 1.0, 0.25)
"""Of colours in [0, 1], which resizing and augmentation may take a little beyond."""
