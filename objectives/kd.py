"""Knowledge distillation by softened probabilities (Hinton et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from ..core.objective import Objective, Options, Setting, TeacherOutputs
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .doubt import FULL_DOUBT, doubt_scale
from .logits import MOST_TEMPERATURE, check_classes, check_three_classes, divergence, log_probabilities


@OBJECTIVES.register("kd")
class KD(Objective):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al., 2015).

    With ``standardize`` each sample's logits have mean 0 and deviation 1 before the temperature, on either side, so
    that the student need not match how large the teacher's are (logit standardization: Sun et al., CVPR 2024).

    Args:
        temperature: T; 4 in the CRD paper's table.
        standardize: Whether logits are standardised.
        full_doubt: The teacher's mean doubt, 1 − its largest probability, over training samples from which on the loss
            counts whole; below, in proportion. 0: always whole.

    Shape:
        - student.logits, teacher.logits: (B, C) - returns a scalar.

    Raises:
        UsageError: ``standardize`` with two classes; (``build``) teacher and student have different numbers of classes.

    Example:
        >>> import torch
        >>> logits = torch.randn(2, 5)
        >>> abs(KD()(Representation(logits=logits), Representation(logits=logits), {}).item()) < 1e-6
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        temperature: float = Field(
            4.0, gt=0, le=MOST_TEMPERATURE, description="softens both sides' probabilities (no unit)"
        )
        standardize: bool = Field(
            False, description="bring each sample's logits to mean 0 and deviation 1 first, on either side"
        )
        full_doubt: float = Field(0.0, ge=0, lt=1, description=FULL_DOUBT)

    same_classes = True
    default_weight = 0.9

    takes_mixed = True
    fixed = frozenset({"full_doubt"})  # ``prepare`` has read it

    def __init__(self, temperature: float = 4.0, standardize: bool = False, full_doubt: float = 0.0) -> None:
        super().__init__()
        self.temperature, self.standardize, self.full_doubt, self.scale = temperature, standardize, full_doubt, 1.0

    @property
    def whole_logits(self) -> bool:  # type: ignore[override]  # mean and deviation are of the logits as they are
        return self.standardize

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        self.scale, self.note = doubt_scale(teachers, self.full_doubt)

    @classmethod
    def build(cls, options: Options, setting: Setting) -> KD:
        check_classes("kd", setting)
        if options.standardize:
            check_three_classes("kd", "standardize", setting.student.num_classes)
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = student.require_logits(), teacher.require_logits()
        if self.standardize:
            check_three_classes("kd", "standardize", ours.shape[1])
            ours, theirs = standardised(ours), standardised(theirs)
        return divergence(log_probabilities(theirs, self.temperature), log_probabilities(ours, self.temperature)) * (
            self.scale * self.temperature**2
        )


def standardised(logits: Tensor) -> Tensor:
    """Each sample's logits (B, C) with mean 0 and deviation 1 over the classes, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    deviation, mean = torch.std_mean(logits, dim=1, correction=0, keepdim=True)
    return (logits - mean) / (deviation + 1e-7)
