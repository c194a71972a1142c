"""Transformed teacher matching, weighted (Zheng & Yang, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from ..core.objective import Objective, Options, Setting, TeacherOutputs
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .doubt import FULL_DOUBT, doubt_scale
from .logits import check_classes, divergence, log_probabilities


@OBJECTIVES.register("wttm")
class WTTM(Objective):
    """U · KL(p^γ / U ‖ q), mean over the batch: p the teacher's probabilities, γ = 1/T, U = Σ_c p_c^γ, q the student's
    (Zheng & Yang, ICLR 2024).

    The power transform is the teacher's temperature; without one of its own the student is held to a more even answer
    than its task asks for, a regularisation. U, between 1 and C^(1 − γ), makes samples count more of which the teacher
    is less sure.

    Args:
        temperature: T = 1/γ, of the teacher alone.
        weighted: Whether a sample is weighed by U; False is TTM.
        full_doubt: As that of :class:`~contrastill.objectives.kd.KD`.

    Shape:
        - student.logits, teacher.logits: (B, C) - returns a scalar.

    Raises:
        UsageError: (``build``) Teacher and student have different numbers of classes.

    Example:
        >>> import torch
        >>> student, teacher = (Representation(logits=torch.randn(2, 5)) for _ in range(2))
        >>> WTTM()(student, teacher, {}) > WTTM(weighted=False)(student, teacher, {})
        tensor(True)
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        temperature: float = Field(
            4.0, gt=0, description="softens the teacher's probabilities, and only those (no unit)"
        )
        weighted: bool = Field(True, description="weigh each sample by the teacher's power sum; false is TTM")
        full_doubt: float = Field(0.0, ge=0, lt=1, description=FULL_DOUBT)

    same_classes = True
    default_weight = 1.0

    takes_mixed = True
    fixed = frozenset({"full_doubt"})  # ``prepare`` has read it

    def __init__(self, temperature: float = 4.0, weighted: bool = True, full_doubt: float = 0.0) -> None:
        super().__init__()
        self.temperature, self.weighted, self.full_doubt, self.scale = temperature, weighted, full_doubt, 1.0
        self.note = self._alike

    @property
    def _alike(self) -> str:
        return "" if self.weighted else "each sample alike"

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        self.scale, note = doubt_scale(teachers, self.full_doubt)
        self.note = ", ".join(filter(None, (note, self._alike)))

    @classmethod
    def build(cls, options: Options, setting: Setting) -> WTTM:
        check_classes("wttm", setting)
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        powers = log_probabilities(teacher.require_logits()) / self.temperature
        log_sum = powers.logsumexp(1, keepdim=True)
        losses = divergence(powers - log_sum, log_probabilities(student.require_logits())) * self.scale
        return losses * log_sum[:, 0].exp() if self.weighted else losses
