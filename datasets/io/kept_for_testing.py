"""The share of a folder or table without a test split that is kept for testing, by a hash of each path."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from ...core.errors import UsageError

log = logging.getLogger(__name__)


def tell_of_share(where: Path | str, count: int, total: int, what: str, fraction: float) -> None:
    """Say that a test split is the ``count`` of ``total`` images, samples or rows that are held out."""
    if 0 < count < total:
        log.warning(
            "%s has no test split: it is %d of the %d %s, by data.test_fraction=%g (1: an evaluation measures all)",
            where,
            count,
            total,
            what,
            fraction,
        )


def nothing_left(where: Path | str, what: str, fraction: float, short: str) -> UsageError:
    """The error where ``data.test_fraction`` leaves a split, or a class of it, without images, samples or rows."""
    if fraction == 1:
        return UsageError(
            f"{where}: data.test_fraction=1 is for evaluations, as it leaves no {what} to train on: leave it out, or "
            "set a share below 1, such as 0.1"
        )
    return UsageError(
        f"{where}: with data.test_fraction={fraction:g} {short}: add {what}, or set another data.test_fraction"
    )


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that a path always has, whatever the machine."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=6).digest(), "big") / 2**48
