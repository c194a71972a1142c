"""Decoupled knowledge distillation (Zhao et al., CVPR 2022)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..core.loss_inputs import check_factors
from ..core.loss_labels import batch_targets
from ..core.objective import Objective, Options, Setting, check_labels
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .logits import MOST_TEMPERATURE, check_classes, check_three_classes, divergence, log_probabilities


@OBJECTIVES.register("dkd")
class DKD(Objective):
    """T² · (α · TCKD + β · NCKD), mean over the batch (Zhao et al., CVPR 2022, eq. 7).

    TCKD is the divergence between (target, any other class) of both sides, NCKD that between the other classes among
    themselves. In plain distillation the second is weighed by 1 − the teacher's probability of the target, and so
    hardly counts where the teacher is sure.

    Args:
        alpha: α, factor of TCKD.
        beta: β, factor of NCKD; the paper tunes it from 1 to 8, the more the surer the teacher.
        temperature: T.

    Shape:
        - student.logits, teacher.logits: (B, C) - batch["target"]: (B,) int64 in [0, C) - returns a scalar.

    Raises:
        UsageError: Both factors are 0, or α with two classes; the batch has no ``target``; (``build``) the data has no
            labels, or teacher and student have different numbers of classes.

    Example:
        >>> student, teacher = (Representation(logits=torch.randn(2, 5)) for _ in range(2))
        >>> DKD()(student, teacher, {"target": torch.tensor([0, 4])}).item() > 0
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        alpha: float = Field(1.0, ge=0, description="factor of the target's part")
        beta: float = Field(8.0, ge=0, description="factor of the other classes' part")
        temperature: float = Field(
            4.0, gt=0, le=MOST_TEMPERATURE, description="softens both sides' probabilities (no unit)"
        )

    same_classes = True
    default_weight = 1.0
    # 20 of the paper's 240 epochs.
    default_warmup = 1 / 12

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_factors("DKD", alpha=alpha, beta=beta)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DKD:
        check_classes("dkd", setting)
        check_labels("dkd", setting)
        _check_others(options.alpha, setting.student.num_classes)
        return cls(**dict(options))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        target = batch_targets(batch, "dkd", student.require_logits())
        _check_others(self.alpha, student.require_logits().shape[1])
        ours, theirs = (
            decoupled(log_probabilities(side.require_logits(), self.temperature), target) for side in (student, teacher)
        )
        of_target, of_others = (divergence(*pair) for pair in zip(theirs, ours, strict=True))
        return (self.alpha * of_target + self.beta * of_others) * self.temperature**2


def _check_others(alpha: float, classes: int | None) -> None:
    """Refuse the other classes' part alone where there is one other class."""
    if not alpha:
        check_three_classes("dkd", "alpha=0", classes)


def decoupled(log_probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, C) as those of (the target, any other class) (B, 2), and of the others among themselves (B,
    C − 1).
    """
    target = target[:, None]
    other = torch.arange(log_probability.shape[1] - 1, device=target.device)
    # The target's column is left out, not masked: a −∞ would turn into NaN in the divergence.
    others = log_probability.gather(1, other + (other >= target))
    rest = others.logsumexp(1, keepdim=True)
    return torch.cat((log_probability.gather(1, target), rest), 1), others - rest
