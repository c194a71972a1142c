"""ResNet-50 with a stem for 32×32 images, as the CIFAR benchmark has it (He et al., CVPR 2016, figure 5 right and table
1).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .resnet import CIFAR100_MEAN, CIFAR100_STD

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes.

    Shape:
        - (B, in_channels, H, W) -> (B, 4·channels, H/stride, W/stride), after the ReLU that follows the sum.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class CifarBottleneckResNet(nn.Module):
    """A 3×3 stem without pooling, four stages of bottlenecks at 32, 16, 8 and 4 pixels, average pooling, a linear
    classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are.

    Args:
        blocks: Number of bottlenecks in each of the four stages.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes).

    Example:
        >>> network = CifarBottleneckResNet((1, 1, 1, 1), num_classes=10)
        >>> network.linear
        Linear(in_features=2048, out_features=10, bias=True)
    """

    taps: ClassVar[Taps] = Taps(embedding="input:linear", maps=("relu", "layer1", "layer2", "layer3", "layer4"))
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(self, blocks: tuple[int, int, int, int], *, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(EXPANSION * 64, 128, blocks[1], stride=2)
        self.layer3 = _stage(EXPANSION * 128, 256, blocks[2], stride=2)
        self.layer4 = _stage(EXPANSION * 256, 512, blocks[3], stride=2)
        self.linear = nn.Linear(EXPANSION * 512, num_classes)
        for module in self.modules():  # BatchNorm's weights are 1 and its biases 0 already
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(EXPANSION * channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(in_channels, channels, stride), *rest)


@MODELS.register("ResNet50")
def resnet50(num_classes: int = 100, in_chans: int = 3) -> CifarBottleneckResNet:
    """ResNet-50 for 32×32 images, 64 to 2048 channels."""
    return CifarBottleneckResNet((3, 4, 6, 3), num_classes=num_classes, in_chans=in_chans)
