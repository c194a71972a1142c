"""What runs came to, side by side: means and spreads over seeds, and how far a student came from untaught to its
teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from .markup import number


@dataclass(frozen=True)
class Score:
    """A metric over the seeds of one training.

    Attributes:
        mean: Over them.
        std: Standard deviation over them (of a sample, n − 1); None for a single one.
        seeds: How many they are.
    """

    mean: float
    std: float | None
    seeds: int

    def __str__(self) -> str:
        return number(self.mean) + ("" if self.std is None else f" ± {number(self.std)}")


def score(values: Sequence[float]) -> Score | None:
    """Mean and spread; None of nothing.

    Example:
        >>> str(score([70.0, 72.0])), score([])
        ('71.00 ± 1.41', None)
    """
    return Score(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


def way(student: Score | None, untaught: Score | None, teacher: Score | None) -> float | None:
    """Share of the way from the untaught student to the teacher; None where a mean is missing or the teacher is no
    better.

    Example:
        >>> way(score([72.0]), score([70.0]), score([74.0]))
        0.5
    """
    if student is None or untaught is None or teacher is None or teacher.mean <= untaught.mean:
        return None
    return (student.mean - untaught.mean) / (teacher.mean - untaught.mean)
