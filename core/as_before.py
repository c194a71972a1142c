"""What forward passes count, write and replace in modules, put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from .plain_state import plain_attributes
from .plain_values import copied, has_graph, is_collected, put_back, remembered, same


class AsBefore:
    """What modules have beside their weights: buffers, and in parts of a user's own the plain attributes.

    Args:
        modules: Each part for itself, as ``modules()`` gives them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._parts = [(module, {**vars(module)}) for module in modules]
        self._buffers = [(part, {**part._buffers}, {*part._non_persistent_buffers_set}) for part, _ in self._parts]
        buffers = {id(value): value for _, named, _ in self._buffers for value in named.values() if value is not None}
        self._values = [(buffer, buffer.detach().clone()) for buffer in buffers.values()]
        self._attributes = [
            (part, name, remembered(value), value if has_graph(value) else copied(value))
            for part, name, value in self._plain()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put all of it back."""
        for part, named, passing in self._buffers:
            part._buffers.clear()
            part._buffers.update(named)
            part._non_persistent_buffers_set = passing
        for buffer, value in self._values:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
        names = {id(part): before for part, before in self._parts}
        for part, name, _ in [*self._plain()]:
            if name not in names[id(part)]:
                delattr(part, name)
        for part, name, seen, value in self._attributes:
            now = vars(part).get(name, self)
            if not (is_collected(now) and same(seen, remembered(now))):
                setattr(part, name, put_back(names[id(part)][name], value))

    def _plain(self) -> Iterator[tuple[nn.Module, str, Any]]:
        for _, part, name, value in plain_attributes(("", part) for part, _ in self._parts):
            yield part, name, value
