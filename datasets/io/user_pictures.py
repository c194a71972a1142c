"""Images as a user's own dataset returns them: pictures of Pillow, arrays and tensors, with the values that were
meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ...core.errors import ContrastillError, UsageError
from .bmp_values import is_misread_bmp
from .channel_order import check_channel_order
from .file_views import LABELS
from .image_values import beyond_float32, orientation, to_8_bits
from .images import upright
from .tiff_values import check_channels
from .unread_kind import UnreadKind
from .values import dtype_name, number_kind


def read_images(fields: Mapping[str, Any], sample: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The images among the fields of a sample, see :func:`pixels`, and the EXIF orientations by which they were turned.

    Args:
        fields: Modality -> value.
        sample: Names it in the message.

    Raises:
        ContrastillError: A picture is damaged, or its values would not be those that were meant.
    """
    images, turns = {}, {}
    for name, value in fields.items():
        try:
            # Once it is loaded a TIFF has no tag any more, and a PNG is loaded for it.
            turn = turn_of(value) if getattr(value, "format", None) == "TIFF" else None
            values = pixels(name, value)
            turn = turn_of(value) if turn is None else turn
        except ContrastillError:
            raise
        except Exception as error:  # a picture of Pillow may be decoded here, which raises many kinds of errors
            raise unread(f"{name} of {sample}", error) from error
        if values is not None:
            images[name], turns[name] = values, turn
    _check_turns(turns, sample)
    return images, turns


def unread(what: str, error: Exception) -> ContrastillError:
    """The error for what code of the user's own, or a decoder, could not read."""
    return ContrastillError(f"{what} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}")


def pixels(name: str, value: Any) -> Tensor | None:
    """An image as (H, W, C): uint8 or float32, label maps uint8, int64 or float32; None for what is none.

    Raises:
        UsageError: Its values would not be those that were meant.
    """
    if isinstance(value, Image.Image):
        image, value = value, _picture(name, value)
        # Loading it, Pillow turns a TIFF itself.
        turn = 1 if image.format == "TIFF" else turn_of(image)
        value = value if turn == 1 else upright(torch.from_numpy(value.copy()), turn).numpy()
    if isinstance(value, np.ma.MaskedArray):
        if name != LABELS:
            _check_whole_numbers(name, value.compressed())
        value = _unmasked(name, value)
    if isinstance(value, Tensor):
        # As a batch is put together, also in a worker, which hands over no graph.
        value = value.detach().cpu()
        value = value if value.layout == torch.strided else value.to_dense()
    if name == "rgb" and isinstance(value, (np.ndarray, Tensor)):
        value = _eight_bits(value)
    if name != LABELS:
        _check_whole_numbers(name, value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        # torch takes no other byte order and no mirrored view, and complains of memory that is only read.
        value = np.require(value, value.dtype.newbyteorder("="), ["C", "W"])
        wide = value.dtype.kind == "u" and value.dtype != np.uint8
        values = torch.from_numpy(value.astype(np.int64 if name == LABELS else np.float32) if wide else value)
    elif isinstance(value, Tensor) and not value.is_complex():
        values = value.permute(1, 2, 0) if value.ndim == 3 else value
    else:
        return None
    if values.ndim not in (2, 3):
        return None
    _check_order(name, value)
    values = values if values.ndim == 3 else values[:, :, None]
    if name == LABELS and not values.is_floating_point():
        # Not 8 bits: what does not fit would come out as another label.
        return values if values.dtype == torch.uint8 else values.to(torch.int64)
    return values.to(torch.uint8 if values.dtype == torch.uint8 else torch.float32)


def _check_whole_numbers(name: str, value: Any) -> None:
    """Refuse whole numbers in an array or tensor that float32 does not represent."""
    numbers = value.numpy() if isinstance(value, Tensor) and not value.is_floating_point() else value
    if isinstance(numbers, np.ndarray) and beyond_float32(numbers):
        most = max(int(numbers.max()), int(numbers.min()), key=abs)
        raise UsageError(
            f"{name} holds whole numbers up to {most}, and modalities are float32, which keeps those up to 16777216: "
            "return floats"
        )


def why_unread(value: Any) -> str:
    """What a value is, for which :func:`pixels` has no image, and what to return in its place."""
    if not isinstance(value, (np.ndarray, Tensor)):
        return f"a {type(value).__name__}, and no image: return a picture of Pillow, an array or a tensor"
    kind, dtype = ("array" if isinstance(value, np.ndarray) else "tensor"), dtype_name(value.dtype)
    shown = f"{'an' if kind == 'array' else 'a'} {kind} of shape {tuple(value.shape)} of {dtype}"
    if dtype.startswith("complex"):
        return f"{shown}: return real numbers, such as its real and imaginary parts as two channels"
    if isinstance(value, np.ndarray) and value.dtype.kind not in "buif":
        return f"{shown}: return numbers"
    sides = "(height, width, channels)" if kind == "array" else "(channels, height, width)"
    return f"{shown}, and {kind}s are {sides} or (height, width): return one image, further axes as its channels"


def shown_kind(value: Any) -> str:
    """The type of a field, and of an array its shape, in words for messages."""
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, (np.ndarray, Tensor)) and value.ndim else ""
    return f"a {type(value).__name__}{shape}"


def _unmasked(name: str, value: np.ma.MaskedArray) -> np.ndarray:
    """A masked array's values: what is masked is NaN, of label maps 0.

    Raises:
        UsageError: Pixels of ``rgb`` are masked, for which there is no such value.
    """
    if name == LABELS:
        return value.filled(0)
    if name == "rgb":
        if np.ma.is_masked(value):
            raise UsageError("rgb is a masked array with masked pixels: fill them, as by filled(0)")
        return np.asarray(value.data)
    return np.ma.filled(value.astype(np.float32), np.nan)


def _check_order(name: str, value: np.ndarray | Tensor) -> None:
    """Refuse channels that come first in an array or last in a tensor."""
    if value.ndim != 3:
        return
    shape, first = tuple(value.shape), isinstance(value, Tensor)
    kind, sides, way = (
        ("a tensor", "tensors are (channels, height, width)", "permute(2, 0, 1), or an array (height, width, channels)")
        if first
        else (
            "an array",
            "arrays are (height, width, channels)",
            "transpose(1, 2, 0), or a tensor (channels, height, width)",
        )
    )
    where = f"{name} is {kind} of shape {shape}, and {sides}"
    check_channel_order(name, shape, where, f"return {name}.{way}", first=first)


def kind_of(value: Any) -> str:
    """The kind of numbers of an image as the dataset returns it; of unsigned 16 bits, vectors are decoded."""
    if isinstance(value, Image.Image):
        return number_kind(
            {"F": "float32", "I": "int32"}.get(value.mode, "uint16" if value.mode.startswith("I;16") else "uint8")
        )
    return number_kind(value.dtype)


def is_deep(rgb: Any) -> bool:
    """Whether it has 16 bits."""
    return (
        rgb.mode.startswith("I")
        if isinstance(rgb, Image.Image)
        else dtype_name(getattr(rgb, "dtype", None)) == "uint16"
    )


def turn_of(value: Any) -> int:
    """The EXIF orientation by which an image is turned, 1: by none. A picture of Pillow that came from another, by
    convert or transpose, keeps the tag whether it was turned or not, and stays as it lies.
    """
    return orientation(value) if isinstance(value, ImageFile.ImageFile) else 1


def _check_turns(turns: Mapping[str, int], sample: str) -> None:
    """Refuse modalities of a sample that would be turned otherwise than its others.

    Args:
        turns: Modality -> its EXIF orientation, see :func:`turn_of`.
        sample: Names it in the message.

    Raises:
        ContrastillError: There are such.
    """
    if len({*turns.values()}) < 2:
        return
    first = next(iter(turns))
    other = next(name for name in turns if turns[name] != turns[first])
    numbers = ["none" if turns[name] == 1 else turns[name] for name in (first, other)]
    raise ContrastillError(
        f"{first} of {sample} has the EXIF orientation {numbers[0]} and {other} {numbers[1]}, and which way both lie "
        "is not known: hand out both upright, as PIL.ImageOps.exif_transpose(image), or, where they lie alike, "
        "image.copy(), which is not turned"
    )


def unturned(value: Any) -> bool:
    """Whether it is a picture of Pillow that came from another and has an EXIF orientation all the same."""
    return isinstance(value, Image.Image) and not isinstance(value, ImageFile.ImageFile) and orientation(value) > 1


def _picture(name: str, image: Image.Image) -> np.ndarray:
    """What a picture of Pillow holds: as ``rgb`` three channels, or one of 16 bits; else its values, of a palette the
    colours.
    """
    # What has not been loaded yet still says how Pillow will bring it to 8 or 16 bits.
    scaling = [tile for tile in getattr(image, "tile", ()) if _scales(tile, image.mode)]
    if name != "rgb" and scaling:
        raise UsageError(
            f"{name} is a picture of Pillow, which scales the values of this {image.format} when it loads it: "
            "read it with cv2.imread(…, cv2.IMREAD_UNCHANGED)"
        )
    _check_read(name, image)
    if name == LABELS and image.format in ("JPEG", "MPO"):
        raise UsageError(f"{name} is a JPEG, which blends the labels of neighbours: save label maps as 8-bit PNG")
    if name != "rgb":
        return np.array(image.convert("RGB") if image.mode in ("P", "PA") and name != LABELS else image)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise UsageError(
            f"rgb is a picture of Pillow of mode {image.mode}, whose range is not known: return 8 or 16 bits, "
            "or an array of floats in [0, 1]"
        )
    if image.mode.startswith("I"):
        return np.repeat(np.array(image).astype(np.uint16)[:, :, None], 3, 2)
    # Pillow multiplied these by their alpha, and takes that back on the way to the mode with it alone.
    image = image.convert(image.mode.upper()) if image.mode in ("La", "RGBa") else image
    return np.array(image.convert("RGB"))


def _check_read(name: str, image: Image.Image) -> None:
    """Refuse a picture of which Pillow reads other values than its file has; of a BMP that is known before it is
    loaded.
    """
    stream = getattr(image, "fp", None)
    if image.format == "BMP" and stream is not None and getattr(image, "tile", None):
        place = stream.tell()
        stream.seek(0)
        misread = is_misread_bmp(image, stream.read(32))
        stream.seek(place)
        if misread:
            raise UsageError(
                f"{name} is a BMP of greys in a palette, which Pillow takes for one of other bits: save it as PNG, or "
                "read it with cv2.imread(…, cv2.IMREAD_UNCHANGED)"
            )
    if name != "rgb" and isinstance(image, TiffImageFile):
        try:
            check_channels(image)
        except UnreadKind as error:
            raise UsageError(f"{name} {error}") from error


def _scales(tile: Any, mode: str) -> bool:
    """Whether Pillow's decoder of this part of a file changes its values."""
    decoder, arguments = tile[0], tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if decoder in ("ppm", "ppm_plain"):
        return arguments[-1] != (65535 if mode == "I" else 255)
    # Such as "L;4", "RGB;16B", "L;I": fewer bits, more, or the inverse.
    kind = str(arguments[0] if arguments else "").partition(";")[2]
    return mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK") and kind.startswith(("2", "4", "16", "I"))


def _eight_bits(values: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """``rgb`` as networks take it, uint8 or floats in [0, 1]: 16 bits are scaled by their range, rounded."""
    dtype = dtype_name(values.dtype)
    if dtype == "uint16":
        array = values.numpy(force=True) if isinstance(values, Tensor) else values
        eight = to_8_bits(array, 65535)
        return torch.from_numpy(eight) if isinstance(values, Tensor) else eight
    if values.ndim < 2:
        shown = "one number" if values.ndim == 0 else f"a row of {len(values)} numbers"
        raise UsageError(
            f"rgb is {shown} ({dtype}), and no image: the image of a sample comes first, as (image, label) or "
            "TensorDataset(images, labels)"
        )
    if dtype != "bool" and not (dtype == "uint8" or dtype.startswith(("float", "bfloat"))):
        raise UsageError(f"rgb is of {dtype}, whose range is not known: return uint8, uint16 or floats in [0, 1]")
    return values


def check_as_first(
    images: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
    sample: str,
) -> None:
    """Refuse a sample that is not of the modalities, the size and the kind of the first.

    Args:
        images: Its modalities, (H, W, C).
        shapes: Modality -> (C, H, W) of the first.
        dtypes: Modality -> the first's.
        sample: Names it in the message.

    Raises:
        ContrastillError: It is not.
    """
    for name in shapes.keys() - images.keys():
        absent = {LABELS: "zeros, which are unlabelled", "depth": "NaN, which is not measured"}.get(name, "its values")
        raise ContrastillError(
            f"{sample} has no {name}, and the first has: return {name} of all samples, here {absent}"
        )
    for name in images.keys() - shapes.keys():
        raise ContrastillError(f"{sample} has {name}, and the first has none: return {name} of all samples, or of none")
    own = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
    kinds = {name: values.dtype for name, values in images.items()}
    if own != shapes or kinds != dtypes:
        raise ContrastillError(
            f"{sample} is {_shown(own, kinds)}, the first was {_shown(shapes, dtypes)} (channels, height, width): let "
            "the dataset bring all to one size and kind"
        )


def _shown(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]) -> str:
    return ", ".join(
        f"{name} {tuple(shape)} of {str(dtypes[name]).removeprefix('torch.')}" for name, shape in shapes.items()
    )
