"""How a network sees: its normalisation and its resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .arguments import checked, plain_number
from .config.fields import LONGEST_SIDE
from .errors import UsageError
from .given_values import check_stored
from .input_values import (
    check_images,
    check_integers,
    check_values,
    note_dark,
    stored_depth,
    values_can_be_read,
)
from .value_scale import ValueScale


@checked
@dataclass(frozen=True)
class Preprocess:
    """A network's own normalisation and resolution.

    Attributes:
        mean: A mean for each channel: of values in [0, 1] for images, in the modality's own unit for others.
        std: A standard deviation for each channel.
        resolution: Side, or (height, width), in pixels; None leaves the images as they are.
        colours: Whether bytes are an image's, 0 … 1; those of other modalities than ``rgb`` are values like any others,
            0 … 255.
        scale: What the values were in the training, which those of others are compared with; None: not known.

    Args of a call:
        images: See below.
        once: Whether the first batch that it is given stands for all, as that of a training.
        like: A module that takes what is returned: it is in the precision of its weights, as after ``module.half()``.

    Shape:
        - images: (B, C, H, W) uint8 in [0, 255], or float: an image in [0, 1], or another modality in the unit of the
          training (depth in metres, or integers as the training's were stored), where NaN stands for what was not
          measured, in others than ``rgb``. It becomes 0, the mean; where the size changes it has no part in its
          neighbours.
        - returns (B, C, H', W') float32, or as ``like``.

    Raises:
        UsageError: ``mean`` and ``std`` are empty, differ in length or are not finite, a ``std`` is not positive, a
            side of the resolution is below 1 or above 16384; what is no tensor of images, images of another dtype or
            another number of channels, values of another range or unit than the training's, NaN in colours.
            On a device the first batch stands for all; under torch.compile, tracing and export no values are compared.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int | tuple[int, int] | None = None
    colours: bool = field(default=True, compare=False, repr=False)
    scale: ValueScale | None = field(default=None, compare=False, repr=False)
    _checked: set[bool] = field(default_factory=set, init=False, compare=False, repr=False)
    _noted: set[str] = field(default_factory=set, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(
                f"mean has {len(self.mean)} channels and std has {len(self.std)}: give a mean and a std for each "
                "channel"
            )
        for name in ("mean", "std"):
            values = tuple(map(plain_number, getattr(self, name)))
            object.__setattr__(self, name, values)  # of an array or a tensor too
            if not values:
                raise UsageError(f"{name} is empty: give a value for each channel")
            if not all(map(math.isfinite, values)):
                raise UsageError(f"{name} {values} has a value that is NaN or infinite")
        if min(self.std) <= 0:
            raise UsageError(f"std {self.std} has a value that is not positive")
        size = plain_number(self.resolution)
        if size is not None:
            size = size if isinstance(size, int) else tuple(map(plain_number, size))
            sides = size if isinstance(size, tuple) else (size,)
            if min(sides) < 1 or max(sides) > LONGEST_SIDE or any(isinstance(side, bool) for side in sides):
                raise UsageError(
                    f"resolution is {size}: give a side in pixels, from 1 to {LONGEST_SIDE}, or (height, width), or "
                    "None for images as they are"
                )
            object.__setattr__(self, "resolution", size)

    def compared(self) -> None:
        """Log no line about further batches: their data were compared as a whole."""
        self._noted.add("scale")

    def _check(self, images: Tensor, stored: Tensor, once: bool) -> None:
        """Compare floats, and what they were before marks of nothing measured were taken out, with the values of the
        training, without a word where none can be read.
        """
        # On a device whoever reads a value waits for it.
        if self._checked and (once or images.device.type != "cpu"):
            return
        whole = not images.is_floating_point() and self.colours
        if (whole and self._checked) or not values_can_be_read(images):
            return
        if self.colours and not self._checked:
            note_dark(images)
        if whole:
            self._checked.add(True)
            return
        if not self.colours and check_stored(stored, self.scale, notes=not once and "below 0" not in self._noted):
            self._noted.add("below 0")
        options = {"colours": self.colours, "notes": not once, "noted": "scale" in self._noted}
        # Each batch has figures of its own, so that a line for each would be another one.
        if check_values(images, self.mean, self.std, self.scale, **options):
            self._noted.add("scale")
        self._checked.add(True)

    def __call__(self, images: Tensor, *, once: bool = False, like: nn.Module | None = None) -> Tensor:
        values = self._normalised(images, once)
        return values if like is None else values.to(_precision(like))

    def _normalised(self, images: Tensor, once: bool) -> Tensor:
        check_images(images, len(self.mean), colours=self.colours)
        if not images.is_floating_point():
            check_integers(images.dtype, self.scale, colours=self.colours, mean=self.mean)
        stored, images = images, images if self.colours else stored_depth(images, self.scale)
        self._check(images, stored, once)
        unit = 255.0 if images.dtype == torch.uint8 and self.colours else 1.0
        whole = images.dtype == torch.uint8
        if not is_mapped(images) and images.is_contiguous(memory_format=torch.channels_last):
            # Whole rows of W·C values: a broadcast over three innermost channels is not vectorised on a CPU.
            width, channels = images.shape[3], images.shape[1]
            scale, shift = _factors(tuple(self.mean), tuple(self.std), unit, images.device, repeats=width)
            rows = _scaled(images.permute(0, 2, 3, 1).flatten(2), scale, shift)
            images = rows.unflatten(2, (width, channels)).permute(0, 3, 1, 2)
        else:
            scale, shift = _factors(tuple(self.mean), tuple(self.std), unit, images.device)
            images = _scaled(images, scale, shift)
        return fitted(images, self.resolution, whole=whole)


def fitted(images: Tensor, resolution: int | tuple[int, int] | None, *, whole: bool) -> Tensor:
    """Normalised images at a resolution, 0 where nothing was measured, which has no part in its neighbours.

    Args:
        images: (B, C, H, W) float32, NaN where nothing was measured.
        resolution: Of a :class:`Preprocess`.
        whole: Whether all was measured.
    """
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    if size is not None and tuple(images.shape[2:]) == tuple(size):
        size = None
    # The weights of an interpolation sum to 1, so it may as well come after the normalisation.
    if whole:
        return images if size is None else _interpolated(images, size)
    values = torch.nan_to_num(images, nan=0.0, posinf=0.0, neginf=0.0)
    if size is None:
        return values
    measured = _interpolated(images.isfinite().float(), size)
    return torch.where(measured > 1e-3, _interpolated(values, size) / measured.clamp_min(1e-3), 0.0)


def _precision(module: nn.Module) -> torch.dtype:
    """That of its first weight; float32 where it has none that images can be in."""
    kinds = (weight.dtype for weight in module.parameters() if weight.is_floating_point())
    kind = next(kinds, torch.float32)
    return kind if kind in (torch.float16, torch.bfloat16, torch.float64) else torch.float32


def is_mapped(images: Tensor) -> bool:
    """Whether it is in a transform of torch.func, as vmap, which knows no order in memory and no ``out=``."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(images)


def _interpolated(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _scaled(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """values · scale + shift in float32."""
    floats = values.float()
    if values.is_floating_point() or torch.compiler.is_compiling() or torch.jit.is_tracing() or is_mapped(values):
        return torch.addcmul(shift, floats, scale)
    # Of whole numbers the floats are new, and nothing else reads them: written over, they take half the time on a CPU,
    # most of which goes to the pages of a further tensor.
    return torch.addcmul(shift, floats, scale, out=floats)


def is_traced() -> bool:
    """Whether code is compiled, traced, exported or transformed: tensors that are made meanwhile may be none later."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None or _get_current_dispatch_mode() is not None


def _factors(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Those of :func:`_affine`, made anew where they could not be kept."""
    return (_affine.__wrapped__ if is_traced() else _affine)(*args, **options)


@lru_cache(maxsize=64)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], unit: float, device: torch.device, repeats: int = 0
) -> tuple[Tensor, Tensor]:
    """(x/unit − mean)/std as x·scale + shift, kept so that no step waits for a copy to the device.

    (C, 1, 1) each, or with ``repeats`` (repeats·C,): all channels of one pixel, then of the next.
    """
    with torch.inference_mode(False):  # a tensor that is born in inference mode could not be used in training later
        scale = [1 / (unit * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        shape = (-1,) if repeats else (-1, 1, 1)
        by, at = (
            torch.tensor(values * max(1, repeats), dtype=torch.float32, device=device).view(shape)
            for values in (scale, shift)
        )
        return by, at
