"""The mean over the pixels that count, of all processes together."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from .distributed import world_size


def mean_over_pixels(sums: Tensor, counts: Tensor, is_padding: Tensor | None = None) -> Tensor:
    """Σ sums / Σ counts over the samples of all processes; 0 where nothing counts.

    Several processes average their losses by their numbers of samples, so that the mean of each one's own pixels would
    give those of a process with few of them more weight: each returns the share by which the average is the mean over
    all pixels. Of a step in several passes it is the mean over the pixels of a pass.

    Args:
        sums: Each sample's sum over the pixels that count.
        counts: How many they are.
        is_padding: Bool: the samples stand for an empty share, and count for nothing.

    Shape:
        - sums, counts, is_padding: (B,) - returns a scalar.

    Example:
        >>> mean_over_pixels(torch.tensor([6.0, 0.0]), torch.tensor([3, 0])).item()
        2.0
    """
    total = torch.stack([counts.sum(), torch.full((), len(counts), device=counts.device)]).long()
    if is_padding is not None:
        total = total * (~is_padding).any()
    if world_size() > 1:
        distributed.all_reduce(total)
    pixels, samples = total.unbind()
    return sums.mean() * samples / pixels.clamp_min(1)
