"""Contrastive representation distillation (Tian et al., ICLR 2020) as an objective of a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator
from torch import Tensor

from ..core.crd.loss import CRDLoss
from ..core.crd.shared import SharedCRDLoss
from ..core.loss_labels import batch_index
from ..core.objective import Objective, Options, Setting, TeacherOutputs
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims


class CriticOptions(Options):
    """Options of every objective that is judged by the critic of CRD."""

    embed_dim: int = Field(128, gt=0, description="D, length of both embeddings")
    num_negatives: int | None = Field(
        None, gt=0, description="K; default: as many as there are, for a bank 16384 at most"
    )
    negatives_from: Literal["other_class", "other_sample"] | None = Field(
        None, description="default: other_class where there are labels"
    )
    temperature: float = Field(0.07, gt=0, description="τ of the critic (no unit)")
    bias: Literal["released", "paper"] | float = Field(
        "released", description="b of the critic: log K + 1/(2Dτ²), log(K/M), or a number"
    )


@OBJECTIVES.register("crd")
class CRD(Objective):
    """The CRD loss between the pooled embeddings (Tian et al., ICLR 2020, eq. 17–18).

    Args:
        loss: The :class:`~contrastill.CRDLoss` that holds embeddings, banks and the generator.

    Shape:
        - student.embedding: (B, student_dim) - teacher.embedding: (B, teacher_dim) - batch["index"]: (B,) int64 in [0,
          M)
        - returns a scalar.
    """

    class Options(CriticOptions):
        negatives: Literal["auto", "all", "shared", "sampled"] = Field(
            "auto", description="which rows are scored as negatives"
        )
        bank_momentum: float | Literal["visits"] = Field(
            0.5,
            description="share of its old value a bank's row keeps; visits: min(1/2, (n − 1)/n) at the n-th "
            "visit, so that the first one replaces it",
        )
        bank_placement: Literal["replicated", "sharded"] = Field(
            "replicated", description="all of the bank's rows on each process, or sharded over them"
        )
        bank_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the bank's rows")
        bank_memory: Literal["device", "host"] = Field(
            "device", description="where the rows are; host: pinned, for a bank larger than a GPU's memory"
        )
        bank_init: Literal["random", "teacher_outputs"] = Field(
            "random",
            description="what the bank's rows begin as: noise, or on both sides the teacher's embeddings as its "
            "map projects them before the first step, for which the teacher "
            "reads the training set once (nothing more where its outputs are cached anyway, train.views)",
        )
        teacher_map: Literal["learned", "whitened"] = Field(
            "learned",
            description="the teacher's map: trained; or fixed, its principal directions with deviation 1, so "
            "that the teacher's rows never age",
        )
        student_side: Literal["separate", "shared"] = Field(
            "separate",
            description="with several teachers: an embedding and a bank of the student for each, or one for all, "
            "which takes less time and memory",
        )

        @field_validator("bank_momentum", mode="before")
        @classmethod
        def _is_a_share(cls, value: Any) -> Any:
            if value != "visits" and not (isinstance(value, (int, float)) and 0 <= value < 1):
                raise ValueError("it is a share in [0, 1), or visits")
            return value

    needs = frozenset({"embedding"})
    default_weight = 0.8

    def __init__(self, loss: CRDLoss) -> None:
        super().__init__()
        self.loss = loss

    @classmethod
    def build(cls, options: Options, setting: Setting) -> CRD:
        return cls(CRDLoss(*embedding_dims("crd", setting), **_of_loss(options, setting)))

    @classmethod
    def build_each(cls, options: Options, settings: Sequence[Setting]) -> list[Objective]:
        if options.student_side == "separate" or len(settings) < 2:
            return super().build_each(options, settings)
        dims = [embedding_dims("crd", setting) for setting in settings]
        return [SharedCRD(SharedCRDLoss(dims[0][0], [theirs for _, theirs in dims], **_of_loss(options, settings[0])))]

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        _prepare(self.loss, teachers)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        index = batch_index(batch, "crd", len(student.require_embedding()))
        value = self.loss.per_sample(student.require_embedding(), teacher.require_embedding(), index)
        self.logs = self.loss.logs
        return value


class SharedCRD(Objective):
    """The CRD loss towards all teachers at once, with one embedding and one bank of the student.

    Args:
        loss: The :class:`~contrastill.core.crd.shared.SharedCRDLoss` that holds embeddings, banks and the generator.

    Shape:
        - student.embedding: (B, student_dim) - teachers: n representations with an embedding (B, teacher_dims[i]) -
          returns a scalar.
    """

    needs = CRD.needs
    default_weight = CRD.default_weight
    joint = True

    def __init__(self, loss: SharedCRDLoss) -> None:
        super().__init__()
        self.loss = loss

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        _prepare(self.loss, teachers)

    def forward(self, student: Representation, teacher: Sequence[Representation], batch: dict[str, Tensor]) -> Tensor:
        index = batch_index(batch, "crd", len(student.require_embedding()))
        value = self.loss(student.require_embedding(), [each.require_embedding() for each in teacher], index)
        self.logs = self.loss.logs
        return value


def _prepare(loss: CRDLoss, teachers: Sequence[TeacherOutputs]) -> None:
    """Show a loss the outputs that its options ask for, and no others: they take time."""
    samples = (
        [outputs.sample({"embedding"}).require_embedding() for outputs in teachers]
        if loss.teacher_map == "whitened"
        else []
    )
    batches = [_embeddings(outputs) for outputs in teachers] if loss.bank_init == "teacher_outputs" else []
    loss.prepare(samples, batches)


def _embeddings(outputs: TeacherOutputs) -> Iterator[tuple[Tensor, Tensor]]:
    for index, each in outputs.all({"embedding"}):
        yield index, each.require_embedding()


def _of_loss(options: CRD.Options, setting: Setting) -> dict[str, Any]:
    """Arguments of a loss beside its dimensions."""
    chosen = options.model_dump(exclude={"student_side"})
    return {"targets": setting.targets, "num_samples": setting.num_samples, "seed": setting.seed, **chosen}
