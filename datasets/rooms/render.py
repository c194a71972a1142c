"""Casts rays into the drawn rooms: rgb, metric depth and semantic maps, as a colour and a depth camera in one would see
them.

A ray goes through each primitive whose projected box covers its pixel; the nearest hit is shaded. Every operation on
the pixels is one that IEEE 754 rounds exactly and that acts on each value alone, so a frame is the same bytes alone, in
a batch and in any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .intersect import NEAR, intersect_ball, intersect_box, intersect_frustum
from .kinds import BALL, BOX, KINDS, SLOTS, Primitives
from .scene import FOCAL, OBJECTS, SHELL, Scene, classes_of, draw_scene
from .shade import Points, add_rgb_noise, measured, shade

FLOOR, WALL, CEILING = 1, 2, 3
FIRST_KIND = 4
SEMANTICS = ("unlabelled", "floor", "wall", "ceiling", *KINDS)
"""Names of the values of a semantic map."""

# Rays of a pixel, in pixels from its centre. The first one is the centre itself, which depth and semantics are taken
# at.
_RAYS = np.array([[0.0, 0.0], [-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
_ATTEMPTS = 6
_LEAST_SHARE = 0.03  # of the frame's pixels that the main object must show
_PIXELS = 2**17


@dataclass
class Frames:
    """N rendered frames of S × S pixels.

    Attributes:
        rgb: uint8 (N, S, S, 3).
        depth: float32 (N, S, S), metres along the camera's axis; 0 where nothing was measured.
        semantics: uint8 (N, S, S), places in SEMANTICS.
        target: int64 (N,), the main object's place in KINDS: of all objects the one with the most pixels.
        attempt: int64 (N,), how often the room was drawn again.
    """

    rgb: np.ndarray
    depth: np.ndarray
    semantics: np.ndarray
    target: np.ndarray
    attempt: np.ndarray


def intrinsics(size: int) -> dict[str, float]:
    """fx, fy, cx, cy in pixels of frames of ``size`` × ``size``; pixel (u, v) is seen at (u + 0.5, v + 0.5)."""
    return {"fx": FOCAL * size, "fy": FOCAL * size, "cx": size / 2, "cy": size / 2}


def render(index: np.ndarray, *, seed: int, split: int, size: int, noise: bool = True) -> Frames:
    """Render samples ``index`` (N,).

    Rooms in which another object shows more pixels than the main one, or the main one hardly any, are drawn again.

    Args:
        index: int64 (N,), samples of the split.
        seed: Of the whole set.
        split: Number of the split.
        size: S, side of the frames in pixels.
        noise: False leaves out what the sensors add: noise, and depth that is missing.
    """
    count = len(index)
    target = classes_of(index, seed, split)
    square = (count, size, size)
    frames = Frames(
        np.empty((*square, 3), np.uint8),
        np.empty(square, np.float32),
        np.empty(square, np.uint8),
        target,
        np.zeros(count, np.int64),
    )
    waiting = np.arange(count)
    for attempt in range(_ATTEMPTS + 1):
        last = attempt == _ATTEMPTS
        scene = draw_scene(index[waiting], seed, split, attempt, distractors=not last)
        good = np.zeros(len(waiting), bool)
        # As many at a time as stay in a core's cache.
        step = max(1, _PIXELS // (size * size))
        for first in range(0, len(waiting), step):
            part = slice(first, min(first + step, len(waiting)))
            rgb, depth, semantics, pixels = _shoot(scene[part], index[waiting[part]], seed, split, size, noise)
            accepted = (pixels[:, 0] > pixels[:, 1:].max(1)) & (pixels[:, 0] >= _LEAST_SHARE * size * size) | last
            rows, good[part] = waiting[part][accepted], accepted
            frames.attempt[rows] = attempt
            frames.rgb[rows], frames.depth[rows], frames.semantics[rows] = (
                rgb[accepted],
                depth[accepted],
                semantics[accepted],
            )
        waiting = waiting[~good]
        if not len(waiting):
            break
    return frames


@dataclass
class _Hits:
    """The nearest surface that each ray meets; R = pixels · rays of a pixel, all arrays (N, R) or (N, R, …).

    Attributes:
        distance: Along the camera's axis, metres.
        surface: Place in the scene's colours and textures.
        object: Whose it is; −1 is the room's.
        normal: Three arrays, unit length.
        flat: Two arrays, metres along the surface, for its pattern.
    """

    distance: np.ndarray
    surface: np.ndarray
    object: np.ndarray
    normal: list[np.ndarray]
    flat: list[np.ndarray]


def _shoot(scene: Scene, index: np.ndarray, seed: int, split: int, size: int, noise: bool) -> tuple[np.ndarray, ...]:
    """rgb, depth, semantics, and how many pixels each object shows, (N, OBJECTS)."""
    count, rays = len(index), len(_RAYS)
    grid = np.arange(size) + 0.5
    x = ((grid[None, :, None] + _RAYS[:, 0]) / size - 0.5) / FOCAL + np.zeros((size, 1, 1))
    y = ((grid[:, None, None] + _RAYS[:, 1]) / size - 0.5) / FOCAL + np.zeros((1, size, 1))
    x, y = x.reshape(-1), y.reshape(-1)
    axes = scene.axes
    direction = [axes[:, 0, k, None] * x + axes[:, 1, k, None] * y + axes[:, 2, k, None] for k in range(3)]
    hits = _room(scene, direction)
    _objects(scene, hits, x, y, size)
    centre = np.s_[:, ::rays]
    whose = hits.object[centre]
    shown = np.stack([(whose == k).sum(1) for k in range(OBJECTS)], 1)
    room = np.minimum(hits.surface[centre], SHELL - 1) + FLOOR
    kind = np.take_along_axis(scene.kind, np.maximum(whose, 0), 1)
    semantics = np.where(whose >= 0, kind + FIRST_KIND, room).astype(np.uint8).reshape(count, size, size)

    summed = _colours(scene, hits, direction)
    rgb = np.stack([scene.gain[:, k, None] * summed[k] for k in range(3)], 2)
    # A camera's response, nearly: the square root.
    rgb = np.sqrt(np.clip(rgb, 0.0, 1.0))
    depth = hits.distance[centre]
    if noise:
        rgb = add_rgb_noise(rgb, scene, index, seed, split)
        facing = [-hits.normal[k][centre] * direction[k][centre] for k in range(3)]
        length = [direction[k][centre] * direction[k][centre] for k in range(3)]
        cosine = (facing[0] + facing[1] + facing[2]) / np.sqrt(length[0] + length[1] + length[2])
        depth = measured(scene, depth, cosine, index, seed, split, size)
    rgb = np.floor(np.clip(rgb, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return rgb.reshape(count, size, size, 3), depth.reshape(count, size, size).astype(np.float32), semantics, shown


def _colours(scene: Scene, hits: _Hits, direction: list[np.ndarray]) -> list[np.ndarray]:
    """Linear rgb of the pixels, three arrays (N, pixels). Where all rays of a pixel meet one surface, its centre stands
    for all.
    """
    count, rays = len(scene.eye), len(_RAYS)
    surface = hits.surface.reshape(count, -1, rays)
    several = (surface != surface[..., :1]).any(2)
    lit = np.zeros(surface.shape, bool)
    lit[..., 0] = True
    lit |= several[..., None]
    chosen = np.flatnonzero(lit.reshape(-1))
    frame = chosen // hits.surface.shape[1]

    def taken(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1)[chosen].astype(np.float32)

    place = [
        (scene.eye[frame, k] + hits.distance.reshape(-1)[chosen] * direction[k].reshape(-1)[chosen]).astype(np.float32)
        for k in range(3)
    ]
    flat = [values.reshape(-1)[chosen] for values in hits.flat]
    points = Points(
        frame,
        hits.surface.reshape(-1)[chosen],
        hits.object.reshape(-1)[chosen],
        place,
        [taken(values) for values in hits.normal],
        flat,
    )
    pixels = []
    for colour in shade(scene, points):
        every = np.zeros(surface.shape, np.float32)
        every.reshape(-1)[chosen] = colour
        summed = sum(every[..., k] for k in range(rays))
        pixels.append(np.where(several, summed / np.float32(rays), summed))
    return pixels


def _room(scene: Scene, direction: list[np.ndarray]) -> _Hits:
    """Floor, walls and ceiling, from within."""
    shape = direction[0].shape
    distance, axis = np.full(shape, np.inf), np.zeros(shape, np.int64)
    for k in range(3):
        wall = np.where(direction[k] > 0, scene.high[:, k, None], scene.low[:, k, None])
        step = direction[k]
        reach = (wall - scene.eye[:, k, None]) / np.where(np.abs(step) < 1e-9, 1e-9, step)
        nearer = reach < distance
        distance, axis = np.where(nearer, reach, distance), np.where(nearer, k, axis)
    surface = np.where(axis < 2, 1, np.where(direction[2] < 0, 0, 2))
    normal = [np.where(axis == k, np.where(direction[k] > 0, -1.0, 1.0), 0.0) for k in range(3)]
    point = [scene.eye[:, k, None] + distance * direction[k] for k in range(3)]
    flat = [np.where(axis == 0, point[1], point[0]), np.where(axis == 2, point[1], point[2])]
    return _Hits(distance, surface, np.full(shape, -1), normal, flat)


def _objects(scene: Scene, hits: _Hits, x: np.ndarray, y: np.ndarray, size: int) -> None:
    """Put what is nearer than the room's surfaces into ``hits``."""
    parts, rays = scene.parts, len(_RAYS)
    frame = parts.object // OBJECTS
    axes = scene.axes[frame]
    # The camera in each primitive's own frame, in which it is a unit cube, sphere or frustum.
    away = scene.eye[frame] - parts.centre
    local = [sum(parts.turn[:, k, j] * away[:, k] for k in range(3)) / parts.half[:, j] for j in range(3)]
    turned = [
        [sum(parts.turn[:, k, j] * axes[:, a, k] for k in range(3)) / parts.half[:, j] for a in range(3)]
        for j in range(3)
    ]
    left, right, top, bottom = _covers(parts, axes, away, size)
    width, height = np.maximum(0, right - left), np.maximum(0, bottom - top)
    cells = width * height
    # One entry for each pixel that a primitive may cover.
    who = np.repeat(np.arange(len(cells)), cells)
    place = np.arange(len(who)) - np.repeat(np.cumsum(cells) - cells, cells)
    column, row = left[who] + place % width[who], top[who] + place // width[who]
    base = (row * size + column) * rays
    hits_by_ray = []
    shape, taper = parts.shape[who], parts.taper[who]
    own = [value[who] for value in local]
    across = [[value[who] for value in values] for values in turned]
    for ray in range(rays):
        rx, ry = x[base + ray], y[base + ray]
        step = [across[j][0] * rx + across[j][1] * ry + across[j][2] for j in range(3)]
        reach = np.empty(len(who))
        for kind, meet in ((BOX, intersect_box), (BALL, intersect_ball), (None, intersect_frustum)):
            # The primitives are sorted by shape, so these are slices.
            chosen = np.flatnonzero(shape == kind if kind is not None else shape > BALL)
            if len(chosen):
                part = slice(chosen[0], chosen[-1] + 1)
                reach[part] = meet([value[part] for value in own], [value[part] for value in step], taper[part])
        at = frame[who] * hits.distance.shape[1] + base + ray
        seen = np.flatnonzero(reach < hits.distance.reshape(-1)[at])
        hits_by_ray.append(
            (at[seen], reach[seen], who[seen], [value[seen] for value in own], [value[seen] for value in step])
        )
    at, reach, who = (np.concatenate([entry[k] for entry in hits_by_ray]) for k in range(3))
    own, step = ([np.concatenate([entry[k][j] for entry in hits_by_ray]) for j in range(3)] for k in (3, 4))
    nearest = hits.distance.reshape(-1)
    np.minimum.at(nearest, at, reach)
    first = np.flatnonzero(nearest[at] == reach)
    _, once = np.unique(at[first], return_index=True)
    first = first[once]
    at, who = at[first], who[first]
    meeting = [own[j][first] + reach[first] * step[j][first] for j in range(3)]
    _describe(scene, hits, at, who, meeting)


def _covers(parts: Primitives, axes: np.ndarray, away: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """The rectangle of pixels that each primitive's box may cover: left, right, top, bottom, the second ones
    exclusive.
    """
    half = parts.half.copy()
    half[:, :2] *= np.maximum(1.0, parts.taper)[:, None]
    low, high = np.full((2, len(half)), np.inf), np.full((2, len(half)), -np.inf)
    behind = np.zeros(len(half), bool)
    for corner in range(8):
        signs = [1.0 if corner >> j & 1 else -1.0 for j in range(3)]
        point = [sum(signs[j] * half[:, j] * parts.turn[:, k, j] for j in range(3)) - away[:, k] for k in range(3)]
        seen = [sum(axes[:, a, k] * point[k] for k in range(3)) for a in range(3)]
        behind |= seen[2] < NEAR
        depth = np.maximum(seen[2], NEAR)
        for a in range(2):
            low[a], high[a] = np.minimum(low[a], seen[a] / depth), np.maximum(high[a], seen[a] / depth)
    low, high = np.where(behind, -1.0, low), np.where(behind, 1.0, high)
    first = np.clip(np.floor((low * FOCAL + 0.5) * size - 0.8), 0, size).astype(np.int64)
    last = np.clip(np.ceil((high * FOCAL + 0.5) * size + 0.8), 0, size).astype(np.int64)
    return first[0], last[0], first[1], last[1]


def _describe(scene: Scene, hits: _Hits, at: np.ndarray, who: np.ndarray, meeting: list[np.ndarray]) -> None:
    """Surface, normal and pattern coordinates of the rays ``at``, which meet primitives ``who`` at ``meeting``, in
    their own frames.
    """
    parts = scene.parts
    shape, taper, half, turn = parts.shape[who], parts.taper[who], parts.half[who], parts.turn[who]
    size = [np.abs(value) for value in meeting]
    box = [
        np.where((size[k] >= size[(k + 1) % 3]) & (size[k] >= size[(k + 2) % 3]), np.sign(meeting[k]), 0.0)
        for k in range(3)
    ]
    slope = (taper - 1) / 2
    lid = size[2] > 1 - 1e-9
    side = [
        np.where(lid, 0.0, meeting[0]),
        np.where(lid, 0.0, meeting[1]),
        np.where(lid, np.sign(meeting[2]), -slope * ((taper + 1) / 2 + slope * meeting[2])),
    ]
    own = [np.where(shape == BOX, box[k], np.where(shape == BALL, meeting[k], side[k])) / half[:, k] for k in range(3)]
    normal = [sum(turn[:, k, j] * own[j] for j in range(3)) for k in range(3)]
    length = np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
    for k in range(3):
        hits.normal[k].reshape(-1)[at] = normal[k] / np.maximum(length, 1e-12)
    steep = [np.abs(value) for value in own]
    along = (steep[0] >= steep[1]) & (steep[0] >= steep[2])
    up = ~along & (steep[2] >= steep[1])
    metres = [meeting[k] * half[:, k] for k in range(3)]
    hits.flat[0].reshape(-1)[at] = np.where(along, metres[1], metres[0])
    hits.flat[1].reshape(-1)[at] = np.where(up, metres[1], metres[2])
    whose = parts.object[who] % OBJECTS
    hits.object.reshape(-1)[at] = whose
    hits.surface.reshape(-1)[at] = SHELL + whose * SLOTS + parts.slot[who]
