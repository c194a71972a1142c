"""Few-shot probes: what a representation is worth where only a handful of samples per class have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arguments import checked
from ..core.errors import UsageError
from ..core.hashing import hash64
from ..core.statistics import mean_std
from .features import Features, check_classes
from .linear import fit_probe

_DRAW = 0x6673
_WEIGHT_DECAY = 1e-2  # with a handful of samples there is nothing to choose it on


@dataclass(frozen=True)
class FewShot:
    """Accuracy with ``shots`` labelled samples per class.

    Attributes:
        shots: n.
        mean: Of top-1 over the draws, per cent.
        std: Its standard deviation over the draws; 0 for a single one.
        draws: How often n samples per class were drawn.
    """

    shots: int
    mean: float
    std: float
    draws: int


@checked
def few_shot(
    train: Features, test: Features, shots: Sequence[int] = (1, 5, 20), draws: int = 5, seed: int = 0
) -> list[FewShot]:
    """Logistic regression on n samples of each class, drawn several times, each tested on all of the test split.

    A draw of fewer samples is the beginning of the same draw of more. Features are standardised by the samples drawn,
    and the weights are held down by 0.01/2
    times their squares throughout: nothing is chosen on labels that would not be there.

    Args:
        train, test: Labelled features.
        shots: Each n.
        draws: How often.
        seed: Of the draws.

    Raises:
        UsageError: A class has fewer training samples than n, or what :func:`~.features.check_classes` refuses.

    Example:
        >>> known = Features(torch.arange(12.0)[:, None] // 6, torch.arange(12) // 6)
        >>> few_shot(known, known, shots=(2,), draws=3)
        [FewShot(shots=2, mean=100.0, std=0.0, draws=3)]
    """
    if draws < 1:
        raise UsageError(f"draws={draws} gives no accuracy: draw once or more")
    targets, _ = check_classes(train, test)
    counts = torch.bincount(targets)
    fewest = int(torch.where(counts > 0, counts, counts.max()).argmin())
    most = int(counts[fewest])
    results = []
    for count in shots:
        if not 0 < count <= most:
            has = "1 training sample, so take 1" if most == 1 else f"{most} training samples, so take 1 to {most}"
            raise UsageError(f"{count} shots cannot be drawn: class {fewest} has {has}")
        accuracies = []
        for draw in range(draws):
            rows = _drawn(targets, count, seed, draw)
            part = Features(train.values[rows], targets[rows])
            accuracies.append(fit_probe(part, test, "few-shot", weight_decays=(_WEIGHT_DECAY,)).top1)
        top1 = mean_std(accuracies)
        results.append(FewShot(count, top1.mean, top1.std or 0.0, draws))
    return results


def _drawn(targets: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """Rising positions of ``count`` samples of each class."""
    chance = hash64(torch.arange(len(targets)), _DRAW, seed, draw).argsort(stable=True)
    by_class = chance[targets[chance].argsort(stable=True)]
    counts = torch.bincount(targets)
    place = torch.arange(len(targets)) - (counts.cumsum(0) - counts)[targets[by_class]]
    return by_class[place < count].sort().values
