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


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value``."""
    if -(1 << 63) <= value < 1 << 63:
        return value  # torch.compile takes no mask of 64 bits of a number that it leaves open
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN, _MIX1, _MIX2 = (_signed(constant) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's own on int64 drags the sign along."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, variant 13 of Stafford); products wrap at 64
    bits.
    """
    x = (x ^ shifted(x, 30)) * _MIX1
    x = (x ^ shifted(x, 27)) * _MIX2
    return x ^ shifted(x, 31)


def hash64(counter: Tensor, *key: int) -> Tensor:
    """64 random bits for each element of ``counter``: element i of the SplitMix64 stream that ``key`` names.

    Args:
        counter: int64, any shape, any device.
        key: Integers; each one and their order count.

    Shape:
        - returns int64 of ``counter``'s shape, on its device.
    """
    state = torch.zeros((), dtype=torch.int64)
    for part in key:
        state = _mixed((state ^ _signed(part)) + _GOLDEN)
    return _mixed(counter * _GOLDEN + state)
