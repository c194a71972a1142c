"""Contrast with fresh rows as an objective of a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from ..core.crd.fresh import FreshCRDLoss
from ..core.errors import UsageError
from ..core.loss_labels import batch_index
from ..core.objective import Objective, Options, Setting, TeacherOutputs
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims


@OBJECTIVES.register("fresh_crd")
class FreshCRD(Objective):
    """Contrast of the pooled embeddings with rows of the teacher that are projected anew at every step
    (:class:`~contrastill.FreshCRDLoss`).

    Args:
        loss: Maps, rows and the criterion.
        rows: When they are filled, as in ``Options``.

    Shape:
        - student.embedding: (B, student_dim) - teacher.embedding: (B, teacher_dim) - batch["index"]: (B,) int64 in [0,
          M)
        - returns a scalar.

    Raises:
        UsageError: (``build``) A side has no embedding, or the options need labels and the data has none; (``prepare``)
            a loader that cannot show chosen samples.
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        embed_dim: int = Field(128, gt=0, description="D, length of both embeddings")
        num_negatives: int = Field(4096, gt=0, description="K, rows of the teacher that are drawn at each step")
        negatives_from: Literal["other_class", "other_sample"] | None = Field(
            None, description="default: other_class where there are labels"
        )
        temperature: float = Field(0.07, gt=0, description="τ (no unit)")
        criterion: Literal["softmax", "sigmoid", "nce"] = Field(
            "softmax", description="how the positive pair is classified against the rows; sigmoid learns τ and b"
        )
        bias: Literal["released", "paper"] | float = Field("released", description="b of criterion=nce, as that of crd")
        student_rows: Literal["batch", "none"] = Field(
            "batch", description="what the teacher's embeddings meet: the batch's students, or nothing"
        )
        row_gradient: bool = Field(True, description="whether the gradient reaches the teacher's map through the rows")
        teacher_map: Literal["learned", "whitened", "none"] = Field(
            "whitened",
            description="the teacher's map: fixed, its principal directions with deviation 1; trained; or none, "
            "its embedding as it is",
        )
        rows: Literal["auto", "ahead", "seen"] = Field(
            "auto",
            description="when the rows are filled: ahead, by a pass of the teacher before the training; seen, as "
            "samples come; auto: ahead where the teacher's outputs are cached anyway (train.views)",
        )
        row_variance: float | None = Field(
            None,
            gt=0,
            le=1,
            description="share of the variance that the kept rows hold, in so many principal directions; "
            "default: in 2·D of them at most",
        )
        refresh_rows: bool = Field(False, description="replace a row when its sample is seen in another view")
        row_placement: Literal["replicated", "sharded"] = Field(
            "replicated", description="all rows on each process, or sharded over them"
        )
        row_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the rows")
        row_memory: Literal["device", "host"] = Field("device", description="where the rows are")
        student_side: Literal["shared", "separate"] = Field(
            "shared", description="with several teachers: one map of the student for all, or one for each"
        )

    needs = frozenset({"embedding"})
    default_weight = 0.8

    def __init__(self, loss: FreshCRDLoss, rows: str = "auto") -> None:
        super().__init__()
        self.loss, self._rows = loss, rows

    @classmethod
    def build(cls, options: Any, setting: Setting) -> FreshCRD:
        return cls(*_parts(options, [setting]))

    @classmethod
    def build_each(cls, options: Any, settings: Sequence[Setting]) -> list[Objective]:
        if options.student_side == "separate" or len(settings) < 2:
            return super().build_each(options, settings)
        return [JointFreshCRD(*_parts(options, settings))]

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        for number, outputs in enumerate(teachers):
            ahead = outputs.cached if self._rows == "auto" else self._rows == "ahead"
            batches = (
                ((index, each.require_embedding()) for index, each in outputs.all({"embedding"})) if ahead else None
            )
            self.loss.prepare(number, outputs.sample({"embedding"}).require_embedding(), batches)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        index = batch_index(batch, "fresh_crd", len(student.require_embedding()))
        value = self.loss.per_sample(student.require_embedding(), teacher.require_embedding(), index)
        self.logs = self.loss.logs
        return value


class JointFreshCRD(FreshCRD):
    """The same towards all teachers at once, which meet one map of the student.

    Shape:
        - student.embedding: (B, student_dim) - teachers: n representations with an embedding (B, teacher_dims[i]) -
          returns a scalar.
    """

    joint = True

    def per_sample(  # type: ignore[override]  # a joint objective is given all teachers
        self, student: Representation, teacher: Sequence[Representation], batch: dict[str, Tensor]
    ) -> Tensor:
        index = batch_index(batch, "fresh_crd", len(student.require_embedding()))
        value = self.loss.per_sample(student.require_embedding(), [each.require_embedding() for each in teacher], index)
        self.logs = self.loss.logs
        return value


def _parts(options: Any, settings: Sequence[Setting]) -> tuple[FreshCRDLoss, str]:
    """The loss towards these teachers, and when its rows are filled."""
    first = settings[0]
    if options.negatives_from == "other_class" and first.targets is None:
        raise UsageError(
            "objectives.fresh_crd.negatives_from=other_class needs labels, and this data has none: take other_sample"
        )
    dims = [embedding_dims("fresh_crd", setting) for setting in settings]
    chosen = options.model_dump(exclude={"student_side", "rows"})
    return FreshCRDLoss(
        dims[0][0],
        [theirs for _, theirs in dims],
        targets=first.targets,
        num_samples=first.num_samples,
        seed=first.seed,
        **chosen,
    ), options.rows
