"""The one module of every transfer: teachers, a student and the objectives between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from .aggregation import Sum, TeacherAggregation
from .deferred import DeferredState
from .errors import ContrastillError, UsageError
from .learnable import check_learning, check_weights
from .objective import Objective, TeacherOutputs
from .representation import Network, Representation


@dataclass
class TransferOutput:
    """What one batch came to.

    Attributes:
        loss: Scalar, Σ weight · term; the one that is differentiated.
        terms: Scalar of each objective before its weight, detached.
        logs: Other scalars the objectives report, detached, named ``objective/what``.
        student: What the student said.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    student: Representation
    logs: dict[str, Tensor] = field(default_factory=dict)


Look = Callable[[Sequence[Network], Mapping[str, Tensor], Collection[str]], list[Representation]]
"""Asks teachers what they say about a batch, as far as is needed."""


def in_turn(teachers: Sequence[Network], batch: Mapping[str, Tensor], needs: Collection[str]) -> list[Representation]:
    """Each teacher looks at the batch, one after the other."""
    return [teacher(batch, needs) for teacher in teachers]


class Term(nn.Module):
    """One weighted line of the loss: an objective towards every teacher, combined by a rule.

    Args:
        objectives: One objective for each teacher, each with its own embeddings and banks; a single one for an
            objective that reads no teacher, or all of them at once.
        weight: Its weight in the loss; left out, the objective's published one.
        rule: How n losses become one; left out, the paper's sum.
        warmup: Share of the training over which the weight rises linearly from 0; left out, the objective's published
            one.
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
        self.objectives = nn.ModuleList([objectives] if isinstance(objectives, Objective) else objectives)  # type: ignore[assignment]
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
        self, student: Representation, teachers: Sequence[Representation | None], batch: Mapping[str, Tensor]
    ) -> Tensor:
        if not self.needs_teacher:
            return self.objectives[0](student, None, batch)
        if self.joint:
            return self.objectives[0](student, teachers, batch)
        return self.rule(self.objectives, student, teachers, batch)

    def initial(
        self, student: Representation, teachers: Sequence[Representation | None], batch: dict[str, Tensor]
    ) -> Tensor:
        """The loss of the initial stage, of all teachers together; neither weight nor rule count there."""
        return reduce(
            add,
            (
                objective.initial(student, teacher, batch)
                for objective, teacher in zip(self.objectives, teachers or [None], strict=True)
            ),
        )

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


class Transfer(nn.Module):
    """Teachers look at a batch, the student looks at the same batch, and the objectives compare what they say.

    Args:
        teachers: Frozen networks, each with the modality it reads; none for a network that only learns from labels.
        student: The network that is trained.
        objectives: The terms of the loss by the name they are logged under. A bare :class:`Objective` stands for
            a term with its published weight and one teacher.
        look: How several teachers are asked, see :func:`in_turn`, which is the default.

    Raises:
        UsageError: No objective, an objective that reads a teacher where there is none, or another number of
            objectives than of teachers in a term; a student that shares weights with a teacher, or whose weights are in
            half precision.

    Example:
        >>> import contrastill
        >>> from contrastill.models.build import build_network
        >>> from contrastill.objectives.cross_entropy import CrossEntropy
        >>> from contrastill.objectives.kd import KD
        >>> teacher, student = build_network("resnet14", num_classes=10), build_network("resnet8", num_classes=10)
        >>> transfer = contrastill.Transfer([teacher], student, {"cross_entropy": CrossEntropy(), "kd": KD()})
        >>> import torch
        >>> batch = {"rgb": torch.zeros(2, 3, 32, 32), "index": torch.arange(2), "target": torch.tensor([1, 7])}
        >>> transfer(batch).loss.backward()
    """

    teachers: Sequence[Network]
    terms: Mapping[str, Term]

    def __init__(
        self,
        teachers: Sequence[Network],
        student: Network,
        objectives: Mapping[str, Term | Objective],
        *,
        look: Look | None = None,
    ) -> None:
        super().__init__()
        if not objectives:
            raise UsageError("a transfer needs at least one objective, such as cross_entropy or crd")
        check_weights(teachers, student)
        self.teachers = nn.ModuleList(teacher.freeze() for teacher in teachers)  # type: ignore[assignment]
        self.student = student
        self.terms = nn.ModuleDict(  # type: ignore[assignment]
            {name: term if isinstance(term, Term) else Term(term) for name, term in objectives.items()}
        )
        for name, term in self.terms.items():
            if term.needs_teacher and not teachers:
                raise UsageError(f"objective {name} compares with a teacher, and there is none: add one under teachers")
            if term.needs_teacher and not term.joint and len(term.objectives) != len(teachers):
                raise UsageError(
                    f"objective {name} was built for {len(term.objectives)} teachers, and there are {len(teachers)}"
                )
        if not any(term.in_stage("main") for term in self.terms.values()):
            raise UsageError(
                f"{' and '.join(self.terms)} have an initial stage only: add an objective for the training after "
                "it, such as cross_entropy"
            )
        self.initial_epochs = max(term.initial_epochs for term in self.terms.values())
        self.progress = 1.0
        self.remarks: list[str] = []
        self._unread: list[nn.Parameter] = []
        self._set_stage("main")
        self.teacher_needs: frozenset[str] = frozenset().union(*(term.teacher_needs for term in self.terms.values()))
        self.look: Look = look or in_turn

    def forward(self, batch: dict[str, Tensor]) -> TransferOutput:
        """Return the loss of a batch: a dict of modalities, ``index`` (B,) and, if labelled, ``target`` (B,)."""
        teachers = self.teachers_say(batch)
        student = self.student(batch, self.student_needs) if self.student_needs else Representation()
        main = self.stage == "main"
        active = {name: term for name, term in self.terms.items() if term.in_stage(self.stage)}
        losses = {name: (term if main else term.initial)(student, teachers, batch) for name, term in active.items()}
        return TransferOutput(
            loss=reduce(
                add, ((active[name].weight_at(self.progress) if main else 1.0) * loss for name, loss in losses.items())
            ),
            terms={name: loss.detach() for name, loss in losses.items()},
            student=student,
            logs={f"{name}/{what}": value for name, term in active.items() for what, value in term.logs().items()},
        )

    def __str__(self) -> str:
        """Its terms in one line: names, weights and what they decided before the training."""
        return " + ".join(
            f"{name} {term.weight:g}" + (f" ({notes})" if (notes := term.notes()) else "")
            for name, term in self.terms.items()
        )

    def enter(self, stage: str, batch: Mapping[str, Tensor]) -> None:
        """Begin a stage: its terms alone make the loss, and what they do not read is frozen (:meth:`freeze_unread`).

        Args:
            stage: ``"initial"``, for objectives that have such a stage, or ``"main"``, the training proper.
            batch: A batch of any size, as ``forward`` takes it.
        """
        for parameter in self._unread:
            parameter.requires_grad_(True)
        self._set_stage(stage)
        for term in self.terms.values():
            for objective in term.objectives:
                objective.enter(stage)
        self.freeze_unread(batch)

    def _set_stage(self, stage: str) -> None:
        self.stage = stage
        active = [term for term in self.terms.values() if term.in_stage(stage)]
        self.student_needs: frozenset[str] = frozenset().union(
            *(objective.student_needs(stage) for term in active for objective in term.objectives)
        )

    def teachers_say(self, batch: Mapping[str, Tensor]) -> list[Representation | None]:
        """What each teacher says about a batch, as far as the objectives read it: from the batch if it is there, else
        by looking.

        There is None in the places of those that no term reads in this step.
        """
        if not self.teacher_needs:
            return []
        count = len(self.teachers)
        said = [teacher_representation(batch, number) for number in range(count)]
        read = sorted({number for term in self.terms.values() for number in term.chosen(count)})
        asked = [number for number in read if said[number] is None]
        for number, answer in zip(
            asked, self.look([self.teachers[number] for number in asked], batch, self.teacher_needs), strict=True
        ):
            said[number] = answer
        return [one if number in read else None for number, one in enumerate(said)]

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        """Show each objective, before the training, what its teachers say of the training samples.

        Args:
            teachers: One for each teacher, in their order.
        """
        for term in self.terms.values():
            for number, objective in enumerate(term.objectives):
                if term.needs_teacher:
                    objective.prepare(teachers if term.joint else teachers[number : number + 1])

    def hold(self, samples: int, passes: int = 1) -> None:
        """From now on banks, queues and draws move on by :meth:`commit` alone, not at the end of each forward pass.

        Args:
            samples: The most samples a rank sees in an optimiser step.
            passes: Forward passes these are split into.
        """
        for module in self._held_states():
            module.hold(samples, passes)

    def commit(self) -> None:
        """Write what the forward passes since the last commit left for banks and queues, and move draws on: once after
        each optimiser step, on every rank.
        """
        for module in self._held_states():
            module.commit()

    def discard(self) -> None:
        """Forget what waits to be written: for an optimiser step that is not made."""
        for module in self._held_states():
            module.discard()

    def release(self) -> None:
        """From now on banks, queues and draws move on at the end of each forward pass again."""
        for module in self._held_states():
            module.release()

    def _held_states(self) -> list[DeferredState]:
        return [
            module for term in self.terms.values() for module in term.modules() if isinstance(module, DeferredState)
        ]

    def trained_state(self) -> dict[str, Tensor]:
        """The state that a checkpoint holds: student, heads, banks and generators, but not the frozen teachers."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teachers.")}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`trained_state` gave; every name must be there and fit.

        Raises:
            ContrastillError: The state is of another transfer; the message names the first difference.
        """
        own = {name: value for name, value in self.state_dict().items() if name.startswith("teachers.")}
        try:
            self.load_state_dict({**own, **state}, strict=True)
        except RuntimeError as error:
            raise ContrastillError(
                f"this state is of another transfer: {str(error).splitlines()[1].strip()}"
            ) from error

    def freeze_unread(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Freeze the student's parameters that no objective reads, such as a classifier that only CRD trains beside.

        DDP waits for the gradient of every parameter that asks for one. Neither BatchNorm's statistics nor torch's
        generators move.

        Args:
            batch: A batch of any size, as ``forward`` takes it.

        Returns:
            Names of the parameters it froze, as the student's own module calls them.

        Raises:
            UsageError: Nothing that an objective reads depends on a parameter that trains.
        """
        parameters = [(name, p) for name, p in self.student.module.named_parameters() if p.requires_grad]
        unread = parameters
        if self.student_needs:
            training = self.student.training
            with torch.random.fork_rng(), torch.enable_grad():
                said = self.student.eval()(batch, self.student_needs)
            self.student.train(training)
            reads = {
                name: frozenset().union(*(one.student_needs(self.stage) for one in term.objectives))
                for name, term in self.terms.items()
                if term.in_stage(self.stage)
            }
            check_learning(self.student, said, reads)
            read = [
                value
                for value in (said.logits, said.embedding, *said.maps)
                if value is not None and value.requires_grad
            ]
            gradients = torch.autograd.grad(
                [value.sum() for value in read], [p for _, p in parameters], allow_unused=True
            )
            unread = [(name, p) for (name, p), gradient in zip(parameters, gradients, strict=True) if gradient is None]
            if len(unread) == len(parameters):
                raise UsageError(
                    f"no gradient comes from what the student returns ({', '.join(sorted(self.student_needs))}) "
                    "to any of its parameters, as through quantised layers: "
                    "hand over the network before it was quantised or detached"
                )
        self._unread = [parameter for _, parameter in unread]
        for parameter in self._unread:
            parameter.requires_grad_(False)
        return [name for name, _ in unread]


def teacher_fields(said: Mapping[int, Representation]) -> dict[str, Tensor]:
    """What teachers said, by their numbers, as fields of a batch: ``teachers.0.logits``, ``teachers.0.embedding``,
    ``teachers.0.maps.0`` …
    """
    fields: dict[str, Tensor] = {}
    for number, one in said.items():
        fields |= {
            f"teachers.{number}.{part}": value
            for part in ("logits", "embedding")
            if (value := getattr(one, part)) is not None
        }
        fields |= {f"teachers.{number}.maps.{place}": value for place, value in enumerate(one.maps)}
    return fields


def teacher_representation(batch: Mapping[str, Tensor], number: int) -> Representation | None:
    """The inverse of :func:`teacher_fields` for one teacher; None where the batch holds nothing of it."""
    prefix = f"teachers.{number}."
    fields = {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
    if not fields:
        return None
    maps = tuple(
        fields[name]
        for name in sorted((name for name in fields if name.startswith("maps.")), key=lambda name: int(name[5:]))
    )
    return Representation(fields.get("logits"), fields.get("embedding"), maps)
