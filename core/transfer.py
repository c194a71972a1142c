"""The one module of every transfer: teachers, a student and the objectives between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from torch import Tensor, nn

from .arguments import checked
from .deferred import DeferredState
from .errors import ContrastillError, UsageError
from .first_step import check_trains
from .learnable import check_extra_state, check_weights
from .objective import Objective
from .predicted_quantity import note_quantity
from .registry import short_name
from .representation import Network, Representation
from .teachers.live import LiveTeachers
from .teachers.source import TeacherSource
from .term import Term
from .unread import reading


@dataclass
class TransferOutput:
    """The result of one batch.

    Attributes:
        loss: Scalar, Σ weight · term; the one that is differentiated.
        terms: Scalar of each objective before its weight, detached.
        logs: Other scalars the objectives report, detached, named ``objective/what``.
        student: The student's outputs.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    student: Representation
    logs: dict[str, Tensor] = field(default_factory=dict)


@checked
class Transfer(nn.Module):
    """Teachers and a student compute their representations of a batch, and the objectives compare them.

    Args:
        teachers: Frozen networks, each with the modality it reads; none for a network that only learns from labels.
        student: The network that is trained.
        objectives: The terms of the loss by the name they are logged under. A bare :class:`Objective` stands for
            a term with its published weight and one teacher.
        source: Where the teachers' outputs come from; default: a forward pass of each, one after the other.

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
        source: TeacherSource | None = None,
    ) -> None:
        super().__init__()
        if not objectives:
            raise UsageError("a transfer needs at least one objective, such as cross_entropy or crd")
        for name in objectives:
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise UsageError(
                    f"a term of the loss cannot be called {name!r}: give it another key, and in a config the "
                    f"objective's name beside it, as objectives.my_term.name={name or 'kd'}"
                )
        check_weights(teachers, student)
        check_extra_state("the student", student.module)
        self.teachers = nn.ModuleList(teacher.freeze() for teacher in teachers)  # type: ignore[assignment]
        self.teacher_names = [teacher.recipe.get("model", type(teacher.module).__name__) for teacher in teachers]
        self.student = student
        self.terms = nn.ModuleDict(  # type: ignore[assignment]
            {name: term if isinstance(term, Term) else Term(term) for name, term in objectives.items()}
        )
        for name, term in self.terms.items():
            term.label = name
            for number, objective in enumerate(term.objectives if isinstance(term.objectives[0], Objective) else ()):
                one = term.needs_teacher and not term.joint and number < len(teachers) > 1
                place = f" towards teacher {number} ({short_name(self.teacher_names[number])})" if one else ""
                objective.in_transfer = (f"objective {name}", place)
            check_trains(term.what, term.objectives, self.parameters())
            for part in (*term.objectives, term.rule):
                if isinstance(part, nn.Module):
                    check_extra_state(f"objective {name}", part)
            if term.needs_teacher and not teachers:
                raise UsageError(f"objective {name} compares with a teacher, and there is none: add one under teachers")
            if term.needs_teacher and not term.joint and len(term.objectives) != len(teachers):
                raise UsageError(
                    f"objective {name} was built for {len(term.objectives)} teachers, and there are {len(teachers)}"
                )
        if not any(term.in_stage("main") for term in self.terms.values()):
            raise UsageError(
                f"{' and '.join(self.terms)} {'has' if len(self.terms) == 1 else 'have'} an initial stage only: add an "
                "objective for the training after it, such as cross_entropy"
            )
        note_quantity(self.terms, teachers, student)
        self.initial_epochs = max(term.initial_epochs for term in self.terms.values())
        self.progress = 1.0
        self.remarks: list[str] = []  # also shown where no progress is
        self.details: list[str] = []
        self._unread: list[nn.Parameter] = []
        self.unread_names: list[str] = []
        self.missed_in_eval: list[nn.Parameter] = []
        self.all_always_read = True
        self._idle: list[nn.Parameter] = []
        self._set_stage("main")
        self.teacher_needs: frozenset[str] = frozenset().union(*(term.teacher_needs for term in self.terms.values()))
        self.source = source or LiveTeachers(list(self.teachers))

    def forward(self, batch: dict[str, Tensor]) -> TransferOutput:
        """Return the loss of a batch: a dict of modalities, ``index`` (B,) and, if labelled, ``target`` (B,)."""
        teachers = self.teacher_outputs(batch)
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
        """Begin a stage: its terms alone make the loss, and what they never read is frozen (:meth:`freeze_unread`), as
        are the other terms.

        Args:
            stage: ``"initial"``, for objectives that have such a stage, or ``"main"``, the training proper.
            batch: A batch of any size, as ``forward`` takes it.
        """
        self.thaw()
        self._set_stage(stage)
        for term in self.terms.values():
            term.enter(stage)
        idle = [term for term in self.terms.values() if not term.in_stage(stage)]
        self._idle = [parameter for term in idle for parameter in term.parameters() if parameter.requires_grad]
        for parameter in self._idle:
            parameter.requires_grad_(False)
        self.freeze_unread(batch)

    def thaw(self) -> None:
        """Let train again what stages froze, as for another training of the student."""
        for parameter in (*self._unread, *self._idle):
            parameter.requires_grad_(True)
        self._unread, self._idle = [], []

    @contextmanager
    def thawed_at_the_end(self) -> Iterator[None]:
        """Within it stages freeze; :meth:`thaw` follows."""
        try:
            yield
        finally:
            self.thaw()

    def _set_stage(self, stage: str) -> None:
        self.stage = stage
        active = [term for term in self.terms.values() if term.in_stage(stage)]
        self.student_needs: frozenset[str] = frozenset().union(*(term.student_needs(stage) for term in active))

    def teacher_outputs(self, batch: Mapping[str, Tensor]) -> list[Representation | None]:
        """Each teacher's outputs for a batch, the parts that the objectives read; None for teachers that no term reads
        in this step.
        """
        if not self.teacher_needs:
            return []
        count = len(self.teacher_names)
        terms = [term for term in self.terms.values() if self.stage == "main" or term.in_stage(self.stage)]
        numbers = sorted({number for term in terms for number in term.chosen(count, self.stage)})
        outputs = dict(zip(numbers, self.source.outputs(batch, numbers, self.teacher_needs), strict=True))
        return [outputs.get(number) for number in range(count)]

    def drop_teachers(self) -> None:
        """Free the teachers' memory: all their outputs are cached."""
        self.teachers = nn.ModuleList()  # type: ignore[assignment]
        self.source.drop_teachers()

    def prepare(self, loader: Any) -> None:
        """Show each objective its teachers' outputs of the training samples, as :func:`~contrastill.fit` does before
        the first step.

        Args:
            loader: Of the training samples.
        """
        teachers = [self.source.training_outputs(number, loader) for number in range(len(self.teacher_names))]
        for term in self.terms.values():
            term.prepare(teachers)
        if self.source.complete:
            self.drop_teachers()

    def defer(self, samples: int, passes: int = 1) -> None:
        """From now on banks, queues and draws are updated by :meth:`commit` alone, not at the end of each forward pass.

        Args:
            samples: The most samples a rank sees in an optimiser step.
            passes: Forward passes these are split into.
        """
        for module in self._deferred_states():
            module.defer(samples, passes)

    def commit(self) -> None:
        """Apply the updates of banks, queues and draws since the last commit: once after each optimiser step, on every
        rank.
        """
        for module in self._deferred_states():
            module.commit()

    def rollback(self) -> None:
        """Drop the pending updates: for an optimiser step that is skipped."""
        for module in self._deferred_states():
            module.rollback()

    def stop_deferring(self) -> None:
        """Update banks, queues and draws at the end of each forward pass again."""
        for module in self._deferred_states():
            module.stop_deferring()

    def _deferred_states(self) -> list[DeferredState]:
        return [
            module for term in self.terms.values() for module in term.modules() if isinstance(module, DeferredState)
        ]

    def trained_state(self) -> dict[str, Tensor]:
        """The state that a checkpoint holds: student, heads, banks and generators, but not the frozen teachers."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teachers.")}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`trained_state` returned; every name must be there and fit.

        Raises:
            ContrastillError: The state is of another transfer; the message names the first difference.
        """
        own = {name: value for name, value in self.state_dict().items() if name.startswith("teachers.")}
        try:
            self.load_state_dict({**own, **state}, strict=True)
        except RuntimeError as error:
            raise ContrastillError(
                f"this state is of another transfer: {self._difference(state) or error}; give the networks and "
                "objectives that it was saved with, or another folder (out) to begin anew"
            ) from error

    def _difference(self, state: Mapping[str, Tensor]) -> str:
        """The first name, or shape, in which a state is not this transfer's."""
        own = self.trained_state()
        if other := [*(state.keys() - own.keys()), *(own.keys() - state.keys())]:
            return f"{min(other)} is in {'it' if min(other) in state else 'these networks and objectives'} alone"
        name = next((name for name, value in own.items() if value.shape != state[name].shape), "")
        return f"{name} has {tuple(state[name].shape)} values there and {tuple(own[name].shape)} here" if name else ""

    def freeze_unread(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Freeze the student's parameters that no objective ever reads, such as a classifier that only CRD trains
        beside.

        Those that have merely no part in this batch, as a mask token in eval mode or an expert, stay as they are, and
        ``all_always_read`` is False where a process must not wait for a gradient of each.
        Neither BatchNorm's statistics nor torch's generators move.

        Args:
            batch: A batch of any size, as ``forward`` takes it.

        Returns:
            Names of the parameters it froze, as the student's own module calls them.

        Raises:
            UsageError: Nothing that an objective reads depends on a parameter that trains.
        """
        named = {name: p for name, p in self.student.module.named_parameters() if p.requires_grad}
        idle = [True] * len(named)
        self.missed_in_eval, self.all_always_read = [], True
        if self.student_needs:
            reads = {
                name: term.student_needs(self.stage) for name, term in self.terms.items() if term.in_stage(self.stage)
            }
            look = reading(self.student, [*named.values()], batch, reads)
            idle, self.all_always_read = look.idle, look.always
            each = zip(named.values(), look.missed, idle, strict=True)
            self.missed_in_eval = [parameter for parameter, missed, never in each if missed and not never]
        self._unread = [parameter for parameter, never in zip(named.values(), idle, strict=True) if never]
        for parameter in self._unread:
            parameter.requires_grad_(False)
        names = [name for name, never in zip(named, idle, strict=True) if never]
        self.unread_names = names if self.student_needs else []
        return names
