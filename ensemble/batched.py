"""Teachers of one architecture as one batched network."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Hashable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from ..core.attributes import first_difference
from ..core.representation import Network, Representation
from ..core.teachers.same_outputs import precision_of, same_outputs

log = logging.getLogger(__name__)


class Batched:
    """Asks teachers what they say about a batch; those of one architecture answer together (torch.func.vmap over their
    stacked weights).

    The answers are those of each on its own, up to rounding: on the first batch both are computed and compared.
        Teachers that differ in more than their weights (an
    attribute, a hook), whose two answers differ, or that cannot be batched are asked one after the other, and a warning
    says so. Whether it is faster depends on the device: small networks that leave a GPU idle gain, a CPU's cores are
        busy with one network already (``benchmarks/ensemble_cost.py`` measures it where you are). The stacked weights
        are a second copy in memory.

    Shape:
        - a batch of B samples -> for each teacher its :class:`~contrastill.Representation`.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[int, ...], list[list[int]]] = {}
        self._stacks: dict[tuple[int, ...], tuple[Network, dict[str, Tensor], dict[str, Tensor]]] = {}
        self._batchable: dict[tuple[int, ...], bool] = {}

    def __call__(
        self, teachers: Sequence[Network], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> list[Representation]:
        said: list[Representation | None] = [None] * len(teachers)
        key = tuple(id(teacher) for teacher in teachers)
        if key not in self._groups:
            self._groups[key] = _alike(teachers)
        for places in self._groups[key]:
            for place, one in zip(
                places, self._answers([teachers[place] for place in places], places, batch, needs), strict=True
            ):
                said[place] = one
        return said

    def _answers(
        self, teachers: list[Network], places: list[int], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> list[Representation]:
        """Of teachers of one architecture: together where that gives the answers of each alone, which the first batch
        decides.
        """
        key = tuple(id(teacher) for teacher in teachers)
        if self._batchable.get(key, False):
            return self._together(teachers, batch, needs)
        alone = [teacher(batch, needs) for teacher in teachers]
        if len(teachers) == 1 or key in self._batchable:
            return alone
        reason, together = self._compared(teachers, alone, batch, needs)
        self._batchable[key] = not reason
        if reason:
            self._stacks.pop(key, None)
            names = f"{', '.join(map(str, places[:-1]))} and {places[-1]}"
            log.warning("ensemble.batched: teachers %s are asked one after the other, as %s", names, reason)
            return alone
        return together

    def _compared(
        self, teachers: list[Network], alone: list[Representation], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> tuple[str, list[Representation]]:
        """Why these teachers cannot answer together, or nothing; and what they answer together."""
        if difference := first_difference([teacher.module for teacher in teachers]):
            return difference, []
        try:
            # Neither a teacher that draws nor the comparison may move the generators of the training.
            with torch.random.fork_rng():
                together = self._together(teachers, batch, needs)
        except Exception as error:  # whatever vmap, or a module under it, raises
            self._stacks.pop(tuple(id(teacher) for teacher in teachers), None)
            return f"they cannot be batched ({' '.join(str(error).split())[:200] or type(error).__name__})", []
        precision = precision_of(teachers[0], batch[teachers[0].modality].device)
        if not all(same_outputs(one, other, precision) for one, other in zip(together, alone, strict=True)):
            return "batched they give other outputs than each on its own", []
        return "", together

    @torch.no_grad()
    def _together(
        self, teachers: list[Network], batch: Mapping[str, Tensor], needs: Collection[str]
    ) -> list[Representation]:
        skeleton, parameters, buffers = self._stacked(teachers)
        images = {skeleton.modality: batch[skeleton.modality]}

        def look(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple:
            one = functional_call(skeleton, (parameters, buffers), (images, needs))
            return one.logits, one.embedding, one.maps

        # vmap passes None through in no place, so only what is there is batched.
        def there(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
            logits, embedding, maps = look(parameters, buffers)
            fields = {"logits": logits, "embedding": embedding} | {
                f"maps.{place}": value for place, value in enumerate(maps)
            }
            return {name: value for name, value in fields.items() if value is not None}

        fields = torch.vmap(there, randomness="different")(parameters, buffers)
        maps = sorted((name for name in fields if name.startswith("maps.")), key=lambda name: int(name[5:]))

        def of(name: str, number: int) -> Tensor | None:
            return fields[name][number] if name in fields else None

        return [
            Representation(of("logits", n), of("embedding", n), tuple(fields[name][n] for name in maps))
            for n in range(len(teachers))
        ]

    def _stacked(self, teachers: list[Network]) -> tuple[Network, dict[str, Tensor], dict[str, Tensor]]:
        """A network without weights, and the weights and buffers of all of them, stacked once."""
        key = tuple(id(teacher) for teacher in teachers)
        device = next((value.device for value in _tensors(teachers[0]).values()), None)
        held = self._stacks.get(key)
        if held is None or next((value.device for value in {**held[1], **held[2]}.values()), None) != device:
            # By each of their names: on "meta" a tied weight is no longer tied, and one without a value would be left.
            parameters = _stacks([dict(teacher.named_parameters(remove_duplicate=False)) for teacher in teachers])
            buffers = _stacks([dict(teacher.named_buffers(remove_duplicate=False)) for teacher in teachers])
            held = copy.deepcopy(teachers[0]).to("meta"), parameters, buffers
            self._stacks[key] = held
        return held


def _stacks(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Name -> (teachers, …); a tensor that has several names in every teacher is stacked once."""
    stacked: dict[tuple[int, ...], Tensor] = {}
    found = {}
    for name in states[0]:
        values = [state[name].detach() for state in states]
        key = tuple(map(id, (state[name] for state in states)))
        if key not in stacked:
            stacked[key] = torch.stack(values)
        found[name] = stacked[key]
    return found


def _tensors(teacher: Network) -> dict[str, Tensor]:
    """Parameters and buffers by all their names, those that no checkpoint holds among them."""
    return {
        **dict(teacher.named_parameters(remove_duplicate=False)),
        **dict(teacher.named_buffers(remove_duplicate=False)),
    }


def _alike(teachers: Sequence[Network]) -> list[list[int]]:
    """Places of the teachers in groups that differ in their weights alone, in the order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for place, teacher in enumerate(teachers):
        groups.setdefault(_shape(teacher), []).append(place)
    return list(groups.values())


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
