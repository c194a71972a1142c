"""A plain encoder of five convolutions, as the paper's depth student."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps

WIDTHS = (32, 64, 128, 256, 256)
STRIDES = (2, 2, 2, 2, 1)


class Conv5(nn.Module):
    """Five 3×3 convolutions with BatchNorm and ReLU, at 1/2 to 1/16 of the size, average pooling, a linear classifier.

    The paper (Tian et al., ICLR 2020, section 4.2) names a depth student of five convolutions and no widths; these are
    ours.

    Args:
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).
    """

    taps: ClassVar[Taps] = Taps(embedding="input:fc", maps=("conv1", "conv2", "conv3", "conv4", "conv5"))
    preprocess: ClassVar[Preprocess] = Preprocess((0.5,) * 3, (0.25,) * 3)

    def __init__(self, *, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        channels = in_chans
        for number, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True), 1):
            convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{number}", nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        return self.fc(self.avgpool(x).flatten(1))


@MODELS.register("conv5")
def conv5(num_classes: int = 100, in_chans: int = 3) -> Conv5:
    """Five convolutions of 32 to 256 channels, a small encoder of depth and other sensors."""
    return Conv5(num_classes=num_classes, in_chans=in_chans)
