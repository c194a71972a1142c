"""Channel-wise distillation (CWD: Shu et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.arguments import Positive
from ..core.errors import UsageError
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .logits import MOST_TEMPERATURE, divergence
from .maps import common_size, last_pairs, map_pairs, match_spatial_size
from .predictions import MEASURED, check_predictions, measured_positions, share_of, single


@OBJECTIVES.register("cwd")
class CWD(Objective):
    """T²/C · Σ over channels of KL(softmax(teacher / T) ‖ softmax(student / T)), each softmax over the positions
    of a channel (Shu et al., ICCV 2021, eq. 3–5), mean over the batch.

    Where a class is, is compared, not how sure of it a network is at a position: a constant added to a channel changes
    nothing. Both sides are first averaged to the smaller size. Positions that were not measured are left out of the
    softmax; a sample without two that were has a loss of 0.

    Args:
        temperature: T; 4 in the released code.
        measured: Modality of the batch: positions do not count where it was measured at less than half of the pixels
            (not NaN, as in a crop's padding; of depth not 0 either). Of a batch without it every position counts; None:
            always.
        pair: (student's map, teacher's map) places; None compares the predictions.
        student_dim, teacher_dim: Channels of these maps: where they differ a 1×1 convolution brings the student's to
            the teacher's, as in the paper; predictions need none.

    Shape:
        - student.prediction, teacher.prediction: (B, C, h, w) of any sizes, or a map (B, C_i, H_i, W_i) of either side
        - batch["depth"], where there is one: (B, 1, H, W) - returns a scalar.

    Raises:
        UsageError: Both meet at a single position; (``build``) a side has no prediction, or no such map, or the
            predictions have different numbers of channels.

    Example:
        >>> student, teacher = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)
        >>> torch.allclose(CWD()(student, teacher), CWD()(student + torch.randn(5, 1, 1), teacher), atol=1e-4)
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        features: Literal["prediction", "maps"] = Field(
            "prediction",
            description="what is compared: predictions, at the published weight of 3, or feature maps, for which it is "
            "50",
        )
        temperature: float = Field(
            4.0, gt=0, le=MOST_TEMPERATURE, description="softens both sides' distributions over positions (no unit)"
        )
        measured: str | None = Field("depth", description=MEASURED)
        pair: tuple[int, int] | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last of each",
        )

    needs = frozenset({"prediction", "maps"})
    # Of predictions, as published; maps have 50.
    whole_prediction = True
    default_weight = 3.0

    def __init__(
        self,
        temperature: float = 4.0,
        measured: str | None = "depth",
        pair: tuple[int, int] | None = None,
        student_dim: Positive | None = None,
        teacher_dim: Positive | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.measured, self.pair = temperature, measured, pair
        self.needs = frozenset({"prediction"} if pair is None else {"maps"})
        self.same_classes = pair is None
        self.projection: nn.Module = nn.Identity()
        if len({value is None for value in (pair, student_dim, teacher_dim)}) > 1:
            raise UsageError("CWD compares maps where pair, student_dim and teacher_dim are given: pass all three")
        if student_dim is not None and teacher_dim is not None:
            self.channels = [(student_dim, teacher_dim)]
            if student_dim != teacher_dim:
                self.projection = nn.Conv2d(student_dim, teacher_dim, 1)

    @classmethod
    def needs_with(cls, options: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({"maps" if options.get("features") == "maps" else "prediction"})

    @classmethod
    def build(cls, options: Options, setting: Setting) -> CWD:
        teacher = setting.require_teacher()
        if options.features == "prediction":
            if options.pair is not None:
                raise UsageError("objectives.cwd.pair names maps, and features is prediction: set features=maps")
            check_predictions("cwd", setting, otherwise="objectives.cwd.features=maps", classes=False)
            _check_size(setting.student.prediction_shape or (), teacher.prediction_shape or ())
            return cls(options.temperature, options.measured)
        chosen = None if options.pair is None else (options.pair,)
        (pair,) = map_pairs("cwd", chosen, setting, default=last_pairs(setting, 1) or ((-1, -1),))
        ours, theirs = setting.student.map_shapes[pair[0]], teacher.map_shapes[pair[1]]
        _check_size(ours, theirs)
        return cls(options.temperature, options.measured, pair, ours[0], theirs[0])

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        if self.pair is None:
            ours, theirs = student.require_prediction(), teacher.require_prediction()
        else:
            ours, theirs = student.maps[self.pair[0]], teacher.maps[self.pair[1]]
        _check_size(ours.shape[1:], theirs.shape[1:])
        ours, theirs = match_spatial_size(single(self.projection(ours)), single(theirs))
        measured = measured_positions("cwd", batch, self.measured, ours)
        self.logs = {"counted": share_of(measured)}
        log_ours, log_theirs = (over_positions(side, measured, self.temperature) for side in (ours, theirs))
        # (B · C, h · w) -> (B, C)
        each = divergence(log_theirs.flatten(0, 1), log_ours.flatten(0, 1)).unflatten(0, ours.shape[:2])
        return each.mean(1) * self.temperature**2


def over_positions(maps: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """log of each channel's softmax(map / T) over the positions that count, −∞ elsewhere: (B, C, h · w).

    Args:
        maps: (B, C, h, w).
        counted: (B, h, w); of a sample without any, all are taken for one value, so that both sides are alike.
        temperature: T.
    """
    values, counted = maps.flatten(2) / temperature, counted.flatten(1)[:, None]
    some = counted.any(2, keepdim=True)
    return (values * some).masked_fill(some & ~counted, -torch.inf).log_softmax(2)


def _check_size(student: Sequence[int], teacher: Sequence[int]) -> None:
    """Refuse (C, H, W) that meet at a single position, over which a softmax is 1."""
    if common_size(student[1:], teacher[1:]) == (1, 1):
        raise UsageError(
            "objective cwd takes the softmax over positions, and both sides meet at a single one, where the loss is 0: "
            "compare larger maps, or take larger images"
        )
