"""Statistics of repeated measurements: mean and spread over seeds, paired differences, the interval of a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


@dataclass(frozen=True)
class MeanStd:
    """A quantity that was measured several times, such as once for each seed.

    Attributes:
        mean: Over the measurements.
        std: Sample standard deviation (n − 1); None of a single measurement.
        count: How many they are.

    Example:
        >>> f"{mean_std([70.0, 72.0])}, {mean_std([70.0, 72.0]):.1f}, {mean_std([70.0])}"
        '71.00 ± 1.41, 71.0 ± 1.4, 70.00'
    """

    mean: float
    std: float | None
    count: int

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return format(self.mean, spec) + ("" if self.std is None else f" ± {self.std:{spec}}")


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation of at least one value; NaN where one of them is no finite number."""
    if not all(map(math.isfinite, values)):
        return MeanStd(math.nan, math.nan if len(values) > 1 else None, len(values))
    return MeanStd(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class PairedDifference:
    """A difference over the same samples and seeds.

    Attributes:
        mean: In the unit of the scores.
        error: Its standard error.
        seeds: How many seeds both have.
    """

    mean: float
    error: float
    seeds: int


def paired_difference(scores: np.ndarray, others: np.ndarray) -> PairedDifference:
    """The mean of ``scores − others``, both (seeds, samples).

    Its standard error has two parts, of samples (the difference of each, averaged over the seeds) and of seeds (the
    difference of each, averaged over the samples); the larger is taken.
    """
    difference = scores - others
    seeds, samples = difference.shape
    over_samples = difference.mean(0).std(ddof=1) / math.sqrt(samples) if samples > 1 else 0.0
    over_seeds = difference.mean(1).std(ddof=1) / math.sqrt(seeds) if seeds > 1 else 0.0
    return PairedDifference(float(difference.mean()), float(max(over_samples, over_seeds)), seeds)


def gap_closed(student: float, baseline: float, teacher: float) -> float | None:
    """Share of the gap between the baseline and its teacher that a distilled student closes; None where the teacher is
    no better than the baseline.

    Example:
        >>> gap_closed(72.0, 70.0, 74.0)
        0.5
    """
    return (student - baseline) / (teacher - baseline) if teacher > baseline else None


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, in per cent: it stays within 0 and 100, and is no point where all or none were
    right.

    The shares from which the measured one is less than 1.96 of their standard deviations away (Wilson, JASA 1927); 0
    to 100 where there is nothing.

    Args:
        right: How many were right.
        count: Of how many.

    Example:
        >>> [round(bound, 1) for bound in wilson_interval(50, 100)]
        [40.4, 59.6]
    """
    if count < 1:
        return 0.0, 100.0
    share, extra = right / count, _Z**2 / count
    middle = (share + extra / 2) / (1 + extra)
    half = _Z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    # Exactly at the ends, where rounding would leave a little.
    return 100 * (middle - half) if right else 0.0, 100 * (middle + half) if right < count else 100.0
