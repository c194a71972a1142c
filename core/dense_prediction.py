"""A network's answer at each position, at the size of what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .representation import Network

_PREDICTION = frozenset({"prediction"})
_MOST_VALUES = 2**26
"""Enlarged logits that are in memory at a time, 256 MiB of them."""
_INFINITE = 1e30


def dense_prediction(network: Network, batch: Mapping[str, Tensor]) -> Tensor:
    """A network's prediction (B, C, h, w) for a batch, and nothing else of its representation.

    Raises:
        UsageError: The network has no tap for a prediction.
    """
    return network(batch, _PREDICTION).require_prediction()


def resize_prediction(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """A prediction brought to a height and width, bilinearly (``align_corners=False``).

    Args:
        prediction: In any precision; what is below float32 is float32 afterwards.
        size: (H, W).

    Shape:
        - prediction: (B, C, h, w)
        - returns (B, C, H, W).

    Example:
        >>> resize_prediction(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
        tensor([[[[0., 1., 3., 4.]]]])
    """
    values = prediction if prediction.dtype == torch.float64 else prediction.float()
    if tuple(values.shape[2:]) == tuple(size):
        return values
    if not len(values):  # of a rank without samples
        return values.new_empty(0, values.shape[1], *size)
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)


def class_maps(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """The class of the largest logit at each pixel, of logits that are enlarged first; a few frames at a time.

    Args:
        prediction: Logits of C classes. Infinite ones are numbers of 1e30 to the interpolation, which would make NaN
            of them.
        size: (H, W) of the label maps.

    Shape:
        - prediction: (B, C, h, w)
        - returns (B, 1, H, W) int64 in 1…C, as label maps are numbered.

    Example:
        >>> class_maps(torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]]), (1, 6))
        tensor([[[[1, 1, 1, 2, 2, 2]]]])
    """
    frames = max(1, _MOST_VALUES // (prediction.shape[1] * size[0] * size[1]))
    return torch.cat(
        [
            resize_prediction(part.clamp(-_INFINITE, _INFINITE), size).argmax(1, keepdim=True) + 1
            for part in prediction.float().split(frames)
        ]
    )
