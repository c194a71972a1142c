"""ShuffleNet V2 for 32×32 images, as the CIFAR benchmark has it (Ma et al., ECCV 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .resnet import CIFAR100_MEAN, CIFAR100_STD
from .shuffle_net_v1 import channel_shuffle

STEM, LAST = 24, 1024


class SplitUnit(nn.Module):
    """Half of the channels pass as they are, half go through 1×1, depthwise 3×3 and 1×1 convolutions; then a shuffle
    (figure 3c).

    Shape:
        - (B, channels, H, W) -> (B, channels, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        left, inputs = x.chunk(2, 1)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(inputs)))))
        out = self.relu(self.bn3(self.conv3(out)))
        return channel_shuffle(torch.cat((left, out), 1), 2)


class DownUnit(nn.Module):
    """Two branches that both read all channels at stride 2, side by side; then a shuffle (figure 3d).

    Shape:
        - (B, in_channels, H, W) -> (B, channels, H/2, W/2).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        # The short branch: depthwise 3×3, 1×1.
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        # The long branch: 1×1, depthwise 3×3, 1×1.
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        short = self.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        long = self.bn4(self.conv4(self.relu(self.bn3(self.conv3(x)))))
        long = self.relu(self.bn5(self.conv5(long)))
        return channel_shuffle(torch.cat((short, long), 1), 2)


class CifarShuffleNetV2(nn.Module):
    """A 1×1 stem, three stages at 16, 8 and 4 pixels, a 1×1 convolution, average pooling, a linear classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are.

    Args:
        widths: Channels of the three stages.
        blocks: Number of units in each of the three stages, the first of which strides.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).

    Example:
        >>> network = CifarShuffleNetV2((116, 232, 464), (4, 8, 4), num_classes=10)
        >>> network.linear
        Linear(in_features=1024, out_features=10, bias=True)
    """

    taps: ClassVar[Taps] = Taps(embedding="input:linear", maps=("relu", "layer1", "layer2", "layer3"))
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(
        self, widths: tuple[int, int, int], blocks: tuple[int, int, int], *, num_classes: int = 100, in_chans: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(STEM, widths[0], blocks[0])
        self.layer2 = _stage(widths[0], widths[1], blocks[1])
        self.layer3 = _stage(widths[1], widths[2], blocks[2])
        self.conv2 = nn.Conv2d(widths[2], LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST)
        self.relu2 = nn.ReLU(inplace=True)  # another than the stem's, which is tapped and so must run once
        self.linear = nn.Linear(LAST, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(x.mean((2, 3)))


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_channels, channels), *(SplitUnit(channels) for _ in range(blocks - 1)))


@MODELS.register("ShuffleV2")
def shuffle_v2(num_classes: int = 100, in_chans: int = 3) -> CifarShuffleNetV2:
    """ShuffleNet V2 of width 1 with 116, 232 and 464 channels for 32×32 images."""
    return CifarShuffleNetV2((116, 232, 464), (4, 8, 4), num_classes=num_classes, in_chans=in_chans)
