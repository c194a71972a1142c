"""Prediction of large images in windows that overlap."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .arguments import Positive, checked
from .dense_prediction import dense_prediction, resize_prediction
from .errors import UsageError
from .input_values import missing_modality
from .loaded_network import as_network
from .representation import Network
from .representation_spec import evaluating

_DEVIATION = 1 / 8
"""Of the Gaussian, as a share of the window's side."""


@checked
def predict_in_windows(
    network: Network | nn.Module,
    batch: Mapping[str, Tensor],
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    *,
    batch_size: Positive = 8,
) -> Tensor:
    """A network's prediction for images of any size, from windows of the size that it was trained at.

    Windows begin every ``stride`` pixels; the last one of a row or a column is shifted inside, so that every pixel is
    covered. Each window's prediction is enlarged to the window and counts by a Gaussian around its middle, whose
    deviation is an eighth of the window's side (Isensee et al., nnU-Net, Nature Methods 2021): what is near an edge of
    a window, where the network sees half of the surroundings, counts little where another window sees it better. An
    image that fits into one window is predicted as it is. One that is smaller than the window along one side is
    continued there by its last row or column, which is cut off the prediction.

    Eval mode, without gradients; the training flags are put back. What is in memory beside the images is their
    prediction and that of ``batch_size`` windows.

    Args:
        network: Has a prediction; also a :class:`~contrastill.Student`, or a module of
            :func:`~contrastill.load_student`. One with a resolution of its own (``preprocess.resolution``) takes
            windows of that size alone: it would shrink or enlarge others, and with them what the overlap is for.
        batch: Has the network's modality; all else is left out.
        window: Side of the windows, or (height, width), in pixels.
        stride: Pixels from one window to the next, or (down, across); at most the window's sides.
        batch_size: Windows in a forward pass.

    Shape:
        - batch: the modality (B, C_in, H, W)
        - returns (B, C, H, W) float32: logits, or with C = 1 a quantity, averaged over the windows.

    Raises:
        UsageError: No such modality or no prediction; a side or a stride below 1, a stride that leaves gaps, a window
            that the network would resize.

    Example:
        >>> from torch import nn
        >>> from contrastill.core.preprocess import Preprocess
        >>> from contrastill.core.representation import Taps
        >>> module = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        >>> network = Network(module, taps=Taps(prediction="output:"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
        >>> predict_in_windows(network, {"rgb": torch.rand(1, 3, 50, 80)}, window=32, stride=24).shape
        torch.Size([1, 5, 50, 80])
    """
    sides, strides = _sides("window", window), _sides("stride", stride)
    network = as_network(network)
    _check(network, sides, strides)
    if network.modality not in batch:
        raise missing_modality(batch, network.modality, "the network")
    images = batch[network.modality]
    if images.ndim != 4:
        raise UsageError(f"{network.modality} has the shape {tuple(images.shape)}: pass images (B, C, H, W)")
    height, width = images.shape[2:]
    with evaluating(network):
        if not len(images) or (height <= sides[0] and width <= sides[1]):
            return resize_prediction(dense_prediction(network, {network.modality: images}), (height, width))
        # Whether the values are of the network's range is seen of whole images, and not of a dark corner.
        network.preprocess(images)
        return _averaged(network, _continued(images, sides), sides, strides, batch_size)[..., :height, :width]


def _averaged(
    network: Network, images: Tensor, window: tuple[int, int], stride: tuple[int, int], batch_size: int
) -> Tensor:
    """The weighted average of the windows' predictions, of images that are nowhere smaller than the window."""
    size = (images.shape[2], images.shape[3])
    tops, lefts = (_starts(*each) for each in zip(size, window, stride, strict=True))
    # Windows are a grid, so a weight is the product of one for its row and one for its column.
    down, across = (_weights(*each) for each in zip((tops, lefts), window, size, strict=True))
    places = [
        (frame, row, column) for frame in range(len(images)) for row in range(len(tops)) for column in range(len(lefts))
    ]
    total: Tensor | None = None
    for start in range(0, len(places), batch_size):
        chunk = places[start : start + batch_size]
        slices = [
            (slice(tops[row], tops[row] + window[0]), slice(lefts[column], lefts[column] + window[1]))
            for _, row, column in chunk
        ]
        crops = torch.stack(
            [images[frame, :, rows, columns] for (frame, _, _), (rows, columns) in zip(chunk, slices, strict=True)]
        )
        prediction = dense_prediction(network, {network.modality: crops})
        if total is None:
            total = torch.zeros(len(images), prediction.shape[1], *size, device=prediction.device)
            down, across = (weights.to(prediction.device) for weights in (down, across))
        values = resize_prediction(prediction, window).float()
        for (frame, row, column), (rows, columns), value in zip(chunk, slices, values, strict=True):
            total[frame, :, rows, columns] += value * down[row, :, None] * across[column]
    assert total is not None, "there is an image, and it has a window"
    return total


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows along a side begin; the last one ends where the side does."""
    last = length - window
    return [*range(0, last, stride), last]


def _weights(starts: list[int], window: int, length: int) -> Tensor:
    """(number of windows, window): what each window's pixels count along a side; over the windows it is 1 at each."""
    distance = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    gaussian = torch.exp(-0.5 * (distance / (_DEVIATION * window)).square())
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += gaussian
    return torch.stack([gaussian / total[start : start + window] for start in starts]).float()


def _continued(images: Tensor, window: tuple[int, int]) -> Tensor:
    """Images whose last row and column come again until they fill a window; of any dtype."""
    for axis, side in zip((2, 3), window, strict=True):
        length = images.shape[axis]
        if length < side:
            images = images.index_select(axis, torch.arange(side, device=images.device).clamp(max=length - 1))
    return images


def _sides(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else (value[0], value[1])
    if min(sides) < 1:
        raise UsageError(f"{name} is {value}: give a number of pixels from 1 on, or (height, width)")
    return sides


def _check(network: Network, window: tuple[int, int], stride: tuple[int, int]) -> None:
    if stride[0] > window[0] or stride[1] > window[1]:
        raise UsageError(
            f"a stride of {stride[0]}×{stride[1]} leaves gaps between windows of {window[0]}×{window[1]}: take one "
            "that is no larger than the window"
        )
    own = network.preprocess.resolution
    own = (own, own) if isinstance(own, int) else own
    if own is not None and tuple(own) != window:
        raise UsageError(
            f"the network resizes its images to {own[0]}×{own[1]} (preprocess.resolution), windows of "
            f"{window[0]}×{window[1]} as well: take windows of {own[0]}×{own[1]}, or resolution=None if it takes "
            "images of any size"
        )
