"""Whether what a network returns as logits has been through a softmax or a sigmoid already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SIGMOIDS = (torch.ops.aten.sigmoid, torch.ops.aten.sigmoid_, torch.ops.aten.hardsigmoid, torch.ops.aten.hardsigmoid_)


class _Watch(TorchDispatchMode):
    """Keeps the results of sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "overloadpacket", None) in _SIGMOIDS:
            self.results.append(result)
        return result


def ends_in_sigmoid(logits: Tensor | None, again: Callable[[], Tensor | None]) -> bool:
    """Whether logits are the result of a sigmoid, or a view of it.

    Args:
        logits: Of a network; None where it has none.
        again: Asks it for the same; called only where all logits lie in [0, 1].
    """
    if logits is None or not logits.numel() or bool(((logits < 0) | (logits > 1)).any()):
        return False
    with _Watch() as watch:
        logits = again()
    if logits is None:
        return False
    place = logits.untyped_storage().data_ptr()
    return any(result.untyped_storage().data_ptr() == place for result in watch.results)


def are_probabilities(logits: Tensor) -> bool:
    """Whether each row (C,) of two classes or more is non-negative and sums to 1."""
    if logits.shape[1] < 2 or not len(logits):
        return False
    ones = (logits.float().sum(1) - 1).abs().max() < 1e-3
    return bool(ones and logits.min() >= 0)
