"""The one teacher whose probabilities are the mean of several teachers'."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError, required
from ..core.objective import Objective, TeacherOutputs
from ..core.representation import Representation


def mean_logits(objective: Objective, teachers: Sequence[Representation | None]) -> Tensor:
    """The logits whose probabilities are the mean of the teachers' at the temperature at which an objective reads."""
    temperature = read_temperature(objective)
    softened = torch.stack([precise(logits) / temperature for logits in logits_of(teachers)])
    if objective.per_class:
        # The logit of the mean of the sigmoids.
        mean = torch.logsumexp(F.logsigmoid(softened), 0) - torch.logsumexp(F.logsigmoid(-softened), 0)
    else:
        mean = torch.logsumexp(F.log_softmax(softened, dim=2), 0) - math.log(len(teachers))
    return temperature * mean


def read_temperature(objective: Objective) -> float:
    """The one at which an objective reads its teacher; 1 where it has none.

    Raises:
        UsageError: It reads at several, at each of which the mean of the probabilities is another.
    """
    several = getattr(objective, "temperatures", ())
    several = several if isinstance(several, (list, tuple)) else ()  # of one's own it may be something else
    if len(several) > 1:
        raise UsageError(
            "ensemble.rule=average takes the mean of the teachers' probabilities at one temperature, and objective "
            f"{type(objective).__name__} reads them at {', '.join(f'{value:g}' for value in several)}: set a single "
            "one, or rule=sum"
        )
    return float(several[0] if several else getattr(objective, "temperature", 1.0))


class MeanOutputs:
    """The outputs of the one teacher that ``average`` makes of several."""

    def __init__(self, objective: Objective, teachers: Sequence[TeacherOutputs]) -> None:
        self.objective, self.teachers = objective, teachers
        self.cached = all(teacher.cached for teacher in teachers)

    def sample(self, needs: Collection[str]) -> Representation:
        return Representation(logits=mean_logits(self.objective, [teacher.sample(needs) for teacher in self.teachers]))

    def all(self, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        for batches in zip(*(teacher.all(needs) for teacher in self.teachers), strict=True):
            # In the same order for every teacher.
            yield batches[0][0], Representation(logits=mean_logits(self.objective, [outputs for _, outputs in batches]))


def logits_of(teachers: Sequence[Representation | None]) -> list[Tensor]:
    return [required(teacher, "teacher").require_logits() for teacher in teachers]


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 at least: half precision would round the small probabilities away."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
