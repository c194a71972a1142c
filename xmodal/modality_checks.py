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
        UsageError: It returns no images (B, channels, H, W) of real numbers, changes ``values``, or gives other values
            of a sample beside others or when it is called again.
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
    _check_of_each_sample(what, function, values, camera, result)
    return result


def _check_of_each_sample(
    what: str, function: Callable[..., Any], values: Tensor, camera: Sequence[Tensor], result: Tensor
) -> None:
    """Refuse a function that is random, or that gives other values of a sample by those beside it (UsageError): the
    batches of a training and of its measurement are others than those of one who asks image by image.
    """
    with torch.random.fork_rng():
        again = function(values.clone(), *camera)
    if not _alike(result, again):
        raise UsageError(
            f"{what} gives other values when it is called again, and a modality is a function of its sample alone: "
            "leave out what is random in it, which is for the data set's transforms"
        )
    if len(values) < 2:
        return
    # Of the highest value of a batch, one of the two has it.
    for one in (slice(0, 1), slice(-1, None)):
        if not _alike(result[one], function(values[one].clone(), *(each[one] for each in camera))):
            raise UsageError(
                f"{what} gives other values of a sample beside other samples, and a modality is a function of its "
                "sample alone: compute each sample's own, as values.amax(dim=(1, 2, 3), keepdim=True) for values.amax()"
            )


def _alike(one: Tensor, other: Any) -> bool:
    """Whether two results are equal, but for the rounding of other kernels; NaN is equal to NaN."""
    if not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    ours, theirs = one.double(), other.double()
    rounding = 1e-3 * float(ours.nan_to_num(0.0, 0.0, 0.0).abs().amax()) if ours.numel() else 0.0
    # A value beside a threshold may fall on its other side.
    close = torch.isclose(ours, theirs, rtol=1e-3, atol=rounding, equal_nan=True)
    return close.double().mean().item() > 0.99 if close.numel() else True
