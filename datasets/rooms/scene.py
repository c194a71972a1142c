"""What stands in each rendered room: objects, camera, walls, light and colours, drawn from (seed, split, index) alone.

World axes: x and y along the walls, z up, metres. All arithmetic is float64 and made of operations that IEEE 754 rounds
exactly (sines by their series), so that a frame is the same bytes in any batch and on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from ...core.hashing import hash64, shifted
from .kinds import DRAWS, KINDS, SLOTS, Primitives, build_primitives

# Purposes of the hash; the views use 1 and 2.
_SCENE, _CLASS = 101, 102
OBJECTS = 5  # in a room at most, the main one first
SHELL = 3  # surfaces of the room: floor, walls, ceiling
FOCAL = 0.9  # focal length in units of the image's side: a field of view of 58°
_FRAME_DRAWS, _SURFACE_DRAWS = 128, 16
_PER_OBJECT = DRAWS + SLOTS * _SURFACE_DRAWS + 8
_TRIES = 4  # places that a distractor may take; it stays away when all are taken


@dataclass
class Scene:
    """N rooms.

    Attributes:
        kind: int64 (N, OBJECTS), places in KINDS, −1 where there is none; the first is the main object's.
        eye: (N, 3), the camera.
        axes: (N, 3, 3), rows are the camera's right, down and forward, of length 1.
        low, high: (N, 3), corners of the room.
        light: (N, 2, 4), position of two lights and their intensity.
        ambient: (N,).
        gain: (N, 3), exposure and white balance.
        noise: (N,), standard deviation of the noise of rgb, in full scale.
        ellipsoid: (N, OBJECTS, 8), of each object: middle (3), half sizes (3), cosine and sine of its yaw.
        colours: (N, SHELL + OBJECTS · SLOTS, 2, 3), linear rgb.
        texture: (N, SHELL + OBJECTS · SLOTS, 4), kind of pattern, cells a metre along both axes, offset.
        blobs: (N, 3, 4), elliptic holes of the depth: middle and half sizes, in units of the image's side.
        parts: the primitives in world coordinates; ``object`` counts frame · OBJECTS + object.
    """

    kind: np.ndarray
    eye: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    light: np.ndarray
    ambient: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    ellipsoid: np.ndarray
    colours: np.ndarray
    texture: np.ndarray
    blobs: np.ndarray
    parts: Primitives

    def __getitem__(self, rows: slice) -> Scene:
        """Some of the rooms."""
        first, last = rows.start * OBJECTS, rows.stop * OBJECTS
        selected = (self.parts.object >= first) & (self.parts.object < last)
        parts = Primitives(**{field.name: getattr(self.parts, field.name)[selected] for field in fields(Primitives)})
        parts.object = parts.object - first
        return Scene(
            **{field.name: getattr(self, field.name)[rows] for field in fields(Scene) if field.name != "parts"},
            parts=parts,
        )


def classes_of(index: np.ndarray, seed: int, split: int) -> np.ndarray:
    """The main object's kind, int64: each run of ``len(KINDS)`` samples holds every kind once, in an order of its
    own.
    """
    count = len(KINDS)
    order = hash64(
        torch.from_numpy(index // count)[:, None] * count + torch.arange(count), _CLASS, seed, split
    ).argsort(1)
    return order.gather(1, torch.from_numpy(index % count)[:, None])[:, 0].numpy()


def sincos(radians: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of angles within ±2π, from their series: libraries differ in the last bit."""
    x = radians / 8
    square = x * x
    sine, cosine = np.zeros_like(x), np.zeros_like(x)
    for k in range(8, 0, -1):
        sine = (sine + 1) * -square / ((2 * k) * (2 * k + 1))
        cosine = (cosine + 1) * -square / ((2 * k - 1) * (2 * k))
    sine, cosine = x * (1 + sine), 1 + cosine
    for _ in range(3):
        sine, cosine = 2 * sine * cosine, cosine * cosine - sine * sine
    return sine, cosine


class _Drawer:
    """Draws columns of uniform numbers."""

    def __init__(self, uniform: np.ndarray) -> None:
        self._uniform, self._next = uniform, 0

    def __call__(self, low: float | np.ndarray = 0.0, high: float | np.ndarray = 1.0) -> np.ndarray:
        self._next += 1
        return low + (high - low) * np.ascontiguousarray(self._uniform[..., self._next - 1])

    def several(self, count: int) -> np.ndarray:
        self._next += count
        return np.ascontiguousarray(self._uniform[..., self._next - count : self._next])


def draw_scene(index: np.ndarray, seed: int, split: int, attempt: int = 0, *, distractors: bool = True) -> Scene:
    """The rooms of samples ``index`` (N,).

    Args:
        index: int64 (N,), samples of the split.
        seed: Of the whole set.
        split: Number of the split.
        attempt: Another room for the same sample; its class does not change.
        distractors: False leaves the main object alone.
    """
    count = len(index)
    columns = _FRAME_DRAWS + OBJECTS * _PER_OBJECT
    counters = torch.from_numpy(index)[:, None] * columns + torch.arange(columns)
    uniform = shifted(hash64(counters, _SCENE, seed, split, attempt), 11).numpy() * 2.0**-53
    draw = _Drawer(uniform[:, :_FRAME_DRAWS])
    own = uniform[:, _FRAME_DRAWS:].reshape(count, OBJECTS, _PER_OBJECT)
    shape, rest = own[..., :DRAWS], _Drawer(own[..., DRAWS:])

    kind = np.minimum((rest() * len(KINDS)).astype(np.int64), len(KINDS) - 1)
    kind[:, 0] = classes_of(index, seed, split)
    parts = build_primitives(kind.reshape(-1), np.ascontiguousarray(shape).reshape(-1, DRAWS))
    scale, yaw = rest(0.75, 1.3), rest(-np.pi, np.pi)
    low, high = _bounds(parts, count)
    low, high = low * scale[..., None], high * scale[..., None]
    middle, half = (low + high) / 2, (high - low) / 2
    radius = np.sqrt(half[..., 0] * half[..., 0] + half[..., 1] * half[..., 1])

    # The main object stands at the origin; the camera around it, so far that it fills a drawn part of the image.
    size = np.sqrt(radius[:, 0] * radius[:, 0] + half[:, 0, 2] * half[:, 0, 2])
    distance = np.maximum(2 * size * FOCAL / draw(0.45, 1.05), radius[:, 0] + 0.45)
    bearing, rise = sincos(draw(-np.pi, np.pi)), sincos(draw(-0.05, 0.6))
    height = np.clip(half[:, 0, 2] + distance * rise[0], 0.3, 2.6)
    level = distance * rise[1]
    eye = np.stack([-level * bearing[0], -level * bearing[1], height], 1)
    axes = _camera_axes(eye, half[:, 0, 2], *sincos(draw(-0.2, 0.2)), draw(-0.12, 0.12), *sincos(draw(-0.1, 0.1)))

    place, present = _place(draw, eye, level, axes, radius, distractors)
    kind = np.where(present, kind, -1)
    sine, cosine = sincos(yaw)
    ground = np.concatenate([place, np.zeros((count, OBJECTS, 1))], 2)
    parts = _stand(parts, ground, scale, sine, cosine, present)

    margins = draw.several(5)
    reach = np.where(present, radius, 0.0)[..., None]
    room_low = (
        np.minimum(np.where(present[..., None], place - reach, 0.0).min(1), eye[:, :2])
        - 0.15
        - 2.2 * margins[:, :2] * margins[:, :2]
    )
    room_high = (
        np.maximum(np.where(present[..., None], place + reach, 0.0).max(1), eye[:, :2])
        + 0.15
        + 2.2 * margins[:, 2:4] * margins[:, 2:4]
    )
    tallest = np.where(present, 2 * half[..., 2], 0.0).max(1)
    ceiling = np.maximum(np.maximum(tallest, height) + 0.15, 2.2 + 0.8 * margins[:, 4])
    room_low = np.concatenate([room_low, np.zeros((count, 1))], 1)
    room_high = np.concatenate([room_high, ceiling[:, None]], 1)

    lights = []
    for strong in (1.0, 0.5):
        at = 0.15 + 0.7 * draw.several(3)
        at[:, 2] = 0.6 + 0.35 * at[:, 2]
        lights.append(np.concatenate([room_low + at * (room_high - room_low), strong * draw(0.6, 1.5)[:, None]], 1))
    turned = np.stack(
        [
            cosine * middle[..., 0] - sine * middle[..., 1],
            sine * middle[..., 0] + cosine * middle[..., 1],
            middle[..., 2],
        ],
        2,
    )
    colours, texture = _paint(draw, rest)
    exposure = draw(0.6, 1.5)[:, None]
    holes = draw.several(12).reshape(count, 3, 4)
    return Scene(
        kind=kind,
        eye=eye,
        axes=axes,
        low=room_low,
        high=room_high,
        light=np.stack(lights, 1),
        ambient=draw(0.2, 0.5),
        gain=exposure * (0.85 + 0.3 * draw.several(3)),
        noise=draw(0.01, 0.05),
        ellipsoid=np.concatenate([ground + turned, half, cosine[..., None], sine[..., None]], 2),
        colours=colours,
        texture=texture,
        blobs=holes * [1.4, 1.4, 0.12, 0.12] - [0.2, 0.2, 0.03, 0.03],
        parts=parts,
    )


def _bounds(parts: Primitives, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, OBJECTS, 3) of each object's box, in its own frame."""
    half = parts.half.copy()
    half[:, :2] *= np.maximum(1.0, parts.taper)[:, None]
    reach = np.abs(parts.turn) * half[:, None, :]
    reach = reach[..., 0] + reach[..., 1] + reach[..., 2]
    low, high = np.full((count * OBJECTS, 3), np.inf), np.full((count * OBJECTS, 3), -np.inf)
    np.minimum.at(low, parts.object, parts.centre - reach)
    np.maximum.at(high, parts.object, parts.centre + reach)
    return low.reshape(count, OBJECTS, 3), high.reshape(count, OBJECTS, 3)


def _camera_axes(
    eye: np.ndarray,
    aim: np.ndarray,
    sine: np.ndarray,
    cosine: np.ndarray,
    lift: np.ndarray,
    roll: np.ndarray,
    upright: np.ndarray,
) -> np.ndarray:
    """The axes (N, 3, 3) of a camera that looks at height ``aim`` over the origin, but for small turns."""
    forward = np.stack(
        [-eye[:, 0] * cosine + eye[:, 1] * sine, -eye[:, 0] * sine - eye[:, 1] * cosine, aim - eye[:, 2]], 1
    )
    forward[:, 2] += lift * _length(forward)
    forward /= _length(forward)[:, None]
    zero = np.zeros(len(eye))
    right = np.stack([forward[:, 1], -forward[:, 0], zero], 1)
    right /= _length(right)[:, None]
    down = _cross(forward, right)
    right, down = right * upright[:, None] + down * roll[:, None], down * upright[:, None] - right * roll[:, None]
    return np.stack([right, down, forward], 1)


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt(v[:, 0] * v[:, 0] + v[:, 1] * v[:, 1] + v[:, 2] * v[:, 2])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack([a[:, i] * b[:, j] - a[:, j] * b[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], 1)


def _place(
    draw: _Drawer, eye: np.ndarray, level: np.ndarray, axes: np.ndarray, radius: np.ndarray, distractors: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Where the objects stand, (N, OBJECTS, 2), and whether they are there; none stands in another or at the camera."""
    count = len(eye)
    place, present = np.zeros((count, OBJECTS, 2)), np.zeros((count, OBJECTS), bool)
    present[:, 0] = True
    object_count = 2 + np.floor(draw() * (OBJECTS - 2))
    flat = axes[:, 2, :2] / np.sqrt(axes[:, 2, 0] * axes[:, 2, 0] + axes[:, 2, 1] * axes[:, 2, 1])[:, None]
    for k in range(1, OBJECTS):
        for _ in range(_TRIES):
            sine, cosine = sincos(draw(-0.5, 0.5))
            far = level * draw(0.75, 2.2)
            at = eye[:, :2] + far[:, None] * np.stack(
                [flat[:, 0] * cosine - flat[:, 1] * sine, flat[:, 0] * sine + flat[:, 1] * cosine], 1
            )
            free = (far > radius[:, k] + 0.4) & (k <= object_count) & ~present[:, k] & distractors
            for other in range(k):
                offset = at - place[:, other]
                room = 0.85 * (radius[:, k] + radius[:, other])
                free &= ~present[:, other] | (offset[:, 0] * offset[:, 0] + offset[:, 1] * offset[:, 1] > room * room)
            place[:, k] = np.where(free[:, None], at, place[:, k])
            present[:, k] |= free
    return place, present


def _stand(
    parts: Primitives, ground: np.ndarray, scale: np.ndarray, sine: np.ndarray, cosine: np.ndarray, present: np.ndarray
) -> Primitives:
    """The primitives of the objects that are there, in world coordinates, in the order of shape and object."""
    selected = np.flatnonzero(present.reshape(-1)[parts.object])
    selected = selected[np.lexsort((parts.object[selected], parts.shape[selected]))]
    whose = parts.object[selected]
    size, s, c = scale.reshape(-1)[whose], sine.reshape(-1)[whose], cosine.reshape(-1)[whose]
    centre, turn = parts.centre[selected] * size[:, None], parts.turn[selected]
    world = (
        np.stack([c * centre[:, 0] - s * centre[:, 1], s * centre[:, 0] + c * centre[:, 1], centre[:, 2]], 1)
        + ground.reshape(-1, 3)[whose]
    )
    s, c = s[:, None], c[:, None]
    turned = np.stack([c * turn[:, 0] - s * turn[:, 1], s * turn[:, 0] + c * turn[:, 1], turn[:, 2]], 1)
    return Primitives(
        whose,
        parts.shape[selected],
        parts.slot[selected],
        world,
        parts.half[selected] * size[:, None],
        turned,
        parts.taper[selected],
    )


def _paint(draw: _Drawer, rest: _Drawer) -> tuple[np.ndarray, np.ndarray]:
    """Two colours and a pattern for every surface of the rooms and of the objects."""
    shell = np.stack([draw.several(_SURFACE_DRAWS) for _ in range(SHELL)], 1)
    objects = np.stack([rest.several(_SURFACE_DRAWS) for _ in range(SLOTS)], 2)
    uniform = np.concatenate([shell, objects.reshape(len(shell), -1, _SURFACE_DRAWS)], 1)
    value, grey = 0.1 + 0.8 * uniform[..., 0:1], 0.7 * uniform[..., 1:2]
    first = value * (grey + (1 - grey) * uniform[..., 2:5])
    other = uniform[..., 5:6]
    second = first + (uniform[..., 6:9] - first) * (0.15 + 0.5 * other)
    first[:, :SHELL] = 0.25 + 0.75 * first[:, :SHELL]
    second[:, :SHELL] = 0.25 + 0.75 * second[:, :SHELL]
    pattern = np.floor(uniform[..., 9] * 5)
    # Ceilings are plain.
    pattern[:, 2] = 0
    cells = 1.5 + 6.5 * uniform[..., 10] * uniform[..., 10]
    cells[:, SHELL:] *= 2
    return np.stack([first, second], 2), np.stack(
        [pattern, cells, cells * (0.4 + 1.2 * uniform[..., 11]), 64 * uniform[..., 12]], 2
    )
