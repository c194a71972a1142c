"""What losses and students of a user's own count or collect in plain attributes and in buffers with
``persistent=False``, which a module's ``state_dict`` leaves out.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .objective import Objective
from .user_code import LIBRARIES, definition, is_own

log = logging.getLogger(__name__)

_LEFT_OUT = frozenset({*vars(nn.Module()), *vars(Objective()), "in_transfer"})
"""Attributes of every objective, which it writes anew in each pass or the training sets."""
_TUPLE, _DICT = "tuple:", "dict:"
_STUDENT, _ATTRIBUTE = "student:", "attribute:"
_LARGEST = 2**24
"""Bytes of a tensor in an attribute that a checkpoint has; a larger one is mostly what was kept to be looked at."""
_OTHERS = (Tensor, np.ndarray, np.generic, set, deque)
"""What may be collected too, and JSON does not hold."""


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
            (name, key): _remembered(value)
            for values in (self._attributes(), self._buffers())
            for name, _, key, value in values
        }

    def changed(self) -> dict[str, dict[str, Any]]:
        """For a checkpoint: of each part the attributes that are others than before, as JSON has them. A line names
        those that JSON cannot hold.
        """
        state: dict[str, dict[str, Any]] = {}
        lost = []
        for name, part, key, value in self._attributes():
            if not self._is_changed(name, key, value):
                continue
            if _is_plain(value):
                state.setdefault(name, {})[key] = _to_json(value)
            elif isinstance(value, Tensor) and (_is_saved(value) or name.startswith(_STUDENT) and value.requires_grad):
                # With its graph a tensor of a student is what it keeps of each pass for others to look at.
                continue
            else:
                lost.append(f"{key} of {type(part).__name__}")
        if lost and not self._warned:
            self._warned = True
            log.warning(
                "%s changed in the training and is in no checkpoint: where a later step reads it, keep it as a tensor "
                "of self.register_buffer(name, tensor), or as numbers and lists of them",
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
        tensors = {
            f"{_ATTRIBUTE}{name}.{key}": value
            for name, _, key, value in self._attributes()
            if isinstance(value, Tensor) and _is_saved(value) and self._is_changed(name, key, value)
        }
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
                setattr(parts[name], key, _from_json(value))
        for place, value in buffers.items():
            name, _, key = place.removeprefix(_ATTRIBUTE).rpartition(".")
            if name not in parts:
                continue
            if place.startswith(_ATTRIBUTE):
                own = vars(parts[name]).get(key)
                like = own if isinstance(own, Tensor) else None
                setattr(parts[name], key, value.to(_device(like, *parts[name].parameters(), *self._parameters())))
                continue
            own = parts[name]._buffers.get(key)
            if own is not None and own.shape == value.shape and own.dtype == value.dtype:
                own.copy_(value)  # in place: other processes are given this tensor's values
            else:
                device = _device(own, *parts[name].parameters(), *self._parameters())
                parts[name].register_buffer(key, value.to(device), persistent=False)

    def _attributes(self) -> Iterator[tuple[str, nn.Module, str, Any]]:
        return plain_attributes(self._parts())

    def _buffers(self) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
        """The non-persistent ones; contrastill's parts write theirs anew at each start."""
        for name, part in self._parts():
            if not is_own(type(part)):
                for key in sorted(part._non_persistent_buffers_set & part._buffers.keys()):
                    yield name, part, key, part._buffers[key]

    def _is_changed(self, name: str, key: str, value: Any) -> bool:
        return (name, key) not in self._before or not _same(self._before[name, key], _remembered(value))

    def _parameters(self) -> Iterator[Tensor]:
        for module in (self._student, self._terms):
            yield from () if module is None else module.parameters()

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self._terms.named_modules()
        if self._student is not None:
            for name, part in self._student.named_modules():
                yield f"{_STUDENT}{name}", part


def plain_attributes(parts: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Name, part, key and value of the numbers, tensors and lists that parts of a user's own hold in attributes."""
    for name, part in parts:
        if is_own(type(part)) or definition(type(part)).__module__.partition(".")[0] in LIBRARIES:
            continue
        for key, value in vars(part).items():
            if key not in _LEFT_OUT and (_is_plain(value) or isinstance(value, _OTHERS)):
                yield name, part, key, value


def _remembered(value: Any) -> Any:
    """What tells later whether a value changed: of a tensor, which may be large, itself and how often it was written
    to.
    """
    if isinstance(value, Tensor) and value.is_inference():
        return value, 0  # never written to outside inference mode, and torch counts nothing
    return (value, value._version) if isinstance(value, Tensor) else copy.deepcopy(value)


def _is_saved(value: Tensor) -> bool:
    """Whether a checkpoint has a tensor that is an attribute."""
    plain = value.layout == torch.strided and not value.is_quantized and not value.is_nested
    return plain and not value.requires_grad and value.nbytes <= _LARGEST


def _device(*tensors: Tensor | None) -> torch.device:
    """Of the first that is there."""
    return next((tensor.device for tensor in tensors if tensor is not None), torch.device("cpu"))


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, tuple) and before and isinstance(before[0], Tensor):
        return isinstance(now, tuple) and bool(now) and before[0] is now[0] and before[1] == now[1]
    if isinstance(before, (np.ndarray, np.generic)) or isinstance(now, (np.ndarray, np.generic)):
        return type(before) is type(now) and bool(np.array_equal(before, now))
    return type(before) is type(now) and bool(before == now)


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value, *value.values())))
    return value is None or type(value) in (bool, int, float, str)


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {_DICT: [[_to_json(key), _to_json(inner)] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_to_json(inner) for inner in value]}
    return [_to_json(inner) for inner in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(inner) for inner in value]
    if isinstance(value, dict):
        if _TUPLE in value:
            return tuple(_from_json(inner) for inner in value[_TUPLE])
        return {_from_json(key): _from_json(inner) for key, inner in value[_DICT]}
    return value
