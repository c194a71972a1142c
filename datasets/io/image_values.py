"""What an image file stores: the values themselves with all their bits, or scaled to 8 bits by the range that the file
states.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .bmp_values import misread_bmp
from .tiff_values import (
    HEIGHT,
    ORIENTATION,
    PHOTOMETRIC,
    WIDTH,
    channels_of_16_bits,
    full_pages,
    is_premultiplied,
    is_unsigned,
    tags_of,
    tiff_samples,
    tiff_values,
    unscaled,
)
from .unread_kind import UnreadKind

_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")
_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(rb"P[2356]" + _BETWEEN + rb"(\d+)" + _BETWEEN + rb"(\d+)" + _BETWEEN + rb"(\d+)\s")


def highest_value(image: Image.Image, encoded: bytes) -> int:
    """The value of full intensity in a file whose channels have more than 8 bits; 255 for all others, which Pillow
    scales itself.
    """
    if image.format == "PNG":
        return 65535 if _png_header(encoded)[0] == 16 else 255
    if image.format == "PPM" and encoded[:2] in (b"P2", b"P3", b"P5", b"P6"):
        return max(255, _pnm_header(encoded)[2])
    if image.format == "TIFF":
        bits, formats = tiff_samples(image)
        # Signed numbers and floats have no such value, and are no pictures of 8 bits.
        return (
            255
            if max(bits) <= 8 and is_unsigned(formats)
            else 2 ** max(bits) - 1
            if is_unsigned(formats)
            else 2 ** max(bits)
        )
    return 255


def rgb_values(image: Image.Image, encoded: bytes, highest: int) -> np.ndarray:
    """The picture of a file with :func:`highest_value` above 255, scaled to 8 bits by that value, rounded: uint8 (H, W,
    3).

    Raises:
        UnreadKind: Its range is not known, or its channels lie in planes.
        ValueError: It is damaged.
    """
    if image.format == "TIFF" and (image.mode in ("I", "F") or not is_unsigned(tiff_samples(image)[1])):
        raise UnreadKind(
            f"holds {'floats' if image.mode == 'F' else 'signed or 32-bit integers'}, whose range as rgb is not "
            "known: save it in 8 or 16 bits"
        )
    if image.format == "TIFF" and is_premultiplied(image):
        raise UnreadKind(
            "is a TIFF of more than 8 bits whose colours were multiplied by their alpha: save it without alpha"
        )
    inverted = image.format == "TIFF" and tags_of(image).get(PHOTOMETRIC) == 0
    values = tiff_values(image, encoded) if image.format == "TIFF" else stored_values(image, encoded)
    values = highest - values if inverted else values
    grey = values.ndim == 2 or values.shape[2] < 3
    values = values.reshape(*values.shape[:2], -1)
    values = np.repeat(values[:, :, :1], 3, 2) if grey else values[:, :, :3]
    return to_8_bits(values, highest)


def to_8_bits(values: np.ndarray, highest: int) -> np.ndarray:
    """Whole numbers from 0 to ``highest``, at most 65535, as uint8 from 0 to 255, rounded to the nearest."""
    return ((values.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)


def beyond_float32(values: np.ndarray) -> bool:
    """Whether some are whole numbers that float32, the dtype of modalities, does not represent."""
    return (
        values.dtype.kind in "iu"
        and values.dtype.itemsize > 2
        and bool((values.astype(np.float32).astype(np.float64) != values).any())
    )


def stored_values(image: Image.Image, encoded: bytes) -> np.ndarray:
    """The numbers in an opened file, not scaled: (H, W), or (H, W, C) with colours as R, G, B; of a palette the numbers
    of its colours.

    Raises:
        UnreadKind: They would not come out as they are stored.
        ValueError: It is damaged.
    """
    count = pages(image)
    if count > 1:
        raise UnreadKind(f"holds {count} images: save each in a file of its own")
    if image.format == "PPM":
        return pnm_values(encoded)
    if image.format == "PNG":
        return _png(image, encoded)
    if image.format == "TIFF":
        if tags_of(image).get(PHOTOMETRIC) == 0:
            raise UnreadKind(
                "is a TIFF in which 0 is white (MinIsWhite), so that its values may be meant either way: save it "
                "with 0 as black, or as PNG"
            )
        return tiff_values(image, encoded)
    values = misread_bmp(image, encoded)
    return np.asarray(image) if values is None else values


def lossy(image: Image.Image, encoded: bytes) -> bool:
    """Whether the values of neighbours were blended by the file's compression."""
    if image.format == "WEBP":
        return b"VP8L" not in set(_webp_chunks(encoded))
    compression = image.info.get("compression") if image.format == "TIFF" else None
    return image.format in _LOSSY or compression in ("jpeg", "tiff_jpeg", "webp")


def orientation(image: Image.Image) -> int:
    """EXIF's number from 1 (upright) to 8."""
    number = tags_of(image).get(ORIENTATION, 1) if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
    return number if number in range(1, 9) else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before the orientation is applied: of a TIFF some versions of Pillow give those after it."""
    return (tags_of(image)[WIDTH], tags_of(image)[HEIGHT]) if image.format == "TIFF" else image.size


def pages(image: Image.Image) -> int:
    """How many images of full size a file holds."""
    return len(full_pages(image)) if image.format == "TIFF" else getattr(image, "n_frames", 1)


def pnm_values(encoded: bytes) -> np.ndarray:
    """PGM and PPM, binary or as text: uint8 or, where the header's maximum is above 255, uint16. Pillow scales them by
    that maximum.

    Raises:
        UnreadKind: A bitmap or another of the family, or several images in one file.
        ValueError: It is damaged.
    """
    if encoded[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        raise UnreadKind(
            f"is a PNM of the kind {encoded[:2].decode('latin-1')}, which is not read: save it as PNG, PGM, PPM or .npy"
        )
    width, height, highest, begin = _pnm_header(encoded)
    channels = 3 if encoded[:2] in (b"P3", b"P6") else 1
    dtype, count = np.dtype(">u2" if highest > 255 else "u1"), width * height * channels
    if encoded[:2] in (b"P5", b"P6"):
        body = encoded[begin : begin + count * dtype.itemsize]
        if len(body) < count * dtype.itemsize:
            raise ValueError("image file is truncated")
        if re.match(rb"\s*P[1-7]\s", encoded[begin + len(body) : begin + len(body) + 64]):
            raise UnreadKind("holds several images: save each in a file of its own")
        values = np.frombuffer(body, dtype)
    else:
        numbers = re.sub(rb"#[^\r\n]*", b"", encoded[begin:]).split()
        if len(numbers) != count:
            raise ValueError(f"it has {len(numbers)} values, and its header asks for {count}")
        values = np.array(numbers).astype(np.int64)
    if values.max(initial=0) > highest or values.min(initial=0) < 0:
        raise ValueError(
            f"it holds values from {values.min()} to {values.max()}, and its header says {highest} at most"
        )
    return values.astype(np.uint16 if highest > 255 else np.uint8).reshape(
        (height, width, 3) if channels == 3 else (height, width)
    )


def _pnm_header(encoded: bytes) -> tuple[int, int, int, int]:
    """Width, height, the maximum, and where the values begin."""
    header = _PNM.match(encoded)
    if header is None or not 0 < int(header[3]) < 65536:
        raise ValueError("its header is damaged")
    return int(header[1]), int(header[2]), int(header[3]), header.end()


def _png_header(encoded: bytes) -> tuple[int, int]:
    """Bits of a channel, and the colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    # Signature, length, name, width, height, bits, colour type.
    if encoded[12:16] != b"IHDR" or len(encoded) < 26:
        raise ValueError("its header is damaged")
    return encoded[24], encoded[25]


def _png(image: Image.Image, encoded: bytes) -> np.ndarray:
    bits, colour = _png_header(encoded)
    # This finds damage, which OpenCV may pass over.
    image.load()
    if bits == 16 and colour in (2, 4, 6):
        # A colour that stands for transparent comes as a fourth channel, grey with alpha as four.
        values = channels_of_16_bits(encoded, (3, 4))
        return values[:, :, [0, 3]] if colour == 4 else values[:, :, : 3 if colour == 2 else 4]
    values = np.asarray(image)
    # Some versions of Pillow return sixteen bits as thirty-two.
    return values.astype(np.uint16) if bits == 16 else unscaled(values, bits) if colour == 0 else values


def _webp_chunks(encoded: bytes) -> Iterator[bytes]:
    """Names of the chunks of a WebP, those within the frames of an animation too."""
    place = 12
    while place + 8 <= len(encoded):
        name, size = encoded[place : place + 4], struct.unpack_from("<I", encoded, place + 4)[0]
        yield name
        # A frame begins with sixteen bytes of its own.
        place += 24 if name == b"ANMF" else 8 + size + size % 2
