"""The CRD loss towards several teachers with one embedding and one bank of the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import Positive
from ..errors import UsageError
from .criterion import Criterion, Critic
from .embedding import Embedding
from .loss import CRDLoss
from .memory_bank import check_index
from .options import as_index
from .teacher_map import TeacherMap


class SharedCRDLoss(CRDLoss):
    """Σ_i L_crd(T_i, S) (Tian et al., ICLR 2020, section 3.4) in which all teachers meet the same embedding g^S(S) and
    the same bank of the student.

    n losses of their own keep 2n banks and score 2n times; here there are n + 1 banks, and all teachers' anchors are
    scored against the student's at once. All draws are those of a single :class:`~contrastill.CRDLoss` with this seed.

    Args:
        student_dim: Length of the student's embedding.
        teacher_dims: Of each teacher's.
        options: As :class:`~contrastill.CRDLoss` takes them.

    Attributes:
        embed_student: The one linear map with normalisation of the student.
        embed_teacher: n of them, or of fixed maps.
        bank: ``bank.side("student")`` and ``bank.side("teacher.0")``, … (M, D) copies in sample order.
        logs: As of a CRDLoss, for each teacher.

    Shape:
        - student: (B, student_dim) - teachers: n times (B, teacher_dims[i]) - index: (B,) int64 in [0, M)
        - returns a scalar, whose gradient reaches all embeddings, as that of a CRDLoss.

    Raises:
        UsageError: (a ValueError) As a CRDLoss; another number of teachers.

    Example:
        >>> crd = SharedCRDLoss(64, [256, 32], num_samples=1000)
        >>> crd(torch.randn(8, 64), [torch.randn(8, 256), torch.randn(8, 32)], torch.arange(8)).shape
        torch.Size([])
    """

    embed_teacher: Sequence[Embedding | TeacherMap]  # type: ignore[assignment]  # one for each teacher

    def __init__(self, student_dim: Positive, teacher_dims: Sequence[int], **options: Any) -> None:
        if not teacher_dims:
            raise UsageError("teacher_dims is empty: give the length of each teacher's embedding")
        super().__init__(student_dim, teacher_dims[0], **options)
        first: Any = self.embed_teacher
        maps = [first, *(self._new_teacher_map(dim) for dim in teacher_dims[1:])]
        self.embed_teacher = nn.ModuleList(maps)  # type: ignore[assignment]
        sides = ("student", *(f"teacher.{number}" for number in range(len(teacher_dims))))
        self.bank = self._new_bank(self.bank.place, sides)

    def _teacher_maps(self) -> Sequence[Any]:
        return self.embed_teacher

    def per_sample(  # type: ignore[override]  # of all teachers
        self, student: Tensor, teachers: Sequence[Tensor], index: Tensor, rows: None = None
    ) -> Tensor:
        count = len(self.embed_teacher)
        index = as_index(index, (student, *teachers), next(self.embed_student.parameters()))
        self._check_all(student, teachers, index)
        self._check_started()
        critic = Critic(self.temperature, self.bias, self.bank.radius)
        ours = self.embed_student.project(student).expand(count, -1, -1)
        theirs = torch.cat(
            [embed.project(teacher) for embed, teacher in zip(self.embed_teacher, teachers, strict=True)]
        )[None]
        # All teachers' anchors against the student's bank, (1, n·B, D); the student's anchors against each teacher's,
        # (n, B, D).
        of_teachers, teacher_anchors = self._score(theirs, index.repeat(count), slice(0, 1), critic, count)
        of_student, student_anchors = self._score(ours, index, slice(1, None), critic, 1)
        of_teachers = of_teachers.view(count, -1)
        if self.training:
            self._drew = True
            embeddings = torch.cat((student_anchors[:1], teacher_anchors.view(count, len(index), -1)))
            self.write(index, embeddings)
        with torch.no_grad():
            name = "mi_bound" if self.negatives_from == "other_sample" else "score"
            bounds = {
                side: math.log(self.num_negatives) - value.detach().mean(1)
                for side, value in (("student", of_student), ("teacher", of_teachers))
            }
            self.logs = {
                f"{name}_{side}.{number}": value
                for side, values in bounds.items()
                for number, value in enumerate(values)
            }
        return of_student.sum(0) + of_teachers.sum(0)

    def _score(
        self, projected: Tensor, index: Tensor, sides: slice, critic: Critic, teachers: int
    ) -> tuple[Tensor, Tensor]:
        """Losses (S, b) and anchors (S, b, D) of ``projected`` (S, b, D), ``teachers`` times a batch, against the banks
        of these sides.
        """
        exchange = self._exchange(index, teachers)
        batch = self.rule.anchors(exchange.index, self.bank.places(exchange.index))
        positives, bank = self.bank.read(batch.place, index.device)[sides], self.bank.rows[sides].detach()
        return Criterion.apply(
            projected,
            positives,
            critic,
            self._workspace,
            exchange,
            lambda sums: self.rule(batch, bank, sums, self.draws),
        )

    def _check_all(self, student: Tensor, teachers: Sequence[Tensor], index: Tensor) -> None:
        if len(teachers) != len(self.embed_teacher):
            raise UsageError(
                f"this loss was built for {len(self.embed_teacher)} teachers, and there are {len(teachers)}"
            )
        named: list[tuple[str, Tensor, Embedding | TeacherMap]] = [("student's", student, self.embed_student)]
        named += [
            (f"teacher {number}'s", *pair) for number, pair in enumerate(zip(teachers, self.embed_teacher, strict=True))
        ]
        for name, features, layer in named:
            if features.shape != (len(index), layer.in_features) or not len(index):
                raise UsageError(
                    f"{name} embedding must be (B, {layer.in_features}) with the B ≥ 1 of index, {len(index)}, "
                    f"not {tuple(features.shape)}"
                )
        check_index(index, self.num_samples, "index")
