"""Teachers of one architecture as one batched network."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from ..core.attributes import first_difference
from ..core.representation import Network, Representation
from ..core.teachers.live import LiveTeachers
from ..core.teachers.same_outputs import precision_of, same_outputs

log = logging.getLogger(__name__)


class BatchedTeachers(LiveTeachers):
    """Runs teachers of one architecture in one forward pass (torch.func.vmap over their stacked weights).

    The outputs are those of each on its own, up to rounding: on the first batch both are computed and compared.
    Teachers that differ in more than their weights (an attribute, a hook), whose two outputs differ, or that cannot be
    batched are run one after the other, and a warning says so. Whether it is faster depends on the device: small
    networks that leave a GPU idle gain, a CPU's cores are busy with one network already
    (``benchmarks/ensemble_cost.py`` measures it). The stacked weights are a second copy in memory.

    Args:
        teachers: Frozen networks.
    """

    separate = False

    def __init__(self, teachers: Sequence[Network]) -> None:
        super().__init__(teachers)
        self._groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self._stacks: dict[tuple[int, ...], _Stack] = {}
        self._batchable: dict[tuple[int, ...], bool] = {}

    def outputs(
        self, batch: Mapping[str, Tensor], numbers: Sequence[int], needs: Collection[str]
    ) -> list[Representation]:
        asked = tuple(numbers)
        if asked not in self._groups:
            self._groups[asked] = self._grouped(asked)
        outputs: dict[int, Representation] = {}
        for group in self._groups[asked]:
            outputs |= zip(group, self._group_outputs(group, batch, needs), strict=True)
        return [outputs[number] for number in asked]

    def drop_teachers(self) -> None:
        super().drop_teachers()
        self._stacks.clear()

    def _grouped(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """The teachers in groups that differ in their weights alone, in the order of their first."""
        groups: dict[Hashable, list[int]] = {}
        for number in numbers:
            groups.setdefault(_shape(self.teachers[number]), []).append(number)
        return [tuple(group) for group in groups.values()]

    def _group_outputs(
        self, group: tuple[int, ...], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> list[Representation]:
        """Of teachers of one architecture: together where that gives the outputs of each alone, which the first batch
        decides.
        """
        if self._batchable.get(group, False):
            return self._together(group, batch, needs)
        alone = [self.teachers[number](batch, needs) for number in group]
        if len(group) == 1 or group in self._batchable:
            return alone
        reason, together = self._compared(group, alone, batch, needs)
        self._batchable[group] = not reason
        if reason:
            self._stacks.pop(group, None)
            names = f"{', '.join(map(str, group[:-1]))} and {group[-1]}"
            log.warning("ensemble.batched: teachers %s are asked one after the other, as %s", names, reason)
            return alone
        return together

    def _compared(
        self, group: tuple[int, ...], alone: list[Representation], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> tuple[str, list[Representation]]:
        """Why these teachers cannot be batched, or nothing; and their outputs together."""
        teachers = [self.teachers[number] for number in group]
        if difference := first_difference([teacher.module for teacher in teachers]):
            return difference, []
        try:
            # Neither a teacher that draws nor the comparison may move the generators of the training.
            with torch.random.fork_rng():
                together = self._together(group, batch, needs)
        except Exception as error:  # whatever vmap, or a module under it, raises
            self._stacks.pop(group, None)
            return f"they cannot be batched ({' '.join(str(error).split())[:200] or type(error).__name__})", []
        precision = precision_of(teachers[0], batch[teachers[0].modality].device)
        if not all(same_outputs(*pair, precision) for pair in zip(together, alone, strict=True)):
            return "batched they give other outputs than each on its own", []
        return "", together

    @torch.no_grad()
    def _together(
        self, group: tuple[int, ...], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> list[Representation]:
        stack = self._stacked(group)
        images = {stack.skeleton.modality: batch[stack.skeleton.modality]}

        # vmap passes None through in no place, so only the tensors that are there are batched.
        def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, ...]:
            outputs: Representation = functional_call(stack.skeleton, (parameters, buffers), (images, needs))
            return outputs.tensors()

        tensors = torch.vmap(forward, randomness="different")(stack.parameters, stack.buffers)
        return [_representation([tensor[place] for tensor in tensors], needs) for place in range(len(group))]

    def _stacked(self, group: tuple[int, ...]) -> _Stack:
        """The teachers' weights on the device they are on, stacked once."""
        teachers = [self.teachers[number] for number in group]
        device = next((value.device for value in _tensors(teachers[0]).values()), None)
        stack = self._stacks.get(group)
        if stack is None or stack.device != device:
            # By each of their names: on "meta" a tied weight is no longer tied, and one without a value would be left.
            parameters = _stacks([dict(teacher.named_parameters(remove_duplicate=False)) for teacher in teachers])
            buffers = _stacks([dict(teacher.named_buffers(remove_duplicate=False)) for teacher in teachers])
            stack = _Stack(copy.deepcopy(teachers[0]).to("meta"), parameters, buffers, device)
            self._stacks[group] = stack
        return stack


@dataclass(frozen=True)
class _Stack:
    """A network without weights, and the weights and buffers of several of its architecture by name: (teachers, …)."""

    skeleton: Network
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    device: torch.device | None


def _representation(tensors: Sequence[Tensor], needs: Collection[str]) -> Representation:
    """The inverse of :meth:`Representation.tensors`."""
    rest = list(tensors)
    logits, embedding = (rest.pop(0) if part in needs else None for part in ("logits", "embedding"))
    prediction = rest.pop() if "prediction" in needs else None
    return Representation(logits, embedding, tuple(rest), prediction)


def _stacks(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Name -> (teachers, …); a tensor that has several names in every teacher is stacked once."""
    stacked: dict[tuple[int, ...], Tensor] = {}
    by_name = {}
    for name in states[0]:
        values = [state[name].detach() for state in states]
        key = tuple(map(id, (state[name] for state in states)))
        if key not in stacked:
            stacked[key] = torch.stack(values)
        by_name[name] = stacked[key]
    return by_name


def _tensors(teacher: Network) -> dict[str, Tensor]:
    """Parameters and buffers by all their names, those that no checkpoint holds among them."""
    return {
        **dict(teacher.named_parameters(remove_duplicate=False)),
        **dict(teacher.named_buffers(remove_duplicate=False)),
    }


def _shape(teacher: Network) -> Hashable:
    """All of a network but its weights."""
    state = tuple((name, tuple(value.shape), value.dtype, value.device) for name, value in _tensors(teacher).items())
    return (
        type(teacher.module),
        str(teacher.module),
        state,
        teacher.taps,
        teacher.preprocess,
        teacher.modality,
        teacher.precision,
        _classes(teacher),
    )


def _classes(teacher: Network) -> tuple[int, ...] | None:
    return None if teacher.classes is None else tuple(teacher.classes.tolist())
