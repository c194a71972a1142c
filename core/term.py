"""One weighted line of a transfer's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from .aggregation import Sum, TeacherAggregation
from .aggregation_checks import check_chosen, check_rule_weights
from .arguments import fits
from .errors import UsageError
from .first_step import FirstStep, first_step_due
from .loss_inputs import check_loss
from .objective import Objective
from .objective_checks import check_logs, check_needs, note_forward_is_ignored, way_out_of
from .representation import Representation
from .user_code import explained, is_own, origin


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
        if not (fits(self.weight, float) and 0 < self.weight < math.inf):
            raise UsageError(
                f"the weight of {type(first).__name__} is {self.weight!r}: give a positive number, or leave the "
                "objective out"
            )
        self.warmup = first.default_warmup if warmup is None else warmup
        if not (fits(self.warmup, float) and 0 <= self.warmup < 1):
            raise UsageError(
                f"the warmup of {type(first).__name__} is {self.warmup!r}: give a share of the training, from 0 to 1"
            )
        self.initial_epochs, self.only_initial = first.initial_epochs, first.only_initial
        self.rule = rule or Sum()
        self.label = ""  # of the transfer that it is part of
        self._weights_checked = False
        self.stepped: frozenset[str] = frozenset()  # methods whose first step was looked at
        self.needs: frozenset[str] = frozenset().union(*(objective.needs for objective in self.objectives))
        self.needs_teacher, self.joint = first.needs_teacher, first.joint
        self.teacher_needs: frozenset[str] = self.needs | self.rule.teacher_needs if self.needs_teacher else frozenset()

    def chosen(self, count: int, stage: str = "main") -> Sequence[int]:
        """Which of ``count`` teachers this step of a stage reads; the initial stage is of all teachers together."""
        if not self.needs_teacher:
            return ()
        if self.joint or stage == "initial":
            return range(count)
        with self._rule_explained():
            numbers = self.rule.chosen(count)
        return numbers if is_own(type(self.rule)) else check_chosen(self._rule_name, numbers, count)

    def student_needs(self, stage: str) -> frozenset[str]:
        """What it reads of the student in a stage."""
        needs: list[frozenset[str]] = []
        for objective in self.objectives:
            with self._explained("stage"):
                each = objective.student_needs(stage)
            check_needs(self.what, "student_needs", each)
            needs.append(frozenset(each))
        return frozenset().union(*needs)

    def prepare(self, teachers: Sequence[Any]) -> None:
        """Show each objective its teacher's outputs of the training samples."""
        if self.needs_teacher and not self.joint:
            with self._rule_explained():
                # A rule that does not inherit has none.
                shown_by = getattr(type(self.rule), "outputs_for", TeacherAggregation.outputs_for)
                teachers = shown_by(self.rule, self.objectives, teachers)
        for number, objective in enumerate(self.objectives if self.needs_teacher else ()):
            shown = teachers if self.joint else teachers[number : number + 1]
            with self._explained("teachers", shown):
                objective.prepare(shown)

    def enter(self, stage: str) -> None:
        """Get the objectives ready for a stage."""
        for objective in self.objectives:
            with self._explained("stage"):
                objective.enter(stage)

    def forward(
        self, student: Representation, teachers: Sequence[Representation | None], batch: dict[str, Tensor]
    ) -> Tensor:
        self._clear_logs()
        own_rule = self.joint or not self.needs_teacher or is_own(type(self.rule))
        first = self._first_step("forward", student, teachers, batch)
        with self._explained(values=batch) if own_rule else self._rule_explained():
            if not self.needs_teacher:
                loss = self.objectives[0](student, None, batch)
            elif self.joint:
                loss = self.objectives[0](student, teachers, batch)
            else:
                loss = self.rule(self.objectives, student, teachers, batch)
        function = f"{self._name}.{self._defined}" if own_rule else f"{type(self.rule).__name__}.forward"
        self._check(check_loss(function, loss), function, student)
        if first is not None:
            first.check(loss)
            if self.needs_teacher and not self.joint and len(self.objectives) > 1:
                note_forward_is_ignored(self.what, type(self.objectives[0]), self.rule)
        return loss

    def _first_step(
        self,
        method: str,
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> FirstStep | None:
        """What the first step with a gradient is compared with, of an objective of a user's own."""
        if method in self.stepped or not first_step_due(self.objectives[0]):
            return None
        self.stepped |= {method}
        return FirstStep(self.what, self.objectives, student, teachers, batch)

    def _check(self, loss: Tensor, function: str, student: Representation) -> None:
        """Refuse a loss that is no scalar, or that nothing would learn from."""
        if loss.ndim:
            way_out = (
                "define per_sample for the loss of each sample" if function == f"{self._name}.forward" else "add it up"
            )
            raise UsageError(
                f"{function} returns a tensor of shape {tuple(loss.shape)}: it returns the loss of the batch, "
                f"a scalar; {way_out}"
            )
        learns = any(value.requires_grad for value in (*student.tensors(), *self.parameters()))
        if torch.is_grad_enabled() and learns and not loss.requires_grad:
            raise UsageError(
                f"{function} returns a loss without a gradient, so nothing learns from it: compute it "
                "from the student's outputs, without detach(), item() or numpy()"
            )

    @property
    def _name(self) -> str:
        return type(self.objectives[0]).__name__

    @property
    def what(self) -> str:
        """Names it in messages, by its label and its class."""
        return f"objective {self.label and self.label + ' '}({origin(type(self.objectives[0]))})"

    @property
    def _defined(self) -> str:
        """The method that computes its loss: that which the class defines."""
        return "per_sample" if type(self.objectives[0]).forward is Objective.forward else "forward"

    @property
    def _rule_name(self) -> str:
        return f"rule {type(self.rule).__name__} of {type(self.rule).__module__}"

    def _explained(
        self, arguments: str = "student, teacher, batch", values: Any = None
    ) -> AbstractContextManager[None]:
        """Errors of an objective of the user's own say whose they are, and what it may read."""
        first = self.objectives[0]
        return explained(
            self.what,
            type(first),
            lambda error: f"it is called as ({arguments}){way_out_of(error, first, values)}",
        )

    def _rule_explained(self) -> AbstractContextManager[None]:
        """Errors of a rule of the user's own say whose they are."""
        return explained(
            self._rule_name,
            type(self.rule),
            "it is called as (objectives, student, teachers, batch), with None for a teacher that chosen leaves out",
        )

    def initial(
        self, student: Representation, teachers: Sequence[Representation | None], batch: dict[str, Tensor]
    ) -> Tensor:
        """The loss of the initial stage, of all teachers together; neither weight nor rule count there."""
        self._clear_logs()
        losses = []
        first = self._first_step("initial", student, teachers, batch)
        shown = list(teachers) if self.needs_teacher and not self.joint else [teachers if self.joint else None]
        for objective, teacher in zip(self.objectives, shown, strict=True):
            with self._explained(values=batch):
                loss = check_loss(f"{self._name}.initial", objective.initial(student, teacher, batch))
            self._check(loss, f"{self._name}.initial", student)
            losses.append(loss)
        loss = reduce(add, losses)
        if first is not None:
            first.check(loss)
        return loss

    def weight_at(self, share: float) -> float:
        """Its weight when ``share`` of the training proper is done."""
        return self.weight * min(1.0, share / self.warmup) if self.warmup else self.weight

    def in_stage(self, stage: str) -> bool:
        """Whether it is part of the loss in a stage."""
        return self.initial_epochs > 0 if stage == "initial" else not self.only_initial

    def notes(self) -> str:
        """What its objectives decided before the training, with the teacher's number where they differ."""
        notes = [str(one.note) for one in self.objectives]
        if len({*notes}) == 1:
            return notes[0]
        return "; ".join(f"teacher {number}: {note}" for number, note in enumerate(notes) if note)

    def _clear_logs(self) -> None:
        """Forget what an earlier step logged: this one may leave a teacher out, and nothing of it is to count again."""
        for objective in self.objectives:
            objective.logs = {}

    def logs(self) -> dict[str, Tensor]:
        """What objectives and rule report of this step, the teacher's number in the name where there are several."""
        several = len(self.objectives) > 1
        for objective in self.objectives:
            check_logs(self.what, objective.logs)
        if several and not self._weights_checked and self.rule.weights is not None:  # of later steps are of one kind
            self._weights_checked = True
            check_rule_weights(self._rule_name, self.rule.weights, len(self.objectives))
        logs = {
            f"{name}.{number}" if several else name: value
            for number, objective in enumerate(self.objectives)
            for name, value in objective.logs.items()
        }
        weights = self.rule.weights if several else None
        return logs if weights is None else logs | {f"weight.{number}": value for number, value in enumerate(weights)}
