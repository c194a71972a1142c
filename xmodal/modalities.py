"""Modalities made from a stored one, on the device, a whole batch at once: colours from rgb, and what a depth camera's
values mean.

A new one is a function with one line above it, in any file of this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.arguments import checked
from ..core.entry_checks import kind_of
from ..core.errors import UsageError
from ..core.registry import MODALITIES
from ..core.user_code import explained, is_own, origin
from .modality_checks import checked_values

SOURCES = {"rgb": 3, "depth": 1}
"""What a modality may be made from, and its channels."""

_FLAT = 1e-4  # of a frame's mean depth; less deviation than that is rounding


@dataclass(frozen=True)
class Modality:
    """A modality that is made from a stored one.

    Attributes:
        name: As a network's config says it.
        of: The stored modality: rgb, depth, or any that a data set has.
        channels: How many it has.
        metres: Whether it means nothing where depth is relative.
        intrinsics: Whether it needs the view's camera.
        function: ``(B, C, H, W)`` of the source, and the camera (B, 4) if ``intrinsics``, to (B, channels, H, W)
            float32.
    """

    name: str
    of: str
    channels: int
    metres: bool
    intrinsics: bool
    function: Callable[..., Tensor]


@checked
def modality(
    name: str, *, of: str, channels: int, metres: bool = False, intrinsics: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: the function below makes the modality ``name``. Under autocast it still runs in float32, without
    gradients.

    Args:
        name, of, channels, metres, intrinsics: See :class:`Modality`.
    """

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not callable(function):
            raise UsageError(f"modality {name} is {kind_of(function)}: write the decorator above a function of a batch")
        unchecked = not is_own(function)

        @functools.wraps(function)
        def full_precision(values: Tensor, *camera: Tensor) -> Tensor:
            nonlocal unchecked
            # Half precision has steps of 8 mm at 3 m: no slope of a surface survives that.
            with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
                with explained(f"modality {name} ({origin(function)})", function):
                    if not unchecked:
                        return function(values, *camera)
                    result = checked_values(function, channels, values, camera)
            unchecked = len(values) < 2  # later batches are of the same kind
            return result

        MODALITIES.register(name)(Modality(name, of, channels, metres, intrinsics, full_precision))
        return full_precision

    return enter


@modality("luminance", of="rgb", channels=1)
def luminance(rgb: Tensor) -> Tensor:
    """L of CIELab (D65), 0 (black) to 100 (white).

    Shape:
        - rgb: (B, 3, H, W) uint8, or float in [0, 1] - returns (B, 1, H, W) float32.

    Example:
        >>> round(luminance(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).item())
        100
    """
    return _lab(rgb)[:, :1]


@modality("chrominance", of="rgb", channels=2)
def chrominance(rgb: Tensor) -> Tensor:
    """a (green to red) and b (blue to yellow) of CIELab (D65): about −110 to 110, grey is 0.

    Shape:
        - rgb: (B, 3, H, W) uint8, or float in [0, 1] - returns (B, 2, H, W) float32.
    """
    return _lab(rgb)[:, 1:]


@modality("grey", of="rgb", channels=1)
def grey(rgb: Tensor) -> Tensor:
    """Luma (ITU-R BT.601), 0 to 1.

    Shape:
        - rgb: (B, 3, H, W) uint8, or float in [0, 1] - returns (B, 1, H, W) float32.
    """
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(_unit(rgb))


@modality("inverse_depth", of="depth", channels=1, metres=True)
def inverse_depth(depth: Tensor) -> Tensor:
    """1 / depth, in 1/m.

    Shape:
        - depth: (B, 1, H, W) float32, metres, NaN where nothing was measured - returns the same.
    """
    return depth.reciprocal()


@modality("normalized_depth", of="depth", channels=1)
def normalized_depth(depth: Tensor) -> Tensor:
    """Depth with each frame's measured values brought to mean 0 and deviation 1 (no unit): the same for metres and for
    relative depth.

    Shape:
        - depth: (B, 1, H, W) float32, metres or relative, NaN where nothing was measured - returns the same.
    """
    measured = depth.isfinite()
    count = measured.sum((1, 2, 3), keepdim=True).clamp_min(1)
    mean = torch.where(measured, depth, 0.0).sum((1, 2, 3), keepdim=True) / count
    centred = depth - mean
    deviation = (torch.where(measured, centred, 0.0).square().sum((1, 2, 3), keepdim=True) / count).sqrt()
    return centred / deviation.clamp_min(_FLAT * mean).clamp_min(torch.finfo(torch.float32).tiny)


@modality("normals", of="depth", channels=3, metres=True, intrinsics=True)
def normals(depth: Tensor, camera: Tensor) -> Tensor:
    """Directions of the surfaces in camera coordinates (x right, y down, z forward): length 1, towards the camera.

    The cross product of the slopes of the surface (Sobel, 3 × 3 pixels), so a pixel beside one that was not measured
    has none. Across the edge of an object it is the direction of the step between the two surfaces.

    Shape:
        - depth: (B, 1, H, W) float32, metres, NaN where nothing was measured - camera: (B, 4), fx, fy, cx, cy in pixels
        - returns (B, 3, H, W) float32, NaN where a pixel of the 3 × 3 was not measured.

    Example:
        >>> normals(torch.full((1, 1, 3, 3), 2.0), torch.tensor([[3.0, 3.0, 1.0, 1.0]]))[0, :, 1, 1].tolist()
        [0.0, 0.0, -1.0]
    """
    missing = depth.isnan()
    # Neighbours of a hole lose their normal through the mask alone: what a convolution makes of NaN differs between
    # devices.
    position = points(torch.where(missing, 1.0, depth), camera)
    # Subtractions rather than a convolution (kornia's depth_to_normals): on a GPU that one may run in TF32, whose steps
    # are 2 mm at 3 m.
    border = F.pad(position, (1, 1, 1, 1), mode="replicate")
    right = border[..., 2:] - border[..., :-2]
    right = right[..., :-2, :] + 2 * right[..., 1:-1, :] + right[..., 2:, :]
    down = border[..., 2:, :] - border[..., :-2, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    facing = torch.linalg.cross(down, right, dim=1)
    facing = facing / facing.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    away = (facing * position).sum(1, keepdim=True) > 0
    facing = torch.where(away, -facing, facing)
    touched = F.max_pool2d(missing.float(), 3, stride=1, padding=1) > 0
    return torch.where(touched, torch.nan, facing)


def points(depth: Tensor, camera: Tensor) -> Tensor:
    """Positions of the pixels in camera coordinates (x right, y down, z forward), in depth's unit.

    Shape:
        - depth: (B, 1, H, W) - camera: (B, 4), fx, fy, cx, cy in pixels - returns (B, 3, H, W).
    """
    from kornia.geometry.depth import depth_to_3d

    fx, fy, cx, cy = camera.to(depth).unbind(1)
    zeros, ones = torch.zeros_like(fx), torch.ones_like(fx)
    matrix = torch.stack([fx, zeros, cx, zeros, fy, cy, zeros, zeros, ones], 1).view(-1, 3, 3)
    return depth_to_3d(depth, matrix)


def _unit(rgb: Tensor) -> Tensor:
    """rgb as float32 in [0, 1]."""
    if rgb.dtype != torch.uint8 and not rgb.is_floating_point():
        raise UsageError(f"rgb of {rgb.dtype} has no known scale: give uint8, or floats in [0, 1]")
    return rgb / 255.0 if rgb.dtype == torch.uint8 else rgb.float()


def _lab(rgb: Tensor) -> Tensor:
    from kornia.color import rgb_to_lab

    return rgb_to_lab(_unit(rgb))
