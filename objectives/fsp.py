"""The flow of solution procedure (Yim et al., CVPR 2017)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..core.errors import UsageError
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .maps import match_spatial_size
from .precision import full_precision


@OBJECTIVES.register("fsp")
class FSP(Objective):
    """Mean squared distance of the FSP matrices G_ij = Σ_hw F¹_ihw F²_jhw / (H·W) of consecutive maps, in an initial
    stage alone (eq. 1–2).

    Both networks need maps of the same channels, so it is for networks that differ in depth. The larger map of two
    consecutive ones is averaged to the size of the smaller.

    Args:
        count: How many maps, the last ones of each side, are read.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i), C_i the same on both sides - returns a scalar, summed over
          consecutive maps.

    Raises:
        UsageError: Fewer than two maps, or other channels.

    Example:
        >>> outputs = Representation(maps=(torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)))
        >>> FSP(2)(outputs, outputs, {}).item()
        0.0
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        count: int | None = Field(
            None, ge=2, description="maps, the last ones of each side, that are read; default: as many as both have"
        )

    needs = frozenset({"maps"})
    initial_epochs = 30
    only_initial = True

    takes_mixed = True

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    @classmethod
    def build(cls, options: Options, setting: Setting) -> FSP:
        sides = {"student": setting.student.map_shapes, "teacher": setting.require_teacher().map_shapes}
        count = options.count or min(len(shapes) for shapes in sides.values())
        for side, shapes in sides.items():
            if len(shapes) < max(2, count):
                raise UsageError(
                    f"objective fsp compares {max(2, count)} maps, and the {side} has {len(shapes)}: name more "
                    "with maps=[MODULE, …]"
                )
        ours, theirs = ([shape[0] for shape in shapes[-count:]] for shapes in sides.values())
        if ours != theirs:
            raise UsageError(
                f"objective fsp needs maps of the same channels, and the student's have {ours}, the teacher's "
                f"{theirs}: "
                "take networks that differ in depth alone, or another objective"
            )
        return cls(count)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = (side.maps[-self.count :] for side in (student, teacher))
        channels = [[each.shape[1] for each in maps] for maps in (ours, theirs)]
        if min(map(len, channels)) < self.count or channels[0] != channels[1]:
            raise UsageError(
                f"objective fsp compares the last {self.count} maps, of the same channels: the student's have "
                f"{channels[0]}, the teacher's {channels[1]}"
            )
        flows = zip(flow(ours), flow(theirs), strict=True)
        return torch.stack([(ours - theirs).square().mean((1, 2)) for ours, theirs in flows]).sum(0)


def flow(maps: tuple[Tensor, ...]) -> list[Tensor]:
    """FSP matrices (B, C_i, C_{i+1}) of each map with the next, in float32 at least."""
    matrices = []
    for shallow, deep in zip(maps, maps[1:], strict=False):
        with full_precision(shallow, deep) as (left, right):
            first, second = (value.flatten(2) for value in match_spatial_size(left, right))
            matrices.append(first @ second.mT / first.shape[2])
    return matrices
