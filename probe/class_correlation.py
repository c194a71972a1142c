"""Correlations between the logits of classes: what a network takes for similar, and whether its student does too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arguments import checked
from ..core.errors import UsageError
from ..core.tensor_values import check_readable


@checked
def class_correlation(logits: Tensor, who: str = "the network") -> Tensor:
    """Pearson correlation of the logits of each two classes over samples.

    With z_i the logit of class i and z̄_i its mean over samples,
    ρ_ij = Σ_n (z_ni − z̄_i)(z_nj − z̄_j) / √(Σ_n (z_ni − z̄_i)² · Σ_n (z_nj − z̄_j)²); the diagonal is 1.

    Args:
        logits: A network's logits of N samples.
        who: The network, for messages.

    Shape:
        - logits: (N, C)
        - returns (C, C) float64.

    Raises:
        UsageError: Another shape, fewer than two samples, values that are not finite, a class whose logit is the same
            for every sample.

    Example:
        >>> class_correlation(torch.tensor([[1.0, -2.0], [2.0, -4.0], [4.0, -8.0]])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    check_readable(logits=logits)
    if logits.ndim != 2 or len(logits) < 2 or not logits.shape[1]:
        raise UsageError(
            f"logits of shape {tuple(logits.shape)} have no correlations: give (N, C) of at least two samples"
        )
    if not bool(logits.isfinite().all()):
        raise UsageError(
            f"logits that are not finite have no correlations ({who} gave NaN or infinity): look at its "
            "weights, or leave out a class that it masks, with class_map"
        )
    values = logits.detach().double()
    centred = values - values.mean(0)
    norms = centred.square().sum(0).sqrt()
    constant = (norms <= 1e-12 * values.abs().amax(0) * len(values) ** 0.5).nonzero().flatten().tolist()
    if constant:
        raise UsageError(
            f"the logit of class {constant[0]} is the same for every sample of {who}, so it has no correlation with "
            "others: look at more samples"
        )
    unit = centred / norms
    return (unit.T @ unit).clamp(-1, 1).fill_diagonal_(1.0)


@dataclass(frozen=True)
class CorrelationDifference:
    """How a student's correlations between classes differ from its teacher's.

    Attributes:
        difference: (C, C), the teacher's correlations minus the student's; the paper's heat map.
        mean_absolute: Mean of its absolute values over the pairs of different classes.
    """

    difference: Tensor
    mean_absolute: float


@checked
def correlation_difference(teacher: Tensor, student: Tensor) -> CorrelationDifference:
    """Compare two networks by :func:`class_correlation` (Tian et al., ICLR 2020: its heat maps of correlations between
    class logits).

    Args:
        teacher: Logits of one.
        student: Logits of the other, of the same classes; samples may be others.

    Shape:
        - teacher: (N, C) - student: (N', C), C at least 2.

    Raises:
        UsageError: Networks of different numbers of classes, or logits without correlations.
    """
    check_readable(teacher=teacher, student=student)
    if teacher.ndim == student.ndim == 2 and (teacher.shape[1] != student.shape[1] or teacher.shape[1] < 2):
        raise UsageError(
            f"logits of {teacher.shape[1]} and of {student.shape[1]} classes cannot be compared: take two "
            "networks that tell the same classes apart, two at least"
        )
    difference = class_correlation(teacher, "the teacher") - class_correlation(student, "the student")
    off_diagonal = ~torch.eye(len(difference), dtype=torch.bool, device=difference.device)
    return CorrelationDifference(difference, difference[off_diagonal].abs().mean().item())
