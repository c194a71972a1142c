"""What every objective is: a module that compares the student's outputs with a teacher's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from .constructor import checked_constructor
from .errors import UsageError, located, required
from .loss_inputs import (
    check_built_for,
    check_loss,
    check_losses,
    check_samples,
    check_teachers_finite,
    check_tensors,
    check_two_outputs,
    in_own_precision,
    note_probabilities,
)
from .loss_labels import several_classes_refused, unlabelled
from .loss_parts import check_part
from .representation import Representation
from .representation_spec import RepresentationSpec
from .set_arguments import SetArguments


class Options(BaseModel):
    """Base of the options a registered class takes in a config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Setting:
    """What an objective infers from the networks and the data: dimensions, the number of samples, their classes.

    Attributes:
        student: Shapes of the student's outputs.
        teacher: Shapes of the outputs of this objective's teacher; None where there is no teacher.
        num_samples: M, samples in the training split.
        targets: (M,) int64 classes of the training samples, or None if they have no labels of one class each.
        seed: The run's seed.
        pass_samples: The most samples that a process sees in a forward pass; None where that is not known.
        label_classes: C, where the labels hold a number for each class; else None.
        pixel_classes: C of the label maps ``semantics`` (B, 1, H, W), which hold 1 … C, and 0 where there is no
            label; None where the data has no label maps.
    """

    student: RepresentationSpec
    teacher: RepresentationSpec | None
    num_samples: int
    targets: Tensor | None
    seed: int
    pass_samples: int | None = None
    label_classes: int | None = None
    pixel_classes: int | None = None

    def require_teacher(self) -> RepresentationSpec:
        """Shapes of the teacher's outputs, for objectives with ``needs_teacher``; a UsageError without a teacher."""
        return required(self.teacher, "teacher")


class TeacherOutputs(Protocol):
    """A teacher's outputs on the training samples in their first view, for objectives that read them before the
    training.

    Attributes:
        cached: Whether its outputs are cached for the training anyway, so that to ask for all of them costs nothing.
    """

    cached: bool

    def sample(self, needs: Collection[str]) -> Representation:
        """Of samples that are evenly spaced over the training set, two thousand at most, the same on every process."""

    def all(self, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        """Of all samples, in batches: index (b,) and outputs (b, …), on every process."""


class Objective(SetArguments):
    """A term of the loss. Its parameters train with the student and are left out of the exported student.

    A new objective is one file with one subclass registered in ``OBJECTIVES``; it defines ``per_sample`` where its loss
    is a mean over samples, else ``forward``.

    Attributes:
        needs: What it reads of a representation, out of ``logits``, ``embedding``, ``maps``, ``prediction``; nothing
            else is computed.
        needs_teacher: Whether it compares with a teacher at all.
        same_classes: Whether it compares logits (B, C), or predictions (B, C, h, w), of both sides class by class.
        per_class: Whether each logit is a question of its own, as where a sample may have several classes; else the
            softmax over all of them is read.
        default_weight: The published weight of this term in the loss.
        default_warmup: The published share of the training over which that weight rises linearly from 0.
        initial_epochs: The published length of the initial stage before the training proper; 0 for an objective that
            has none.
        only_initial: Whether that stage is all there is of it.
        joint: Whether one instance reads all teachers at once: ``forward`` then gets a list of representations in the
            teacher's place.
        whole_prediction: Whether it compares all channels of a prediction, not the probable ones alone, so that
            ``cache.prediction`` must keep all.
        whole_logits: The same of a teacher's logits, which it reads otherwise than by their softmax: ``cache.logits``.
        takes_probabilities: Whether it compares a prediction's values as they are, so that they need not be logits.
        takes_mixed: Whether it is right of images that are mixed of two samples (``train.mixup``): it reads neither
            ``index`` nor ``target`` of the batch, or ``partner_target`` and ``mixed_share`` too.
        least_samples: The fewest samples of a batch that it can compare with each other; with fewer, that part of its
            loss is 0.
        channels: (student's, teacher's) channels that it was built for: of each of ``pairs``, or of its ``pair``, then
            of the embeddings it reads; empty where any will do.
        logs: Detached scalars of the last call, for metrics.jsonl; they stay on the device. Empty before each step.
        note: What :meth:`prepare` decided, for the line at the start of a run.
        in_transfer: What messages call it in the transfer that it is part of, and its one of several teachers.
    """

    Options: ClassVar[type[BaseModel]] = Options
    needs: frozenset[str] = frozenset({"logits"})
    needs_teacher: ClassVar[bool] = True
    same_classes: bool = False
    per_class: ClassVar[bool] = False
    default_weight: ClassVar[float] = 1.0
    default_warmup: ClassVar[float] = 0.0
    initial_epochs: ClassVar[int] = 0
    only_initial: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    whole_prediction: ClassVar[bool] = False
    whole_logits: bool = False
    takes_probabilities: ClassVar[bool] = False
    takes_mixed: bool = False
    least_samples: int = 1
    channels: Sequence[tuple[int, int]] = ()
    in_transfer: tuple[str, str] = ("", "")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.needs, (list, tuple)):
            cls.needs = frozenset(cls.needs)
        if "__init__" in vars(cls):
            cls.__init__ = checked_constructor(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, Tensor] = {}
        self.note = ""

    @classmethod
    def build(cls, options: Any, setting: Setting) -> Objective:
        """Build from validated options; override where something of ``setting`` is needed."""
        return cls(**dict(options))

    @classmethod
    def build_each(cls, options: Any, settings: Sequence[Setting]) -> list[Objective]:
        """One for each teacher; an objective that reads them all at once overrides it and returns a single one."""
        built = []
        for number, setting in enumerate(settings):
            try:
                built.append(cls.build(options, setting))
            except UsageError as error:
                if len(settings) == 1 or "teacher" not in str(error):
                    raise
                raise UsageError(f"teacher {number}: {error}") from error
        return built

    @classmethod
    def needs_with(cls, options: Mapping[str, Any]) -> frozenset[str]:
        """What it reads, of ``needs``, where it is built with these options of a config."""
        return cls.needs

    def __call__(self, student: Any, teacher: Any = None, batch: dict[str, Tensor] | None = None, **fields: Any) -> Any:
        """The loss of a batch, also in a training loop of one's own: ``KD()(student_logits, teacher_logits)``.

        Args:
            student: A :class:`~contrastill.Representation`; where the objective reads one part alone, that part: logits
                (B, C), embedding (B, D), or maps, a tensor (B, C_i, H_i, W_i) or a list of them.
            teacher: As ``student``; a list of one each where the objective is ``joint``.
            batch: ``index`` (B,) and ``target`` (B,), where the objective reads them.
            fields: The same by name: ``target=labels``.

        Returns:
            A scalar.

        Raises:
            UsageError: Tensors of an objective that reads more than one part, no teacher where it reads one, or outputs
                that are not of the same samples, classes and device; on the CPU also a teacher's that are not finite,
                where the loss is not.
        """
        with located(*self.in_transfer):
            return self._checked(student, teacher, batch, fields)

    def _checked(self, student: Any, teacher: Any, batch: Any, fields: dict[str, Any]) -> Any:
        """The loss, of arguments that fit."""
        teachers = teacher if self.joint and isinstance(teacher, (list, tuple)) else [teacher]
        name = type(self).__name__
        if isinstance(student, Representation) and not fields and batch is not None:
            check_tensors(name, self.needs, self.same_classes, student, teachers, per_class=self.per_class)
            return self._compare(student, teachers, batch)
        if not isinstance(batch, (Mapping, NoneType)):
            raise UsageError(f"{name}: batch is of type {type(batch).__name__}: pass labels by name, target=labels")
        if student is None or (self.needs_teacher and teacher is None):
            raise UsageError(f"{name} got no outputs of the {'student' if student is None else 'teacher'}: pass them")
        if not self.needs_teacher and teacher is not None:
            example = (
                "logits, target=labels"
                if "logits" in self.needs
                else "prediction, semantics=label_maps, or depth=depth where depth is compared"
            )
            raise UsageError(f"{name} reads no teacher: pass labels by name, {name}()({example})")
        student = self._representation(student, "student")
        each = [self._representation(outputs, "teacher") for outputs in teachers]
        check_tensors(name, self.needs, self.same_classes, student, each, per_class=self.per_class)
        check_samples(name, student, self.least_samples)
        note_probabilities(self, student, each)
        loss = self._compare(student, each, {**(batch or {}), **fields})
        check_teachers_finite(name, loss, each)
        return loss

    def _compare(self, student: Any, teachers: Sequence[Any], batch: dict[str, Tensor]) -> Any:
        """The loss of outputs that are of the same samples, in the precision of this objective's weights."""
        each = check_built_for(self, student, teachers)
        student, *each = (in_own_precision(self, outputs) for outputs in (student, *each))
        loss = super().__call__(student, each if self.joint else each[0], batch)
        return check_loss(f"{type(self).__name__}.forward", loss)

    def _representation(self, outputs: Any, role: str) -> Representation | None:
        """Outputs as a representation: tensors are the one part that the objective reads."""
        if outputs is None or isinstance(outputs, Representation):
            return outputs
        part = check_part(self, outputs, role)
        several = isinstance(outputs, (list, tuple))
        tensors: Any = tuple(outputs) if several else (outputs,) if part == "maps" else outputs
        return Representation(**{part: tensors})

    def forward(self, student: Representation, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the scalar loss of this batch: the mean of :meth:`per_sample`, or the loss itself where it does not
        decompose.

        Args:
            student: The student's outputs.
            teacher: The teacher's Representation; a list of all teachers' where the objective is ``joint``; None where
                ``needs_teacher`` is False.
            batch: The batch they are outputs for.
        """
        return check_losses(type(self).__name__, self.per_sample(student, teacher, batch), student).mean()

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        """Read teacher outputs on the training samples before the first step; called at every start of a run, also of
        one that is resumed.

        Args:
            teachers: Its teacher's outputs, or all teachers' where it is ``joint``.
        """

    def initial(self, student: Representation, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the scalar loss of a batch in the initial stage; by default that of the training proper."""
        return self(student, teacher, batch)

    def enter(self, stage: str) -> None:
        """Get ready for the stage that begins, ``"initial"`` or ``"main"``: what learns in the other is frozen."""

    def student_needs(self, stage: str) -> frozenset[str]:
        """What it reads of the student in a stage; nothing where its own parameters learn from the teacher alone."""
        return self.needs

    def per_sample(self, student: Representation, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of each sample (B,); overridden where the loss is their mean.

        Raises:
            UsageError: It does not.
        """
        raise UsageError(
            f"objective {type(self).__name__} is no mean over samples: combine its teachers with ensemble.rule=sum"
        )

    @classmethod
    def decomposes(cls) -> bool:
        """Whether the loss is a mean over samples, so that samples can be weighed."""
        return cls.per_sample is not Objective.per_sample


def check_pass(objective: str, setting: Setting, least: int = 2) -> None:
    """Refuse passes of too few samples for an objective that compares them with each other: its loss would be 0.

    Raises:
        UsageError: A forward pass has fewer than ``least`` samples.
    """
    count = setting.pass_samples
    if count is not None and count < least:
        few = setting.num_samples < least
        raise UsageError(
            f"objective {objective} compares the samples of a pass with each other and needs {least} or more, and "
            f"a pass of this training has {count}: "
            + (
                "use more samples"
                if few
                else "raise train.batch_size, or lower train.accumulation_steps or the number of processes"
            )
        )


def check_classes_differ(objective: str, targets: Tensor | None, otherwise: str = "other_sample") -> None:
    """Refuse negatives of another class where all samples are of one: there would be none, and a loss of 0.

    Raises:
        UsageError: ``targets`` (M,) are all equal.
    """
    if targets is not None and bool((targets == targets[0]).all()):
        raise UsageError(
            f"objective {objective} takes its negatives from other classes, and all samples are of one class: "
            f"use more classes, or objectives.{objective}.negatives_from={otherwise}"
        )


def check_labels(objective: str, setting: Setting) -> None:
    """Refuse data whose classes the student's logits cannot be compared with.

    Args:
        objective: Its name, for the message.
        setting: With the labels and the length of the student's logits.

    Raises:
        UsageError: The data has no labels of whole samples, or more classes than the student, or the student has a
            single logit, or answers for each position.
    """
    if setting.student.num_classes is None and setting.student.prediction_shape is not None:
        raise UsageError(
            f"objective {objective} compares logits with the class of a whole sample, and the student answers for each "
            "position: take pixel_cross_entropy, which reads label maps"
        )
    if setting.targets is None and setting.label_classes is not None:
        raise several_classes_refused(objective)
    if setting.targets is None and setting.pixel_classes is not None:
        raise UsageError(
            f"objective {objective} needs the class of a whole sample, and the labels of this data are label maps: "
            "take pixel_cross_entropy, for a student that answers for each position"
        )
    if setting.targets is None:
        raise unlabelled(objective)
    check_two_outputs(objective, "student", setting.student.num_classes)
    classes, own = int(setting.targets.max()) + 1, setting.student.num_classes
    if own is not None and classes > own:
        raise UsageError(
            f"objective {objective} compares logits with labels, but the student has {own} classes and the data "
            f"{classes}: give it {classes}"
        )
