"""Derived modalities of a user's own, checked as they are registered and in their first batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.entry_checks import check_call, kind_of
from ..core.errors import UsageError
from ..core.user_code import origin

RESERVED = ("index", "target", "semantics", "camera", "is_padding", "partner_target", "mixed_share")
"""Fields of a batch that are no modalities."""

_STORED = ("rgb", "depth")


def check_entry(name: str, entry: Any) -> None:
    """Refuse what is registered as a modality and cannot be derived.

    Raises:
        UsageError: It was not made by ``modality``, has the name of a field of every batch or of a stored modality, no
            channels, is made from itself, or its function takes other arguments.
    """
    what = f"modality {name} ({origin(entry)})"
    if not all(hasattr(entry, part) for part in ("of", "channels", "metres", "intrinsics", "function")):
        raise UsageError(
            f'{what} is {kind_of(entry)}: write @contrastill.modality("{name}", of="rgb", channels=3) above a function'
        )
    if name in (*RESERVED, *_STORED):
        raise UsageError(f"{what} has the name of what a batch stores: give it another, such as my_{name}")
    if entry.of == name or entry.of in RESERVED:
        raise UsageError(f"{what} is made from {entry.of}, which is no stored modality: set of to rgb, say")
    if entry.channels < 1:
        raise UsageError(f"{what} has channels={entry.channels}: give the number that its function returns, from 1 on")
    check_call(what, entry.function, ("values", "camera") if entry.intrinsics else ("values",))


def checked_values(function: Callable[..., Any], channels: int, values: Tensor, camera: Sequence[Tensor]) -> Tensor:
    """What a modality's function returns for a batch, if it is one; the same of a function of the user's own, whose
    first batch this is.

    Args:
        function: Of the user's own.
        channels: That it is to return.
        values: (B, C, H, W) of what it is made from.
        camera: (B, 4), if it takes one.

    Raises:
        UsageError: It returns no images (B, channels, H, W) of real numbers, or changes ``values``.
    """
    what, before = f"the modality of {origin(function)}", values.clone()
    result = function(values, *camera)
    if not isinstance(result, Tensor):
        raise UsageError(f"{what} returns {kind_of(result)}: return a tensor (B, {channels}, H, W)")
    if result.ndim != 4 or tuple(result.shape[:2]) != (len(values), channels):
        raise UsageError(
            f"{what} returns a tensor of shape {tuple(result.shape)} for {tuple(values.shape)}: return "
            f"({len(values)}, {channels}, H, W), or set channels to what it returns"
        )
    if not (result.is_floating_point() or result.dtype == torch.uint8):
        raise UsageError(f"{what} returns {result.dtype}: return floating-point numbers, as .float() gives")
    if not torch.equal(before.nan_to_num(), values.nan_to_num()):
        raise UsageError(f"{what} changes what it is given, which other networks read: work on values.clone()")
    return result
