"""ResNets for 32×32 images (He et al., 2016, section 4.2), as the benchmark of distillation uses them."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps

CIFAR100 = Preprocess(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """A stem and three stages of n basic blocks, depth 6n + 2.

    Module and parameter names are those of the released checkpoints of these networks, which load as they are.

    Args:
        depth: 6n + 2.
        widths: Channels of the stem and of the three stages.
        num_classes: C.
        in_chans: Channels of the image.

    Shape:
        - images: (B, in_chans, 32, 32) or any side divisible by 4 - returns logits (B, C).
    """

    taps = Taps(embedding="input:fc", maps=("relu", "layer1", "layer2", "layer3"))
    preprocess = CIFAR100

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        # Not in place: the stem's output is a feature map that objectives read.
        self.relu = nn.ReLU()
        for number, (before, channels) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            first = BasicBlock(before, channels, stride=1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}")(partial(CifarResNet, _depth, (16, 16, 32, 64)))
for _depth in (8, 32):
    MODELS.register(f"resnet{_depth}x4")(partial(CifarResNet, _depth, (32, 64, 128, 256)))
