"""Activation boundaries (Heo et al., AAAI 2019)."""

from __future__ import annotations

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

# The published factor of the sum over a map's values, of which there are some thousands.
_SCALE = 3e-3


@OBJECTIVES.register("ab")
class AB(Objective):
    """Σ over maps of ‖ρ(t) σ(μ − r(s)) + (1 − ρ(t)) σ(μ + r(s))‖², in an initial stage alone (eq. 5).

    ρ(t) is 1 where the teacher's neuron is active, σ the ReLU, μ a margin, and the connector r a 1×1 convolution with
    BatchNorm: the student's response has to lie on the teacher's side of each boundary. The teacher's side is the same
    after the ReLU, where the maps are, as before it; the student's connector reads the values after the ReLU, the
    paper's those before. A map one level deeper counts twice as much.

    Args:
        dims: (student's, teacher's) channels of each pair.
        pairs: (student's map, teacher's map) places, shallow to deep.
        margin: μ.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i) - returns a scalar.

    Raises:
        UsageError: A side has no maps, or not those named.

    Example:
        >>> outputs = Representation(maps=(torch.rand(2, 3, 4, 4),))
        >>> AB([(3, 5)], pairs=((0, 0),))(outputs, Representation(maps=(torch.rand(2, 5, 4, 4),)), {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last three "
            "of each",
        )
        margin: float = Field(1.0, gt=0, description="μ, by which a response shall lie on the right side")

    needs = frozenset({"maps"})
    initial_epochs = 30
    only_initial = True

    takes_mixed = True

    def __init__(self, dims: Sequence[tuple[Positive, Positive]], pairs: Pairs, margin: float = 1.0) -> None:
        super().__init__()
        self.pairs, self.channels, self.margin = pairs, [*dims], margin
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs)) for ours, theirs in dims
        )

    @classmethod
    def build(cls, options: Options, setting: Setting) -> AB:
        pairs = map_pairs("ab", options.pairs, setting, default=last_pairs(setting, 3))
        dims = [
            (setting.student.map_shapes[ours][0], setting.require_teacher().map_shapes[theirs][0])
            for ours, theirs in pairs
        ]
        return cls(dims, pairs, options.margin)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        losses = []
        for depth, ((ours, theirs), connector) in enumerate(zip(self.pairs, self.connectors, strict=True), 1):
            student_map, teacher_map = match_spatial_size(student.maps[ours], teacher.maps[theirs])
            # NaN is on neither side: the loss is NaN too, and does not pass for that of a silent neuron.
            sign = torch.where(teacher_map > 0, 1.0, torch.where(teacher_map <= 0, -1.0, torch.nan))
            missed = F.relu(self.margin - sign * connector(student_map)).square().flatten(1).sum(1)
            losses.append(missed * 2.0 ** (depth - len(self.pairs)))
        return _SCALE * torch.stack(losses).sum(0)
