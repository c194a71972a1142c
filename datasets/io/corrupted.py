"""Corrupted files in a data set, left out while a training reads (``data.skip_corrupted``)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from ...core.errors import ContrastillError
from .images import DamagedSample

if TYPE_CHECKING:
    from .in_memory import Batch

log = logging.getLogger(__name__)

# Of all samples: more than this is no accident of a disk, and a training would learn from another data set.
MOST = 0.01
_T = TypeVar("_T")


@dataclass(frozen=True)
class PatchedBatch:
    """A batch with stand-ins for corrupted samples.

    Attributes:
        batch: Fields of the samples.
        rows: int64 (B,), whose samples these are.
        corrupted: Row -> why it could not be read.
    """

    batch: Batch
    rows: Tensor
    corrupted: dict[int, str]


@dataclass
class StandIns:
    """Reads a sample, or where it is corrupted the next sound one by its row: a function of the files alone, so that
    order, ranks and resuming change nothing.

    A corrupted sample keeps its row, which is in no batch.

    Args:
        count: Samples of the split; the last one is followed by the first.
        corrupted: Row -> why it could not be read; of the batch under way.

    Example:
        >>> def read(row):
        ...     if row in (1, 2):
        ...         raise DamagedSample(f"{row}.png is truncated")
        ...     return row
        >>> stand_ins = StandIns(500)
        >>> [stand_ins.read(row, read) for row in (0, 1, 2)], sorted(stand_ins.corrupted)
        ([(0, 0), (3, 3), (3, 3)], [1, 2])
    """

    count: int
    corrupted: dict[int, str] = field(default_factory=dict)

    def read(self, row: int, read: Callable[[int], _T]) -> tuple[int, _T]:
        """The row that was read in the end, and what ``read`` gave for it."""
        while True:
            try:
                return row, read(row)
            except DamagedSample as error:
                self.corrupted[row] = str(error)
                check_share(self.corrupted, self.count)
            row = (row + 1) % self.count


class CorruptedLog:
    """Logs each corrupted sample once, and their number at the end of an epoch.

    Args:
        count: Samples of the split.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen: dict[int, str] = {}

    def add(self, corrupted: dict[int, str]) -> None:
        """Note those of a batch.

        Raises:
            ContrastillError: They are more than :data:`MOST` of all.
        """
        for row, reason in corrupted.items():
            if row not in self.seen:
                self.seen[row] = reason
                log.warning("left out, the next sample stands in for it: %s", reason)
        check_share(self.seen, self.count)

    def end_epoch(self) -> None:
        """Log how many there were."""
        if self.seen:
            log.warning("%d of %d samples are corrupted and were left out", len(self.seen), self.count)


def check_share(corrupted: dict[int, str], count: int) -> None:
    """Raise an error where too many samples are corrupted."""
    if len(corrupted) > MOST * count:
        raise ContrastillError(
            f"{len(corrupted)} of {count} samples are corrupted, more than the {MOST:.0%} that "
            "data.skip_corrupted leaves out: copy the data again; "
            f"the first is {next(iter(corrupted.values()))}"
        )
