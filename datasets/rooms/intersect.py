"""Where rays meet the primitives that objects are composed of, in the primitives' own frames.

Of rays o + t·d, each given as three arrays (R,): the least t beyond :data:`NEAR`, (R,), or inf where there is none.
"""

from __future__ import annotations

import numpy as np

NEAR = 0.05
"""Metres from the camera within which nothing is seen."""


def intersect_box(o: list[np.ndarray], d: list[np.ndarray], _: np.ndarray) -> np.ndarray:
    """Where rays o + t·d enter the cube from −1 to 1: t, or inf."""
    enter, leave = np.full(len(o[0]), -np.inf), np.full(len(o[0]), np.inf)
    for k in range(3):
        step = 1 / np.where(np.abs(d[k]) < 1e-12, 1e-12, d[k])
        near, far = (-1 - o[k]) * step, (1 - o[k]) * step
        enter, leave = np.maximum(enter, np.minimum(near, far)), np.minimum(leave, np.maximum(near, far))
    return np.where((enter < leave) & (enter > NEAR), enter, np.inf)


def intersect_ball(o: list[np.ndarray], d: list[np.ndarray], _: np.ndarray) -> np.ndarray:
    """The same of the unit sphere."""
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
    root = b * b - a * c
    reach = (-b - np.sqrt(np.maximum(root, 0.0))) / a
    return np.where((root > 0) & (reach > NEAR), reach, np.inf)


def intersect_frustum(o: list[np.ndarray], d: list[np.ndarray], taper: np.ndarray) -> np.ndarray:
    """The same of a frustum around z from −1 to 1, of radius 1 below and ``taper`` above."""
    slope, middle = (taper - 1) / 2, (taper + 1) / 2
    radius = middle + slope * o[2]
    a = d[0] * d[0] + d[1] * d[1] - slope * slope * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - radius * slope * d[2]
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    root = b * b - a * c
    square = np.sqrt(np.maximum(root, 0.0))
    a = np.where(np.abs(a) < 1e-12, 1e-12, a)
    best = np.full(len(taper), np.inf)
    for sign in (-1.0, 1.0):
        reach = (-b + sign * square) / a
        z = o[2] + reach * d[2]
        good = (root > 0) & (reach > NEAR) & (np.abs(z) <= 1) & (middle + slope * z >= 0)
        best = np.where(good & (reach < best), reach, best)
    step = 1 / np.where(np.abs(d[2]) < 1e-12, 1e-12, d[2])
    for lid, wide in ((-1.0, np.ones_like(taper)), (1.0, taper)):
        reach = (lid - o[2]) * step
        across, down = o[0] + reach * d[0], o[1] + reach * d[1]
        good = (reach > NEAR) & (across * across + down * down <= wide * wide)
        best = np.where(good & (reach < best), reach, best)
    return best
