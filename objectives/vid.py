"""Variational information distillation (Ahn et al., CVPR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import Positive
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .maps import Pairs, last_pairs, map_pairs, match_spatial_size
from .precision import full_precision

# Variance of every channel at first, and the least it may become.
FIRST_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5


@OBJECTIVES.register("vid")
class VID(Objective):
    """Σ over pairs of maps of the mean of ½((t − μ(s))²/σ² + log σ²): the teacher's map under a Gaussian that is
    predicted from the student's (eq. 6).

    Its negative bounds the mutual information of the two maps from below, up to constants. Maps of different sizes are
    averaged to the smaller one. The mean is over channels and positions too, where the paper adds up: the published
    weight of the CRD paper's table goes with that.

    Args:
        dims: (student's, teacher's) channels of each pair of maps.
        pairs: (student's map, teacher's map) places.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i) - returns a scalar.

    Raises:
        UsageError: (``build``) A side has no maps, or not those named.

    Example:
        >>> student, teacher = (Representation(maps=(torch.randn(2, *shape),)) for shape in ((3, 8, 8), (6, 4, 4)))
        >>> VID(dims=((3, 6),), pairs=((0, 0),))(student, teacher, {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last three "
            "of each",
        )

    needs = frozenset({"maps"})
    default_weight = 1.0

    takes_mixed = True

    def __init__(self, dims: Sequence[tuple[Positive, Positive]], pairs: Pairs) -> None:
        super().__init__()
        self.pairs, self.channels = pairs, [*dims]
        self.predictions = nn.ModuleList(Prediction(*each) for each in dims)

    @classmethod
    def build(cls, options: Options, setting: Setting) -> VID:
        pairs = map_pairs("vid", options.pairs, setting, default=last_pairs(setting, 3))
        return cls(
            [
                (setting.student.map_shapes[ours][0], setting.require_teacher().map_shapes[theirs][0])
                for ours, theirs in pairs
            ],
            pairs,
        )

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        losses = [
            predict(*match_spatial_size(student.maps[ours], teacher.maps[theirs]))
            for predict, (ours, theirs) in zip(self.predictions, self.pairs, strict=True)
        ]
        return torch.stack(losses).sum(0)


class Prediction(nn.Module):
    """A Gaussian of the teacher's map: the mean from the student's, position by position, and one variance for each
    channel.

    Args:
        student_dim, teacher_dim: Channels.

    Shape:
        - student: (B, student_dim, H, W) - teacher: (B, teacher_dim, H, W) - returns (B,), the mean of −log density
          over a sample, without ½ log 2π.
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student_dim, teacher_dim, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_dim, teacher_dim, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_dim, teacher_dim, 1, bias=False),
        )
        # softplus of this is the first variance.
        self.raw_variance = nn.Parameter(
            torch.full((teacher_dim,), math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE)))
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        with full_precision(self.mean(student), teacher, self.raw_variance) as (mean, teacher, raw):
            variance = (F.softplus(raw) + LEAST_VARIANCE)[:, None, None]
            return 0.5 * ((teacher - mean).square() / variance + variance.log()).flatten(1).mean(1)
