"""A network that answers for each position, as a picture of segmentations takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.dense_prediction import class_maps, dense_prediction
from ..core.representation import Network
from ..core.representation_spec import evaluating
from ..core.windows import predict_in_windows


class DensePredictor:
    """Label maps by a network's own prediction, where :class:`~contrastill.probe.segmentation.Segmenter` has a head.

    Args:
        network: Has a prediction of more than one class.
        window: Side of the windows, or (height, width), in which large images are predicted; None: at once.
        stride: Pixels from one window to the next; None: three quarters of the window.

    Example:
        >>> from torch import nn
        >>> from contrastill.core.representation import Preprocess, Taps
        >>> module = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        >>> network = Network(module, taps=Taps(prediction="output:"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
        >>> DensePredictor(network).predict({"rgb": torch.rand(2, 3, 32, 32)}, (64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self,
        network: Network,
        *,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
    ) -> None:
        self.network, self.window = network, window
        self.stride = stride if stride is not None or window is None else _three_quarters(window)

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Label maps (B, 1, height, width) int64 in 1…C, in eval mode; the training flags are put back."""
        if self.window is not None and self.stride is not None:
            return class_maps(predict_in_windows(self.network, batch, self.window, self.stride), size)
        with evaluating(self.network):
            return class_maps(dense_prediction(self.network, batch), size)


def _three_quarters(window: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (window, window) if isinstance(window, int) else window
    return max(1, 3 * height // 4), max(1, 3 * width // 4)
