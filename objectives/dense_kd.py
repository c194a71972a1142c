"""Knowledge distillation at each position of a prediction."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .logits import MOST_TEMPERATURE, divergence, log_probabilities
from .predictions import (
    MEASURED,
    check_predictions,
    check_several,
    mean_of_counted,
    measured_positions,
    share_of,
    teacher_log_probabilities,
)


@OBJECTIVES.register("dense_kd")
class DenseKD(Objective):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) at each position, the mean over those of a sample that
    count, and over the batch: pixel-wise distillation (Liu et al., CVPR 2019, eq. 1).

    Positions are the student's. Where the teacher's prediction is finer, its probabilities are averaged over each of
    the student's cells; where it is coarser, they are interpolated bilinearly. A sample of which no position counts has
    a loss of 0.

    Args:
        temperature: T; 1, as in the published pixel-wise distillation of segmentation (Liu et al.; Yang et al., CVPR
            2022): where two classes meet, the teacher's own probabilities are soft already.
        measured: Modality of the batch: positions do not count where it was measured at less than half of the pixels
            (not NaN, as in a crop's padding; of depth not 0 either). Of a batch without it every position counts; None:
            always.
        confidence: Positions at which the teacher's largest probability (T = 1) is lower do not count.

    Shape:
        - student.prediction: (B, C, h, w) - teacher.prediction: (B, C, h', w') - batch["depth"], where there is one:
          (B, 1, H, W) - returns a scalar.

    Raises:
        UsageError: A side predicts a single channel; (``build``) a side has no prediction, or teacher and student have
            different numbers of classes.

    Example:
        >>> import torch
        >>> fine, coarse = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)
        >>> DenseKD()(fine, coarse).item() > 0, abs(DenseKD()(fine, fine).item()) < 1e-6
        (True, True)
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        temperature: float = Field(
            1.0, gt=0, le=MOST_TEMPERATURE, description="softens both sides' probabilities (no unit)"
        )
        measured: str | None = Field("depth", description=MEASURED)
        confidence: float | None = Field(
            None,
            gt=0,
            le=1,
            description="positions where the teacher's largest probability is lower do not count; null: all do",
        )

    needs = frozenset({"prediction"})
    same_classes = True
    default_weight = 1.0

    def __init__(
        self, temperature: float = 1.0, measured: str | None = "depth", confidence: float | None = None
    ) -> None:
        super().__init__()
        self.temperature, self.measured, self.confidence = temperature, measured, confidence

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DenseKD:
        check_predictions("dense_kd", setting, otherwise="kd")
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = student.require_prediction(), teacher.require_prediction()
        check_several("dense_kd", "student", ours.shape[1])
        size = ours.shape[2:]
        log_theirs = teacher_log_probabilities(theirs, size, self.temperature)
        counted = measured_positions("dense_kd", batch, self.measured, ours)
        if self.confidence is not None:
            sharp = log_theirs if self.temperature == 1 else teacher_log_probabilities(theirs, size)
            # Not ≥, so that a teacher's NaN shows.
            counted = counted & ~(sharp.amax(1) < math.log(self.confidence))
        self.logs = {"counted": share_of(counted)}
        losses = divergence(log_theirs, log_probabilities(ours, self.temperature))
        return mean_of_counted(losses, counted) * self.temperature**2
