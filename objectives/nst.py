"""Neuron selectivity transfer (Huang & Wang, 2017)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..core.crd.criterion import normalise
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .maps import Pairs, check_positions, last_pairs, map_pairs, match_spatial_size, shapes
from .precision import full_precision


@OBJECTIVES.register("nst")
class NST(Objective):
    """Σ over pairs of maps of the squared maximum mean discrepancy between the channels of the two sides, kernel (aᵀb)²
    (Huang & Wang, 2017).

    A channel is its activations over positions, at length 1, so the number of channels may differ; maps of different
    sizes are averaged to the smaller one. A channel that is 0 everywhere stays 0.

    Args:
        pairs: (student's map, teacher's map) places.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i), any channels - returns a scalar.

    Raises:
        UsageError: (``build``) A side has no maps, or not those named.

    Example:
        >>> student, teacher = (Representation(maps=(torch.randn(2, *shape),)) for shape in ((3, 8, 8), (6, 4, 4)))
        >>> NST(pairs=((0, 0),))(student, teacher, {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last three "
            "of each",
        )

    needs = frozenset({"maps"})
    default_weight = 50.0

    takes_mixed = True

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.pairs = pairs

    @classmethod
    def build(cls, options: Options, setting: Setting) -> NST:
        pairs = map_pairs("nst", options.pairs, setting, default=last_pairs(setting, 3))
        check_positions("nst", pairs, setting.student.map_shapes, setting.require_teacher().map_shapes)
        return cls(pairs)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        check_positions("nst", self.pairs, shapes(student), shapes(teacher))
        losses = []
        for own, other in self.pairs:
            with full_precision(student.maps[own], teacher.maps[other]) as (ours, theirs):
                losses.append(
                    discrepancy(*(normalise(features.flatten(2))[0] for features in match_spatial_size(ours, theirs)))
                )
        return torch.stack(losses).sum(0)


def discrepancy(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared MMD, kernel (aᵀb)², between the rows of two sets: (B, C, N) and (B, C', N) -> (B,)."""
    (channels, length), others = ours.shape[1:], theirs.shape[1]
    # The mean of (aᵀb)² over all a and b is ⟨mean aaᵀ, mean bbᵀ⟩, so the discrepancy is the distance of two N×N
    # matrices; with few channels of many positions the products between channels are less work. Both count
    # multiplications, over N.
    if length * (channels + others) <= channels**2 + others**2 + channels * others:
        return (ours.mT @ ours / channels - theirs.mT @ theirs / others).square().sum((1, 2))
    return mean_kernel(ours, ours) + mean_kernel(theirs, theirs) - 2 * mean_kernel(ours, theirs)


def mean_kernel(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean of (aᵀb)² over the rows of both: (B, C, N) and (B, C', N) -> (B,)."""
    return (ours @ theirs.mT).square().mean((1, 2))
