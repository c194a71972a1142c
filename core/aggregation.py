"""How the losses towards several teachers become one; the other ways are in ensemble/."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from .objective import Objective, Options, Setting, TeacherOutputs
from .representation import Representation


class TeacherAggregation(nn.Module, ABC):
    """Combines n losses L(T_i, S) of one objective. A new rule is one subclass registered in ``TEACHER_AGGREGATIONS``.

    Attributes:
        Options: Schema of its options, beside ``ensemble.rule`` in a config.
        teacher_needs: What it reads of a teacher itself, whatever the objective reads.
        compares_classes: Whether it compares the teachers' logits with labels or with each other, class by class.
        takes_mixed: Whether it is right of images that are mixed of two samples: it does not read the labels.
        weighs_samples: Whether it calls ``per_sample`` of several teachers' objectives, not ``forward``.
        weights: (n,) mean weight of each teacher in the last call, detached and on the device; None where a rule has
            no such weights.
    """

    Options: ClassVar[type[BaseModel]] = Options
    teacher_needs: ClassVar[frozenset[str]] = frozenset()
    compares_classes: ClassVar[bool] = False
    takes_mixed: ClassVar[bool] = True
    weighs_samples: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor | None = None

    @classmethod
    def build(cls, options: Any, label: str, objective: type[Objective], settings: Sequence[Setting]) -> Self:
        """Build for one term of the loss.

        Args:
            options: Validated.
            label: The term's name, for messages.
            objective: Its class.
            settings: One for each teacher.

        Raises:
            UsageError: The objective or the data lack what the rule reads.
        """
        return cls(**dict(options))

    def chosen(self, count: int) -> Sequence[int]:
        """Which of ``count`` teachers take part in the step under way; the others run no forward pass."""
        return range(count)

    def outputs_for(
        self, objectives: Sequence[Objective], teachers: Sequence[TeacherOutputs]
    ) -> Sequence[TeacherOutputs]:
        """What each objective is shown before the training: its own teacher's outputs, or what the rule makes of all.

        Args:
            objectives: One for each of the n teachers.
            teachers: The outputs of each.
        """
        return teachers

    @abstractmethod
    def forward(
        self,
        objectives: Sequence[Objective],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> Tensor:
        """Combine the losses of a batch.

        Args:
            objectives: One for each of the n teachers.
            student: The student's outputs, (B, …).
            teachers: The outputs of each teacher, (B, …); None of one that took no part in this step.
            batch: With ``index`` (B,) and, if labelled, ``target`` (B,).

        Returns:
            A scalar.
        """


class Sum(TeacherAggregation):
    """Σ_i L(T_i, S), as the paper has it (Tian et al., ICLR 2020, section 3.4): each teacher with embeddings and banks
    of its own.
    """

    def forward(
        self,
        objectives: Sequence[Objective],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> Tensor:
        losses = [objective(student, teacher, batch) for objective, teacher in zip(objectives, teachers, strict=True)]
        self.weights = torch.ones(len(losses), device=losses[0].device)
        return reduce(add, losses)
