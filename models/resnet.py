"""The residual networks for 32×32 images of the CIFAR benchmark (He et al., CVPR 2016, section 4.2)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)
"""Channels of the stem and of the three stages; the wide ones are the benchmark's ×4 variants."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes.

    Shape:
        - (B, in_channels, H, W) -> (B, channels, H/stride, W/stride), after the ReLU that follows the sum.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of basic blocks at 32, 16 and 8 pixels, average pooling, a linear classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are.

    Args:
        depth: Number of weighted layers, 6n + 2 for n blocks a stage.
        widths: Channels of the stem and of the three stages.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).

    Raises:
        UsageError: ``depth`` is not 6n + 2.
    """

    taps: ClassVar[Taps] = Taps(embedding="input:fc", maps=("relu", "layer1", "layer2", "layer3"))
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(
        self, depth: int, widths: tuple[int, int, int, int] = NARROW, *, num_classes: int = 100, in_chans: int = 3
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"a CIFAR ResNet has a depth of 6n + 2, such as 8, 20 or 110, not {depth}")
        blocks = (depth - 2) // 6
        stem, *stages = widths
        self.conv1 = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(stem, stages[0], blocks, stride=1)
        self.layer2 = _stage(stages[0], stages[1], blocks, stride=2)
        self.layer3 = _stage(stages[1], stages[2], blocks, stride=2)
        self.fc = nn.Linear(stages[2], num_classes)
        for module in self.modules():  # BatchNorm's weights are 1 and its biases 0 already
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # adaptive pooling is slow, and warns, under torch.func.vmap


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride), *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1))
    )


def _register(name: str, depth: int, widths: tuple[int, int, int, int]) -> None:
    def build(num_classes: int = 100, in_chans: int = 3) -> CifarResNet:
        return CifarResNet(depth, widths, num_classes=num_classes, in_chans=in_chans)

    build.__name__ = name
    build.__doc__ = f"CIFAR ResNet of depth {depth} with {widths[1]}, {widths[2]} and {widths[3]} channels."
    MODELS.register(name)(build)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    _register(f"resnet{_depth}", _depth, NARROW)
for _depth in (8, 32):
    _register(f"resnet{_depth}x4", _depth, WIDE)
