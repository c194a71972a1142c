"""What of modules is neither a weight nor a buffer: plain attributes, hooks, training flags."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Of nn.Module's own dictionary: what is compared apart, or says nothing about the outputs.
_ASIDE = {
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
    "_backward_hooks",
    "_backward_pre_hooks",
}


def first_difference(modules: Sequence[nn.Module]) -> str:
    """Where modules of one architecture differ in more than their weights and buffers, in words; empty where they do
    not as far as can be compared.

    Numbers, texts, flags, dtypes, tensors and arrays, also in tuples, lists and mappings, are compared by value; other
    objects by their class alone.
    """
    for pairs in zip(*(list(_places(module)) for module in modules), strict=True):
        name, (first, *others) = pairs[0][0], [attributes for _, attributes in pairs]
        for attribute in sorted({key for each in (first, *others) for key in each}):
            if "_hooks" in attribute and any(each.get(attribute) for each in (first, *others)):
                return f"one has hooks on {name or 'its module'}"
            if any(_plain(each.get(attribute)) != _plain(first.get(attribute)) for each in others):
                return f"they differ in {f'{name}.' if name else ''}{attribute}"
    return ""


def _places(module: nn.Module) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, inner in module.named_modules():
        attributes = {key: value for key, value in vars(inner).items() if key not in _ASIDE}
        yield name, attributes | {"class": f"{type(inner).__module__}.{type(inner).__qualname__}"}


def _plain(value: Any) -> Hashable:
    """A value that can be compared: by content where it is data, else by its class."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return type(value).__name__, repr(value)
    if isinstance(value, (Tensor, np.ndarray)):
        array = (
            value.detach().cpu().contiguous()
            if isinstance(value, Tensor)
            else torch.from_numpy(value.copy())
            if value.dtype.kind in "biuf"
            else None
        )
        if array is None:
            return type(value).__name__, repr(value)
        return str(array.dtype), tuple(array.shape), array.flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return type(value).__name__, tuple((str(key), _plain(inner)) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(_plain, value))
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, tuple(sorted(map(repr, value)))
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__module__, value.__qualname__
    return f"{type(value).__module__}.{type(value).__qualname__}"
