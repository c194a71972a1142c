"""TIFF: its pages, and the values of one as they are stored."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from .unread_kind import UnreadKind

# Tags.
_SUBFILE, _OLD_SUBFILE, WIDTH, HEIGHT, _BITS, PHOTOMETRIC, ORIENTATION = 254, 255, 256, 257, 258, 262, 274
_SAMPLES, _PLANAR, _INNER, _EXTRA, _SAMPLE_FORMAT = 277, 284, 330, 338, 339
_MAGIC = (b"II*\0", b"MM\0*")
_LAB = 8


def open_image(encoded: bytes) -> Image.Image:
    """An image whose header has been read; of a TIFF that begins with a smaller copy, as cameras write them, it is the
    first page of full size.

    Raises:
        UnreadKind: The copy alone is within reach.
    """
    image = Image.open(io.BytesIO(encoded))
    if image.format == "TIFF" and _is_reduced(image):
        tiff = cast(TiffImageFile, image)
        if tiff.n_frames == 1 and _INNER in tags_of(image):
            raise UnreadKind(
                "is a TIFF whose first page is a thumbnail, and its picture lies within that (SubIFDs), where it is "
                "not read: convert it to a TIFF of one page, or PNG"
            )
        tiff.seek(full_pages(image)[0])
    return image


def full_pages(image: Image.Image) -> list[int]:
    """The pages of a TIFF that are no smaller copies of others; all, where all say that they are."""
    tiff = cast(TiffImageFile, image)
    if tiff.n_frames == 1:
        return [0]
    current, full = tiff.tell(), []
    for number in range(tiff.n_frames):
        tiff.seek(number)
        if not _is_reduced(image):
            full.append(number)
    tiff.seek(current)
    return full or [*range(tiff.n_frames)]


def _is_reduced(image: Image.Image) -> bool:
    tags = tags_of(image)
    return bool(tags.get(_SUBFILE, 0) & 1) or tags.get(_OLD_SUBFILE) == 2


def describe_unidentified(encoded: bytes) -> str:
    """Why a file that begins as a TIFF is none that Pillow knows: what its channels are; empty of other files, and of
    those of a damaged header.
    """
    if encoded[:4] not in _MAGIC:
        return ""
    try:
        tags, stream = ImageFileDirectory_v2(encoded[:8]), io.BytesIO(encoded)
        stream.seek(tags.next)
        tags.load(stream)
        count, bits, formats = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (1,))
        planes = " in planes" if tags.get(_PLANAR, 1) == 2 and count > 1 else ""
        kind = {2: "signed integers", 3: "floats"}.get(formats[0], "unsigned integers")
        channels = f"{count} channels{planes}" if count > 1 else "1 channel"
        order = "big-endian " if encoded[:2] == b"MM" and max(bits) > 8 else ""
        way = "float32 or .npy" if 3 in formats else ".npy"
        return f"TIFF with {channels} of {order}{max(bits)}-bit {kind} is not read: save {way}"
    except Exception:  # whatever Pillow raises on damage
        return ""


def unscaled(values: np.ndarray, bits: int) -> np.ndarray:
    """Pillow makes 0 to 3 and 0 to 15 into 0 to 255."""
    return values // (255 // (2**bits - 1)) if bits in (2, 4) and values.dtype == np.uint8 else values


def tags_of(image: Image.Image) -> Any:
    """Of a TIFF."""
    return cast(TiffImageFile, image).tag_v2


def tiff_samples(image: Image.Image) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bits and sample format (1 unsigned, 2 signed, 3 float) of each channel."""
    tags = tags_of(image)
    count = tags.get(_SAMPLES, 1)
    bits, formats = tuple(tags.get(_BITS, (1,))), tuple(tags.get(_SAMPLE_FORMAT, (1,)))
    return bits * count if len(bits) == 1 else bits, formats


def is_unsigned(formats: tuple[int, ...]) -> bool:
    # 4 is a format that is left open.
    return set(formats) <= {1, 4}


def is_premultiplied(image: Image.Image) -> bool:
    """Whether colours were multiplied by their alpha."""
    return len(tiff_samples(image)[0]) > 3 and 1 in tags_of(image).get(_EXTRA, ())


def check_channels(image: Image.Image) -> None:
    """Refuse a TIFF of which Pillow leaves channels out, or changes them.

    Raises:
        UnreadKind: It does.
    """
    count, read = len(tiff_samples(image)[0]), len(image.getbands())
    if read != count:
        raise UnreadKind(
            f"is a TIFF with {count} channels, of which Pillow reads {read}: save it without the others, or as .npy"
        )
    if image.mode == "RGBA" and is_premultiplied(image):
        raise UnreadKind(
            "is a TIFF whose colours were multiplied by their alpha (ExtraSamples 1), which would not come out as they "
            "are stored: save it without alpha, or as .npy"
        )
    tags = tags_of(image)
    if tags.get(PHOTOMETRIC) == _LAB and tags.get(_PLANAR, 1) == 2:
        raise UnreadKind("is a TIFF of CIELAB in planes, whose values would come out shifted: save it as .npy")


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except ValueError as error:
        if "raw mode" not in str(error):
            raise
        raise UnreadKind("is a TIFF of channels in planes that is not read: save it as .npy") from error


def tiff_values(image: Image.Image, encoded: bytes) -> np.ndarray:
    bits, formats = tiff_samples(image)
    tags = tags_of(image)
    orientation = tags.get(ORIENTATION, 1)
    if len(bits) > 1 and (max(bits) > 8 or not is_unsigned(formats)):
        plain = (
            set(bits) == {16}
            and is_unsigned(formats)
            and tags.get(PHOTOMETRIC) == 2
            and tags.get(_PLANAR, 1) == 1
            and orientation == 1
        )
        if not plain or len(bits) not in (3, 4):
            raise UnreadKind(
                f"is a TIFF with {len(bits)} channels of {max(bits)} bits that is not read (planes, an "
                "orientation, no RGB): save it as .npy"
            )
        image.load()
        return channels_of_16_bits(encoded, (len(bits),))
    check_channels(image)
    _load(image)
    values = np.asarray(image)
    if bits == (8,) and formats == (2,):
        return values.view(np.int8)
    if bits == (32,) and formats != (3,):
        return values if formats == (2,) else values.view(np.uint32)
    if bits == (16,) and formats == (2,):
        return values.astype(np.int16)
    if image.mode.startswith("I;16"):
        return values.astype(np.uint16)
    return unscaled(values, bits[0]) if len(bits) == 1 and image.mode == "L" else values


def channels_of_16_bits(encoded: bytes, channels: tuple[int, ...]) -> np.ndarray:
    """Channels of sixteen bits, of which Pillow keeps eight and says nothing."""
    import cv2

    values = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in channels:
        raise UnreadKind("has several channels of 16 bits that OpenCV does not read: save it as .npy")
    return values[:, :, [2, 1, 0, 3][: values.shape[2]]]
