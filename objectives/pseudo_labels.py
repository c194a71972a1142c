"""Cross-entropy with the classes that a teacher is sure of."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.objective import Objective, Options, Setting
from ..core.pixel_mean import mean_over_pixels
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .predictions import (
    LABELS,
    MEASURED,
    check_pixels,
    check_predictions,
    check_several,
    measured_positions,
    most_pixels,
    share_of,
    single,
    teacher_log_probabilities,
    unlabelled_pixels,
)


@OBJECTIVES.register("pseudo_labels")
class PseudoLabels(Objective):
    """Cross-entropy with the teacher's most probable class at each position, mean over the batch's positions at which
    its probability is ``confidence`` or more (pseudo-labels: Lee, 2013; the threshold: Sohn et al., NeurIPS 2020).

    Positions are the student's; the teacher's probabilities are averaged over each where they are finer, and
    interpolated bilinearly where they are coarser. Where no position counts the loss is 0, with a gradient of 0.

    Args:
        confidence: The least probability of the teacher's class.
        only_unlabelled: Whether positions count only where half of the pixels or more have no label, of a batch with
            label maps: beside pixel_cross_entropy, which learns the others.
        measured: Modality of the batch: positions do not count where it was measured at less than half of the pixels
            (not NaN, as in a crop's padding; of depth not 0 either). Of a batch without it every position counts; None:
            always.

    Shape:
        - student.prediction: (B, C, h, w) - teacher.prediction: (B, C, h', w') - batch["semantics"] and batch["depth"],
          where there are such: (B, 1, H, W) - returns a scalar.

    Raises:
        UsageError: A side predicts a single channel; (``build``) a side has no prediction, or teacher and student have
            different numbers of classes.

    Example:
        >>> teacher = torch.tensor([[9.0, 0.0], [0.0, 0.1]]).view(1, 2, 1, 2)
        >>> loss = PseudoLabels()
        >>> round(loss(torch.zeros(1, 2, 1, 2), teacher).item(), 4), loss.logs["counted"].item()
        (0.6931, 0.5)
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        confidence: float = Field(0.9, ge=0, le=1, description="least probability of the teacher's class")
        only_unlabelled: bool = Field(
            True, description="only where there is no label, of a batch with label maps (semantics)"
        )
        measured: str | None = Field("depth", description=MEASURED)

    needs = frozenset({"prediction"})
    same_classes = True
    default_weight = 1.0

    def __init__(self, confidence: float = 0.9, only_unlabelled: bool = True, measured: str | None = "depth") -> None:
        super().__init__()
        self.confidence, self.only_unlabelled, self.measured = confidence, only_unlabelled, measured

    @classmethod
    def build(cls, options: Options, setting: Setting) -> PseudoLabels:
        check_predictions("pseudo_labels", setting, otherwise="kd")
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = student.require_prediction(), teacher.require_prediction()
        check_several("pseudo_labels", "student", ours.shape[1])
        probability, label = teacher_log_probabilities(theirs, ours.shape[2:]).exp().max(1)
        counted = measured_positions("pseudo_labels", batch, self.measured, ours) & ~(probability < self.confidence)
        if self.only_unlabelled and LABELS in batch:
            labels = check_pixels("pseudo_labels", LABELS, batch[LABELS], ours, channels=1)
            counted = counted & most_pixels(unlabelled_pixels(labels), ours)
        self.logs = {"counted": share_of(counted)}
        # A teacher's NaN has no class, and shows.
        losses = F.cross_entropy(single(ours), label, reduction="none") + 0 * probability
        sums = torch.where(counted, losses, 0.0).sum((1, 2))
        return mean_over_pixels(sums, counted.sum((1, 2)), batch.get("is_padding"))
