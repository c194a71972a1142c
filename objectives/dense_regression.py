"""Distance of a student's predictions to a teacher's, such as of depth."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .predictions import MEASURED, check_predictions, mean_of_counted, measured_positions, resize, share_of, single

_FLAT = 1e-5
"""Of its median: with a deviation of less, a map is one value but for rounding."""
_LEAST = 1e-12


@OBJECTIVES.register("dense_regression")
class DenseRegression(Objective):
    """|student − teacher|, or its square, at each position, the mean over channels and over the positions of a sample
    that count, and over the batch.

    With ``scale_invariant`` either side's map is first brought to median 0 and mean absolute deviation 1, over the
    positions that count, of each sample and channel (Ranftl et al., TPAMI 2022, whose loss is half of it): for teachers
    of relative depth, which is known up to a scale and a shift. Positions are the student's; the teacher's prediction
    is averaged over each where it is finer, and interpolated bilinearly where it is coarser. A sample of which no
    position counts has a loss of 0.

    Args:
        norm: ``"l1"`` or ``"l2"``, the squared difference.
        scale_invariant: Whether scale and shift of each sample's map count for nothing.
        measured: Modality of the batch: positions do not count where it was measured at less than half of the pixels
            (not NaN, as in a crop's padding; of depth not 0 either). Of a batch without it every position counts; None:
            always.

    Shape:
        - student.prediction: (B, C, h, w) - teacher.prediction: (B, C, h', w') - batch["depth"], where there is one:
          (B, 1, H, W) - returns a scalar.

    Raises:
        UsageError: (``build``) A side has no prediction, or teacher and student have different numbers of channels.

    Example:
        >>> depth = torch.rand(2, 1, 4, 4)
        >>> DenseRegression()(depth + 1, depth).item() > 0.999
        True
        >>> DenseRegression(scale_invariant=True)(3 * depth + 1, depth).item() < 1e-5
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        norm: Literal["l1", "l2"] = Field("l1", description="absolute or squared difference")
        scale_invariant: bool = Field(
            False, description="bring each sample's map to median 0 and mean absolute deviation 1 first, on either side"
        )
        measured: str | None = Field("depth", description=MEASURED)

    needs = frozenset({"prediction"})
    same_classes = True
    default_weight = 1.0
    whole_prediction = True
    takes_probabilities = True

    def __init__(
        self, norm: Literal["l1", "l2"] = "l1", scale_invariant: bool = False, measured: str | None = "depth"
    ) -> None:
        super().__init__()
        self.norm, self.scale_invariant, self.measured = norm, scale_invariant, measured

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DenseRegression:
        check_predictions("dense_regression", setting, otherwise="fitnet, which compares maps", classes=False)
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours = single(student.require_prediction())
        theirs = resize(single(teacher.require_prediction()), ours.shape[2:])
        counted = measured_positions("dense_regression", batch, self.measured, ours)
        self.logs = {"counted": share_of(counted)}
        if self.scale_invariant:
            ours, theirs = aligned(ours, counted), aligned(theirs, counted)
        difference = ours - theirs
        losses = difference.abs() if self.norm == "l1" else difference.square()
        return mean_of_counted(losses.mean(1), counted)


def aligned(values: Tensor, counted: Tensor) -> Tensor:
    """Maps with median 0 and mean absolute deviation 1 over the positions that count; of an even number, the median is
    the lower of the two in the middle. A map of one value is brought to 0.

    Args:
        values: (B, C, h, w).
        counted: (B, h, w).
    """
    flat, mask = values.flatten(2), counted.flatten(1)[:, None]
    number = mask.sum(2, keepdim=True)
    ordered = flat.masked_fill(~mask, torch.inf).sort(2).values
    middle = ((number - 1) // 2).clamp_min(0).expand(-1, flat.shape[1], -1)
    median = ordered.gather(2, middle).masked_fill(number == 0, 0.0)
    centred = flat - median
    deviation = torch.where(mask, centred.abs(), 0.0).sum(2, keepdim=True) / number.clamp_min(1)
    # A map of one value has no scale: divided by next to nothing, it would have a gradient without bounds.
    level = deviation <= (_FLAT * median.detach().abs()).clamp_min(_LEAST)
    return (centred / torch.where(level, 1.0, deviation)).view_as(values)
