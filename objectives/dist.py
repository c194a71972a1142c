"""DIST: correlation in the place of divergence (Huang et al., NeurIPS 2022)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..core.crd.criterion import NORM_EPS
from ..core.loss_inputs import check_factors
from ..core.objective import Objective, Options, Setting, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .logits import MOST_TEMPERATURE, check_classes, check_three_classes, log_probabilities

_LEAST_NORM = 1e-8


@OBJECTIVES.register("dist")
class DIST(Objective):
    """τ² · (β · inter + γ · intra), each 1 − the mean Pearson correlation of both sides' softmax(logits / τ) (Huang et
    al., NeurIPS 2022).

    **inter** correlates what a sample's classes get (rows), **intra** what a class gets over the batch (columns). The
    student need not match the probabilities, only how they lie to one another, which a stronger teacher leaves it more
    room for. Defaults are those of CIFAR-100.

    Args:
        beta: β, factor of the inter-class part.
        gamma: γ, factor of the intra-class part.
        temperature: τ.

    Shape:
        - student.logits, teacher.logits: (B, C) - returns a scalar.

    Raises:
        UsageError: Both factors are 0, or γ with two classes; (``build``) teacher and student have different numbers of
            classes.

    Example:
        >>> import torch
        >>> logits = torch.randn(4, 5)
        >>> abs(DIST()(Representation(logits=logits), Representation(logits=logits), {}).item()) < 1e-4
        True
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        beta: float = Field(2.0, ge=0, description="factor of the correlation between classes, of each sample")
        gamma: float = Field(2.0, ge=0, description="factor of the correlation between samples, of each class")
        temperature: float = Field(
            4.0, gt=0, le=MOST_TEMPERATURE, description="softens both sides' probabilities (no unit)"
        )

    same_classes = True
    default_weight = 1.0

    takes_mixed = True

    def __init__(self, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_factors("DIST", beta=beta, gamma=gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    @property
    def least_samples(self) -> int:  # type: ignore[override]  # follows γ
        return 2 if self.gamma else 1

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DIST:
        if options.gamma:
            check_pass("dist", setting)
        check_classes("dist", setting)
        _check_intra(options.gamma, setting.student.num_classes)
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        _check_intra(self.gamma, student.require_logits().shape[1])
        ours, theirs = (log_probabilities(side.require_logits(), self.temperature).exp() for side in (student, teacher))
        loss = self.beta * pearson_distance(ours, theirs)
        if len(ours) > 1:  # a last batch of one sample has nothing to correlate over
            loss = loss + self.gamma * pearson_distance(ours.T, theirs.T)
        return loss * self.temperature**2


def _check_intra(gamma: float, classes: int | None) -> None:
    """Refuse the correlation between classes alone where it is 1 or −1, of two classes."""
    if not gamma:
        check_three_classes("dist", "gamma=0", classes)


def pearson_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 − the mean over rows of the correlation of two (N, D); a row that is constant on a side correlates with
    nothing, without a gradient.
    """
    ours, theirs = map(_centred, (ours, theirs))
    return 1 - (ours * theirs).sum(1).mean()


def _centred(side: Tensor) -> Tensor:
    """Rows around their means, of length 1; zeros of a row that is constant but for rounding."""
    centred = side - side.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    varies = norm > NORM_EPS * torch.linalg.vector_norm(side, dim=1, keepdim=True)
    # A rare class has probabilities of 1e-7, which vary as others do; lengths below 1e-8 count for that, as in the
    # released code.
    return centred / torch.where(varies, norm.clamp_min(_LEAST_NORM), torch.inf)
