"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .maps import Pairs, check_positions, last_pairs, map_pairs, match_spatial_size, shapes


@OBJECTIVES.register("attention")
class Attention(Objective):
    """Σ over pairs of maps of the mean of (q(student) − q(teacher))², q = normalised Σ_c F_c² over positions (eq. 2,
    with p = 2).

    Maps of different sizes are averaged to the smaller one.

    Args:
        pairs: (student's map, teacher's map) places.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i), any channels - returns a scalar.

    Raises:
        UsageError: A side has no maps, or not those named; all pairs meet at one position.

    Example:
        >>> import torch
        >>> outputs = Representation(maps=(torch.rand(2, 3, 4, 4),))
        >>> Attention(pairs=((0, 0),))(outputs, outputs, {}).item()
        0.0
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last three "
            "of each",
        )

    needs = frozenset({"maps"})
    default_weight = 1000.0

    takes_mixed = True

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.pairs = pairs

    @classmethod
    def build(cls, options: Options, setting: Setting) -> Attention:
        pairs = map_pairs("attention", options.pairs, setting, default=last_pairs(setting, 3))
        check_positions("attention", pairs, setting.student.map_shapes, setting.require_teacher().map_shapes)
        return cls(pairs)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        check_positions("attention", self.pairs, shapes(student), shapes(teacher))
        losses = []
        for ours, theirs in self.pairs:
            student_map, teacher_map = match_spatial_size(student.maps[ours], teacher.maps[theirs])
            losses.append((attention(student_map) - attention(teacher_map)).square().mean(1))
        return torch.stack(losses).sum(0)


def attention(features: Tensor) -> Tensor:
    """Where a map is active: (B, C, H, W) -> (B, H·W), of length 1, in float32 at least."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return F.normalize(features.square().mean(1).flatten(1), dim=1)
