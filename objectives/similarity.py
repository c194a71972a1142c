"""Similarity-preserving distillation (Tung & Mori, ICCV 2019)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..core.crd.criterion import normalise
from ..core.objective import Objective, Options, Setting, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .maps import Pairs, last_pairs, map_pairs
from .precision import full_precision


@OBJECTIVES.register("similarity")
class Similarity(Objective):
    """SP: Σ over pairs of maps of ‖G_teacher − G_student‖²_F / B² (Tung & Mori, ICCV 2019), G = F Fᵀ of flattened maps
    with rows of length 1.

    Which samples of the batch look alike is compared, so channels and sizes of the two sides may differ.

    Args:
        pairs: (student's map, teacher's map) places.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i), any channels and sizes - returns a scalar.

    Raises:
        UsageError: (``build``) A side has no maps, or not those named.

    Example:
        >>> student, teacher = (Representation(maps=(torch.randn(4, *shape),)) for shape in ((3, 8, 8), (6, 4, 4)))
        >>> Similarity()(student, teacher, {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last of each",
        )

    needs = frozenset({"maps"})
    default_weight = 3000.0

    takes_mixed = True
    least_samples = 2

    def __init__(self, pairs: Pairs = ((-1, -1),)) -> None:
        super().__init__()
        self.pairs = pairs

    @classmethod
    def build(cls, options: Options, setting: Setting) -> Similarity:
        check_pass("similarity", setting)
        return cls(map_pairs("similarity", options.pairs, setting, default=last_pairs(setting, 1)))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        losses = [
            (similarities(student.maps[ours]) - similarities(teacher.maps[theirs])).square().mean()
            for ours, theirs in self.pairs
        ]
        return torch.stack(losses).sum()


def similarities(features: Tensor) -> Tensor:
    """Which samples a map (B, C, H, W) takes for alike: (B, B), rows of length 1, in float32 at least."""
    with full_precision(features.flatten(1)) as (rows,):
        # A common factor changes nothing, and products of small values would vanish.
        largest = rows.detach().abs().amax()
        rows = rows / largest.where(largest > 0, 1)
        return normalise(rows @ rows.T)[0]
