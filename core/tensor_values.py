"""Tensors whose values a measure can read."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import UsageError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_readable(**tensors: Tensor) -> None:
    """Refuse tensors without values, with values that are not there for every place, or with others than real numbers.

    Args:
        **tensors: By their names in the message.

    Raises:
        UsageError: One is on the device meta, sparse, nested, quantised, complex, or of floats of 8 bits.
    """
    for name, value in tensors.items():
        if value.device.type == "meta":
            raise UsageError(f"{name} is on the device meta and has no values: give a tensor that has some")
        if value.is_nested or value.layout != torch.strided:
            layout = str(value.layout).removeprefix("torch.")
            kind = "a nested tensor" if value.is_nested else f"a sparse tensor ({layout})"
            way = "of one shape" if value.is_nested else "as its to_dense() is"
            raise UsageError(f"{name} is {kind}: give a tensor with a value in every place, {way}")
        if value.is_complex():
            raise UsageError(
                f"{name} is {value.dtype}, and what is measured are real numbers: give torch.view_as_real(…).flatten(1)"
                " of it, or its absolute values"
            )
        if value.is_quantized or (value.is_floating_point() and value.dtype not in _FLOATS):
            way = "dequantize()" if value.is_quantized else "float()"
            raise UsageError(f"{name} is {value.dtype}, which is not computed with: give its {way}")
