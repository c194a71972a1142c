"""Contrastive representation distillation (Tian et al., ICLR 2020) as an objective of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..core.crd import CRDLoss
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation


class CriticOptions(Options):
    """Options of every objective that is judged by the critic of CRD."""

    embed_dim: int = Field(128, gt=0, description="D, length of both embeddings")
    num_negatives: int | None = Field(None, gt=0, description="K; left out: as many as there are, for a bank 16384 at most")
    negatives_from: Literal["other_class", "other_sample"] | None = Field(None, description="left out: other_class where there are labels")
    temperature: float = Field(0.07, gt=0, description="τ of the critic (no unit)")
    bias: Literal["released", "paper"] | float = Field("released", description="b of the critic: log K + 1/(2Dτ²), log(K/M), or a number")


@OBJECTIVES.register("crd")
class CRD(Objective):
    """The CRD loss between the pooled embeddings (Tian et al., ICLR 2020, eq. 17–18).

    Args:
        loss: The :class:`~contrastill.CRDLoss` that holds embeddings, banks and the generator.

    Shape:
        - student.embedding: (B, student_dim) - teacher.embedding: (B, teacher_dim) - batch["index"]: (B,) int64 in [0, M)
        - returns a scalar.
    """

    class Options(CriticOptions):
        negatives: Literal["auto", "all", "shared", "sampled"] = Field("auto", description="which rows are scored as negatives")
        bank_momentum: float = Field(0.5, ge=0, lt=1, description="share of its old value a bank's row keeps")

    needs = frozenset({"embedding"})
    default_weight = 0.8

    def __init__(self, loss: CRDLoss) -> None:
        super().__init__()
        self.loss = loss

    @classmethod
    def build(cls, options: Options, setting: Setting) -> CRD:
        return cls(
            CRDLoss(
                setting.student.embedding_dim,
                setting.teacher.embedding_dim,
                targets=setting.targets,
                num_samples=setting.num_samples,
                seed=setting.seed,
                **dict(options),
            )
        )

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        value = self.loss(student.embedding, teacher.embedding, batch["index"])
        self.logs = self.loss.logs
        return value
