"""The kinds of objects in the rendered rooms: each is a handful of boxes, ellipsoids and frusta, drawn afresh for every
object.

An object stands on the floor at the origin, z up, its front to −y, in metres. Kinds differ by shape alone; colours are
drawn elsewhere. All of M objects of one kind are made at once: a number below is an array (M,), float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BOX, BALL, FRUSTUM = 0, 1, 2  # shapes of primitives
SLOTS = 3  # surfaces of an object, each with a texture of its own
DRAWS = 40  # uniform numbers that an object's shape may take

Number = float | np.ndarray


@dataclass
class Primitives:
    """P primitives of many objects.

    Attributes:
        object: int64 (P,), whose it is.
        shape: int64 (P,), BOX, BALL or FRUSTUM (a cone or cylinder around z, of radius 1 below and ``taper`` above).
        slot: int64 (P,), which surface of the object.
        centre, half: float64 (P, 3), in metres; half sizes along the primitive's own axes.
        turn: float64 (P, 3, 3), columns are those axes.
        taper: float64 (P,).
    """

    object: np.ndarray
    shape: np.ndarray
    slot: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    turn: np.ndarray
    taper: np.ndarray

    @classmethod
    def joined(cls, parts: list[Primitives]) -> Primitives:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


class Builder:
    """Takes the primitives and draws the random numbers of M objects of one kind.

    Args:
        objects: int64 (M,), their numbers.
        uniform: float64 (M, DRAWS) in [0, 1).
    """

    def __init__(self, objects: np.ndarray, uniform: np.ndarray) -> None:
        self.objects, self._uniform, self._next = objects, uniform, 0
        self.parts: list[Primitives] = []

    def draw(self, low: float, high: float) -> np.ndarray:
        """The next random number, between ``low`` and ``high``."""
        self._next += 1
        return low + (high - low) * self._uniform[:, self._next - 1]

    def chance(self, probability: float) -> np.ndarray:
        return self.draw(0, 1) < probability

    def box(self, x: Number, y: Number, z: Number, a: Number, b: Number, c: Number, **more: Any) -> None:
        """A box around (x, y, z) of half sizes (a, b, c)."""
        self._add(BOX, (x, y, z), (a, b, c), **more)

    def ball(self, x: Number, y: Number, z: Number, a: Number, b: Number, c: Number, **more: Any) -> None:
        self._add(BALL, (x, y, z), (a, b, c), **more)

    def column(self, x: Number, y: Number, low: Number, high: Number, radius: Number, **more: Any) -> None:
        """An upright cylinder or, with ``taper``, frustum from height ``low`` to ``high``."""
        self._add(FRUSTUM, (x, y, (low + high) / 2), (radius, radius, (high - low) / 2), **more)

    def bar(self, start: tuple[Number, ...], end: tuple[Number, ...], radius: Number, **more: Any) -> None:
        """A round bar from point to point; not along y."""
        along = [b - a for a, b in zip(start, end, strict=True)]
        length = np.sqrt(along[0] * along[0] + along[1] * along[1] + along[2] * along[2])
        centre = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        self._add(FRUSTUM, centre, (radius, radius, length / 2), axis=along, **more)

    def _add(
        self,
        shape: int,
        centre: Sequence[Number],
        half: Sequence[Number],
        *,
        slot: int = 0,
        taper: Number = 1.0,
        axis: Sequence[Number] = (0.0, 0.0, 1.0),
        where: np.ndarray | None = None,
    ) -> None:
        """``axis``: direction of the primitive's z; ``where``: bool (M,), the objects that have it."""
        count = len(self.objects)
        selected = slice(None) if where is None else where

        def column(value: Number) -> np.ndarray:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(value, np.float64), (count,))[selected])

        objects = self.objects[selected]
        full = np.full(len(objects), shape)
        self.parts.append(
            Primitives(
                objects,
                full,
                np.full_like(full, slot),
                np.stack([column(value) for value in centre], 1),
                np.stack([column(value) for value in half], 1),
                _axes(*(column(value) for value in axis)),
                column(taper),
            )
        )


def _axes(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Rotations (M, 3, 3) whose third column points along (x, y, z), the first one horizontal if that is upright in
    x.
    """
    flat, length = np.sqrt(x * x + z * z), np.sqrt(x * x + y * y + z * z)
    x, y, z, across, down = x / length, y / length, z / length, z / flat, -x / flat
    zero = np.zeros_like(x)
    return np.stack([across, y * down, x, zero, z * across - x * down, y, down, -y * across, z], 1).reshape(-1, 3, 3)


def _corners(a: Number, b: Number) -> list[tuple[Number, Number]]:
    return [(-a, -b), (a, -b), (-a, b), (a, b)]


def _ball(o: Builder) -> None:
    radius, squash = o.draw(0.22, 0.45), o.draw(0.9, 1.0)
    o.ball(0, 0, radius * squash, radius, radius, radius * squash)


def _crate(o: Builder) -> None:
    a, b, c = o.draw(0.28, 0.5), o.draw(0.28, 0.5), o.draw(0.22, 0.45)
    o.box(0, 0, c, a, b, c)
    rim = o.draw(0.025, 0.05)
    for z in (rim, 2 * c - rim):
        o.box(0, 0, z, a + 0.02, b + 0.02, rim, slot=1)
    for x, y in _corners(a - rim, b - rim):
        o.box(x, y, c, rim + 0.02, rim + 0.02, c, slot=1)


def _barrel(o: Builder) -> None:
    radius, height, belly = o.draw(0.24, 0.34), o.draw(0.65, 1.0), o.draw(1.15, 1.4)
    o.column(0, 0, 0, height / 2, radius, taper=belly)
    o.column(0, 0, height / 2, height, radius * belly, taper=1 / belly)
    for z in (0.22, 0.78):
        o.column(0, 0, (z - 0.03) * height, (z + 0.03) * height, radius * (1 + 0.44 * (belly - 1)) + 0.015, slot=1)


def _cone(o: Builder) -> None:
    radius, height = o.draw(0.18, 0.3), o.draw(0.55, 0.95)
    o.box(0, 0, 0.03, radius * 1.25, radius * 1.25, 0.03, slot=1)
    o.column(0, 0, 0.06, height, radius, taper=o.draw(0.08, 0.25))


def _table(o: Builder) -> None:
    a, b, height, thick = o.draw(0.45, 0.8), o.draw(0.35, 0.55), o.draw(0.55, 0.8), o.draw(0.02, 0.04)
    round_, leg = o.chance(0.3), o.draw(0.025, 0.045)
    o.box(0, 0, height, a, b, thick, where=~round_)
    o.column(0, 0, height - thick, height + thick, b * 1.2, where=round_)
    o.column(0, 0, 0, height, leg * 1.6, slot=1, where=round_)
    o.column(0, 0, 0, 0.05, b * 0.6, taper=0.7, slot=1, where=round_)
    for x, y in _corners(a - 0.07, b - 0.07):
        o.box(x, y, height / 2, leg, leg, height / 2, slot=1, where=~round_)


def _chair(o: Builder) -> None:
    a, b, seat, back = o.draw(0.2, 0.27), o.draw(0.2, 0.26), o.draw(0.4, 0.5), o.draw(0.35, 0.6)
    leg, tilt, solid = o.draw(0.018, 0.03), o.draw(0.0, 0.25), o.chance(0.6)
    o.box(0, 0, seat, a, b, 0.03)
    for x, y in _corners(a - 0.03, b - 0.03):
        o.box(x, y, seat / 2, leg, leg, seat / 2, slot=1)
    y = b + tilt * back / 2
    o.box(0, y, seat + back / 2, a, 0.02, back / 2, axis=(0, tilt, 1), where=solid)
    for x in (-a + 0.03, a - 0.03):
        o.box(x, y, seat + back / 2, leg, 0.02, back / 2, axis=(0, tilt, 1), slot=1, where=~solid)
    for at in (0.55, 0.9):
        o.box(0, b + tilt * back * at, seat + back * at, a, 0.02, 0.05, where=~solid)


def _stool(o: Builder) -> None:
    radius, height, spread, leg = o.draw(0.17, 0.25), o.draw(0.42, 0.75), o.draw(1.0, 1.5), o.draw(0.018, 0.03)
    o.column(0, 0, height - 0.05, height, radius)
    for x, y in ((0.75, 0.0), (-0.75, 0.0), (0.0, 0.75), (0.0, -0.75)):
        o.bar(
            (x * radius * spread, y * radius * spread, 0.0 * radius),
            (x * radius, y * radius, height - 0.04),
            leg,
            slot=1,
        )


def _shelf(o: Builder) -> None:
    a, b, height, boards = o.draw(0.35, 0.6), o.draw(0.14, 0.22), o.draw(1.1, 1.9), o.draw(3, 5.99)
    for x in (-a, a):
        o.box(x, 0, height / 2, 0.02, b, height / 2)
    o.box(0, b - 0.01, height / 2, a, 0.01, height / 2, slot=1, where=o.chance(0.5))
    floors = np.floor(boards)
    for k in range(6):
        z = 0.06 + (height - 0.08) * k / floors
        o.box(0, 0, z, a, b, 0.02, where=k <= floors)
        width, tall = o.draw(0.1, 0.6) * a, o.draw(0.3, 0.8) * height / floors / 2
        o.box(o.draw(-0.35, 0.35) * a, 0, z + tall, width, b * 0.7, tall, slot=2, where=(k < floors) & o.chance(0.5))


def _lamp(o: Builder) -> None:
    height, radius, shade = o.draw(1.0, 1.7), o.draw(0.17, 0.28), o.draw(0.2, 0.35)
    o.column(0, 0, 0, 0.05, radius * 0.8, slot=1)
    o.column(0, 0, 0, height, 0.022, slot=1)
    o.column(0, 0, height - shade, height, radius, taper=o.draw(0.45, 0.85))


def _sofa(o: Builder) -> None:
    a, b, seat, back, arm = (
        o.draw(0.45, 1.0),
        o.draw(0.35, 0.45),
        o.draw(0.32, 0.45),
        o.draw(0.7, 0.95),
        o.draw(0.07, 0.13),
    )
    o.box(0, 0, seat / 2 - 0.03, a, b, seat / 2 - 0.05)
    o.box(0, b - 0.1, back / 2, a, 0.1, back / 2)
    arms = seat + o.draw(0.12, 0.25)
    for x in (-a, a):
        o.box(x, 0, arms / 2, arm, b, arms / 2)
    for x in (-a / 2, a / 2):
        o.box(x, -0.1, seat, a / 2 - 0.02, b - 0.1, 0.06, slot=1)


def _plant(o: Builder) -> None:
    radius, pot, height, width = o.draw(0.13, 0.22), o.draw(0.2, 0.35), o.draw(0.6, 1.2), o.draw(0.25, 0.45)
    o.column(0, 0, 0, pot, radius * 0.75, taper=1.33, slot=1)
    bushy = o.chance(0.5)
    o.column(0, 0, pot, height, 0.02, slot=2)
    for k, (x, y) in enumerate(((0.9, 0.3), (-0.4, 0.8), (-0.8, -0.4), (0.4, -0.9), (0.1, 0.1))):
        size, lift = o.draw(0.5, 0.8) * width, o.draw(-0.12, 0.12) + 0.12 * (k == 4)
        o.ball(x * width * 0.6, y * width * 0.6, height + lift, size, size, size * 0.8, where=bushy)
        # Leaves: flat ellipsoids that lean outwards.
        far = width * o.draw(0.8, 1.3)
        o.ball(
            x * far / 2,
            y * far / 2,
            pot + height / 3,
            0.09,
            0.03,
            height * 0.42,
            axis=(x * far, y * far, height * 0.7),
            where=~bushy,
        )


def _screen(o: Builder) -> None:
    a, c, neck, tilt = o.draw(0.35, 0.6), o.draw(0.22, 0.36), o.draw(0.1, 0.5), o.draw(-0.05, 0.2)
    o.box(0, 0, neck + c, a, 0.03, c, axis=(0, tilt, 1), slot=1)
    o.box(0, -0.012, neck + c, a - 0.03, 0.03, c - 0.03, axis=(0, tilt, 1))
    o.box(0, 0.04, (neck + c) / 2, 0.04, 0.03, (neck + c) / 2, slot=1)
    o.box(0, 0.04, 0.015, a * 0.45, 0.14, 0.015, slot=1)


_MAKERS: dict[str, Callable[[Builder], None]] = {
    "ball": _ball,
    "barrel": _barrel,
    "chair": _chair,
    "cone": _cone,
    "crate": _crate,
    "lamp": _lamp,
    "plant": _plant,
    "screen": _screen,
    "shelf": _shelf,
    "sofa": _sofa,
    "stool": _stool,
    "table": _table,
}
KINDS = tuple(_MAKERS)


def build_primitives(kind: np.ndarray, uniform: np.ndarray) -> Primitives:
    """The primitives of objects, each in the object's own frame.

    Args:
        kind: int64 (M,), places in KINDS; others (such as −1) have no primitives.
        uniform: float64 (M, DRAWS) in [0, 1).
    """
    parts = []
    for number, maker in enumerate(_MAKERS.values()):
        objects = np.flatnonzero(kind == number)
        builder = Builder(objects, uniform[objects])
        maker(builder)
        parts += builder.parts
    return Primitives.joined(parts)
