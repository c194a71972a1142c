"""k nearest neighbours on frozen features: a measure of a representation that learns nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.arguments import checked
from ..core.errors import UsageError
from ..core.statistics import wilson_interval
from .features import Features, check_classes

_CELLS = 2**24  # of a chunk of similarities


@dataclass(frozen=True)
class KnnResult:
    """What weighted neighbours came to.

    Attributes:
        top1: Accuracy on the test split, per cent.
        low, high: Its 95 % interval (Wilson).
        k: Neighbours that voted.
        correct: (N,) bool, which test samples got their class.
    """

    top1: float
    low: float
    high: float
    k: int
    correct: Tensor


@checked
def knn(train: Features, test: Features, k: int = 20, temperature: float = 0.07) -> KnnResult:
    """Each test sample gets the class for which its k nearest training samples vote, by cosine similarity s, each with
    weight exp(s/τ) (Wu et al., CVPR 2018).

    Args:
        train, test: Labelled features.
        k: Neighbours; all training samples where there are fewer.
        temperature: τ.

    Raises:
        UsageError: k below 1, a temperature that is not positive, or what :func:`~.features.check_classes` refuses.

    Example:
        >>> known = Features(torch.eye(3), torch.arange(3))
        >>> knn(known, known, k=1).top1
        100.0
    """
    if k < 1:
        raise UsageError(f"k={k} neighbours cannot vote: take one or more")
    if not temperature > 0:  # asked this way round, NaN is refused too
        raise UsageError(f"temperature={temperature} is not positive: take 0.07, say")
    train_targets, test_targets = check_classes(train, test)
    classes, k = int(train_targets.max()) + 1, min(k, len(train_targets))
    known, right = F.normalize(_precise(train.values), dim=1), []
    for part, expected in zip(
        *(values.split(max(1, _CELLS // len(known))) for values in (test.values, test_targets)), strict=True
    ):
        near = (F.normalize(_precise(part), dim=1).to(known.dtype) @ known.T).topk(k, dim=1)
        # The nearest one's weight is 1: only ratios count, and exp(1/τ) would overflow for a small τ.
        weights = ((near.values - near.values[:, :1]) / temperature).exp()
        votes = torch.zeros(len(part), classes, dtype=weights.dtype).scatter_add_(
            1, train_targets[near.indices], weights
        )
        right.append(votes.argmax(1) == expected)
    correct = torch.cat(right)
    hits = int(correct.sum())
    return KnnResult(100 * hits / len(correct), *wilson_interval(hits, len(correct)), k, correct)


def _precise(values: Tensor) -> Tensor:
    """Features in float32 at least, so that both sides multiply and near neighbours do not become equals."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
