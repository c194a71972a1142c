"""Cross-entropy with the labels of pixels."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.dense_prediction import resize_prediction
from ..core.objective import Objective, Options, Setting
from ..core.pixel_mean import mean_over_pixels
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .predictions import check_label_maps, check_predictions, check_several, pixel_targets


@OBJECTIVES.register("pixel_cross_entropy")
class PixelCrossEntropy(Objective):
    """Cross-entropy of the student's prediction, enlarged bilinearly to the label maps as where it is measured, mean
    over the batch's labelled pixels.

    Samples with and without labels may be mixed: of a batch without any the loss is 0, with a gradient of 0.

    Args:
        label_smoothing: Probability mass spread over all classes, in [0, 1).

    Shape:
        - student.prediction: (B, C, h, w) - batch["semantics"]: (B, 1, H, W) whole numbers: 0, −1, −100 where there
          is no label, else 1 … C, label c being channel c − 1 - returns a scalar.

    Raises:
        UsageError: The batch has no label maps, or labels beyond C; (``build``) the data has none, or more classes than
            the student has channels.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[[[0, 1], [2, 3]]]])
        >>> round(PixelCrossEntropy()(torch.zeros(1, 4, 2, 2), semantics=labels).item(), 4)
        1.3863
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread over all classes")

    needs = frozenset({"prediction"})
    needs_teacher = False
    default_weight = 1.0

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    @classmethod
    def build(cls, options: Options, setting: Setting) -> PixelCrossEntropy:
        check_predictions("pixel_cross_entropy", setting, otherwise="cross_entropy", teacher=False)
        check_label_maps("pixel_cross_entropy", setting)
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation | None, batch: dict[str, Tensor]) -> Tensor:
        prediction = student.require_prediction()
        check_several("pixel_cross_entropy", "student", prediction.shape[1])
        target = pixel_targets("pixel_cross_entropy", batch, prediction)
        losses = F.cross_entropy(
            resize_prediction(prediction, target.shape[1:]),
            target,
            ignore_index=-1,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return mean_over_pixels(losses.sum((1, 2)), (target >= 0).sum((1, 2)), batch.get("is_padding"))
