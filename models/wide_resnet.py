"""The wide residual networks of the CIFAR benchmark (Zagoruyko and Komodakis, BMVC 2016)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .resnet import CIFAR100_MEAN, CIFAR100_STD


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3×3 convolutions (He et al., ECCV 2016, figure 4e), beside a shortcut.

    Where the number of channels changes, the shortcut is a 1×1 convolution of the activated input; else it is the input
    itself.

    Shape:
        - (B, in_channels, H, W) -> (B, channels, H/stride, W/stride), a sum that nothing has activated yet.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut = None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return self.conv2(self.relu(self.bn2(self.conv1(activated)))) + shortcut


class Stage(nn.Module):
    """Pre-activation blocks in a row, the first of which strides; under ``layer``, as the released checkpoints name
    them.
    """

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = (PreActivationBlock(channels, channels, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(PreActivationBlock(in_channels, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """A 3×3 stem, three stages of pre-activation blocks at 32, 16 and 8 pixels, average pooling, a linear classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are. Its maps are
    sums before any activation, as are the benchmark's.

    Args:
        depth: Number of weighted layers, 6n + 4 for n blocks a stage.
        width: Factor of the channels 16, 32 and 64 of the three stages; the stem has 16.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).

    Raises:
        UsageError: ``depth`` is not 6n + 4.

    Example:
        >>> network = WideResNet(16, 2, num_classes=10)
        >>> network.fc
        Linear(in_features=128, out_features=10, bias=True)
    """

    taps: ClassVar[Taps] = Taps(embedding="input:fc", maps=("conv1", "block1", "block2", "block3"))
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(self, depth: int, width: int, *, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UsageError(f"a wide ResNet has a depth of 6n + 4, such as 16 or 40, not {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, 16 * width, blocks, stride=1)
        self.block2 = Stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = Stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():  # BatchNorm's weights are 1 and its biases 0 already
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.relu(self.bn1(x)).mean((2, 3)))


def _register(depth: int, width: int) -> None:
    def build(num_classes: int = 100, in_chans: int = 3) -> WideResNet:
        return WideResNet(depth, width, num_classes=num_classes, in_chans=in_chans)

    build.__name__ = f"wrn_{depth}_{width}"
    build.__doc__ = f"Wide ResNet of depth {depth} with {16 * width}, {32 * width} and {64 * width} channels."
    MODELS.register(build.__name__)(build)


for _depth in (16, 40):
    for _width in (1, 2):
        _register(_depth, _width)
