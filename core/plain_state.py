"""What losses and students of a user's own count or collect in plain attributes and in buffers with
``persistent=False``, which a module's ``state_dict`` leaves out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .objective import Objective
from .plain_values import from_json, has_graph, is_collected, is_written, put_back, remembered, same, to_json
from .user_code import LIBRARIES, definition, is_own

log = logging.getLogger(__name__)

_LEFT_OUT = frozenset({*vars(nn.Module()), *vars(Objective()), "in_transfer"})
"""Attributes of every objective, which it writes anew in each pass or the training sets."""
_STUDENT, _ATTRIBUTE, _WITHIN = "student:", "attribute:", "within:"


class PlainState:
    """What a training changes of modules beside their ``state_dict``: plain attributes of parts that are neither
    contrastill's nor a library's, and non-persistent buffers of all parts but contrastill's.

    Args:
        terms: Before the training.
        student: The same.
    """

    def __init__(self, terms: nn.Module, student: nn.Module | None = None) -> None:
        self._terms, self._student, self._warned = terms, student, False
        self._before = {
            (name, key): remembered(value)
            for values in (self._attributes(), self._buffers())
            for name, _, key, value in values
        }

    def changed(self) -> dict[str, dict[str, Any]]:
        """For a checkpoint: of each part the attributes that are others than before, as JSON has them, but for tensors.
        A line names those that a checkpoint cannot hold.
        """
        state: dict[str, dict[str, Any]] = {}
        lost = []
        for name, part, key, value in self._attributes():
            if not self._is_changed(name, key, value):
                continue
            # With its graph a tensor of a student is what it keeps of each pass for others to look at.
            if name.startswith(_STUDENT) and has_graph(value):
                continue
            if not is_written(value):
                lost.append(f"{key} of {type(part).__name__}")
            elif not isinstance(value, Tensor):
                state.setdefault(name, {})[key] = to_json(value, [], self._device(part))
        if lost and not self._warned:
            self._warned = True
            log.warning(
                "%s changed in the training and is in no checkpoint: where a later step reads it, keep it as a tensor "
                "of self.register_buffer(name, tensor), or as numbers, and lists and dicts of either",
                ", ".join(lost),
            )
        for name, _, key, value in self._buffers():
            if value is None and self._is_changed(name, key, value):
                state.setdefault(name, {})[key] = None
        return state

    def changed_buffers(self) -> dict[str, Tensor]:
        """For a checkpoint: the non-persistent buffers and the tensors in attributes that were written or replaced, by
        part and name; buffers that became None are among :meth:`changed`.
        """
        tensors: dict[str, Tensor] = {}
        for name, part, key, value in self._attributes():
            if not (self._is_changed(name, key, value) and is_written(value)):
                continue
            if isinstance(value, Tensor):
                tensors[f"{_ATTRIBUTE}{name}.{key}"] = value
            else:
                within: list[Tensor] = []
                to_json(value, within, self._device(part))
                tensors |= {f"{_WITHIN}{name}.{key}:{place}": inner for place, inner in enumerate(within)}
        return tensors | {
            f"{name}.{key}": value
            for name, _, key, value in self._buffers()
            if value is not None and self._is_changed(name, key, value)
        }

    @torch.no_grad()
    def load(self, state: dict[str, dict[str, Any]], buffers: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`changed` and :meth:`changed_buffers` gave; parts that are no longer there are passed
        over.
        """
        parts = dict(self._parts())
        for name, values in state.items():
            for key, value in values.items() if name in parts else ():
                inner = partial(_inner, buffers, f"{_WITHIN}{name}.{key}", self._device(parts[name]))
                setattr(parts[name], key, put_back(vars(parts[name]).get(key), from_json(value, inner)))
        for place, value in buffers.items():
            if place.startswith(_WITHIN):
                continue
            name, _, key = place.removeprefix(_ATTRIBUTE).rpartition(".")
            if name not in parts:
                continue
            if place.startswith(_ATTRIBUTE):
                own = vars(parts[name]).get(key)
                like = own if isinstance(own, Tensor) else None
                setattr(parts[name], key, value.to(self._device(parts[name], like)))
                continue
            own = parts[name]._buffers.get(key)
            if own is not None and own.shape == value.shape and own.dtype == value.dtype:
                own.copy_(value)  # in place: other processes are given this tensor's values
            else:
                parts[name].register_buffer(key, value.to(self._device(parts[name], own)), persistent=False)

    def _attributes(self) -> Iterator[tuple[str, nn.Module, str, Any]]:
        return plain_attributes(self._parts())

    def _buffers(self) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
        """The non-persistent ones; contrastill's parts write theirs anew at each start."""
        for name, part in self._parts():
            if not is_own(type(part)):
                for key in sorted(part._non_persistent_buffers_set & part._buffers.keys()):
                    yield name, part, key, part._buffers[key]

    def _is_changed(self, name: str, key: str, value: Any) -> bool:
        return (name, key) not in self._before or not same(self._before[name, key], remembered(value))

    def _device(self, part: nn.Module, like: Tensor | None = None) -> torch.device:
        """Of a tensor that is there; else of the part's weights, or of those of any."""
        tensors = (*(() if like is None else (like,)), *part.parameters(), *self._parameters())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def _parameters(self) -> Iterator[Tensor]:
        for module in (self._student, self._terms):
            yield from () if module is None else module.parameters()

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self._terms.named_modules()
        if self._student is not None:
            for name, part in self._student.named_modules():
                yield f"{_STUDENT}{name}", part


def plain_attributes(parts: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Name, part, key and value of what parts of a user's own hold in attributes: numbers, tensors, lists, dicts."""
    for name, part in parts:
        if is_own(type(part)) or definition(type(part)).__module__.partition(".")[0] in LIBRARIES:
            continue
        for key, value in vars(part).items():
            if key not in _LEFT_OUT and is_collected(value):
                yield name, part, key, value


def _inner(buffers: Mapping[str, Tensor], owner: str, device: torch.device, place: int) -> Tensor:
    """A tensor in a list or dict that is an attribute."""
    return buffers[f"{owner}:{place}"].to(device)
