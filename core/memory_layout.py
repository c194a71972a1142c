"""The order in memory of a network's weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def channels_last(module: _Module) -> _Module:
    """Put the channels of weights (O, C, H, W) last in memory, in place; returns the module.

    ``module.to(memory_format=torch.channels_last)`` fails where another weight has five dimensions.
    """
    return module._apply(lambda value: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value)
