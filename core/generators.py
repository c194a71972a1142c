"""The global generators of Python, NumPy and torch, which belong to whoever calls this package."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def own_generators(*, device: bool = True) -> Iterator[None]:
    """Within it the global generators may be seeded; afterwards those of Python, NumPy and torch are as they were.

    Args:
        device: Whether that of the CUDA device is put back too, which waits for the device.

    Example:
        >>> before = random.getstate()
        >>> with own_generators():
        ...     random.seed(0)
        >>> random.getstate() == before
        True
    """
    import torch  # here, so that what only describes and checks works where torch cannot be imported

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = torch.cuda.get_rng_state() if device and torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)
