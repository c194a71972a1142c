"""Labels of training samples: which are kept when only a part of them is to be used, and how classes are numbered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.hashing import hash64

_PART = 0x7061


def labelled_part(num_samples: int, targets: Tensor | None, fraction: float, seed: int = 0) -> Tensor:
    """The samples of a stratified part: every class gives its share, and a smaller part lies within a larger one.

    Seats are given to the classes as Sainte-Laguë gives them to parties, one sample after the other, so the part of 5 %
    is the beginning of the part of 10 %. Which samples of a class come first is a hash of (seed, sample).

    Args:
        num_samples: N.
        targets: (N,) classes, or None: all samples are of one kind.
        fraction: Share of the samples, in (0, 1].
        seed: Of the choice.

    Returns:
        int64, rising positions of round(fraction · N) samples, at least one.

    Raises:
        UsageError: The fraction is not in (0, 1].

    Example:
        >>> targets = torch.arange(3).repeat_interleave(20)
        >>> torch.bincount(targets[labelled_part(60, targets, 0.1)]).tolist()
        [2, 2, 2]
    """
    if not 0 < fraction <= 1:
        raise UsageError(
            f"label_fraction={fraction} is not a share of the training samples: give one above 0 and up to 1"
        )
    chance = hash64(torch.arange(num_samples), _PART, seed).argsort(stable=True)
    shuffled = (
        torch.zeros(num_samples, dtype=torch.int64) if targets is None else torch.as_tensor(targets).cpu()[chance]
    )
    by_class = shuffled.argsort(stable=True)
    counts = torch.bincount(shuffled)
    sizes = counts[shuffled[by_class]]
    place = torch.arange(num_samples) - (counts.cumsum(0) - counts)[shuffled[by_class]]
    turn = torch.empty(num_samples, dtype=torch.float64)
    turn[by_class] = (place.double() + 0.5) / sizes
    count = max(1, round(fraction * num_samples))
    return chance[turn.argsort(stable=True)[:count]].sort().values


def check_same_names(train: Sequence[str] | None, test: Sequence[str] | None) -> None:
    """Refuse splits that number classes of the same or other names in different ways."""
    if train is not None and test is not None:
        for number, (name, other) in enumerate(zip(train, test, strict=False)):
            if name != other:
                raise UsageError(
                    f"class {number} is {name} in the training split and {other} in the test split: number the classes "
                    "of both in one way"
                )
