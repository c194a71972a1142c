"""Embeddings in few dimensions: the directions in which they vary most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UsageError


@dataclass(frozen=True)
class Projection:
    """Samples along a few directions.

    Attributes:
        points: (N, dims) float64, centred.
        shares: (dims,) each direction's share of the total variance; 0 where nothing varies.
    """

    points: Tensor
    shares: Tensor


def principal_axes(values: Tensor, dims: int = 2) -> Projection:
    """Principal component analysis by a singular value decomposition.

    The sign of a direction, which is free, is the one that makes its entry of the largest magnitude positive.

    Args:
        values: Embeddings.
        dims: How many directions; beyond the rank, zeros.

    Shape:
        - values: (N, D)

    Raises:
        UsageError: Another shape, fewer than two samples, or values that are not finite.

    Example:
        >>> found = principal_axes(torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), 1)
        >>> [round(value, 6) for value in found.points.flatten().tolist()], round(found.shares.item(), 6)
        ([-5.0, 0.0, 5.0], 1.0)
    """
    if values.ndim != 2 or len(values) < 2:
        raise UsageError(
            f"embeddings of shape {tuple(values.shape)} have no directions: give (N, D) of at least two samples"
        )
    if not bool(values.isfinite().all()):
        raise UsageError("embeddings that are not finite have no directions: the network gave NaN or infinity")
    centred = values.double() - values.double().mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    points, variance = centred @ axes[:dims].T, lengths.square()
    shares = variance[:dims] / variance.sum().clamp_min(torch.finfo(torch.float64).tiny)
    missing = max(0, dims - points.shape[1])
    return Projection(torch.nn.functional.pad(points, (0, missing)), torch.nn.functional.pad(shares, (0, missing)))
