"""What a transfer asks for teacher outputs, whether they are computed or read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import unknown_name
from ..objective import TeacherOutputs
from ..representation import PARTS, Representation

if TYPE_CHECKING:
    from ..representation import Network


@dataclass(frozen=True, order=True)
class OutputKey:
    """One part of one teacher's outputs.

    Attributes:
        teacher: The teacher's number.
        part: Of the representation.
    """

    teacher: int
    part: str


class TeacherSource(ABC):
    """Gives the outputs of all teachers of a transfer for its batches.

    Attributes:
        teachers: The networks, by number; none where all outputs are read.
        separate: Whether each teacher runs a forward pass of its own, so that it can be compiled by itself.
        epoch: The one under way, from 0.
        complete: Whether all outputs of the training were there from the start, so that it needs no teacher.
    """

    teachers: Sequence[Network] = ()
    separate = True
    epoch = 0
    complete = False

    def start_epoch(self, epoch: int) -> None:
        """Called on every rank before the batches of an epoch, outside of autocast."""
        self.epoch = epoch

    @abstractmethod
    def outputs(
        self, batch: Mapping[str, Tensor], numbers: Sequence[int], needs: Collection[str]
    ) -> list[Representation]:
        """The outputs of teachers for a batch of the epoch under way.

        Args:
            batch: Modalities (B, …) and ``index`` (B,).
            numbers: The teachers that are asked.
            needs: Parts of the representation.

        Returns:
            One for each of ``numbers``.
        """

    def drop_teachers(self) -> None:
        """Free the networks: from now on no outputs are computed."""
        self.teachers = ()

    @abstractmethod
    def training_outputs(self, number: int, loader: Any) -> TeacherOutputs:
        """A teacher's outputs for the first view of all training samples, none mixed with another; nothing is computed
        before it is read.

        Args:
            number: The teacher's.
            loader: Of the training samples.
        """


def check_parts(needs: Collection[str]) -> Collection[str]:
    """The parts of a representation that ``needs`` names; one text names one.

    Raises:
        UsageError: There is no such part.
    """
    parts = (needs,) if isinstance(needs, str) else needs
    for part in parts:
        if part not in PARTS:
            raise unknown_name("part of a representation", part, PARTS)
    return parts
