"""Whether a network is given its modality as it was in its training: a batch of images, in that range and unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from .depth_marks import not_measured
from .errors import UsageError
from .value_scale import (
    BYTES,
    FLOATS,
    MARGIN,
    NEARLY_BLACK,
    SIGNED_BYTES,
    ValueScale,
    compare_statistics,
    in_unit_range,
    note_once,
)

_MEAN_OF_BYTES = 5.0  # a mean that is higher is of colours in 0 … 255
_TO_TENSOR = "torchvision.transforms.functional.pil_to_tensor(picture)[None] is one of a picture of Pillow"


def as_batch(batch: Any, modality: str, who: str) -> Mapping[str, Tensor]:
    """A batch as a dict of modalities.

    Args:
        batch: Such a dict, or the images of ``modality`` alone.
        modality: That is read.
        who: Reads it.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(batch, Tensor):
        return {modality: batch}
    if isinstance(batch, Mapping):
        return batch
    raise UsageError(
        f"{who} takes a batch of images as one tensor (B, C, H, W), or a dict of modalities, and this is a "
        f"{type(batch).__name__}: {_TO_TENSOR}"
    )


def missing_modality(batch: Mapping[str, Any], modality: str, who: str) -> UsageError:
    """The error for a batch without what a network reads, with how to say that it reads what there is."""
    images = [name for name, value in batch.items() if isinstance(value, Tensor) and value.ndim == 4]
    way = f'; where it reads {images[0]}, give Network(…) modality="{images[0]}"' if images else ""
    return UsageError(f"the batch has no {modality}, which {who} reads: it has {', '.join(sorted(batch))}{way}")


def check_images(images: Any, channels: int, *, colours: bool) -> None:
    """Refuse what is no batch of images with so many channels.

    Raises:
        UsageError: The message says how to make one of it.
    """
    if not isinstance(images, Tensor):
        kind = type(images).__name__
        shape = f" of shape {tuple(images.shape)}" if hasattr(images, "shape") else ""
        way = "torch.from_numpy(images) makes one of an array (B, C, H, W)" if kind == "ndarray" else _TO_TENSOR
        if isinstance(images, Mapping):
            tensors = [key for key, value in images.items() if isinstance(value, Tensor) and value.ndim == 4]
            known = f", of {' and '.join(map(repr, tensors))}" if tensors else ""
            way = f"images[MODALITY] is one of a batch{known}"
        if isinstance(images, (list, tuple)) and all(isinstance(image, Tensor) for image in images):
            way = "torch.stack(images) makes one of tensors (C, H, W)"
        raise UsageError(f"images are one tensor (B, C, H, W), and this is a {kind}{shape}: {way}")
    if images.ndim != 4 or images.shape[1] != channels:
        raise UsageError(
            f"images of shape {tuple(images.shape)} do not fit a mean of {channels} channels: "
            f"{_remedy(images, channels, colours)}"
        )


def _remedy(images: Tensor, channels: int, colours: bool) -> str:
    """What to do about images of another shape."""
    if images.ndim == 2 and channels == 1:
        return "a batch has sides for samples and channels, as images[None, None] has"
    if images.ndim == 3 and images.shape[0] == channels:
        return "a batch has a first side, as images[None] has"
    if images.ndim == 3 and images.shape[2] == channels:
        return "a batch has a first side and channels come before the pixels, as in images.permute(2, 0, 1)[None]"
    if images.ndim == 3 and channels == 1:
        return "channels have a side of their own, as images[:, None] has"
    if images.ndim == 4 and images.shape[3] == channels:
        return "channels come first, as in images.permute(0, 3, 1, 2)"
    if images.ndim == 4 and colours and channels == 3 and images.shape[1] in (1, 4):
        return "store three channels (grey: the same three times), or set mean and std to a value for each channel"
    if images.ndim == 4 and colours and channels == 3 and images.shape[1] > 4:
        return (
            "rgb has three channels; give images of more a name of their own, in samples {'multispectral': image, "
            "'target': label}, and read it with student_modality='multispectral' (student.modality=multispectral), or "
            "set mean and std to a value for each channel"
        )
    if images.ndim == 4 and channels == 1:
        return (
            "name the modality that this network reads, as teachers.0.modality=depth (student.modality, or modality "
            "of a Network), or set mean and std to a value for each channel"
        )
    return "set mean and std to a value for each channel"


def stored_depth(images: Tensor, scale: ValueScale | None) -> Tensor:
    """Depth as a training reads it: integers of the stored kind in metres, NaN where a value is a mark of nothing
    measured, see :func:`~.depth_marks.not_measured`; other modalities, and depth of an unknown unit, as they are.
    """
    if scale is None or scale.unit is None:
        return images
    values, metres = images, scale.metres
    if not images.is_floating_point():
        # A division by 1000 gives the float nearest to the metres.
        values = images.float() if metres is None else images.float() / (1 / metres)
    return values.masked_fill(not_measured(values, scale.unit), torch.nan)


def check_integers(dtype: torch.dtype, scale: ValueScale | None, *, colours: bool, mean: Sequence[float]) -> None:
    """Refuse integers whose scale is not that of the training.

    Raises:
        UsageError: Colours that are not uint8; other modalities stored as another kind of numbers.
    """
    is_bytes = dtype == torch.uint8
    if colours:
        if not is_bytes:
            raise UsageError(f"images of {dtype} have no known scale: give uint8, or floats in [0, 1]")
        if scale is not None and not scale.in_unit_range:
            raise UsageError(
                f"images of uint8 are read as 0 … 1, and this network was trained on floats from {scale.low:.3g} to "
                f"{scale.high:.3g}: give floats that are normalised as those of its training"
            )
        if max(mean, default=0) > 1:
            raise UsageError(
                f"images of uint8 are read as 0 … 1, and a mean of {max(mean):g} is beyond: divide mean and std by 255"
            )
        return
    if scale is None:
        if not is_bytes:
            raise UsageError(
                f"images of {dtype} have no known scale: give floats in the unit of the network's modality"
            )
        return
    stored_wide = scale.kind not in (None, FLOATS, BYTES, SIGNED_BYTES)
    stored_narrow = scale.kind == {torch.uint8: BYTES, torch.int8: SIGNED_BYTES}.get(dtype, "")
    if scale.metres is not None and (is_bytes or not stored_wide) and not stored_narrow:
        raise UsageError(
            f"depth of {dtype} is no {scale.kind or 'stored depth'} in {scale.unit}, which this network was trained "
            "on: give metres as floats, as images.float() / 1000 of millimetres, and NaN where nothing was measured"
        )
    # Training data of these are 8-bit integers too, and read as they are.
    small = dtype in (torch.int8, torch.bool) and scale.kind in (BYTES, SIGNED_BYTES)
    if not is_bytes and not stored_wide and not small:
        raise UsageError(
            f"images of {dtype} have no known scale, as this network was trained on {scale}: give floats in that scale"
        )


def refuse_integers(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """The forward pre-hook of a network that takes normalised images: integers are none. It reads the type alone.

    Raises:
        UsageError: The first input is of integers.
    """
    images = inputs[0] if inputs else None
    if isinstance(images, Tensor) and not (images.is_floating_point() or images.is_complex()):
        raise UsageError(
            f"{type(network).__name__} takes normalised images, and integers ({images.dtype}) are not normalised yet: "
            "call network(network.preprocess(images))"
        )


def values_can_be_read(images: Tensor) -> bool:
    """Whether a value of a batch may be looked at: not under torch.compile, tracing, export, vmap or capture."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or isinstance(images, FakeTensor)
        or torch._C._functorch.is_functorch_wrapped_tensor(images)
        or images.device.type == "meta"
        or (images.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def note_dark(images: Tensor) -> None:
    """Log a line where colours are nearly black, as masks of 0 and 1 in bytes are, and floats that somebody divided by
    255 twice; on a device, whoever reads a value waits.
    """
    high = float(images.max()) if images.numel() else 0.0
    if images.dtype == torch.uint8 and high == 1:
        note_once(
            "images of uint8 have no value above 1, and bytes are read as 0 … 255, so that they are nearly black: "
            "multiply them by 255, or give floats in [0, 1]"
        )
    if images.is_floating_point() and 0 < high <= NEARLY_BLACK:
        note_once(
            f"images of floats go to {high:.3g}, and 1 is white, so that they are nearly black: they may have been "
            "divided by 255 twice"
        )


def check_values(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    scale: ValueScale | None,
    *,
    colours: bool,
    notes: bool = False,
    noted: bool = False,
) -> bool:
    """Refuse values of another range or unit than those of the training; on a device, whoever reads a value waits.

    Args:
        images: (B, C, H, W): colours in floats; of other modalities all that is read.
        mean, std: Of the network's normalisation.
        scale: Of its training; None: not known.
        colours: Whether they are rgb.
        notes: Whether to log a line about values that may be right.
        noted: Whether that was done for a batch before.

    Returns:
        Whether a line was logged.

    Raises:
        UsageError: They cannot be right.
    """
    if not images.numel():
        return False
    if colours:
        _check_colours(images, mean, std, scale)
        return False
    known = None if scale is None else scale.statistics
    refuse = known is not None
    if not refuse and (noted or _is_identity(mean, std)):
        return False
    if (measured := _statistics(images)) is None:
        return False
    notes &= refuse and not noted
    return compare_statistics(
        known or (mean, std), measured, "this network", "its modality", notes=notes, refuse=refuse
    )


def _check_colours(images: Tensor, mean: Sequence[float], std: Sequence[float], scale: ValueScale | None) -> None:
    low, high = (float(value) for value in images.aminmax())
    if low != low and (images.shape[1] == 3 or scale is not None):
        raise UsageError(
            "images of rgb hold NaN, which stands for what was not measured in other modalities alone: repair them, or "
            "leave them out"
        )
    if low != low:  # of a modality whose name nobody knows here
        images = images[images.isfinite()]
        low, high = (float(value) for value in images.aminmax()) if images.numel() else (0.0, 0.0)
    span = f"to {high:.3g}" if low >= -MARGIN else f"from {low:.3g} to {high:.3g}"
    if scale is not None and scale.low is not None and scale.high is not None and not scale.in_unit_range:
        if scale.low < -0.5 and scale.high > 1 + MARGIN and 0 <= low and 0 < high <= 1 + MARGIN:
            raise UsageError(
                f"this network was trained on floats from {scale.low:.3g} to {scale.high:.3g}, and these are in "
                "[0, 1]: normalise them as those of its training"
            )
        margin = max(scale.high - scale.low, 1.0)
        if low < scale.low - margin or high > scale.high + margin:
            raise UsageError(
                f"this network was trained on floats from {scale.low:.3g} to {scale.high:.3g}, and these go {span}: "
                "normalise them as those of its training"
            )
    elif max(mean, default=0) > _MEAN_OF_BYTES:
        if 0 < high <= 1 + MARGIN:
            raise UsageError(
                f"these images are in [0, 1], and a mean of {max(mean):g} is of 0 … 255: divide mean and std by 255"
            )
    # What a module that normalises itself takes is known from its training alone; nor has every mean to be of [0, 1].
    elif (
        not _is_identity(mean, std) or (scale is not None and (scale.kind == BYTES or scale.low is not None))
    ) and all(0 <= value <= 1 for value in mean):
        if not in_unit_range(low, high):
            way = "divide them by 255, or give uint8" if low >= 0 else "give them as they are before normalisation"
            raise UsageError(
                f"the network takes uint8 images, or floats in [0, 1], and these go {span}: it normalises them itself, "
                f"so {way}"
            )


def _is_identity(mean: Sequence[float], std: Sequence[float]) -> bool:
    return not any(mean) and all(value == 1 for value in std)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of each channel, without NaN and infinite values; None where a channel has no others."""
    values = images.float().transpose(0, 1).flatten(1)
    there = values.isfinite()
    count = there.sum(1)
    values = values.where(there, 0.0)
    mean = values.sum(1) / count
    std = ((values - mean[:, None]).where(there, 0.0).square().sum(1) / count).sqrt()
    means, stds = torch.stack([mean, std]).tolist()
    return None if any(value != value for value in means) else (tuple(means), tuple(stds))
