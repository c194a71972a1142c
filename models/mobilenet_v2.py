"""MobileNetV2 of half width for 32×32 images, as the CIFAR benchmark has it (Sandler et al., CVPR 2018)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .resnet import CIFAR100_MEAN, CIFAR100_STD

STEM, LAST = 32, 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, number of blocks and stride of each stage: table 2 of the paper, but that the second
does not stride.
"""


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, a 3×3 one within each channel, a linear 1×1 one that narrows; plus the input where
    the shape stays.

    Shape:
        - (B, in_channels, H, W) -> (B, channels, H/stride, W/stride), without an activation.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        self.residual = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_convolution(in_channels, inner, 1),
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class CifarMobileNetV2(nn.Module):
    """A strided 3×3 stem, seven stages of inverted residuals at 16 to 2 pixels, a 1×1 convolution, average pooling, a
    linear classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are. Its maps after
    the stem are linear, as are the benchmark's: no ReLU follows a bottleneck.

    Args:
        width: Factor of the channels of all but the last convolution.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).

    Example:
        >>> network = CifarMobileNetV2(0.5, num_classes=10)
        >>> sum(parameter.numel() for parameter in network.parameters())
        697546
    """

    taps: ClassVar[Taps] = Taps(
        embedding="input:classifier.0", maps=("conv1", "blocks.1", "blocks.2", "blocks.4", "blocks.6")
    )
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(self, width: float, *, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        channels = int(STEM * width)
        self.conv1 = _convolution(in_chans, channels, 3, stride=2)
        self.blocks = nn.Sequential()
        for expansion, full, blocks, stride in STAGES:
            stage, wider = nn.Sequential(), int(full * width)
            for number in range(blocks):
                stage.append(InvertedResidual(channels, wider, 1 if number else stride, expansion))
                channels = wider
            self.blocks.append(stage)
        self.conv2 = _convolution(channels, LAST, 1)
        classifier = nn.Linear(LAST, num_classes)
        self.classifier = nn.Sequential(classifier)
        for module in self.modules():  # BatchNorm's weights are 1 and its biases 0 already
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.conv1(x)))
        return self.classifier(x.mean((2, 3)))


def _convolution(in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


@MODELS.register("MobileNetV2")
def mobilenet_v2(num_classes: int = 100, in_chans: int = 3) -> CifarMobileNetV2:
    """MobileNetV2 of width 0.5 and expansion 6 for 32×32 images."""
    return CifarMobileNetV2(0.5, num_classes=num_classes, in_chans=in_chans)
