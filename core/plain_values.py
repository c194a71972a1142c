"""Values that a part of a user's own keeps in an attribute: numbers, text, tensors, and lists and dicts of these; how
they are copied, compared, and written as JSON with the tensors beside it.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TUPLE, _DICT, _TENSOR, _ON_CPU, _ARRAY, _NUMBER = "tuple:", "dict:", "tensor:", "cpu:", "array:", "number:"
_DICTS: dict[type, str] = {dict: _DICT, OrderedDict: "ordered:", Counter: "counter:", defaultdict: "default:"}
_FACTORIES = {kind.__name__: kind for kind in (int, float, bool, str, list, tuple, dict, set)}
_ARRAYS = frozenset({"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"})
_LARGEST = 2**24
"""Bytes of the tensors of an attribute that a checkpoint has; more is mostly what was kept to be looked at."""
_DEEPEST = 20
_OTHERS = (Tensor, np.ndarray, np.generic, set, deque)
"""What may be collected beside numbers and text."""


def is_collected(value: Any) -> bool:
    """Whether it is of numbers, text, tensors and arrays alone, in lists, dicts, sets and deques or not."""
    return all(_is_plain(leaf) or isinstance(leaf, _OTHERS) for leaf in _leaves(value))


def is_written(value: Any) -> bool:
    """Whether a checkpoint has it."""
    leaves = [*_leaves(value)]
    large = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, (Tensor, np.ndarray)) and _is_leaf_written(leaf))
    return large <= _LARGEST and all(map(_is_leaf_written, leaves))


def has_graph(value: Any) -> bool:
    """Whether there is a tensor with a gradient in it."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in _leaves(value))


def copied(value: Any) -> Any:
    """A copy that shares no memory, with tensors outside of any graph."""
    if _is_plain(value):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    if type(value) is deque:
        return deque(map(copied, value), value.maxlen)
    if type(value) in _DICTS:
        other = copy.copy(value)
        for key, inner in value.items():
            other[key] = copied(inner)
        return other
    return copy.deepcopy(value)


def remembered(value: Any) -> Any:
    """What tells later whether a value changed: of a tensor, which may be large, itself and how often it was written
    to.
    """
    if _is_plain(value):
        return value
    if isinstance(value, Tensor):
        # Of inference mode it is never written to outside, and torch counts nothing.
        return _Seen(value, 0 if value.is_inference() else value._version)
    if type(value) in (list, tuple, deque):
        return [type(value), *map(remembered, value)]
    if type(value) in _DICTS:
        return [type(value), *((key, remembered(inner)) for key, inner in value.items())]
    return copy.deepcopy(value)


def same(before: Any, now: Any) -> bool:
    """Whether two that were :func:`remembered` are of one value."""
    if isinstance(before, _Seen) and isinstance(now, _Seen):
        return before.tensor is now.tensor and before.version == now.version
    if type(before) is not type(now):
        return False
    if isinstance(before, (np.ndarray, np.generic)):
        return bool(np.array_equal(before, now))
    if isinstance(before, (list, tuple)):
        return len(before) == len(now) and all(map(same, before, now))
    return bool(before == now)


def put_back(place: Any, value: Any) -> Any:
    """A value in the tensor or collection that was there, which other parts and hooks may have too, with the content of
    another; where that is of another kind, the other.
    """
    if place is value or type(place) is not type(value):
        return value
    if isinstance(place, Tensor):
        alike = (place.shape, place.dtype, place.device) == (value.shape, value.dtype, value.device)
        if alike and place.is_contiguous() and not (place.requires_grad or place.is_inference()):
            return place.copy_(value)
        return value
    if type(place) is list:
        place[:] = value
    elif type(place) is deque and place.maxlen == value.maxlen:
        place.clear()
        place.extend(value)
    elif type(place) in _DICTS:
        place.clear()
        for key, inner in value.items():  # a Counter's update would add
            place[key] = inner
    else:
        return value
    return place


def to_json(value: Any, tensors: list[Tensor], device: torch.device) -> Any:
    """A value as JSON has it; its tensors are added to ``tensors``, and the JSON has their places there.

    Args:
        value: Of which :func:`is_written` is true.
        tensors: Grows.
        device: Of the weights: a tensor on the CPU beside those on another stays there.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        tensors.append(value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value)))
        tensor = _ON_CPU if tensors[-1].device.type == "cpu" != device.type else _TENSOR
        return {tensor if isinstance(value, Tensor) else _ARRAY: len(tensors) - 1}
    if isinstance(value, np.generic):
        return {_NUMBER: [value.dtype.str, value.item()]}
    if type(value) in _DICTS:
        pairs = [[to_json(each, tensors, device) for each in pair] for pair in value.items()]
        factory = [getattr(value.default_factory, "__name__", None)] if type(value) is defaultdict else []
        return {_DICTS[type(value)]: factory + pairs}
    if isinstance(value, tuple):
        return {_TUPLE: [to_json(inner, tensors, device) for inner in value]}
    return [to_json(inner, tensors, device) for inner in value] if isinstance(value, list) else value


def from_json(value: Any, tensor: Callable[[int], Tensor]) -> Any:
    """The value that :func:`to_json` wrote.

    Args:
        value: As JSON has it.
        tensor: Gives the tensor of a place, on the device of the weights.
    """
    if isinstance(value, list):
        return [from_json(inner, tensor) for inner in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == _TENSOR:
        return tensor(content)
    if kind == _ON_CPU:
        return tensor(content).cpu()
    if kind == _ARRAY:
        return tensor(content).cpu().numpy()
    if kind == _NUMBER:
        return np.dtype(content[0]).type(content[1])
    if kind == _TUPLE:
        return tuple(from_json(inner, tensor) for inner in content)
    made: Any = next(each for each, name in _DICTS.items() if name == kind)()
    if kind == _DICTS[defaultdict]:
        factory, *content = content
        made.default_factory = None if factory is None else _FACTORIES[factory]
    for key, inner in content:
        made[from_json(key, tensor)] = from_json(inner, tensor)
    return made


class _Seen:
    """A tensor, and how often it had been written to."""

    def __init__(self, tensor: Tensor, version: int) -> None:
        self.tensor, self.version = tensor, version


def _leaves(value: Any, depth: int = _DEEPEST) -> Iterator[Any]:
    """What lists and dicts hold in the end, keys too; of those too deep, or that hold themselves, the inner one."""
    if depth and type(value) in (list, tuple):
        for inner in value:
            yield from _leaves(inner, depth - 1)
    elif depth and type(value) in _DICTS:
        # A factory of another kind is what a checkpoint cannot name.
        if getattr(value, "default_factory", None) not in (None, *_FACTORIES.values()):
            yield {value.default_factory}
        for key, inner in value.items():
            yield from _leaves(key, depth - 1)
            yield from _leaves(inner, depth - 1)
    else:
        yield value


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _is_leaf_written(value: Any) -> bool:
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_quantized and not value.is_nested
        return plain and not value.requires_grad
    if isinstance(value, np.ndarray):
        return type(value) is np.ndarray and value.dtype.name in _ARRAYS and value.dtype.isnative
    if isinstance(value, np.generic):
        return value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
    return _is_plain(value)
