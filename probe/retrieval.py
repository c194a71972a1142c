"""Retrieval across two networks: whether a sample's embedding by one finds the same sample's embedding by the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.arguments import Positive, checked
from ..core.errors import UsageError
from ..core.tensor_values import check_readable

_CELLS = 2**22  # of a chunk of similarities
_TIE = 1e-13
"""Cosines that differ by less are the same: sums of the same products in another order differ by so much."""


@dataclass(frozen=True)
class RetrievalResult:
    """Recalls, in per cent.

    Attributes:
        recall: k -> share of the queries whose partner is among the k nearest of the gallery.
        reverse: k -> share of the gallery whose partner is among the k nearest of the queries.
        chance: k -> what a random order comes to, 100 · k / N.
        num_samples: N.
    """

    recall: dict[int, float]
    reverse: dict[int, float]
    chance: dict[int, float]
    num_samples: int


@checked
def retrieval(queries: Tensor, gallery: Tensor, ks: Sequence[Positive] = (1, 5, 10)) -> RetrievalResult:
    """Recall at k by cosine similarity, in both directions: row i of one side is the partner of row i of the other.

    A partner's rank is the number of rows that are as similar as it or more. Ties count against it, the worst rank:
    embeddings that are all the same find nothing. The cosines are computed in float64; two that differ by less than
    1e-13 are a tie: centre embeddings that differ by a millionth of what they have in common, or less.

    Args:
        queries, gallery: The same samples in the same order, by two networks.
        ks: Numbers of neighbours; one beyond N finds everything.

    Shape:
        - queries: (N, D) - gallery: (N, D)

    Raises:
        UsageError: Other shapes, no samples, no numbers, a k below 1, or embeddings that are not finite, not dense or
            not real.

    Example:
        >>> rgb = torch.eye(4)
        >>> depth = torch.eye(4)[[0, 1, 3, 2]]  # the last two are taken for each other
        >>> retrieval(depth, rgb, ks=(1, 2)).recall
        {1: 50.0, 2: 50.0}
    """
    for name, side in (("queries", queries), ("gallery", gallery)):
        check_readable(**{name: side})
        if side.ndim != 2 or not side.numel():
            raise UsageError(
                f"{name} is {tuple(side.shape)}: give embeddings (N, D) of one sample or more, of one number or more"
            )
        if broken := int((~side.isfinite()).any(1).sum()):
            raise UsageError(f"{broken} of {len(side)} embeddings of {name} are not finite: look at the network")
    if queries.shape != gallery.shape:
        raise UsageError(
            f"queries is {tuple(queries.shape)} and gallery is {tuple(gallery.shape)}: give the same samples in the "
            "same order, in one space"
        )
    if not ks:
        raise UsageError("ks is empty: name the numbers of neighbours, such as 1, 5, 10")
    ranks, reverse = _ranks(*(_directions(side.detach().double()) for side in (queries, gallery)))
    count = len(queries)

    def recalls(places: Tensor) -> dict[int, float]:
        return {k: 100 * int((places <= k).sum()) / count for k in ks}

    return RetrievalResult(recalls(ranks), recalls(reverse), {k: min(100.0, 100 * k / count) for k in ks}, count)


def _directions(side: Tensor) -> Tensor:
    """Rows of length 1, whatever their length was; a row of zeros stays one."""
    largest = side.abs().amax(1, keepdim=True)
    return F.normalize(side / largest.where(largest > 0, 1), dim=1)


def _ranks(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) rank of each query's partner in the gallery, from 1, and of each gallery row's among the queries."""
    # One sum for all: a matrix product may add the products of a row in another order.
    own = (queries * gallery).sum(1)
    ranks, reverse = [], torch.zeros(len(own), dtype=torch.int64, device=own.device)
    start = 0
    for part in queries.split(max(1, _CELLS // len(gallery))):
        similar, rows = part @ gallery.T, torch.arange(start, start + len(part), device=own.device)
        similar[rows - start, rows] = torch.inf  # its own partner counts once, whatever was rounded
        ranks.append((similar >= own[rows, None] - _TIE).sum(1))
        reverse += (similar >= own - _TIE).sum(0)
        start += len(part)
    return torch.cat(ranks), reverse
