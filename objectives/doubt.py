"""How much a teacher's logits say beyond the labels, and what weight that is worth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..core.objective import TeacherOutputs
from .logits import log_probabilities

FULL_DOUBT = (
    "the teacher's mean doubt (1 − its largest probability) over training samples from which on the loss counts "
    "whole; below, it counts in proportion, as the answers of a teacher that has "
    "memorised its training set repeat the labels; 0: always whole"
)


def mean_doubt(logits: Tensor) -> float:
    """1 − the mean over samples of the largest probability of logits (N, C): near 0 for a teacher that has memorised
    them, whose answers repeat the labels.

    Example:
        >>> import torch
        >>> mean_doubt(torch.zeros(3, 4))
        0.75
    """
    return 1.0 - float(log_probabilities(logits).max(1).values.exp().mean())


def doubt_scale(teachers: Sequence[TeacherOutputs], full_doubt: float) -> tuple[float, str]:
    """Factor of the weight of a term on logits, and why, for the line at the start of a run.

    Args:
        teachers: The one whose logits are read.
        full_doubt: Doubt from which on the factor is 1; below, it falls in proportion. 0: always 1.
    """
    if not full_doubt:
        return 1.0, ""
    doubt = mean_doubt(teachers[0].sample({"logits"}).require_logits())
    scale = min(1.0, doubt / full_doubt)
    return (
        scale,
        ""
        if scale == 1
        else f"× {scale:.2g}, as the teacher's mean probability on training samples is {1 - doubt:.3f}",
    )
