"""Many linear heads on the same features, trained at once by stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.hashing import mix

_SHUFFLE = 0x7367


@torch.no_grad()
def train_heads(
    x: Tensor,
    y: Tensor,
    classes: int,
    heads: Sequence[tuple[float, float]],
    *,
    epochs: int,
    batch_size: int,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    momentum: float = 0.9,
    seed: int = 0,
) -> Tensor:
    """Weights of H heads after training them side by side on the same batches: a step is two products for all of them.

    SGD with Nesterov momentum, as torch.optim.SGD has it, on the mean cross-entropy; each head has a learning rate and
    a weight decay of its own, and the bias has no decay. Rates fall by ``gamma`` at the epochs ``milestones``, and as a
    cosine to 0 where there are none. All weights start at 0, so that nothing but the order of the samples is drawn. An
    epoch's last, shorter batch counts too. DINOv2 (Oquab et al., TMLR 2024) evaluates so.

    Args:
        x: Features.
        y: Classes.
        classes: C.
        heads: (learning rate, weight decay) of each.
        epochs: Passes over the samples.
        batch_size: Samples of a step.
        milestones: Epochs at which the rates fall.
        gamma: By which factor.
        momentum: Of SGD.
        seed: Of the order.

    Shape:
        - x: (N, D) - y: (N,)
        - returns (H, D + 1, C), the bias last.

    Example:
        >>> features, targets = torch.randn(20, 4), torch.arange(20) % 3
        >>> train_heads(features, targets, 3, [(0.1, 0.0), (0.01, 1e-3)], epochs=2, batch_size=8).shape
        torch.Size([2, 5, 3])
    """
    count, dim = x.shape
    x = torch.cat((x, x.new_ones(count, 1)), 1)
    # Rows of H·C values, one head's classes after the other's: the heads are columns of one matrix, and all that is
    # done to it is done in place.
    rates, decays = (x.new_tensor(values).repeat_interleave(classes)[None] for values in zip(*heads, strict=True))
    weight, speed, slope = (x.new_zeros(dim + 1, len(heads) * classes) for _ in range(3))
    decaying = any(decay for _, decay in heads)
    steps = -(-count // batch_size)
    for epoch in range(epochs):
        order = shuffled(count, epoch, seed).to(x.device)
        batches = zip(x[order].split(batch_size), y[order].split(batch_size), strict=True)
        for step, (batch, target) in enumerate(batches):
            error = torch.mm(batch, weight).view(len(batch), len(heads), classes).softmax(2)
            error[torch.arange(len(batch), device=x.device), :, target] -= 1
            torch.addmm(slope, batch.T, error.flatten(1), beta=0, alpha=1 / len(batch), out=slope)
            if decaying:
                slope[:-1].addcmul_(weight[:-1], decays)
            speed.mul_(momentum).add_(slope)
            share = _share(epoch, step, steps, epochs, milestones, gamma)
            weight.addcmul_(slope.add_(speed, alpha=momentum), rates, value=-share)
    return weight.view(dim + 1, len(heads), classes).movedim(1, 0).contiguous()


def shuffled(count: int, epoch: int, seed: int = 0) -> Tensor:
    """(count,) int64: the order of the samples in an epoch, a function of (seed, epoch)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, _SHUFFLE, epoch)))


def _share(epoch: int, step: int, steps: int, epochs: int, milestones: Sequence[int], gamma: float) -> float:
    """Of the rates at the start, at a step of an epoch."""
    if milestones:
        return gamma ** sum(epoch >= milestone for milestone in milestones)
    return 0.5 * (1 + math.cos(math.pi * (epoch * steps + step) / (epochs * steps)))
