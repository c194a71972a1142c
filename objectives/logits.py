"""What objectives on logits share: whether both sides name the same classes, probabilities at a temperature, and their
divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.loss_inputs import check_two_outputs
from ..core.objective import Setting

MOST_TEMPERATURE = 100
"""Beyond it the divergence of softened probabilities, T² times the difference of numbers that are nearly equal, is
rounding in float32: by 2 % at T = 1000.
"""


def check_classes(objective: str, setting: Setting, *, softmax: bool = True) -> None:
    """Refuse two sides whose logits cannot be compared one by one.

    Args:
        objective: Its name, for the message.
        setting: With the number of classes of both sides.
        softmax: Whether it takes the softmax of them, which of a single logit says nothing.

    Raises:
        UsageError: Teacher and student have different numbers of classes, or a single logit.
    """
    teacher = setting.require_teacher()
    for role, spec in (("teacher", teacher), ("student", setting.student)):
        if spec.num_classes is None and spec.prediction_shape is not None:
            raise UsageError(
                f"objective {objective} compares logits of whole samples (B, C), and the {role} answers for each "
                "position: take dense_kd"
            )
        if spec.num_classes is None:
            raise UsageError(
                f"objective {objective} compares logits (B, C), and the {role} returns none: let it return them "
                "flat, or use an objective such as crd"
            )
        if softmax:
            check_two_outputs(objective, role, spec.num_classes)
    if setting.student.num_classes != teacher.num_classes:
        if setting.targets is not None and int(setting.targets.max()) + 1 == teacher.num_classes:
            raise UsageError(
                f"objective {objective} compares logits, but the student has {setting.student.num_classes} classes and "
                f"the teacher {teacher.num_classes}, as the data: give the student {teacher.num_classes}"
            )
        raise UsageError(
            f"objective {objective} compares logits, but the teacher has {teacher.num_classes} classes "
            f"and the student {setting.student.num_classes}: say with class_map which of the teacher's classes is "
            "which, or use an objective that reads embeddings, such as crd"
        )


def check_three_classes(objective: str, option: str, classes: int | None) -> None:
    """Refuse an option by which an objective is the same for all logits of two classes, so that nothing is learnt.

    Args:
        objective: Its name.
        option: As it is written.
        classes: C; None where it is not known.

    Raises:
        UsageError: There are two.
    """
    if classes == 2:
        raise UsageError(
            f"objective {objective} with {option} has no gradient for two classes, as it is the same whatever the "
            f"logits are: leave {option} out"
        )


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / T) over dimension 1, in float32 at least: half precision loses the small probabilities that
    distillation is about.

    Args:
        logits: (B, C).
        temperature: T.
    """
    return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=1)


def divergence(log_teacher: Tensor, log_student: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each row: two (B, C) log-probabilities give (B,).

    A class of probability 0, whose logit is −∞, adds nothing, as p log p → 0.
    """
    terms = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return terms.masked_fill(log_teacher == -torch.inf, 0.0).sum(1)
