"""Multi-level logit distillation (Jin et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .logits import MOST_TEMPERATURE, check_classes, divergence, log_probabilities
from .precision import full_precision


@OBJECTIVES.register("mlkd")
class MLKD(Objective):
    """Probabilities aligned sample by sample, in how samples and in how classes resemble each other, at several
    temperatures (Jin et al., CVPR 2023).

    With p = softmax(logits / T) (B, C) of either side, at each T and added up: **instance** T² · KL, mean over the
    batch; **batch** Σ (difference of p pᵀ)² / B; **class** Σ (difference of pᵀ p)² / C. The last two keep only the rows
    of those samples, or classes, of which the teacher is as sure as of the median one or surer: a sample's highest
    probability, a class's sum of probabilities over the batch, at T = 1.

    The paper trains on a weak and a strong augmentation of each image at a time. That is the data's affair: here all
    levels see the batch as it comes.

    Args:
        temperatures: Each T.

    Attributes:
        logs: ``instance``, ``batch`` and ``class``, the three levels.

    Shape:
        - student.logits, teacher.logits: (B, C) - returns a scalar.

    Raises:
        UsageError: (``build``) Teacher and student have different numbers of classes.

    Example:
        >>> student, teacher = (Representation(logits=torch.randn(4, 5)) for _ in range(2))
        >>> MLKD()(student, teacher, {}).item() > 0
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        temperatures: tuple[Annotated[float, Field(gt=0, le=MOST_TEMPERATURE)], ...] = Field(
            (2.0, 3.0, 4.0, 5.0, 6.0),
            min_length=1,
            description="soften both sides' probabilities, one after the other (no unit)",
        )

    same_classes = True
    default_weight = 1.0

    takes_mixed = True

    def __init__(self, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0)) -> None:
        super().__init__()
        self.temperatures = tuple(temperatures)

    @classmethod
    def build(cls, options: Options, setting: Setting) -> MLKD:
        check_classes("mlkd", setting)
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        with full_precision(student.require_logits(), teacher.require_logits()) as (ours, theirs):
            certain = log_probabilities(theirs).exp()
            sure_samples, sure_classes = (upper_half(values) for values in (certain.amax(1), certain.sum(0)))
            levels = []
            for temperature in self.temperatures:
                log_ours, log_theirs = (log_probabilities(side, temperature) for side in (ours, theirs))
                p_ours, p_theirs = log_ours.exp(), log_theirs.exp()
                instance = divergence(log_theirs, log_ours).mean() * temperature**2
                levels.append(
                    torch.stack(
                        (
                            instance,
                            gram_distance(p_ours, p_theirs, sure_samples),
                            gram_distance(p_ours.T, p_theirs.T, sure_classes),
                        )
                    )
                )
            summed = torch.stack(levels).sum(0)
        self.logs = dict(zip(("instance", "batch", "class"), summed.detach(), strict=True))
        return summed.sum()


def upper_half(values: Tensor) -> Tensor:
    """Which of (N,) values are not below their median, as 0 or 1. With equal values, as those of a teacher that is sure
    of everything, none is dropped.
    """
    return (values >= values.quantile(0.5)).to(values.dtype)


def gram_distance(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """Σ over the rows with ``mask`` (N,) 1 of the squared difference of two Gram matrices of (N, D), divided by N."""
    difference = ours @ ours.T - theirs @ theirs.T
    return (difference.square().sum(1) * mask).sum() / len(mask)
