"""ShuffleNet for 32×32 images, as the CIFAR benchmark has it (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .resnet import CIFAR100_MEAN, CIFAR100_STD

STEM = 24


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Permute the channels so that each group gets some of every group (Zhang et al., CVPR 2018, figure 1).

    Args:
        x: (B, C, H, W), where ``groups`` divides C.
        groups: Number of groups that the channels come in.

    Raises:
        RuntimeError: ``groups`` does not divide C.

    Example:
        >>> channel_shuffle(torch.arange(6.0).view(1, 6, 1, 1), 3).flatten()
        tensor([0., 2., 4., 1., 3., 5.])
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Grouped 1×1, depthwise 3×3 and grouped 1×1 convolutions, with a shuffle after the first (figure 2 of the paper).

    A unit of stride 1 adds its input; one of stride 2 appends its input, average-pooled, as further channels.

    Shape:
        - (B, in_channels, H, W) -> (B, channels, H/stride, W/stride), after a ReLU.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups_in: int, groups_out: int) -> None:
        super().__init__()
        out_channels = channels - in_channels if stride == 2 else channels  # the pooled input is the rest
        inner = out_channels // 4
        self.groups_in = groups_in
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=groups_in, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, groups=groups_out, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        out = channel_shuffle(self.relu(self.bn1(self.conv1(x))), self.groups_in)
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        return self.relu(out + x if self.pool is None else torch.cat((out, self.pool(x)), 1))


class CifarShuffleNet(nn.Module):
    """A 1×1 stem, three stages of shuffle units at 16, 8 and 4 pixels, average pooling, a linear classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are.

    Args:
        widths: Channels of the three stages.
        blocks: Number of units in each of the three stages, the first of which strides.
        groups: Groups of the 1×1 convolutions; the very first one is not grouped, as it has few channels to read.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).

    Example:
        >>> network = CifarShuffleNet((240, 480, 960), (4, 8, 4), 3, num_classes=10)
        >>> network.linear
        Linear(in_features=960, out_features=10, bias=True)
    """

    taps: ClassVar[Taps] = Taps(embedding="input:linear", maps=("relu", "layer1", "layer2", "layer3"))
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(
        self,
        widths: tuple[int, int, int],
        blocks: tuple[int, int, int],
        groups: int,
        *,
        num_classes: int = 100,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(STEM, widths[0], blocks[0], 1, groups)
        self.layer2 = _stage(widths[0], widths[1], blocks[1], groups, groups)
        self.layer3 = _stage(widths[1], widths[2], blocks[2], groups, groups)
        self.linear = nn.Linear(widths[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(in_channels: int, channels: int, blocks: int, groups_in: int, groups: int) -> nn.Sequential:
    """Units of which the first strides and reads its input in ``groups_in`` groups."""
    rest = (ShuffleUnit(channels, channels, 1, groups, groups) for _ in range(blocks - 1))
    return nn.Sequential(ShuffleUnit(in_channels, channels, 2, groups_in, groups), *rest)


@MODELS.register("ShuffleV1")
def shuffle_v1(num_classes: int = 100, in_chans: int = 3) -> CifarShuffleNet:
    """ShuffleNet of 3 groups with 240, 480 and 960 channels for 32×32 images."""
    return CifarShuffleNet((240, 480, 960), (4, 8, 4), 3, num_classes=num_classes, in_chans=in_chans)
