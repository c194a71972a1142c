"""Where an objective must not lose digits: autocast off, and everything in float32 at least."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in the widest of their precisions, float32 at least, within a block that autocast does not reach.

    Args:
        tensors: One or more of any shape, all on one device.

    Example:
        >>> half = torch.ones(2, 2, dtype=torch.bfloat16)
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision(half) as (single,):
        ...     (single @ single).dtype
        torch.float32
    """
    dtypes = [tensor.dtype for tensor in tensors]
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield tuple(tensor.to(reduce(torch.promote_types, dtypes, torch.float32)) for tensor in tensors)
