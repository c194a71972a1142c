"""Random numbers that are functions of what they are for: the same on every machine, rank and resumed run."""

from __future__ import annotations

import torch
from torch import Tensor


def mix(*numbers: int) -> int:
    """Hash whole numbers to 63 bits (splitmix64), the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def scramble(index: Tensor, key: int) -> Tensor:
    """Hash row numbers to 62 bits, elementwise: ``mix`` for tensors, wrapping as int64 does."""
    state = index.to(torch.int64) + key
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor
    return (state ^ ((state >> 31) & (2**33 - 1))) & (2**62 - 1)
