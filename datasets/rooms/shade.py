"""What the rendered rooms look like: patterns, light and shadow, and what the sensors add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...core.hashing import hash64, shifted
from .scene import OBJECTS, Scene

# Purposes of the hash; scene.py uses 101 and 102.
_RGB_NOISE, _DEPTH_NOISE, _PATTERN = 103, 104, 105

FARTHEST = 8.0
"""Metres beyond which the depth camera measures nothing."""
_GRAZING = 0.12  # cosine below which a surface sends too little of the depth camera's light back


@dataclass
class Points:
    """P points to be lit.

    Attributes:
        frame: int64 (P,), whose room they are in.
        surface, object: int64 (P,), places in the scene's colours, and whose they are; −1 is the room's.
        place, normal: Three arrays (P,) float32 each, world coordinates.
        flat: Two arrays (P,), metres along the surface.
    """

    frame: np.ndarray
    surface: np.ndarray
    object: np.ndarray
    place: list[np.ndarray]
    normal: list[np.ndarray]
    flat: list[np.ndarray]


def shade(scene: Scene, points: Points) -> list[np.ndarray]:
    """Linear rgb: three arrays (P,)."""
    frame, surface = points.frame, points.surface
    light = scene.light.astype(np.float32)
    bright = scene.ambient.astype(np.float32)[frame] * (np.float32(0.75) + np.float32(0.25) * points.normal[2])
    for k in range(light.shape[1]):
        toward = [light[frame, k, axis] - points.place[axis] for axis in range(3)]
        square = toward[0] * toward[0] + toward[1] * toward[1] + toward[2] * toward[2]
        facing = (points.normal[0] * toward[0] + points.normal[1] * toward[1] + points.normal[2] * toward[2]) / np.sqrt(
            square
        )
        lit = _unshadowed(scene, points, toward)
        bright += (
            light[frame, k, 3] * np.maximum(facing, np.float32(0)) * lit / (np.float32(0.7) + np.float32(0.15) * square)
        )
    mixed, colours = _pattern(scene, points), scene.colours.astype(np.float32)
    first, second = colours[frame, surface, 0], colours[frame, surface, 1]
    return [bright * (first[:, k] + mixed * (second[:, k] - first[:, k])) for k in range(3)]


def _unshadowed(scene: Scene, points: Points, toward: list[np.ndarray]) -> np.ndarray:
    """Share of a light that arrives: objects throw the soft shadows of ellipsoids as big as they are."""
    left = np.ones_like(points.place[0])
    ellipsoids = scene.ellipsoid.astype(np.float32)
    for k in range(OBJECTS):
        casts = np.flatnonzero((scene.kind[points.frame, k] >= 0) & (points.object != k))
        own = ellipsoids[points.frame[casts], k].T
        cosine, sine = own[6], own[7]
        away: list[np.ndarray] = []
        step: list[np.ndarray] = []
        for into, vector in (
            (away, [points.place[axis][casts] - own[axis] for axis in range(3)]),
            (step, [toward[axis][casts] for axis in range(3)]),
        ):
            turned = (cosine * vector[0] + sine * vector[1], cosine * vector[1] - sine * vector[0], vector[2])
            into.extend(turned[axis] / own[3 + axis] for axis in range(3))
        along = -(away[0] * step[0] + away[1] * step[1] + away[2] * step[2]) / (
            step[0] * step[0] + step[1] * step[1] + step[2] * step[2]
        )
        along = np.clip(along, np.float32(0), np.float32(1))
        near = [away[axis] + along * step[axis] for axis in range(3)]
        square = near[0] * near[0] + near[1] * near[1] + near[2] * near[2]
        left[casts] *= np.clip(np.float32(0.9375) * square - np.float32(0.125), np.float32(0.25), np.float32(1))
    return left


def _pattern(scene: Scene, points: Points) -> np.ndarray:
    """How much of a surface's second colour there is, 0 to 1, float32: plain, checks, stripes, planks or noise."""
    texture = scene.texture[points.frame, points.surface]
    u, v = (flat * texture[:, 1 + axis] + texture[:, 3] for axis, flat in enumerate(points.flat))
    mixed = np.zeros(len(u), np.float32)
    for kind, draw in enumerate((_checks, _stripes, _planks, _clouds), 1):
        chosen = np.flatnonzero(texture[:, 0] == kind)
        mixed[chosen] = draw(u[chosen], v[chosen], points.surface[chosen])
    return mixed


def _odd(cells: np.ndarray) -> np.ndarray:
    return cells - 2 * np.floor(cells / 2)


def _checks(u: np.ndarray, v: np.ndarray, _: np.ndarray) -> np.ndarray:
    return _odd(np.floor(u) + np.floor(v))


def _stripes(u: np.ndarray, v: np.ndarray, _: np.ndarray) -> np.ndarray:
    return _odd(np.floor(u))


def _planks(u: np.ndarray, v: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Each a shade of its own, with dark joints."""
    column = np.floor(u)
    return np.where(u - column < 0.07, 1.0, 0.6 * _random(column, np.zeros_like(column), surface))


def _clouds(u: np.ndarray, v: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """A random value at each corner of the cells, and smooth between."""
    column, row = np.floor(u), np.floor(v)
    across, down = ((x - cell) * (x - cell) * (3 - 2 * (x - cell)) for x, cell in ((u, column), (v, row)))
    c00, c01, c10, c11 = (_random(column + a, row + b, surface) for a, b in ((0, 0), (1, 0), (0, 1), (1, 1)))
    upper, lower = c00 + across * (c01 - c00), c10 + across * (c11 - c10)
    return upper + down * (lower - upper)


def _random(column: np.ndarray, row: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each cell of each surface."""
    cell = (column.astype(np.int64) * 1_000_003 + row.astype(np.int64)) * 64 + surface
    bits = hash64(torch.from_numpy(cell), _PATTERN)
    return shifted(bits, 11).numpy() * 2.0**-53


def gauss(index: np.ndarray, shape: tuple[int, ...], seed: int, split: int, purpose: int) -> np.ndarray:
    """Noise of mean 0 and deviation 1, nearly normal, (N, *shape): the sum of four 16-bit numbers."""
    cells = int(np.prod(shape))
    counter = torch.from_numpy(index)[:, None] * cells + torch.arange(cells)
    bits = hash64(counter, purpose, seed, split)
    summed = sum((shifted(bits, shift) & 0xFFFF).numpy() for shift in (0, 16, 32, 48))
    # Each has variance 65536² / 12, their sum a third of 65536².
    return ((summed - 131070.0) * (3.0**0.5 / 65536)).reshape(len(index), *shape)


def add_rgb_noise(rgb: np.ndarray, scene: Scene, index: np.ndarray, seed: int, split: int) -> np.ndarray:
    """rgb (N, pixels, 3) with the noise of its camera."""
    return rgb + scene.noise[:, None, None] * gauss(index, rgb.shape[1:], seed, split, _RGB_NOISE)


def measured(
    scene: Scene, depth: np.ndarray, cosine: np.ndarray, index: np.ndarray, seed: int, split: int, size: int
) -> np.ndarray:
    """What a structured-light camera would measure: noise that grows with the square of the distance, and nothing (0)
    beyond ``FARTHEST``, on grazing surfaces, in three blobs, and at some of the edges.

    Args:
        depth: (N, pixels), metres.
        cosine: (N, pixels), between the surface's normal and the way to the camera.
    """
    noise = gauss(index, depth.shape[1:], seed, split, _DEPTH_NOISE)
    spread = 0.0012 + 0.0019 * (depth - 0.4) * (depth - 0.4)
    noisy = depth + spread * noise
    missing = (depth > FARTHEST) | (cosine < _GRAZING)
    grid = (np.arange(size) + 0.5) / size
    x, y = np.tile(grid, size), np.repeat(grid, size)
    for k in range(scene.blobs.shape[1]):
        across = (x - scene.blobs[:, k, 0, None]) / np.maximum(scene.blobs[:, k, 2, None], 1e-3)
        down = (y - scene.blobs[:, k, 1, None]) / np.maximum(scene.blobs[:, k, 3, None], 1e-3)
        missing |= (
            (across * across + down * down < 1) & (scene.blobs[:, k, 2, None] > 0) & (scene.blobs[:, k, 3, None] > 0)
        )
    # The projector stands to the left of the camera: what is behind an edge lies in its shadow.
    picture = depth.reshape(len(depth), size, size)
    behind = np.zeros(picture.shape, bool)
    behind[:, :, 1:] = picture[:, :, 1:] > 1.08 * picture[:, :, :-1]
    missing |= behind.reshape(depth.shape) & (noise > -0.5)
    return np.where(missing, 0.0, np.maximum(noisy, 0.01))
