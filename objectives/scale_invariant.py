"""The scale-invariant error of a student's depth (Eigen et al., NeurIPS 2014)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core.dense_prediction import resize_prediction
from ..core.errors import UsageError
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .predictions import DEPTH, check_one, check_pixels, check_predictions, mean_of_counted, single

FLOOR = 0.1
"""Of the measured depth: below it the logarithm goes on along its tangent. The lower it is, the steeper that is: from a
linear layer, half of whose first outputs are negative, 150 steps of AdamW came to .009 with a tenth and to .14 with a
hundredth.
"""


@OBJECTIVES.register("scale_invariant")
class ScaleInvariant(Objective):
    """mean(d²) − λ · mean(d)² with d = log(predicted) − log(measured depth), over the pixels of a sample that
    were measured, mean over the batch (Eigen et al., NeurIPS 2014, eq. 4).

    The student's prediction is depth, in the unit of ``batch["depth"]``, as networks for metric depth return it; it is
    enlarged bilinearly to the measured map. No other convention is guessed: a network whose output is log depth (Eigen
    et al.'s own, or a linear last layer) takes ``predicts="log_depth"``; inverse depth (disparity) has to be inverted
    in the network. Depth below a tenth of the measured one, such as the 0 or the negative number that an untrained
    layer may return, has the logarithm's tangent there, so that loss and gradient are finite and lead out of it; depth
    without a unit may not be smaller than that either. A sample without a measured pixel has a loss of 0.

    Args:
        invariance: λ; 1 sees no scale of a whole sample, 0 is the mean squared error of log depth.
        predicts: ``"depth"`` or ``"log_depth"`` (natural logarithm).

    Shape:
        - student.prediction: (B, 1, h, w) - batch["depth"]: (B, 1, H, W), above 0, NaN where nothing was measured -
          returns a scalar.

    Raises:
        UsageError: The batch has no depth, or the student predicts several channels; (``build``) it has no prediction.

    Example:
        >>> depth = torch.tensor([[[[1.0, 2.0], [4.0, torch.nan]]]])
        >>> round(ScaleInvariant()(3 * torch.ones(1, 1, 2, 2), depth=depth).item(), 4)
        0.4025
        >>> round(ScaleInvariant(invariance=1.0)(3 * depth.nan_to_num(1.0), depth=depth).item(), 4)
        0.0
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        invariance: float = Field(
            0.5, ge=0, le=1, description="λ: 1 sees no scale of a whole sample, 0 is the squared error of log depth"
        )
        predicts: Literal["depth", "log_depth"] = Field(
            "depth", description="what the student's prediction is: depth in the data's unit, or its natural logarithm"
        )

    needs = frozenset({"prediction"})
    needs_teacher = False
    default_weight = 1.0

    def __init__(self, invariance: float = 0.5, predicts: Literal["depth", "log_depth"] = "depth") -> None:
        super().__init__()
        self.invariance, self.predicts = invariance, predicts

    @classmethod
    def build(cls, options: Options, setting: Setting) -> ScaleInvariant:
        check_predictions("scale_invariant", setting, otherwise="take the objective out", classes=False, teacher=False)
        shape = setting.student.prediction_shape
        check_one("scale_invariant", 1 if shape is None else shape[0])
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation | None, batch: dict[str, Tensor]) -> Tensor:
        prediction = student.require_prediction()
        check_one("scale_invariant", prediction.shape[1])
        if DEPTH not in batch:
            raise UsageError(
                "objective scale_invariant compares with measured depth, and the batch has none: pass depth=, "
                "(B, 1, H, W), or take data with that modality"
            )
        depth = check_pixels("scale_invariant", DEPTH, batch[DEPTH], prediction, channels=1)[:, 0]
        measured = depth.isfinite() & (depth > 0)
        depth = torch.where(measured, single(depth), 1.0)
        predicted = resize_prediction(prediction, depth.shape[1:])[:, 0]
        errors = predicted - depth.log() if self.predicts == "log_depth" else log_above(predicted / depth)
        mean = mean_of_counted(errors, measured)
        # As a difference of means, what is left at λ = 1 would be rounding.
        spread = mean_of_counted((errors - mean[:, None, None]).square(), measured)
        return spread + (1 - self.invariance) * mean.square()


def log_above(ratio: Tensor) -> Tensor:
    """log x where x is ``FLOOR`` or more, below it the tangent there."""
    return ratio.clamp_min(FLOOR).log() + (ratio - FLOOR).clamp_max(0) / FLOOR
