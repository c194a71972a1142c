"""Whether a modality of a user's own is still made as it was in a training: code is no part of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core.registry import MODALITIES
from ..core.user_code import is_own

KEY = "made"
"""Of a recipe."""
_SIDE, _VALUES = 16, 16
# Of the largest value: of devices and versions of libraries.
_TOLERANCE = 1e-3


def recorded(name: str, modalities: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """A few values of what a user's own modality makes of random ones, as a recipe holds them; None of a stored one or
    one of contrastill's, and where it fails on them, or makes other values each time.

    Args:
        name: Of the modality.
        modalities: Those that are stored -> shape (C, H, W) of one sample.
    """
    entry = MODALITIES[name] if name not in modalities and name in MODALITIES else None
    if entry is None or is_own(entry) or entry.of not in modalities:
        return None
    made = {"of": entry.of, "channels": modalities[entry.of][0]}
    values, again = _values(name, made), _values(name, made, seed=1)
    return {**made, "values": values} if values is not None and values == again else None


def is_made_otherwise(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a modality is made otherwise now than when a network of this recipe was trained on it; of a recipe that
    does not say how it was, False.
    """
    made = recipe.get(KEY)
    if made is None or name not in MODALITIES:
        return False
    values = _values(name, made)
    if values is None or len(values) != len(made["values"]):
        return True
    largest = max((abs(value) for value in made["values"] if value is not None), default=0.0)
    return any(
        now != before if None in (now, before) else abs(now - before) > _TOLERANCE * largest + 1e-6
        for now, before in zip(values, made["values"], strict=True)
    )


def _values(name: str, made: Mapping[str, Any], seed: int = 0) -> list[float | None] | None:
    """None stands for what is not finite."""
    entry = MODALITIES[name]
    shape = (2, made["channels"], _SIDE, _SIDE)
    generator = torch.Generator().manual_seed(0)
    source = (
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        if made["of"] == "rgb"
        else 1 + 4 * torch.rand(shape, generator=generator)
    )
    camera = [torch.tensor([[_SIDE, _SIDE, _SIDE / 2, _SIDE / 2]] * 2, dtype=torch.float32)] if entry.intrinsics else []
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            result = entry.function(source, *camera).float().flatten()
    except Exception:  # a user's own code may raise anything, and will where the modality is read
        return None
    places = torch.linspace(0, len(result) - 1, min(_VALUES, len(result))).long()
    return [value if math.isfinite(value) else None for value in result[places].tolist()] if len(result) else None
