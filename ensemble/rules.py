"""Rules by which several teachers are combined, beside the paper's sum in ``core/aggregation.py``. Each is a class and
a line ``ensemble.rule=NAME``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.aggregation import Sum, TeacherAggregation
from ..core.deferred import DeferredState
from ..core.errors import UsageError
from ..core.hashing import mix
from ..core.loss_inputs import check_losses, check_two_outputs
from ..core.loss_labels import batch_targets
from ..core.objective import Objective, Options, Setting, TeacherOutputs
from ..core.registry import TEACHER_AGGREGATIONS
from ..core.representation import Representation
from .mean_teacher import MeanOutputs, logits_of, mean_logits, precise
from .min_norm import gram_matrix, min_norm_weights

TEACHER_AGGREGATIONS.register("sum")(Sum)


@TEACHER_AGGREGATIONS.register("average")
class Average(TeacherAggregation):
    """One teacher whose probabilities are the mean of all teachers': L(mean_i softmax(z_i / T), S).

    Where the objective reads each class on its own, they are sigmoids.

    T is the temperature at which the objective reads its teacher, so that its softened probabilities are exactly the
    mean of theirs.

    Raises:
        UsageError: The objective reads more than logits, of which unlike teachers have no mean, standardises them, or
            reads them at several temperatures.
    """

    @classmethod
    def build(cls, options: Any, label: str, objective: type[Objective], settings: Sequence[Setting]) -> Self:
        if objective.needs != frozenset({"logits"}):
            raise UsageError(
                f"ensemble.rule=average takes the mean of the teachers' probabilities, and objective {label} "
                f"reads {' and '.join(sorted(objective.needs))}, "
                "and outputs other than logits of different teachers cannot be averaged: add "
                f"objectives.{label}.rule=sum, or take another rule"
            )
        return cls()

    def forward(
        self,
        objectives: Sequence[Objective],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> Tensor:
        first = objectives[0]
        if len(teachers) == 1:
            return first(student, teachers[0], batch)
        if getattr(first, "standardize", False):
            raise UsageError(
                "ensemble.rule=average takes the mean of the teachers' probabilities, and what the objective reads of "
                "it would be standardised again: set standardize=false, or rule=sum"
            )
        mean = mean_logits(first, teachers)
        self.weights = torch.full((len(teachers),), 1 / len(teachers), device=mean.device)
        return first(student, Representation(logits=mean), batch)

    def outputs_for(
        self, objectives: Sequence[Objective], teachers: Sequence[TeacherOutputs]
    ) -> Sequence[TeacherOutputs]:
        return teachers if len(teachers) == 1 else [MeanOutputs(objectives[0], teachers)] * len(teachers)


class Weighted(TeacherAggregation):
    """Base of the rules that weigh each sample's losses: mean over the batch of Σ_i w_i L(T_i, S), with Σ_i w_i = 1 for
    each sample.

    Raises:
        UsageError: The objective is no mean over samples; a teacher without logits.
    """

    teacher_needs = frozenset({"logits"})
    weighs_samples = True
    name = ""

    @classmethod
    def build(cls, options: Any, label: str, objective: type[Objective], settings: Sequence[Setting]) -> Self:
        if len(settings) > 1 and not objective.decomposes():
            raise UsageError(
                f"ensemble.rule={cls.name} weighs each sample, and the loss of objective {label} is no mean over "
                f"samples: add objectives.{label}.rule=sum"
            )
        cls._check_logits(settings)
        for setting in settings if len(settings) > 1 else ():
            check_two_outputs(
                f"{label} with ensemble.rule={cls.name}", "teacher", setting.require_teacher().num_classes
            )
        return super().build(options, label, objective, settings)

    @classmethod
    def _check_logits(cls, settings: Sequence[Setting]) -> None:
        for number, setting in enumerate(settings):
            teacher = setting.require_teacher()
            if teacher.num_classes is not None and teacher.headless:
                raise UsageError(
                    f"ensemble.rule={cls.name} weighs each sample by the teachers' logits of it, and teacher {number} "
                    "returns its embedding, as a network without a classifier does: take sum, gradient or random"
                )
            if teacher.num_classes is None:
                raise UsageError(
                    f"ensemble.rule={cls.name} weighs each sample by the teachers' logits of it, and teacher {number} "
                    "has none, as one that answers for each position: take sum, gradient or random"
                )

    @abstractmethod
    def weigh(self, logits: Sequence[Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Weights (n, B) of the samples, from what each teacher answers, n times (B, C_i)."""

    def forward(
        self,
        objectives: Sequence[Objective],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> Tensor:
        if len(teachers) == 1:
            return objectives[0](student, teachers[0], batch)
        losses = torch.stack(
            [
                check_losses(type(objective).__name__, objective.per_sample(student, teacher, batch), student)
                for objective, teacher in zip(objectives, teachers, strict=True)
            ]
        )
        weights = self.weigh(logits_of(teachers), batch).to(losses.dtype).detach()
        self.weights = weights.mean(1)
        return (weights * losses).sum(0).mean()


@TEACHER_AGGREGATIONS.register("entropy")
class Entropy(Weighted):
    """EBKD: a teacher that is sure of a sample counts more there, w_i = softmax_i(−H(p_i)) (after Kwon et al., ICASSP
    2020).

    H is the entropy of the teacher's probabilities at temperature 1, in nats; no labels are read.
    """

    name = "entropy"

    @classmethod
    def build(cls, options: Any, label: str, objective: type[Objective], settings: Sequence[Setting]) -> Self:
        if objective.per_class and len(settings) > 1:
            raise UsageError(
                f"ensemble.rule=entropy reads one class for each sample, and objective {label} each class on its own: "
                f"add objectives.{label}.rule=average, or sum"
            )
        return super().build(options, label, objective, settings)

    def weigh(self, logits: Sequence[Tensor], batch: dict[str, Tensor]) -> Tensor:
        logs = [F.log_softmax(precise(values), dim=1) for values in logits]
        # A class of probability 0, whose logit is −∞, adds nothing.
        entropies = torch.stack([-(log.exp() * log).masked_fill(log == -torch.inf, 0.0).sum(1) for log in logs])
        return F.softmax(-entropies, dim=0)


@TEACHER_AGGREGATIONS.register("confidence")
class Confidence(Weighted):
    """CA-MKD: a teacher that is right about a sample counts more there, w_i = (1 − softmax_i(CE_i)) / (n − 1) (Zhang et
    al., ICASSP 2022, eq. 3).

    Raises:
        UsageError: The data has no labels; a teacher has other classes than the data.
    """

    name = "confidence"
    compares_classes = True

    takes_mixed = False

    @classmethod
    def build(cls, options: Any, label: str, objective: type[Objective], settings: Sequence[Setting]) -> Self:
        cls._check_logits(settings)
        targets = settings[0].targets
        if targets is None:
            raise UsageError(
                "ensemble.rule=confidence compares the teachers with the labels, and this data has none: take entropy, "
                "or sum"
                if settings[0].label_classes is None
                else "ensemble.rule=confidence compares the teachers with one class of each sample, and "
                "the labels of this data mark any number of classes: take sum"
            )
        classes = int(targets.max()) + 1
        for number, setting in enumerate(settings):
            outputs = setting.require_teacher().num_classes
            assert outputs is not None, "_check_logits"
            if outputs < classes:
                raise UsageError(
                    f"ensemble.rule=confidence compares the teachers with the labels, but teacher {number} tells "
                    f"{outputs} classes apart and "
                    f"the data has {classes}: say with teachers.{number}.class_map=[…] which of its classes is "
                    "which, or take another rule"
                )
        return super().build(options, label, objective, settings)

    def weigh(self, logits: Sequence[Tensor], batch: dict[str, Tensor]) -> Tensor:
        target = batch_targets(batch, "of ensemble.rule=confidence", logits[0])
        wrong = torch.stack([F.cross_entropy(precise(values), target, reduction="none") for values in logits])
        # Infinite where a teacher's logit of the label is −∞: it is as wrong as can be, and counts nothing.
        finite = wrong.clamp(max=torch.finfo(wrong.dtype).max)
        return (1 - F.softmax(finite, dim=0)) / (len(logits) - 1)


@TEACHER_AGGREGATIONS.register("gradient")
class Gradient(TeacherAggregation):
    """AEKD: the weights whose combined gradient at the student's output is shortest, a direction that no teacher
    objects to (Du et al., NeurIPS 2020).

    g_i is the gradient of the batch's L(T_i, S) with respect to what the objective reads of the student; the weights
    minimise ‖Σ_i w_i g_i‖² subject to Σ_i w_i = 1 and 0 ≤ w_i ≤ cap. The loss is Σ_i w_i L(T_i, S). Over several
    processes the gradients are those of the whole batch.

    Args:
        cap: Largest weight of a teacher, which keeps out that one bad teacher decides; 1 is none, and it is never below
            1/n.
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        cap: float = Field(
            1.0, gt=0, le=1, description="largest weight of one teacher; 1 leaves it open, and it is never below 1/n"
        )

    def __init__(self, cap: float = 1.0) -> None:
        super().__init__()
        self.cap = cap

    def forward(
        self,
        objectives: Sequence[Objective],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> Tensor:
        losses = [objective(student, teacher, batch) for objective, teacher in zip(objectives, teachers, strict=True)]
        if len(losses) == 1:
            return losses[0]
        read = [value for value in student.tensors() if value.requires_grad]
        if not read or not torch.is_grad_enabled():
            self.weights = torch.full((len(losses),), 1 / len(losses), device=losses[0].device)
        else:
            each = [torch.autograd.grad(loss, read, retain_graph=True, allow_unused=True) for loss in losses]
            gram = gram_matrix(each, _samples(batch, read))
            self.weights = min_norm_weights(gram, max(self.cap, 1 / len(losses)))
        return reduce(add, (weight.to(loss.dtype) * loss for weight, loss in zip(self.weights, losses, strict=True)))


def _samples(batch: dict[str, Tensor], read: Sequence[Tensor]) -> Tensor:
    """How many samples of the batch are this process's own."""
    padding = batch.get("is_padding")
    count = torch.tensor(len(read[0]), dtype=torch.float64, device=read[0].device)
    return count if padding is None else (~padding).sum().double()


@TEACHER_AGGREGATIONS.register("random")
class Random(TeacherAggregation, DeferredState):
    """One teacher a step, drawn evenly: L(T_i, S). The others need not look, so that a step costs what it costs with
    one teacher.

    The draw is a function of (seed, step), the same on every process, and goes on where it was in a resumed run.

    Args:
        seed: Of the draws; a run's own.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.steps, self._due = seed, 0, False

    @classmethod
    def build(cls, options: Any, label: str, objective: type[Objective], settings: Sequence[Setting]) -> Self:
        return cls(settings[0].seed)

    def chosen(self, count: int) -> Sequence[int]:
        return (mix(self.seed, _DRAW, self.steps) % count,)

    def forward(
        self,
        objectives: Sequence[Objective],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: dict[str, Tensor],
    ) -> Tensor:
        (number,) = self.chosen(len(objectives))
        loss = objectives[number](student, teachers[number], batch)
        # DDP waits for a gradient of every head, and an optimiser's momentum should not depend on the number of
        # processes.
        others = [
            parameter.sum()
            for place, objective in enumerate(objectives)
            if place != number
            for parameter in objective.parameters()
        ]
        self.weights = F.one_hot(torch.tensor(number), len(objectives)).to(loss.device, torch.float32)
        self._due = self.training
        if not self.deferring:
            self.commit()
        return loss + 0 * sum(others) if others else loss

    def commit(self) -> None:
        self.steps += self._due
        self.rollback()

    def rollback(self) -> None:
        self._due = False

    def get_extra_state(self) -> Tensor:
        """Number of the next draw."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)


_DRAW = 0x7261
