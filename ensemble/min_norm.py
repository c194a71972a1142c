"""The shortest vector in the convex hull of a few, by their inner products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

# Steps of the accelerated method; with restarts its error falls geometrically, and a step is a product of n numbers
# with n² others.
_STEPS = 300


def min_norm_weights(gram: Tensor, cap: float = 1.0, steps: int = _STEPS) -> Tensor:
    """w that minimises wᵀ G w subject to Σ w = 1 and 0 ≤ w ≤ cap (Désidéri, 2012; the cap: Du et al., NeurIPS 2020).

    Accelerated projected gradient in a fixed number of steps, so that nothing waits for the device.

    Args:
        gram: G (n, n), inner products of n vectors.
        cap: At least 1/n.
        steps: More are more exact where the vectors are nearly parallel.

    Shape:
        - returns (n,) of ``gram``'s dtype; equal weights where all vectors are zero.

    Example:
        >>> min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    count = len(gram)
    # The trace is no less than the largest eigenvalue, so its inverse is a safe step.
    unit = gram / gram.diagonal().sum().clamp_min(torch.finfo(gram.dtype).tiny)
    weights = gram.new_full((count,), 1 / count)
    ahead, speed = weights, gram.new_ones(())
    for _ in range(steps):
        slope = unit @ ahead
        new = project(ahead - slope, cap)
        # Momentum that points uphill is dropped (O'Donoghue and Candès, 2015).
        forward = (slope * (new - weights)).sum() <= 0
        faster = torch.where(forward, (1 + (1 + 4 * speed.square()).sqrt()) / 2, torch.ones_like(speed))
        ahead = torch.where(forward, new + (speed - 1) / faster * (new - weights), new)
        weights, speed = new, faster
    return weights


def project(values: Tensor, cap: float = 1.0) -> Tensor:
    """The nearest point (n,) with Σ w = 1 and 0 ≤ w ≤ cap: w = clip(values − θ, 0, cap), θ exact.

    Σ clip(values − θ, 0, cap) falls in θ and is straight between the 2n places where a value starts or ends being
    clipped.
    """
    bends = torch.cat((values, values - cap)).sort().values
    heights = (values[None] - bends[:, None]).clamp(0, cap).sum(1)  # falling
    # The last bend at which the sum is still 1 or more, and the one after it.
    left = (heights >= 1).sum().clamp(1, len(bends) - 1).view(1) - 1
    low, high = (bends.index_select(0, place) for place in (left, left + 1))
    above, below = (heights.index_select(0, place) for place in (left, left + 1))
    theta = low + (high - low) * ((above - 1) / (above - below).clamp_min(torch.finfo(values.dtype).tiny)).clamp(0, 1)
    return (values - theta).clamp(0, cap)


def gram_matrix(gradients: Sequence[Sequence[Tensor | None]], samples: Tensor) -> Tensor:
    """(n, n) float64 inner products of n gradients of a mean over ``samples``, each a tuple of tensors; over all
    processes, whose shares may be of unlike length, those of the sum.
    """
    gram: Tensor | None = None
    for parts in zip(*gradients, strict=True):
        there = next((part for part in parts if part is not None), None)
        if there is None:
            continue
        flat = torch.stack(
            [torch.zeros_like(there).flatten() if part is None else part.flatten() for part in parts]
        ).double()
        gram = flat @ flat.T if gram is None else gram + flat @ flat.T
    assert gram is not None, "every loss reads something of the student"
    if distributed.is_available() and distributed.is_initialized():
        gram = gram * samples.square()
        distributed.all_reduce(gram)
    return gram
