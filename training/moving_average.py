"""The moving average of the student's weights, which is evaluated and saved in the student's place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn

from ..core.as_before import AsBefore
from ..core.errors import ContrastillError
from ..core.plain_state import plain_attributes
from ..core.plain_values import copied, has_graph, put_back
from ..core.representation import Network

_PREFIX = "ema."


class MovingAverage:
    """An exponential moving average of a student's weights and of its BatchNorm statistics.

    Buffers with ``persistent=False``, which may be masks of infinite values, are the student's latest, and so are plain
    attributes that its own parts keep, as counters, but for their mode.

    After step t, from 0, it is d · average + (1 − d) · student with d = min(decay, (1 + t) / (10 + t)): what
    training begins with is forgotten within the first steps, also of a short one.

    Args:
        student: Whose weights are averaged; it stays as it is.
        decay: Of a step, in (0, 1).

    Attributes:
        network: With the averaged weights, in eval mode.
    """

    def __init__(self, student: Network, decay: float) -> None:
        self.network = deepcopy(student).freeze()
        self._student, self._decay = student, decay
        self._names = frozenset(self.network.state_dict())
        self._tensors = dict(_tensors(self.network, self._names))
        # A part may have changed its weights on the way to eval mode, as one that adds low-rank ones then.
        with torch.no_grad():
            own = self._own()
            for name, value in _tensors(student, self._names):
                own[name].copy_(value.detach())
        # A mean of infinite values, as those of an attention mask, is NaN.
        self._masks = {name for name, value in own.items() if value.is_floating_point() and value.isinf().any()}
        self._copy_others()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the student's weights after optimiser step ``step``, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # Both are read anew at each step: to share a model out over processes, and a network that takes its weights in
        # another order in memory, give parameters other memory.
        own = self._own()
        weights = {name: value.detach() for name, value in _tensors(self._student, self._names)}
        floats = [
            name
            for name, value in own.items()
            if (value.is_floating_point() or value.is_complex()) and name not in self._masks
        ]
        torch._foreach_lerp_([own[name] for name in floats], [weights[name] for name in floats], 1 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(weights[name])
        self._copy_others()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within it the network may be asked: afterwards it is as before, also of parts that change their weights on
        the way to eval mode, as a layer that merges low-rank ones then does at each.
        """
        before = {name: value.clone() for name, value in self._own().items()}
        counts = AsBefore(self.network.modules())
        try:
            yield
        finally:
            counts.restore()
            with torch.no_grad():
                for name, value in self._own().items():
                    value.copy_(before[name])

    def _own(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._tensors.items()}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {_PREFIX + name: value for name, value in self.network.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state` returned, out of a checkpoint's model.

        Raises:
            ContrastillError: The checkpoint has none.
        """
        own = averaged(state)
        if not own:
            raise ContrastillError(
                "this checkpoint is of a training without train.ema: begin with another out=…, or leave train.ema out"
            )
        self.network.load_state_dict(own)
        self._copy_others()

    @torch.no_grad()
    def _copy_others(self) -> None:
        """What the student's ``state_dict`` leaves out: non-persistent buffers, attributes of a user's own parts."""
        parts = dict(self.network.named_modules())
        self._copy_attributes(parts)
        for place, other in self._student.named_modules():
            if place not in parts:
                continue
            own = parts[place]
            for name in other._non_persistent_buffers_set & own._buffers.keys():
                value, before = other._buffers[name], own._buffers[name]
                if value is not None and before is not None and value.shape == before.shape:
                    before.copy_(value)
                else:
                    own._buffers[name] = None if value is None else value.clone()

    def _copy_attributes(self, parts: Mapping[str, nn.Module]) -> None:
        for place, _, name, value in plain_attributes(self._student.named_modules()):
            if place in parts:
                # With its graph a tensor is what is kept of a pass, to be looked at.
                if not has_graph(value):
                    setattr(parts[place], name, put_back(vars(parts[place]).get(name), copied(value)))


def _tensors(network: Network, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Of the parameters and buffers with these names each once: a shared module has two names for one."""
    for name, value in chain(network.named_parameters(), network.named_buffers()):
        if name in names:
            yield name, value


def averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged student's weights in a checkpoint's model; empty where none were averaged."""
    return {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}


def without_average(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's model without the averaged weights."""
    return {name: value for name, value in state.items() if not name.startswith(_PREFIX)}
