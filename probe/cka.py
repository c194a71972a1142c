"""Centred kernel alignment: how alike two networks see the same samples, whatever the number and the order of their
channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.arguments import checked
from ..core.errors import UsageError
from ..core.tensor_values import check_readable

FEWEST = 4
"""Samples that the unbiased estimate needs."""


@checked
def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = True) -> float:
    """Linear CKA of two layers on the same samples (Kornblith et al., ICML 2019): HSIC(x, y) / √(HSIC(x, x) · HSIC(y,
    y)).

    It is 1 where one layer is the other one rotated, scaled and shifted. The usual estimate of HSIC is biased: with
    more channels than samples all layers seem alike. Debiased linear CKA takes HSIC₁, the unbiased estimate of Song
    et al. (JMLR 2012, eq. 5), as Nguyen et al. (ICLR 2021) do, and may come out a little below 0.

    Args:
        x: One layer.
        y: The other.
        unbiased: Whether HSIC₁ is taken (debiased CKA); False is the usual estimate.

    Shape:
        - x: (N, D1) - y: (N, D2).

    Raises:
        UsageError: Shapes that do not fit, fewer than four samples (two for the biased estimate), values that are not
            finite, a layer with the same output for every sample.

    Example:
        >>> x = torch.randn(50, 8)
        >>> round(linear_cka(x, -3 * x.flip(1) + 1), 6)
        1.0
    """
    x, y = _centred_pair(x, y, FEWEST if unbiased else 2)
    hsic = _unbiased_hsic if unbiased else _biased_hsic
    return _ratio(hsic(x, y), hsic(x, x), hsic(y, y))


class MinibatchCKA:
    """Debiased linear CKA from minibatches (Nguyen et al., ICLR 2021, eq. 3): each of the three HSIC₁ is averaged
    over them.

    For layers that are too long to be kept for all samples; the expected value of an average does not depend on the
    size of the batches.

    Example:
        >>> cka = MinibatchCKA()
        >>> for _ in range(3):
        ...     x = torch.randn(16, 8)
        ...     cka.update(x, 2 * x)
        >>> round(cka.compute(), 6)
        1.0
    """

    def __init__(self) -> None:
        self.batches = 0
        self._sums = [0.0, 0.0, 0.0]

    @checked
    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in one batch.

        Args:
            x: One layer.
            y: The other.

        Shape:
            - x: (B, D1) - y: (B, D2), B at least 4: leave out a shorter last batch.

        Raises:
            UsageError: Shapes that do not fit, fewer than four samples, values that are not finite.
        """
        x, y = _centred_pair(x, y, FEWEST)
        for place, pair in enumerate(((x, y), (x, x), (y, y))):
            self._sums[place] += _unbiased_hsic(*pair)
        self.batches += 1

    def compute(self) -> float:
        """CKA of all batches so far.

        Raises:
            UsageError: There was none, or a layer has the same output for every sample.
        """
        if not self.batches:
            raise UsageError("CKA has seen no batch yet: call update(x, y) first")
        return _ratio(*(total / self.batches for total in self._sums))


def _unbiased_hsic(x: Tensor, y: Tensor) -> float:
    """HSIC₁ of centred (N, D1), (N, D2) without their N×N kernels.

    With K = xxᵀ and L = yyᵀ whose diagonals are set to 0:
    [tr(KL) + ΣK·ΣL / ((N−1)(N−2)) − 2/(N−2) · Σ_i (ΣK)_i (ΣL)_i] / (N(N−3)).
    """
    count = len(x)
    diagonals = x.square().sum(1), y.square().sum(1)
    rows_k, rows_l = (values @ values.sum(0) - diagonal for values, diagonal in zip((x, y), diagonals, strict=True))
    trace = _cross(x, y) - (diagonals[0] * diagonals[1]).sum()
    total = (
        trace + rows_k.sum() * rows_l.sum() / ((count - 1) * (count - 2)) - 2 / (count - 2) * (rows_k * rows_l).sum()
    )
    return total.item() / (count * (count - 3))


def _biased_hsic(x: Tensor, y: Tensor) -> float:
    return _cross(x, y).item() / (len(x) - 1) ** 2


def _cross(x: Tensor, y: Tensor) -> Tensor:
    """‖xᵀy‖² = tr(xxᵀ yyᵀ), by the smaller of the two products."""
    if x.shape[1] * y.shape[1] <= len(x) ** 2:
        return (x.T @ y).square().sum()
    return ((x @ x.T) * (y @ y.T)).sum()


def _ratio(both: float, first: float, second: float) -> float:
    # HSIC₁ of a layer with itself is a sum of squares, so what is not positive is rounding.
    if first <= 0 or second <= 0:
        raise UsageError("CKA is not defined: a layer has the same output for every sample")
    return both / math.sqrt(first * second)


def _centred_pair(x: Tensor, y: Tensor, fewest: int) -> tuple[Tensor, Tensor]:
    """Both in float64, centred: no estimate changes by it, and less is lost to rounding."""
    check_readable(x=x, y=y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (x.shape[1] and y.shape[1]):
        raise UsageError(
            f"layers of shape {tuple(x.shape)} and {tuple(y.shape)} cannot be compared: give (N, D1) and (N, D2) "
            "of the same N samples"
        )
    if len(x) < fewest:
        raise UsageError(f"CKA needs at least {fewest} samples, and there are {len(x)}")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise UsageError("CKA needs finite values: a layer gave NaN or infinity")
    return _centred(x.detach().double()), _centred(y.detach().double())


def _centred(value: Tensor) -> Tensor:
    centred = value - value.mean(0)
    # What is left of a constant layer is rounding, not a difference.
    return torch.where(centred.abs() <= 1e-12 * value.abs().amax(0), 0.0, centred)
