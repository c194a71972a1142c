"""Teachers that run a forward pass for each batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..objective import TeacherOutputs
from ..representation import Network, Representation
from .source import TeacherSource
from .views import LiveTeacherOutputs, TeacherViews, unmixed


class LiveTeachers(TeacherSource):
    """Runs the teachers one after the other.

    Args:
        teachers: Frozen networks.
    """

    def __init__(self, teachers: Sequence[Network]) -> None:
        self.teachers = list(teachers)

    def outputs(
        self, batch: Mapping[str, Tensor], numbers: Sequence[int], needs: Collection[str]
    ) -> list[Representation]:
        return [self.teachers[number](batch, needs) for number in numbers]

    def training_outputs(self, number: int, loader: Any) -> TeacherOutputs:
        return LiveTeacherOutputs(TeacherViews(unmixed(loader), self), number)
