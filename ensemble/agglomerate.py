"""Agglomeration: one student that answers like each of several unlike foundation models."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from ..objectives.maps import map_pairs, match_spatial_size
from .adaptors import Adaptor


@OBJECTIVES.register("agglomerate")
class Agglomerate(Objective):
    """A head for each teacher turns the student's embedding and map into that teacher's (AM-RADIO: Ranzinger et al.,
    CVPR 2024, section 3).

    **Summary**: 1 − cosine between the head's answer and the teacher's embedding. **Dense**: at each position of the
        maps, at the smaller of the two grids,
    ``cosine_share`` · (1 − cosine) + (1 − ``cosine_share``) · smooth L1 per channel. Both in the teacher's balanced
    space (PHI-S: Ranzinger et al., 2024), so that a teacher whose features are a hundred times another's weighs no
    more. Neither labels nor logits are read.

    Args:
        adaptor: Heads and balances towards this teacher.
        summary_weight, dense_weight: Factors of the two parts.
        cosine_share: Share of the cosine in the dense part.

    Attributes:
        logs: ``summary`` and ``dense``, the two parts before their weights.

    Shape:
        - embeddings (B, D_s) and (B, D_t), maps (B, C_s, h, w) and (B, C_t, h', w') - returns a scalar.

    Raises:
        UsageError: A side has no embedding, no maps, or not those named.

    Example:
        >>> agglomerate = Agglomerate(Adaptor(summary=(8, 12)))
        >>> student = Representation(embedding=torch.randn(4, 8))
        >>> agglomerate(student, Representation(embedding=100 * torch.randn(4, 12)), {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        balance: Literal["none", "per_channel", "phi_s"] = Field(
            "phi_s",
            description="how a teacher's features are brought to one scale: by a rotation and one factor, a "
            "factor a channel, or not at all",
        )
        hidden: int | None = Field(
            None, gt=0, description="hidden layer of the heads; default: the larger of both sides' dimensions"
        )
        summary: bool = Field(True, description="learn the teachers' pooled embeddings")
        dense: bool = Field(True, description="learn a feature map of the teachers")
        pair: tuple[int, int] = Field(
            (-1, -1),
            description="[student's map, teacher's map] places, from 0 or from the end; teachers.N.maps says "
            "which there are",
        )
        summary_weight: float = Field(1.0, gt=0, description="factor of the embeddings' part")
        dense_weight: float = Field(1.0, gt=0, description="factor of the maps' part")
        cosine_share: float = Field(
            0.9, ge=0, le=1, description="share of the cosine distance in the maps' part, the rest is smooth L1"
        )
        estimate_steps: int = Field(
            32,
            gt=0,
            description="first steps over which the balance is measured; together they should hold more samples "
            "than channels",
        )

        @model_validator(mode="after")
        def _something_is_learnt(self) -> Self:
            if not self.summary and not self.dense:
                raise ValueError("summary and dense are both false, so that nothing is learnt: leave one of them true")
            return self

    needs = frozenset({"embedding", "maps"})

    takes_mixed = True

    def __init__(
        self, adaptor: Adaptor, *, summary_weight: float = 1.0, dense_weight: float = 1.0, cosine_share: float = 0.9
    ) -> None:
        super().__init__()
        self.adaptor, self.needs = adaptor, adaptor.needs
        self.pair = adaptor.pair if adaptor.dense is not None else None
        recipe: dict[str, Any] = adaptor.recipe
        self.channels = [dims for dims in (recipe["dense"], recipe["summary"]) if dims]
        self.summary_weight, self.dense_weight, self.cosine_share = summary_weight, dense_weight, cosine_share

    @classmethod
    def build(cls, options: Options, setting: Setting) -> Agglomerate:
        student, teacher = setting.student, setting.require_teacher()
        summary = dense = None
        if options.summary:
            student_dim, teacher_dim = student.embedding_dim, teacher.embedding_dim
            if student_dim is None or teacher_dim is None:
                side = "student" if student_dim is None else "teacher"
                raise UsageError(
                    f"objective agglomerate learns embeddings, and a {side} has none: name its module with "
                    "embedding=MODULE, or set summary=false"
                )
            summary = (student_dim, teacher_dim)
        if options.dense:
            if not student.map_shapes or not teacher.map_shapes:
                side = "teacher" if student.map_shapes else "student"
                raise UsageError(
                    f"objective agglomerate learns feature maps, and a {side} has none: name some with "
                    "maps=[MODULE, …], or set dense=false; those taken by default have the image's aspect ratio"
                )
            ((ours, theirs),) = map_pairs("agglomerate", (options.pair,), setting, default=())
            dense = (student.map_shapes[ours][0], teacher.map_shapes[theirs][0])
        adaptor = Adaptor(summary, dense, **options.model_dump(include={"hidden", "balance", "pair", "estimate_steps"}))
        return cls(adaptor, **options.model_dump(include={"summary_weight", "dense_weight", "cosine_share"}))

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        parts, padding = {}, batch.get("is_padding")
        if self.adaptor.summary is not None and self.adaptor.summary_balance is not None:
            parts["summary"] = _cosine_distance(
                self.adaptor.summary(student.embedding), self.adaptor.summary_balance(teacher.embedding, padding)
            )
        if self.adaptor.dense is not None:
            ours, theirs = student.maps[self.adaptor.pair[0]], teacher.maps[self.adaptor.pair[1]]
            parts["dense"] = self._dense(ours, theirs, padding)
        self.logs = {name: part.detach().mean() for name, part in parts.items()}
        weights = {"summary": self.summary_weight, "dense": self.dense_weight}
        return reduce(add, (weights[name] * part for name, part in parts.items()))

    def _dense(self, student: Tensor, teacher: Tensor, padding: Tensor | None) -> Tensor:
        """(B,): the mean over positions."""
        assert self.adaptor.dense_balance is not None, "this adaptor was built with dense"
        # The head comes before the averaging, as it does where the adaptor is used later, on a map of any size.
        ours, theirs = match_spatial_size(self.adaptor.on_map(student).movedim(-1, 1), teacher)
        ours, theirs = ours.movedim(1, -1), self.adaptor.dense_balance(theirs.movedim(1, -1), padding)
        ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
        smooth = F.smooth_l1_loss(ours, theirs.to(ours.dtype), reduction="none").mean(-1)
        distance = self.cosine_share * _cosine_distance(ours, theirs) + (1 - self.cosine_share) * smooth
        return distance.mean((1, 2))


def _cosine_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 − cosine over the last dimension, in float32 at least."""
    wide = torch.promote_types(ours.dtype, torch.float32)
    return 1 - F.cosine_similarity(ours.to(wide), theirs.to(wide), dim=-1)
