"""The VGG networks of the CIFAR benchmark (Simonyan and Zisserman, ICLR 2015), with BatchNorm and one linear layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .resnet import CIFAR100_MEAN, CIFAR100_STD

WIDTHS = (64, 128, 256, 512, 512)

CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each block, by the depth of the original, which has three linear layers."""


class CifarVGG(nn.Module):
    """Five blocks of 3×3 convolutions at 32, 16, 8, 4 and 4 pixels, average pooling, a linear classifier.

    Its module names are those of the benchmark's released checkpoints, which therefore load as they are. A block ends
    before its last ReLU, so that its output before (``block4``) and after it (``relu4``) can be tapped.

    Args:
        convolutions: Their number in each of the five blocks.
        num_classes: Length of the logits.
        in_chans: Channels of the images.

    Shape:
        - (B, in_chans, H, W) -> (B, num_classes), where H and W are at least 8.

    Example:
        >>> network = CifarVGG((1, 1, 1, 1, 1), num_classes=10)
        >>> network.classifier
        Linear(in_features=512, out_features=10, bias=True)
    """

    taps: ClassVar[Taps] = Taps(embedding="input:classifier", maps=("relu0", "relu1", "relu2", "relu3", "relu4"))
    preprocess: ClassVar[Preprocess] = Preprocess(CIFAR100_MEAN, CIFAR100_STD)

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], *, num_classes: int = 100, in_chans: int = 3
    ) -> None:
        super().__init__()
        channels = (in_chans, *WIDTHS)
        self.block0 = _block(channels[0], channels[1], convolutions[0])
        self.block1 = _block(channels[1], channels[2], convolutions[1])
        self.block2 = _block(channels[2], channels[3], convolutions[2])
        self.block3 = _block(channels[3], channels[4], convolutions[3])
        self.block4 = _block(channels[4], channels[5], convolutions[4])
        # Not in place: that would overwrite what a tap on the block sees.
        self.relu0, self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in WIDTHS)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(channels[5], num_classes)
        for module in self.modules():  # BatchNorm's weights are 1 and its biases 0 already
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu0(self.block0(x)))
        x = self.pool(self.relu1(self.block1(x)))
        x = self.pool(self.relu2(self.block2(x)))
        x = self.relu4(self.block4(self.relu3(self.block3(x))))
        return self.classifier(x.mean((2, 3)))


def _block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU and so on, without the last ReLU."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [
            nn.Conv2d(channels if number else in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers[:-1])


def _register(depth: int) -> None:
    def build(num_classes: int = 100, in_chans: int = 3) -> CifarVGG:
        return CifarVGG(CONVOLUTIONS[depth], num_classes=num_classes, in_chans=in_chans)

    build.__name__ = f"vgg{depth}"
    build.__doc__ = (
        f"VGG-{depth} with BatchNorm for 32×32 images: {sum(CONVOLUTIONS[depth])} convolutions and one linear layer."
    )
    MODELS.register(build.__name__)(build)


for _depth in CONVOLUTIONS:
    _register(_depth)
