"""One weighted line of a transfer's loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from .aggregation import Sum, TeacherAggregation
from .errors import ContrastillError, UsageError
from .loss_inputs import check_loss
from .objective import Objective
from .representation import Representation


class Term(nn.Module):
    """One weighted line of the loss: an objective towards every teacher, combined by a rule.

    Args:
        objectives: One objective for each teacher, each with its own embeddings and banks; a single one for an
            objective that reads no teacher, or all of them at once.
        weight: Its weight in the loss; default: the objective's published one.
        rule: How n losses become one; default: the paper's sum.
        warmup: Share of the training over which the weight rises linearly from 0; default: the objective's
            published one.
    """

    objectives: Sequence[Objective]

    def __init__(
        self,
        objectives: Objective | Sequence[Objective],
        weight: float | None = None,
        rule: TeacherAggregation | None = None,
        warmup: float | None = None,
    ) -> None:
        super().__init__()
        # torch's lists and dictionaries of modules do not say of which.
        each = [objectives] if isinstance(objectives, Objective) else objectives
        self.objectives = nn.ModuleList(each)  # type: ignore[assignment]
        first = self.objectives[0]
        self.weight = first.default_weight if weight is None else weight
        if not 0 < self.weight < math.inf:
            raise UsageError(
                f"the weight of {type(first).__name__} is {self.weight}: give a positive number, or leave the "
                "objective out"
            )
        self.warmup = first.default_warmup if warmup is None else warmup
        self.initial_epochs, self.only_initial = first.initial_epochs, first.only_initial
        self.rule = rule or Sum()
        self.needs: frozenset[str] = frozenset().union(*(objective.needs for objective in self.objectives))
        self.needs_teacher, self.joint = first.needs_teacher, first.joint
        self.teacher_needs: frozenset[str] = self.needs | self.rule.teacher_needs if self.needs_teacher else frozenset()

    def chosen(self, count: int) -> Sequence[int]:
        """Which of ``count`` teachers this step reads."""
        if not self.needs_teacher:
            return ()
        return range(count) if self.joint else self.rule.chosen(count)

    def forward(
        self, student: Representation, teachers: Sequence[Representation | None], batch: dict[str, Tensor]
    ) -> Tensor:
        with self._explained():
            if not self.needs_teacher:
                loss = self.objectives[0](student, None, batch)
            elif self.joint:
                loss = self.objectives[0](student, teachers, batch)
            else:
                loss = self.rule(self.objectives, student, teachers, batch)
        self._check(loss, "forward", student)
        return loss

    def _check(self, loss: Tensor, function: str, student: Representation) -> None:
        """Refuse a loss that is no scalar, or that nothing would learn from."""
        if loss.ndim:
            raise UsageError(
                f"{self._name}.{function} returns a tensor of shape {tuple(loss.shape)}: it returns the loss of the "
                "batch, "
                "a scalar; define per_sample for the loss of each sample"
            )
        learns = any(value.requires_grad for value in (*student.tensors(), *self.parameters()))
        if torch.is_grad_enabled() and learns and not loss.requires_grad:
            raise UsageError(
                f"{self._name}.{function} returns a loss without a gradient, so nothing learns from it: compute it "
                "from the student's outputs, without detach(), item() or numpy()"
            )

    @property
    def _name(self) -> str:
        return type(self.objectives[0]).__name__

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of an objective of the user's own say whose they are, and what it may read."""
        try:
            yield
        except ContrastillError:
            raise
        except Exception as error:
            module = type(self.objectives[0]).__module__
            if module.partition(".")[0] == __name__.partition(".")[0] or isinstance(error, torch.OutOfMemoryError):
                raise
            needs = ", ".join(sorted(self.objectives[0].needs)) or "nothing"
            raise ContrastillError(
                f"objective {self._name} of {module} fails: {type(error).__name__}: "
                f"{' '.join(str(error).split())}; it is "
                f"called as (student, teacher, batch), and only what its needs name is computed: {needs}"
            ) from error

    def initial(
        self, student: Representation, teachers: Sequence[Representation | None], batch: dict[str, Tensor]
    ) -> Tensor:
        """The loss of the initial stage, of all teachers together; neither weight nor rule count there."""
        losses = []
        for objective, teacher in zip(self.objectives, teachers or [None], strict=True):
            with self._explained():
                loss = check_loss(f"{self._name}.initial", objective.initial(student, teacher, batch))
            self._check(loss, "initial", student)
            losses.append(loss)
        return reduce(add, losses)

    def weight_at(self, share: float) -> float:
        """Its weight when ``share`` of the training proper is done."""
        return self.weight * min(1.0, share / self.warmup) if self.warmup else self.weight

    def in_stage(self, stage: str) -> bool:
        """Whether it is part of the loss in a stage."""
        return self.initial_epochs > 0 if stage == "initial" else not self.only_initial

    def notes(self) -> str:
        """What its objectives decided before the training, with the teacher's number where there are several."""
        several = len(self.objectives) > 1
        return "; ".join(
            f"teacher {number}: {one.note}" if several else one.note
            for number, one in enumerate(self.objectives)
            if one.note
        )

    def logs(self) -> dict[str, Tensor]:
        """What objectives and rule report, the teacher's number in the name where there are several."""
        several = len(self.objectives) > 1
        logs = {
            f"{name}.{number}" if several else name: value
            for number, objective in enumerate(self.objectives)
            for name, value in objective.logs.items()
        }
        weights = self.rule.weights if several else None
        return logs if weights is None else logs | {f"weight.{number}": value for number, value in enumerate(weights)}
