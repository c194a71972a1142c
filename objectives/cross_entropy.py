"""Cross-entropy with the labels: the only objective that asks no teacher."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.loss_inputs import check_softmax
from ..core.loss_labels import batch_targets, check_probabilities, check_targets
from ..core.objective import Objective, Options, Setting, check_labels
from ..core.registry import OBJECTIVES
from ..core.representation import Representation


@OBJECTIVES.register("cross_entropy")
class CrossEntropy(Objective):
    """Cross-entropy of the student's logits with the labels; of mixed images with both labels, by their shares.

    Args:
        label_smoothing: Probability mass spread over all classes, in [0, 1).

    Shape:
        - student.logits: (B, C) - batch["target"]: (B,) int64 in [0, C), or probabilities (B, C), which data has as
          batch["label_vector"] - returns a scalar.

    Raises:
        UsageError: The batch has no ``target``; (``build``) the data has no labels, or more classes than the student.

    Example:
        >>> import torch
        >>> outputs = Representation(logits=torch.zeros(2, 4))
        >>> round(CrossEntropy()(outputs, None, {"target": torch.tensor([0, 3])}).item(), 4)
        1.3863
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread over all classes")

    needs_teacher = False
    takes_mixed = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    @classmethod
    def build(cls, options: Options, setting: Setting) -> CrossEntropy:
        check_labels("cross_entropy", setting)
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation | None, batch: dict[str, Tensor]) -> Tensor:
        logits, targets = student.require_logits(), batch_targets(batch, "cross_entropy")
        check_softmax("cross_entropy", "student", logits)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        kind = "label_vector" if "label_vector" in batch else "target"
        targets = batch.get("label_vector", targets)
        # Probabilities of all classes are labels too, those of mixed images for one.
        probabilities = isinstance(targets, Tensor) and targets.is_floating_point() and targets.shape == logits.shape
        if probabilities:
            check_probabilities("cross_entropy", targets)
        else:
            targets = check_targets("cross_entropy", targets, logits, ignored=-100)
        if "mixed_share" not in batch:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        share = batch["mixed_share"]
        if tuple(share.shape) != (len(logits),):
            raise UsageError(
                f"cross_entropy: mixed_share has shape {tuple(share.shape)}: pass one share of each sample, "
                f"({len(logits)},)"
            )
        first, second = (
            F.cross_entropy(logits, each, reduction="none", label_smoothing=self.label_smoothing)
            for each in (targets, batch[f"partner_{kind}"])
        )
        return torch.lerp(second, first, share.to(first.dtype)).mean()
