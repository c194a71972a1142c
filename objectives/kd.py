"""Knowledge distillation by softened probabilities (Hinton et al., 2015)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation


@OBJECTIVES.register("kd")
class KD(Objective):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al., 2015).

    Args:
        temperature: T; 4 in the CRD paper's table.

    Shape:
        - student.logits, teacher.logits: (B, C) - returns a scalar.

    Raises:
        UsageError: Teacher and student have different numbers of classes.

    Example:
        >>> import torch
        >>> logits = torch.randn(2, 5)
        >>> abs(KD()(Representation(logits=logits), Representation(logits=logits), {}).item()) < 1e-6
        True
    """

    class Options(Options):
        temperature: float = Field(4.0, gt=0, description="softens both sides' probabilities (no unit)")

    default_weight = 0.9

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    @classmethod
    def build(cls, options: Options, setting: Setting) -> KD:
        if setting.student.num_classes != setting.teacher.num_classes:
            raise UsageError(
                f"objective kd compares logits, but the teacher has {setting.teacher.num_classes} classes and the student "
                f"{setting.student.num_classes}: say with class_map which of the teacher's classes is which, or use an objective that reads embeddings, such as crd"
            )
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        return self.per_sample(student, teacher, batch).mean()

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        # Under autocast log_softmax and kl_div run in float32 of themselves: half precision loses the small probabilities KD is about.
        log_student = F.log_softmax(student.logits / self.temperature, dim=1)
        log_teacher = F.log_softmax(teacher.logits / self.temperature, dim=1)
        return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1) * self.temperature**2
