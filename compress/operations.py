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

Shape = tuple[int, ...]


def count_flops(module: nn.Module, images: Tensor) -> int:
    """Floating-point operations of a forward, 2 for each multiply-add, of convolutions and matrix products, those of
    attention, recurrent layers, bilinear forms, vectors, 8-bit layers and deformable convolutions among them.

    Sums of products of elements, ``(a * b).sum(1)`` and ``torch.linalg.vecdot`` of several vectors, do not count, and
    neither do quantised recurrent layers.

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
    aten, quantized = torch.ops.aten, torch.ops.quantized

    def product(first: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
        """Each of the results is a sum over the last dimension of what comes first."""
        return 2 * math.prod(out_shape) * first[-1]

    def added(_: Shape, first: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
        """The same, with something that the product is added to before it."""
        return product(first, out_shape=out_shape)

    def added_batches(_: Shape, first: Shape, second: Shape, *__: Any, **___: Any) -> int:
        return 2 * math.prod(first) * second[-1]

    def bilinear(first: Shape, weight: Shape, *_: Any, **__: Any) -> int:
        return 2 * math.prod(first[:-1]) * math.prod(weight)

    def convolution(_: Shape, weight: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    def over_time(_: Shape, weight: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[:-1])  # (k, C_in, C_out)

    def packed_convolution(images: Shape, packed: Any, *_: Any, out_shape: Shape, **__: Any) -> int:
        return convolution(images, packed.unpack()[0].shape, out_shape=out_shape)

    products = [aten.mv, aten.dot, aten.vdot, aten._euclidean_dist, aten._int_mm, aten._grouped_mm]
    products += [aten._weight_int8pack_mm, aten._weight_int4pack_mm, aten._weight_int4pack_mm_for_cpu]
    products += [quantized.linear, quantized.linear_relu, quantized.linear_dynamic, quantized.linear_relu_dynamic]
    products += [quantized.linear_dynamic_fp16, quantized.linear_relu_dynamic_fp16]
    convolutions = [quantized.conv1d, quantized.conv2d, quantized.conv3d]
    convolutions += [quantized.conv1d_relu, quantized.conv2d_relu, quantized.conv3d_relu]
    return {
        **dict.fromkeys(products, product),
        **dict.fromkeys(convolutions, packed_convolution),
        aten.addmv: added,
        aten._addmm_activation: added,
        aten.addbmm: added_batches,
        aten.conv_tbc: over_time,
        aten._trilinear: bilinear,
        torch.ops.torchvision.deform_conv2d: convolution,
    }
