"""Knowledge distillation class by class, for labels that mark any number of classes."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .logits import MOST_TEMPERATURE, check_classes


@OBJECTIVES.register("binary_kd")
class BinaryKD(Objective):
    """T² · Σ_c KL(σ(teacher_c / T) ‖ σ(student_c / T)), mean over the batch: each class on its own.

    As in multi-label logits distillation (Yang et al., ICCV 2023, eq. 3), with T as in :class:`KD`.

    Args:
        temperature: T.

    Shape:
        - student.logits, teacher.logits: (B, C) - returns a scalar.

    Raises:
        UsageError: (``build``) Teacher and student have different numbers of classes.

    Example:
        >>> logits = torch.randn(2, 5)
        >>> abs(BinaryKD()(Representation(logits=logits), Representation(logits=logits), {}).item()) < 1e-6
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        temperature: float = Field(
            1.0, gt=0, le=MOST_TEMPERATURE, description="softens both sides' probabilities (no unit)"
        )

    same_classes = True
    per_class = True
    whole_logits = True
    default_weight = 1.0
    takes_mixed = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    @classmethod
    def build(cls, options: Options, setting: Setting) -> BinaryKD:
        check_classes("binary_kd", setting, softmax=False)
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = (
            logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
            for logits in (student.require_logits(), teacher.require_logits())
        )
        share = theirs.sigmoid()
        # Cross-entropy less the teacher's entropy, which is 0 where a class is masked by a logit of −∞.
        entropy = torch.special.entr(share) + torch.special.entr(1 - share)
        crossed = F.binary_cross_entropy_with_logits(ours, share, reduction="none")
        return (crossed - entropy).sum(1) * self.temperature**2
