"""Correlation congruence (Peng et al., ICCV 2019)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.arguments import Positive
from ..core.crd.criterion import normalise
from ..core.errors import unknown_name
from ..core.objective import Objective, Options, Setting, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims
from .precision import full_precision

KERNELS = ("adjacent", "gaussian")
# The paper's choice: γ of the kernel and P, where its Taylor series ends.
GAMMA, ORDER = 0.4, 2


@OBJECTIVES.register("correlation")
class Correlation(Objective):
    """CC: how the samples of a batch relate on each side (Peng et al., ICCV 2019).

    ``"gaussian"`` is the paper's: the mean of (K_student − K_teacher)² over all pairs of samples, where K is a Gaussian
    kernel of unit embeddings, γ = 0.4, by its Taylor series up to order 2. ``"adjacent"`` is what the published figures
    of the CRD paper's table were measured with: both sides are embedded linearly, δ is their absolute difference, and
    the loss is the mean of δ_i · δ_{i+1} over neighbours in the batch.

    Args:
        student_dim, teacher_dim: Lengths of the pooled embeddings.
        kernel: ``"adjacent"`` or ``"gaussian"``.
        embed_dim: Length of the linear embeddings, which only ``"adjacent"`` has.

    Shape:
        - student.embedding: (B, student_dim) - teacher.embedding: (B, teacher_dim) - returns a scalar, 0 for one
          sample.

    Raises:
        UsageError: There is no such kernel; (``build``) a side has no embedding.

    Example:
        >>> student, teacher = (Representation(embedding=torch.randn(4, size)) for size in (8, 16))
        >>> Correlation(8, 16, embed_dim=4)(student, teacher, {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        kernel: Literal["adjacent", "gaussian"] = Field(
            "adjacent", description="how samples relate: neighbours in the batch, or the paper's Gaussian kernel"
        )
        embed_dim: int = Field(128, gt=0, description="length of both embeddings, which only kernel=adjacent has")

    needs = frozenset({"embedding"})
    default_weight = 0.02

    takes_mixed = True
    least_samples = 2
    fixed = frozenset({"kernel"})  # the embeddings are made for it

    def __init__(
        self, student_dim: Positive, teacher_dim: Positive, kernel: str = "adjacent", embed_dim: Positive = 128
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise unknown_name("kernel of the objective correlation,", kernel, KERNELS)
        self.kernel = kernel
        self.channels = [(student_dim, teacher_dim)] if kernel == "adjacent" else []
        self.embed = nn.ModuleList(
            nn.Linear(size, embed_dim) for size in (student_dim, teacher_dim) if kernel == "adjacent"
        )

    @classmethod
    def build(cls, options: Options, setting: Setting) -> Correlation:
        check_pass("correlation", setting)
        return cls(*embedding_dims("correlation", setting), **dict(options))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        sides = (student.require_embedding(), teacher.require_embedding())
        if self.kernel == "adjacent":
            return adjacent(*(embed(side) for embed, side in zip(self.embed, sides, strict=True)))
        return (gaussian(sides[0]) - gaussian(sides[1])).square().mean()


def adjacent(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean of δ_i · δ_{i+1} over neighbours, δ = |ours − theirs|: (B, D) twice -> scalar, in float32 at least."""
    with full_precision(ours, theirs) as (ours, theirs):
        difference = (ours - theirs).abs()
        # One sample has no neighbour: a sum over nothing is 0 and still has a gradient, a mean would be NaN.
        return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


def gaussian(features: Tensor) -> Tensor:
    """exp(−γ‖a − b‖²) of unit vectors by its Taylor series in a·b: (B, D) -> (B, B), in float32 at least."""
    with full_precision(features) as (features,):
        unit = normalise(features)[0]
        cosines = unit @ unit.T
        return math.exp(-2 * GAMMA) * torch.stack(
            [(2 * GAMMA) ** p / math.factorial(p) * cosines**p for p in range(ORDER + 1)]
        ).sum(0)
