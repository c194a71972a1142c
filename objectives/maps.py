"""What objectives on feature maps share: which maps are compared, and at which size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.objective import Setting
from ..core.representation import Representation

Pairs = tuple[tuple[int, int], ...]


def map_pairs(objective: str, chosen: Pairs | None, setting: Setting, *, default: Pairs) -> Pairs:
    """The (student's map, teacher's map) places to compare, checked.

    Args:
        objective: Its name, for the message.
        chosen: As in the config; negative places count from the end. None is ``default``.
        setting: With the shapes of both sides' maps.
        default: Places where ``chosen`` is None.

    Raises:
        UsageError: A side has no maps, or not that many.
    """
    pairs = default if chosen is None else chosen
    for side, place in (("student", 0), ("teacher", 1)):
        shapes = getattr(setting, side).map_shapes
        if not shapes:
            raise UsageError(
                f"objective {objective} compares feature maps, and the {side} has none: name some with "
                "maps=[MODULE, …]; those taken by default have the image's aspect ratio"
            )
        for pair in pairs:
            if not -len(shapes) <= pair[place] < len(shapes):
                raise UsageError(
                    f"objectives.{objective}.pairs names map {pair[place]} of the {side}, which has "
                    f"{len(shapes)}, counted from 0"
                )
    return tuple((student, teacher) for student, teacher in pairs)


def last_pairs(setting: Setting, most: int) -> Pairs:
    """Pairs of the last maps, as many as both sides have, ``most`` at most: the deepest with the deepest."""
    count = min(most, len(setting.student.map_shapes), len(setting.require_teacher().map_shapes))
    return tuple((-back, -back) for back in range(count, 0, -1))


def match_spatial_size(student: Tensor, teacher: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Both maps (B, C, H, W) at the smaller height and the smaller width of the two, by averaging.

    Args:
        most: Cells that are allowed; where there are more, height and width shrink alike.
    """
    size = common_size(student.shape[2:], teacher.shape[2:], most)
    return resize_map(student, size), resize_map(teacher, size)


def common_size(student: Sequence[int], teacher: Sequence[int], most: int | None = None) -> tuple[int, int]:
    """Height and width at which :func:`match_spatial_size` compares maps of these heights and widths."""
    height, width = (min(pair) for pair in zip(student, teacher, strict=True))
    if most is not None and height * width > most:
        share = math.sqrt(most / (height * width))
        height, width = max(1, int(height * share)), max(1, int(width * share))
    return height, width


def check_positions(
    objective: str, pairs: Pairs, student: Sequence[Sequence[int]], teacher: Sequence[Sequence[int]]
) -> None:
    """Refuse pairs of maps that all meet at a single position, of an objective that compares positions: its loss would
    be 0.

    Args:
        objective: Its name, for the message.
        pairs: (student's map, teacher's map) places.
        student, teacher: (C, H, W) of each map.

    Raises:
        UsageError: All do.
    """
    if all(common_size(student[ours][1:], teacher[theirs][1:]) == (1, 1) for ours, theirs in pairs):
        raise UsageError(
            f"objective {objective} compares where maps are active, and all of these meet at a single position: name "
            f"earlier ones with objectives.{objective}.pairs, or take larger images"
        )


def shapes(side: Representation) -> list[Sequence[int]]:
    """(C, H, W) of each map."""
    return [each.shape[1:] for each in side.maps]


def resize_map(features: Tensor, size: tuple[int, int]) -> Tensor:
    """A map averaged over cells to a height and width, where it has another."""
    return features if tuple(features.shape[2:]) == tuple(size) else F.adaptive_avg_pool2d(features, size)
