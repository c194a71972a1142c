"""HHA: depth as horizontal disparity, height above ground and angle with gravity, and the direction of gravity
itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .modalities import modality, normals, points

# Within how many degrees of gravity, or of a right angle to it, a normal votes in each round (Gupta et al., 2013).
_ROUNDS = (45,) * 5 + (15,) * 5
_INERTIA = 0.01  # of all votes: that of the last round's direction, which decides where the surfaces leave a choice
_SQUARINGS = 12  # the 4096th power of a matrix
_ENOUGH = 5000  # pixels that a frame's gravity and ground are estimated from
_LOWEST = 0.01  # share of the pixels that may lie below the ground: noise


@modality("hha", of="depth", channels=3, metres=True, intrinsics=True)
def hha(depth: Tensor, camera: Tensor) -> Tensor:
    """Horizontal disparity, height above ground, angle with gravity (Gupta et al., ECCV 2014), in physical units.

    Channels: 1 / depth in 1/m, the disparity of a stereo pair one metre apart and of focal length 1; the height in
    metres above the lowest point in view (the 1st percentile, so that noise does not set it); the angle in degrees of
    the surface's normal with gravity: 180 for a floor, 90 for a wall, 0 for a ceiling.

    Shape:
        - depth: (B, 1, H, W) float32, metres, NaN where nothing was measured - camera: (B, 4), fx, fy, cx, cy in pixels
        - returns (B, 3, H, W) float32, NaN where nothing was measured; the angle also where there is no normal.
    """
    facing = normals(depth, camera)
    down = gravity(facing)[:, :, None, None]
    height = -(points(depth, camera) * down).sum(1, keepdim=True)
    cosine = (facing * down).sum(1, keepdim=True)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    return torch.cat([depth.reciprocal(), height - _ground(height), angle], 1)


def gravity(facing: Tensor) -> Tensor:
    """The direction of gravity in camera coordinates, estimated from normals (Gupta et al., CVPR 2013, section 3).

    From the camera's y axis on: surfaces within an angle of the last estimate are taken for floors and ceilings, those
    within the same angle of upright for walls, and gravity is the direction nearest to the normals of the former and to
    a right angle with those of the latter (least sum of squared sines and cosines). Right for cameras within about 40°
    of upright.

    Shape:
        - facing: (B, 3, H, W) float32, length 1, NaN where there is no normal - returns (B, 3), length 1, downwards.
    """
    normal = _thinned(facing).flatten(2)
    known = normal.isfinite().all(1)
    normal = torch.where(known[:, None], normal, 0.0)
    x, y, z = normal.unbind(1)
    products = torch.stack([x * x, x * y, x * z, y * y, y * z, z * z], 1)
    votes = known.sum(1).clamp_min(1)[:, None]
    down = torch.zeros_like(normal[:, :, 0])
    down[:, 1] = 1.0
    for degrees in _ROUNDS:
        along = (normal * down[:, :, None]).sum(1).abs()
        wall = known & (along < math.sin(math.radians(degrees)))
        floor = known & (along > math.cos(math.radians(degrees)))
        # Sums of products instead of matrix products: those may run in TF32.
        xx, xy, xz, yy, yz, zz = ((products * (wall.float() - floor.float())[:, None]).sum(2) / votes).unbind(1)
        matrix = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], 1).view(-1, 3, 3)
        down = _smallest_eigenvector(matrix - _INERTIA * down[:, :, None] * down[:, None, :], down)
    return down


def _smallest_eigenvector(matrix: Tensor, like: Tensor) -> Tensor:
    """The eigenvector of the smallest eigenvalue, (B, 3), length 1, of symmetric matrices (B, 3, 3); its sign is that
    of ``like`` (B, 3).

    By squaring: torch.linalg.eigh would make the device wait for the host at every call.
    """
    bound = matrix.square().sum((1, 2)).sqrt()  # no eigenvalue is greater
    power = torch.diag_embed(bound[:, None].expand(-1, 3)) - matrix
    for _ in range(_SQUARINGS):
        power = power / power.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        power = (power[:, :, :, None] * power[:, None]).sum(2)
    # Now all columns are multiples of the eigenvector; the longest is the most exact.
    longest = power.diagonal(dim1=1, dim2=2).argmax(1)
    vector = F.normalize(power.gather(2, longest[:, None, None].expand(-1, 3, 1)).squeeze(2), dim=1)
    return torch.where((vector * like).sum(1, keepdim=True) < 0, -vector, vector)


def _ground(height: Tensor) -> Tensor:
    """The height (B, 1, 1, 1) that no more than a hundredth of a frame's points (B, 1, H, W) lie below."""
    heights = _thinned(height).flatten(1)
    known = heights.isfinite()
    # Not torch.quantile: it takes no more than 16 million values, and counts NaN in or fails.
    ordered = torch.where(known, heights, torch.inf).sort(1).values
    place = (_LOWEST * (known.sum(1, keepdim=True) - 1).clamp_min(0)).long()
    return ordered.gather(1, place)[:, :, None, None]


def _thinned(images: Tensor) -> Tensor:
    """Every k-th pixel of every k-th row, where a frame has more than enough."""
    height, width = images.shape[2:]
    step = max(1, math.isqrt(height * width // _ENOUGH))
    return images[:, :, step // 2 :: step, step // 2 :: step]
