"""Binary cross-entropy with labels that mark any number of classes for a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.loss_labels import check_label_vectors
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation


@OBJECTIVES.register("binary_cross_entropy")
class BinaryCrossEntropy(Objective):
    """Binary cross-entropy of each logit with its label, added up over the classes, mean over the batch.

    Shape:
        - student.logits: (B, C) - batch["label_vector"]: (B, C) in [0, 1]; in a loop of one's own ``target``.
        - returns a scalar.

    Raises:
        UsageError: The labels are none, or one class for each sample; (``build``) other classes than the student's.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
        >>> round(BinaryCrossEntropy()(torch.zeros(1, 4), target=labels).item(), 4)
        2.7726
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pass

    needs_teacher = False
    takes_mixed = True

    @classmethod
    def build(cls, options: Options, setting: Setting) -> BinaryCrossEntropy:
        if setting.label_classes is None:
            has = "none" if setting.targets is None else "one class for each sample, which cross_entropy learns"
            raise UsageError(
                f"objective binary_cross_entropy reads a number for each class, and the labels of this data are {has}: "
                "give labels of the shape (N, C)"
            )
        if setting.student.num_classes != setting.label_classes:
            raise UsageError(
                f"objective binary_cross_entropy compares {setting.student.num_classes} logits of the student with "
                f"labels of {setting.label_classes} classes: give it as many outputs"
            )
        return cls()

    def per_sample(self, student: Representation, teacher: Representation | None, batch: dict[str, Tensor]) -> Tensor:
        logits = student.require_logits()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = check_label_vectors("binary_cross_entropy", batch, logits)
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if "mixed_share" in batch:
            others = F.binary_cross_entropy_with_logits(logits, batch["partner_label_vector"], reduction="none")
            losses = others.lerp(losses, batch["mixed_share"].to(losses.dtype)[:, None])
        return losses.sum(1)
