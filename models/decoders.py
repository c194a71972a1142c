"""Decoders that turn the feature maps of any tapped network into an answer for each pixel.

Libraries of segmentation networks have decoders for encoders of their own. A network here may be of any origin and
gives its maps by module name, so these compact decoders take any list of maps and are built from their shapes alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UsageError

_WIDTHS = (128, 96, 64, 32, 16)
"""Channels of the UNet's scales, the deepest first; further scales have as many as the last."""


class Head(nn.Module, ABC):
    """What all of them share: each channel of each map is brought to mean 0 and variance 1 first.

    Args:
        shapes: (C_i, H_i, W_i) of the maps.
        num_classes: Length of the logits of a pixel.

    Shape:
        - maps: list of (B, C_i, H_i, W_i)
        - returns (B, num_classes, height, width) for ``size`` = (height, width).

    Raises:
        UsageError: There are no maps.
    """

    rate: ClassVar[float] = 1.0
    """Factor of the learning rate that suits this head."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], num_classes: int) -> None:
        super().__init__()
        if not shapes:
            raise UsageError(
                "segmentation needs feature maps, and the network has no tap for any: name the modules that give "
                "them, as maps=…"
            )
        self.num_classes = num_classes
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for channels, _, _ in shapes)

    def standardise(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [norm(value) for norm, value in zip(self.norms, maps, strict=True)]

    @abstractmethod
    def classify(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits of the pixels from maps that are standardised already."""

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The layers that give the answers, each as long as there are classes."""
        return ("classifier",)

    @property
    def reads(self) -> str | None:
        """The tap of what the classifier reads, (B, D, h, w); None where it reads the maps themselves."""
        return "input:classifier"

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        return self.classify(self.standardise(maps), size)


class LinearHead(Head):
    """A linear classifier of each pixel, on all maps brought to the size of the labels.

    A 1×1 convolution over the concatenated, enlarged maps is the sum of the enlarged 1×1 convolutions of each map: both
    are linear and the weights of an interpolation sum to 1. The sum is computed, as it enlarges a few classes instead
    of hundreds of channels.
    """

    rate = 30.0

    def __init__(self, shapes: Sequence[tuple[int, ...]], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1, bias=number == 0) for number, (channels, _, _) in enumerate(shapes)
        )
        # The problem is convex: it starts at 0, and a channel that is 0 in training keeps weights of 0.
        for parameter in self.convs.parameters():
            nn.init.zeros_(parameter)

    @property
    def classifiers(self) -> tuple[str, ...]:
        return tuple(f"convs.{number}" for number in range(len(self.convs)))

    @property
    def reads(self) -> None:
        return None

    def classify(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        logits: Tensor | None = None
        scores = [conv(value) for conv, value in zip(self.convs, maps, strict=True)]
        # Maps of one size are added before they are enlarged.
        for _, same in groupby(scores, key=lambda value: value.shape[2:]):
            enlarged = _resized(sum(same), size)
            logits = enlarged if logits is None else logits + enlarged
        assert logits is not None, "a head reads at least one map"
        return logits


class UNetHead(Head):
    """A small UNet decoder: from the deepest map up, at every scale a 3×3 convolution over what came from below and the
    maps of this scale.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.scales = _scales(shapes)
        self.blocks = nn.ModuleList()
        below = 0
        for number, scale in enumerate(self.scales):
            width = _WIDTHS[min(number, len(_WIDTHS) - 1)]
            self.blocks.append(_block(below + sum(shapes[place][0] for place in scale), width))
            below = width
        self.classifier = nn.Conv2d(below, num_classes, 1)

    def classify(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        x = None
        for scale, block in zip(self.scales, self.blocks, strict=True):
            here = [maps[place] for place in scale]
            if x is not None:
                here.append(_resized(x, here[0].shape[2:]))
            x = block(torch.cat(here, 1))
        return _resized(self.classifier(x), size)


class FPNHead(Head):
    """A feature pyramid with the semantic branch of Kirillov et al. (CVPR 2019, section 3.1): each scale is brought to
    one width by a 1×1 convolution and added to what came from below; the sum of all scales, each after a 3×3
    convolution, is classified at the finest.
    """

    width: ClassVar[int] = 64

    def __init__(self, shapes: Sequence[tuple[int, ...]], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.scales = _scales(shapes)
        self.laterals = nn.ModuleList(
            nn.Conv2d(sum(shapes[place][0] for place in scale), self.width, 1) for scale in self.scales
        )
        self.blocks = nn.ModuleList(_block(self.width, self.width) for _ in self.scales)
        self.classifier = nn.Conv2d(self.width, num_classes, 1)

    def classify(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        finest = maps[self.scales[-1][0]].shape[2:]
        x: Tensor | None = None
        total: Tensor | None = None
        for scale, lateral, block in zip(self.scales, self.laterals, self.blocks, strict=True):
            here = lateral(torch.cat([maps[place] for place in scale], 1))
            x = here if x is None else here + _resized(x, here.shape[2:])
            smooth = _resized(block(x), finest)
            total = smooth if total is None else total + smooth
        return _resized(self.classifier(total), size)


HEADS: dict[str, type[Head]] = {"linear": LinearHead, "unet": UNetHead, "fpn": FPNHead}


def _scales(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Places of the maps of each size, the smallest size first."""
    sizes = sorted({shape[1:] for shape in shapes})
    return [[place for place, shape in enumerate(shapes) if shape[1:] == size] for size in sizes]


def _block(channels: int, width: int) -> nn.Sequential:
    # One convolution a scale: a second one costs half as much again, most of it at the finest scale.
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def _resized(value: Tensor, size: Sequence[int]) -> Tensor:
    return (
        value
        if tuple(value.shape[2:]) == tuple(size)
        else F.interpolate(value, size=tuple(size), mode="bilinear", align_corners=False)
    )
