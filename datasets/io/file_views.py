"""Views of image files: which part of a picture is cut out, drawn by counting, so that nothing but (seed, view, index)
decides it.

The part is drawn from the header's height and width, before a pixel is decoded: of a large JPEG only as much is decoded
as the view needs.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import UsageError, unknown_name
from ...core.hashing import hash64, mix, shifted
from .images import REDUCTIONS, DecodedPicture, Picture

# Purposes of the hash, beside the purposes in views.py: two purposes never share random bits.
_CROPS, _JITTER, _TRANSFORMS = 3, 4, 5
_TRIES = 10
_RATIO = (math.log(3 / 4), math.log(4 / 3))
# Shorter side that a picture is resized to before the centre is cut out, in sides of what is cut out: 256 to 224 as
# ImageNet is evaluated.
_MARGIN = 256 / 224
TORCHVISION = "torchvision/"
"""What the names of torchvision's transforms begin with in ``data.transforms``."""
LABELS = "semantics"
"""The modality that is a label map: its values are names, and stay whole numbers, of 8 bits where the files hold no
more.
"""


@dataclass(frozen=True)
class FileViews:
    """How a picture becomes a square of ``size`` pixels.

    Attributes:
        size: Side in pixels.
        crop: Of training views. ``"random_resized"``: a part of random area and ratio, 3:4 to 4:3, resized;
            ``"padded"``: the centre square, shifted by up to size/8 pixels, black coming in; ``"none"``: the centre
            square.
        scale: Range of the part's area in the picture's, for random_resized.
        flip: Whether half of the training views are mirrored.
        transforms: Further transforms of albumentations: name and arguments of each.
    """

    size: int
    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    transforms: list[dict[str, Any]] = field(default_factory=list)

    def plain(self, picture: Picture | DecodedPicture) -> Tensor:
        """The centre square, uint8 (size, size, 3): what a network is tested on.

        Where training views are resized parts, the shorter side is first brought to 256/224 of ``size``, as in the
        usual evaluation on ImageNet; otherwise to ``size``.
        """
        short = round(self.size * _MARGIN) if self.crop == "random_resized" else self.size
        # Twice the pixels needed, so that how it was decoded is hardly seen.
        pixels = picture.pixels(reduction(min(picture.height, picture.width), 2 * short))
        height, width, _ = pixels.shape
        # A strip would become gigabytes at that size; its ends are cut off below in any case.
        pixels = _centre(pixels, min(height, 2 * width), min(width, 2 * height))
        # By the file's own sides, whatever size it was decoded or kept at.
        height, width = min(picture.height, 2 * picture.width), min(picture.width, 2 * picture.height)
        long = int(short * max(height, width) / min(height, width))
        pixels = resized(pixels, *((short, long) if height <= width else (long, short)))
        return _centre(pixels, self.size, self.size)

    @property
    def needed_side(self) -> int:
        """Shorter side of a picture from which no view is enlarged."""
        if self.crop != "random_resized":
            return self.size
        return max(round(self.size * _MARGIN), math.ceil(self.size / math.sqrt(self.scale[0])))

    def draws(self, seed: int, view: int, index: Tensor) -> list[list[float]]:
        """Numbers in [0, 1) for view ``view`` of each of the samples ``index``, as :func:`draw_numbers` gives them."""
        return draw_numbers(seed, view, index)

    def view(self, picture: Picture | DecodedPicture, draws: list[float], seed: int) -> Tensor:
        """The drawn view, uint8 (size, size, 3).

        Args:
            draws: The sample's, from :meth:`draws`.
            seed: Of the further transforms.
        """
        if self.crop == "random_resized":
            pixels = self._part(picture, *draw_part(picture.height, picture.width, self.scale, draws[1:]))
        else:
            pixels = self.plain(picture)
            if self.crop == "padded":
                pixels = moved(pixels, *shift((self.size, self.size), draws))
        if self.flip and draws[0] < 0.5:
            pixels = pixels.flip(1)
        if self.transforms:
            seed_transforms(self.compose, seed)
            # A copy: transforms may write to it, and the pixels may be a cache's, or the user's own.
            pixels = torch.from_numpy(self.compose(image=pixels.numpy().copy())["image"])
        return pixels

    def _part(self, picture: Picture | DecodedPicture, top: int, left: int, height: int, width: int) -> Tensor:
        """A rectangle of the picture, resized to the square."""
        pixels = picture.pixels(reduction(min(height, width), self.size))
        if pixels.shape[:2] != (picture.height, picture.width):
            down, across = pixels.shape[0] / picture.height, pixels.shape[1] / picture.width
            top, left, height, width = (
                round(top * down),
                round(left * across),
                round(height * down),
                round(width * across),
            )
        return resized(pixels[top : top + height, left : left + width], self.size, self.size)

    @cached_property
    def compose(self) -> Any:
        """albumentations' own, of ``transforms``.

        Raises:
            UsageError: A transform that does not exist, or with arguments it does not take, or that does not keep the
                shape.
        """
        return composed(self.transforms, (self.size, self.size))


def composed(transforms: list[dict[str, Any]], size: tuple[int, int], masks: Sequence[str] = ()) -> Any:
    """A Compose of albumentations, tried once.

    Args:
        transforms: Name and arguments of each.
        size: Height and width of what it is given, which it has to keep.
        masks: Names beside ``image`` that move as it moves, by the nearest pixel, and whose values stay; float32, or
            whole numbers for ``semantics``.

    Raises:
        UsageError: A transform that does not exist, or with arguments it does not take, or that asks for more than an
            image, or that does not keep the shape.
    """
    import albumentations as A

    known = [
        name for name in dir(A) if isinstance(getattr(A, name), type) and issubclass(getattr(A, name), A.BasicTransform)
    ]
    built = []
    for entry in transforms:
        arguments = dict(entry)
        name = arguments.pop("name", None)
        if name is None:
            raise UsageError(f"data.transforms: {entry} has no name: write {{name: HorizontalFlip, p: 0.5}}")
        if str(name).startswith(TORCHVISION):
            if masks:
                raise UsageError(
                    f"data.transforms: {name} would move rgb alone, and {', '.join(masks)} would stay: take "
                    "albumentations' transforms, which move all modalities alike"
                )
            from .torchvision_transforms import TorchvisionTransform

            built.append(TorchvisionTransform(str(name).removeprefix(TORCHVISION), arguments))
            continue
        if name not in known:
            raise unknown_name("transform of albumentations", str(name), known)
        try:
            with warnings.catch_warnings():
                # It only warns of arguments that it does not know.
                warnings.simplefilter("error", UserWarning)
                built.append(getattr(A, name)(**arguments))
        except (TypeError, ValueError, UserWarning) as error:
            raise UsageError(
                f"data.transforms: {name} does not take {arguments}: {' '.join(str(error).split())}"
            ) from error
        if wanted := sorted({*getattr(built[-1], "targets_as_params", ())} - {"image"}):
            raise UsageError(
                f"data.transforms: {name} asks for {', '.join(wanted)} beside each image, which a config cannot give: "
                "leave it out, or apply it in a Dataset of your own"
            )
    # Some transforms ask for another interpolation of masks unless all are told: 0 is cv2.INTER_NEAREST.
    compose = A.Compose(built, additional_targets=dict.fromkeys(masks, "mask"), mask_interpolation=0)
    sample = {"image": np.zeros((*size, 3), np.uint8)} | {
        name: np.zeros(size, np.uint8 if name == LABELS else np.float32) for name in masks
    }
    _try(compose, built, sample, ", ".join(str(transform["name"]) for transform in transforms))
    return compose


def _try(compose: Any, built: Sequence[Any], sample: dict[str, np.ndarray], names: str) -> None:
    """Apply transforms to a sample, each for certain; several times where what they draw may turn the shape."""
    height, width = sample["image"].shape[:2]
    # Those of torchvision have another chance inside.
    parts = [*built, *(inner for each in built if hasattr(inner := getattr(each, "transform", None), "p"))]
    chances = [part.p for part in parts]
    for part in parts:
        part.p = 1.0
    try:
        for seed in range(1 if height == width else 8):
            seed_transforms(compose, seed)
            shown = compose(**sample)
            if any(
                getattr(shown[name], "shape", None) != values.shape or shown[name].dtype != values.dtype
                for name, values in sample.items()
            ):
                raise UsageError(
                    f"data.transforms ({names}) do not keep {height}×{width} pixels of uint8: leave resizing and "
                    "normalising to data.size and the network"
                )
    except UsageError:
        raise
    except Exception as error:  # whatever a library's transform raises for a plain image
        raise UsageError(
            f"data.transforms ({names}) fail on an image of {height}×{width} pixels: {' '.join(str(error).split())}"
        ) from error
    finally:
        for part, chance in zip(parts, chances, strict=True):
            part.p = chance


def draw_numbers(seed: int, view: int, index: Tensor) -> list[list[float]]:
    """Numbers in [0, 1) for view ``view`` of each of the samples ``index``: flip, then four for each try at a crop."""
    counter = index[:, None] * 64 + torch.arange(1 + 4 * _TRIES)
    return (shifted(hash64(counter, _CROPS, seed, view), 11).double() * 2.0**-53).tolist()


def draw_part(
    height: int, width: int, scale: tuple[float, float], draws: list[float], shape: float = 1.0
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of random area and ratio; the centre where ten tries do not fit (Szegedy et
    al., CVPR 2015).

    Args:
        scale: Range of its area in the picture's.
        draws: Four numbers in [0, 1) for each try: area, ratio, top, left.
        shape: Width to height of the view, which the ratios of 3:4 to 4:3 are times.
    """
    for area, ratio, down, across in zip(*(draws[first::4] for first in range(4)), strict=True):
        pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
        ratio = shape * math.exp(_RATIO[0] + ratio * (_RATIO[1] - _RATIO[0]))
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
    h, w = max(1, min(height, round(width * 4 / 3 / shape))), max(1, min(width, round(height * 4 / 3 * shape)))
    return (height - h) // 2, (width - w) // 2, h, w


def transform_seed(seed: int, view: int, index: int) -> int:
    """The seed of a view's further transforms."""
    return mix(_TRANSFORMS, seed, view, index)


def seed_transforms(compose: Any, seed: int) -> None:
    """Let each transform draw from a stream of its own, by the seed and its place: albumentations' own
    ``set_random_seed`` gives all of them one seed, so that they draw the same numbers.
    """
    for place, part in enumerate([compose, *compose.transforms]):
        # The outermost draws nothing, and the first keeps the seed that it has where it is alone.
        own = seed if place < 2 else mix(seed, place)
        part.random_generator, part.py_random = np.random.default_rng(own), random.Random(own)


def jitter(images: Tensor, index: Tensor, *, seed: int, view: int, strength: float) -> Tensor:
    """Brightness, contrast and saturation, in this order, each times its own factor in [1 − strength, 1 + strength].

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1], on any device.
        index: int64 (B,), on the CPU.

    Shape:
        - returns (B, 3, H, W) float32 in [0, 1], channels_last.
    """
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
    )

    bits = hash64(index, _JITTER, seed, view)
    factors = [1 + strength * ((shifted(bits, shift) & 0x1FFFFF) * 2.0**-20 - 1) for shift in (1, 22, 43)]
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    for adjust, factor in zip(
        (
            adjust_brightness_accumulative,
            adjust_contrast_with_mean_subtraction,
            adjust_saturation_with_gray_subtraction,
        ),
        factors,
        strict=True,
    ):
        images = adjust(images, factor.to(images.device, torch.float32, non_blocking=True))
    return images.contiguous(memory_format=torch.channels_last)


def reduction(side: int, needed: int) -> int:
    """How much smaller a picture may be decoded, if ``needed`` pixels are to be left of ``side``."""
    return next((by for by in REDUCTIONS if side >= by * needed), 1)


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, antialiased: Pillow's result to one level, in a quarter of its time; uint8 (height, width, 3)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return F.interpolate(pixels[None].permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)[0].permute(
        1, 2, 0
    )


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def shift(size: tuple[int, int], draws: list[float]) -> tuple[int, int]:
    """How many pixels a padded view lies lower and further right than what it is cut out of: up to an eighth of a side,
    either way.
    """
    down, across = (side // 8 for side in size)
    return int(draws[1] * (2 * down + 1)) - down, int(draws[2] * (2 * across + 1)) - across


def moved(pixels: Tensor, down: int, across: int, fill: float = 0) -> Tensor:
    """A rectangle of the same size, so many pixels lower and further right, ``fill`` coming in; (H, W, C)."""
    height, width, _ = pixels.shape
    y, x = abs(down), abs(across)
    return F.pad(pixels, (0, 0, x, x, y, y), value=fill)[y + down : y + down + height, x + across : x + across + width]
