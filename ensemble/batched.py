"""Teachers of one architecture as one batched network."""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from ..core.representation import Network, Representation


class Batched:
    """Asks teachers what they say about a batch; those of one architecture answer together (torch.func.vmap over their stacked weights).

    The answers are those of each on its own, up to rounding. Whether it is faster depends on the device: small networks that leave a GPU idle gain, a CPU's cores are
    busy with one network already (``benchmarks/ensemble_cost.py`` measures it where you are). The stacked weights are a second copy in memory.

    Shape:
        - a batch of B samples -> for each teacher its :class:`~contrastill.Representation`.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[int, ...], list[list[int]]] = {}
        self._stacks: dict[tuple[int, ...], tuple[Network, dict[str, Tensor], dict[str, Tensor]]] = {}

    def __call__(self, teachers: Sequence[Network], batch: Mapping[str, Tensor], needs: Collection[str]) -> list[Representation]:
        said: list[Representation | None] = [None] * len(teachers)
        key = tuple(id(teacher) for teacher in teachers)
        if key not in self._groups:
            self._groups[key] = _alike(teachers)
        for places in self._groups[key]:
            if len(places) == 1:
                said[places[0]] = teachers[places[0]](batch, needs)
                continue
            for place, one in zip(places, self._together([teachers[place] for place in places], batch, needs), strict=True):
                said[place] = one
        return said

    @torch.no_grad()
    def _together(self, teachers: list[Network], batch: Mapping[str, Tensor], needs: Collection[str]) -> list[Representation]:
        skeleton, parameters, buffers = self._stacked(teachers)
        images = {skeleton.modality: batch[skeleton.modality]}

        def look(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple:
            one = functional_call(skeleton, (parameters, buffers), (images, needs))
            return one.logits, one.embedding, one.maps

        # vmap passes None through in no place, so only what is there is batched.
        def there(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
            logits, embedding, maps = look(parameters, buffers)
            fields = {"logits": logits, "embedding": embedding} | {f"maps.{place}": value for place, value in enumerate(maps)}
            return {name: value for name, value in fields.items() if value is not None}

        fields = torch.vmap(there, randomness="different")(parameters, buffers)
        maps = sorted((name for name in fields if name.startswith("maps.")), key=lambda name: int(name[5:]))

        def of(name: str, number: int) -> Tensor | None:
            return fields[name][number] if name in fields else None

        return [Representation(of("logits", n), of("embedding", n), tuple(fields[name][n] for name in maps)) for n in range(len(teachers))]

    def _stacked(self, teachers: list[Network]) -> tuple[Network, dict[str, Tensor], dict[str, Tensor]]:
        """A network without weights, and the weights and buffers of all of them, stacked once."""
        key = tuple(id(teacher) for teacher in teachers)
        device = next(teachers[0].parameters()).device
        held = self._stacks.get(key)
        if held is None or next(iter(held[1].values())).device != device:
            parameters, buffers = stack_module_state(teachers)
            held = copy.deepcopy(teachers[0]).to("meta"), {name: value.detach() for name, value in parameters.items()}, buffers
            self._stacks[key] = held
        return held


def _alike(teachers: Sequence[Network]) -> list[list[int]]:
    """Places of the teachers in groups that differ in their weights alone, in the order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for place, teacher in enumerate(teachers):
        groups.setdefault(_shape(teacher), []).append(place)
    return list(groups.values())


def _shape(teacher: Network) -> Hashable:
    """All of a network but its weights."""
    state = tuple((name, tuple(value.shape), value.dtype) for name, value in teacher.state_dict().items())
    return str(teacher.module), state, teacher.taps, teacher.preprocess, teacher.modality, _classes(teacher)


def _classes(teacher: Network) -> tuple[int, ...] | None:
    return None if teacher.classes is None else tuple(teacher.classes.tolist())
