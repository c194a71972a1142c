"""BMP whose few bits Pillow takes for others."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image


def misread_bmp(image: Image.Image, encoded: bytes) -> np.ndarray | None:
    """The greys (H, W) of a BMP of 4 or 8 bits that Pillow would decode as of 1 or 8, as it does where the palette is
    black and white, or grey n is its place n: bool, or uint8. None: Pillow decodes it right.

    Raises:
        ValueError: It is damaged.
    """
    if not is_misread_bmp(image, encoded):
        return None
    import cv2

    values = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape[:2] != (image.height, image.width):
        raise ValueError("its pixels are damaged")
    # The channels of a grey are alike.
    values = values if values.ndim == 2 else values[:, :, 0]
    return values > 127 if image.mode == "1" else values


def is_misread_bmp(image: Image.Image, header: bytes) -> bool:
    """Whether Pillow's mode is one of other bits than the file's.

    Args:
        header: The first bytes of the file, 32 or more.
    """
    if image.format != "BMP" or image.mode not in ("1", "L"):
        return False
    # The oldest header is the shortest.
    bits = struct.unpack_from("<H", header, 24 if header[14] == 12 else 28)[0]
    return bits != {"1": 1, "L": 8}[image.mode]
