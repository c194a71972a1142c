"""The comparison of an exported file with PyTorch: on which inputs, and how far their answers may be apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import ContrastillError
from ..core.tapping import answer
from .exported import Takes, colour_range, reason, resized

TOLERANCE = 1e-4
"""How far an answer may be from PyTorch's, as a part of the largest of them or of 1."""

LONGEST = 7
"""Images in the longest batch."""

_ANY_SIZES = 3
"""Sizes that a file for any height and width is compared on."""


def random_inputs(takes: Takes) -> Tensor:
    """Noise (7, C, H, W) as the file takes it, in the unit of the training."""
    generator, shape = torch.Generator().manual_seed(0), (LONGEST, *takes.shape)
    if takes.dtype == torch.uint8:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    if takes.inside and takes.preprocess.colours:
        low, high = colour_range(takes.preprocess)
        return low + (high - low) * torch.rand(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    if not takes.inside:
        return noise
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (takes.preprocess.mean, takes.preprocess.std))
    values = mean + std * noise
    # Of depth, what is below 0 would be taken for not measured, and named in a line as if somebody had given it.
    return values if takes.preprocess.scale is None or takes.preprocess.scale.unit is None else values.abs()


def with_gaps(inputs: Tensor, takes: Takes) -> Tensor:
    """Inputs of a file that takes what was not measured, with a corner of it in each image and, of depth, a row of
    zeros.
    """
    if takes.dtype == torch.uint8 or not takes.inside or takes.preprocess.colours:
        return inputs
    inputs, (height, width) = inputs.clone(), inputs.shape[2:]
    inputs[..., : height // 3, : width // 3] = torch.nan
    if takes.preprocess.scale is not None and takes.preprocess.scale.unit is not None:
        inputs[..., height // 2, :] = 0
    return inputs


def reference(student: nn.Module, takes: Takes) -> Callable[[Tensor], Tensor]:
    """What a student answers, in eager mode, to what its exported file takes."""

    def answered(inputs: Tensor) -> Tensor:
        return answer(student, takes.preprocess(inputs, like=student) if takes.inside else inputs)

    return answered


@torch.no_grad()
def batches_of_any_size(module: Callable[[Tensor], Tensor], inputs: Tensor) -> list[Tensor] | None:
    """Batches of three lengths and sizes: the inputs' own, odd ones, one of another ratio; multiples of their own where
    the network takes no odd ones. None where it takes fewer than three sizes.

    Args:
        module: The network in eval mode, see :func:`reference`.
        inputs: (7, C, H, W) of a size that it takes.
    """
    height, width = inputs.shape[2:]
    sizes = [
        (height + height // 2 + 1, width + width // 4 + 1),
        (max(32, height // 2), max(48, 3 * width // 4)),
        (height, 2 * width),
        (2 * height, width),
    ]
    batches = [inputs[:1]]
    for size in sizes:
        batch = resized(inputs[: len(batches) + 1], size)
        if len(batches) < _ANY_SIZES and batch.shape[2:] != inputs.shape[2:] and _takes(module, batch):
            batches.append(batch)
    return batches if len(batches) == _ANY_SIZES else None


def _takes(module: Callable[[Tensor], Tensor], batch: Tensor) -> bool:
    try:
        module(batch)
    except Exception:  # any network's own, for a size that it does not take
        return False
    return True


def largest_difference(
    module: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], batches: Sequence[Tensor], output: str
) -> float:
    """Largest difference of a value of the answers over the batches.

    Args:
        module: The network in eval mode, see :func:`reference`.
        exported: The exported file.
        batches: As both take them.
        output: What the answer is, for messages.

    Raises:
        ContrastillError: The file does not take a batch, or the difference is more than rounding makes of it.
    """
    largest = 0.0
    several = len({batch.shape[2:] for batch in batches}) > 1
    for batch in batches:
        size = f" of images of {batch.shape[2]}×{batch.shape[3]}" if several else ""
        with torch.no_grad():
            expected = module(batch)
        try:
            outputs = exported(batch)
        except Exception as error:  # of the runtime, for a length or a size that was fixed in the export
            if several and "Guard failed" in str(error):  # torch's, an expression in symbols
                raise ContrastillError(
                    f"the program that torch exports for images of any size does not take those of "
                    f"{batch.shape[2]}×{batch.shape[3]}, which the network takes, as it was traced with larger maps: "
                    "export it for one size with size (--size), or as ONNX (--format onnx)"
                ) from error
            way = "a file for one size (--size)" if several else "--fixed"
            raise ContrastillError(
                f"the exported file does not run on a batch of {len(batch)}{size}: {reason(error)}; {way} may help"
            ) from error
        difference, allowed = float((outputs - expected).abs().max()), TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:  # so that NaN is refused too
            raise ContrastillError(
                f"the exported file's {output} differ{'s' * (not output.endswith('s'))} from PyTorch's by "
                f"{difference:.2g} (allowed: {allowed:.2g}){size}: nothing was written"
            )
        largest = max(largest, difference)
    return largest
