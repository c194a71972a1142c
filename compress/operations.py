"""How many operations a forward takes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torchvision  # noqa: F401  # has operators of its own
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import UsageError
from ..core.tapping import call


def count_flops(module: nn.Module, images: Tensor) -> int:
    """Floating-point operations of a forward, 2 for each multiply-add, of convolutions and matrix products, those of
    attention, recurrent layers, bilinear forms and deformable convolutions among them.

    Args:
        module: The network.
        images: (B, C, H, W).

    Raises:
        UsageError: The network does not take them.
    """
    try:
        with torch.no_grad(), _taken_apart(), FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
            call(module, images)
    except (
        RuntimeError,
        AssertionError,
        ValueError,
        IndexError,
    ) as error:  # networks raise different errors for images that are too small
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{type(module).__name__} cannot take images of {tuple(images.shape[1:])}: {reason}; give another size"
        ) from error
    return counter.get_total_flops()


@contextmanager
def _taken_apart() -> Iterator[None]:
    """Fused attention and recurrent layers as the products that they are made of: not every fused kernel is one that
    torch can count.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            # It warns of GPUs that are not asked for.
            stack.enter_context(warnings.catch_warnings(action="ignore", category=UserWarning))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Operators that torch's counter does not know: of shapes, the operations."""

    def bilinear(first: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
        return 2 * math.prod(first[:-1]) * math.prod(weight)

    def deformable(
        _: tuple[int, ...], weight: tuple[int, ...], *__: Any, out_shape: tuple[int, ...], **___: Any
    ) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    return {torch.ops.aten._trilinear: bilinear, torch.ops.torchvision.deform_conv2d: deformable}
