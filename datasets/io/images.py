"""Image files: whatever they hold, they become upright uint8 RGB."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ...core.errors import ContrastillError
from .bmp_values import misread_bmp
from .image_values import highest_value, orientation, pages, rgb_values, stored_size, stored_values
from .tiff_values import describe_unidentified, open_image
from .unread_kind import UnreadKind

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Of a photograph only its orientation is asked for, and pixels beside a damaged tag are as good as others.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")
_JPEG_END = b"\xff\xd9"
# What libjpeg can shrink an image by while it decodes it.
REDUCTIONS = (8, 4, 2)


class DamagedSample(ContrastillError):
    """One sample of a data set cannot be read; the others may be."""


class DamagedImage(DamagedSample):
    """A file that cannot be read as an image.

    Attributes:
        path: The file.
        reason: The decoder's message.
        remedy: What can be done.
        kind: What it should have been.
    """

    def __init__(
        self, path: str | PathLike, reason: object, remedy: str = "repair or remove it", kind: str = "an image"
    ) -> None:
        self.path, self.reason, self.remedy, self.kind = Path(path), str(reason), remedy, kind
        super().__init__(f"{path} cannot be read as {kind} ({self.reason}): {remedy}")


class Picture:
    """An image file whose header has been read, not yet its pixels.

    Greyscale, palettes and CMYK become RGB, an alpha channel is left out, and EXIF's rotation is applied. Channels of
    more than 8 bits are scaled to 8 by the range that the file states, the same for all pictures of a kind. Of an
    animation it is the first frame.

    Args:
        path: The file, or where its bytes are from, for messages.
        encoded: Its bytes, where they have been read already.

    Attributes:
        height, width: Pixels, upright.
        orientation: EXIF's number from 1 to 8; 1 is upright as stored.
        highest: The value of full intensity in the file where its channels have more than 8 bits; else 255.

    Raises:
        DamagedImage: It is no image, or holds too many pixels to be believed.
        UnreadKind: A thumbnail alone of it is within reach.
    """

    def __init__(self, path: str | PathLike, encoded: bytes | None = None) -> None:
        self.path = path
        try:
            self._bytes = Path(path).read_bytes() if encoded is None else encoded
            self._image = open_image(self._bytes)
            self.orientation = orientation(self._image)
            self.highest = highest_value(self._image, self._bytes)
            width, height = stored_size(self._image)
        except UnreadKind as error:
            raise UnreadKind(f"{path} {error}") from error
        except Image.DecompressionBombError as error:
            raise DamagedImage(path, error, "more pixels than any photograph has; shrink or remove it") from error
        except Exception as error:
            # Pillow raises many kinds of errors on damage: OSError, SyntaxError, ValueError, struct.error, …
            raise DamagedImage(path, reason_of(error, getattr(self, "_bytes", b""))) from error
        # Pillow turns a TIFF itself.
        self._orientation = 1 if self._image.format == "TIFF" else self.orientation
        self.height, self.width = (width, height) if self.orientation in (5, 6, 7, 8) else (height, width)

    def pixels(self, reduce: int = 1) -> Tensor:
        """The pixels, uint8 (H, W, 3).

        Args:
            reduce: 1, 2, 4 or 8: a JPEG is decoded to a ``reduce``-th of its sides, rounded up, in a fraction of the
                time; any other file at full size. What came of it is the shape of the result.

        Raises:
            DamagedImage: It is truncated.
            UnreadKind: It holds numbers whose range is not known.
        """
        image = self._image
        try:
            if self.highest > 255:
                pixels = torch.from_numpy(rgb_values(image, self._bytes, self.highest))
            else:
                pixels = self._decoded(reduce)
        except UnreadKind as error:
            raise UnreadKind(f"{self.path} {error}") from error
        except Exception as error:
            raise DamagedImage(self.path, reason_of(error)) from error
        return upright(pixels, self._orientation)

    def _decoded(self, reduce: int) -> Tensor:
        image = self._image
        jpeg = image.format in ("JPEG", "MPO")
        if jpeg and image.mode in ("RGB", "L"):
            pixels = _decode_jpeg(self._bytes, image.height, image.width, reduce)
            if pixels is not None:
                return pixels
            if _JPEG_END not in self._bytes:
                raise ValueError("image file is truncated")
        if jpeg and reduce > 1:
            image.draft(image.mode, (max(1, image.width // reduce), max(1, image.height // reduce)))
        greys = misread_bmp(image, self._bytes)
        return _rgb(image if greys is None else Image.fromarray(greys))

    def count(self) -> int:
        """How many images of full size the file holds; the second of a telephone's JPEG is none of them."""
        return 1 if self._image.format in ("JPEG", "MPO") else pages(self._image)

    def digest(self) -> int:
        """64 bits that stand for the file's bytes."""
        return int.from_bytes(hashlib.blake2b(self._bytes, digest_size=8).digest(), "little")

    def brightest(self) -> int:
        """The greatest value in the file, before it is scaled."""
        return int(stored_values(self._image, self._bytes).max())


class DecodedPicture:
    """A picture of a cache, see :mod:`~.decoded_cache`; stands in for a :class:`Picture`.

    Attributes:
        path: The file it came from.
        height, width: Of the picture in its file, upright.
    """

    def __init__(self, path: str | PathLike, height: int, width: int, pixels: Tensor) -> None:
        self.path, self.height, self.width = path, height, width
        self._pixels = pixels

    def pixels(self, reduce: int = 1) -> Tensor:
        """The pixels as they are cached, uint8 (h, w, 3), whatever reduction is asked for: the shape says which it
        was.
        """
        return self._pixels


def warn_of_scaling(pictures: Iterable[Picture]) -> None:
    """Log one warning if pictures that are to be ``rgb`` have more than 8 bits: how they are scaled, and what is left
    of them; and one if files hold several pictures, of which the first is read.

    Args:
        pictures: Some of a data set.
    """
    brightest: list[tuple[int, Picture]] = []
    several: tuple[int, str | PathLike] | None = None
    for picture in pictures:
        with suppress(Exception):
            several = several or ((count, picture.path) if (count := picture.count()) > 1 else None)
        if 255 < picture.highest < 65536:  # what has more is refused where it is read
            with suppress(Exception):  # damage is reported where the picture is read
                brightest.append((picture.brightest(), picture))
    if several is not None:
        log.warning(
            "%s holds %d images, of which the first alone is read, as of others of its kind: save each in a file of "
            "its own to read all",
            several[1],
            several[0],
        )
    if brightest:
        value, picture = max(brightest, key=lambda pair: pair[0] / pair[1].highest)
        log.warning(
            "%s has more than 8 bits, and as rgb is scaled so that %d becomes 255, as all pictures of its kind; "
            "of %d read, the brightest value is %d and becomes %d",
            picture.path, picture.highest, len(brightest), value, round(value * 255 / picture.highest),
        )  # fmt: skip


def warn_of_files(where: Path, passed_over: Counter[str]) -> None:
    """Log one warning of the files of a folder that are no images to be read: how many have which ending."""
    if passed_over:
        kinds = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in passed_over.most_common(4))
        log.warning("%s: files that are no images to be read are passed over: %s", where, kinds)


def read_square(path: str | PathLike, size: int | None = None) -> Tensor:
    """One image, uint8 (H, W, 3).

    Args:
        size: Side in pixels that its centre square is resized to, bicubic; None, or an image of that size: as it is.

    Raises:
        DamagedImage: It cannot be read.
    """
    pixels = Picture(path).pixels()
    height, width, _ = pixels.shape
    if not size or (height, width) == (size, size):
        return pixels
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    resized = Image.fromarray(pixels.numpy()).resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge)
    )
    return torch.from_numpy(np.array(resized))


def _decode_jpeg(encoded: bytes, height: int, width: int, reduce: int) -> Tensor | None:
    """uint8 (h, w, 3) of a JPEG of height × width pixels, h and w a ``reduce``-th of them, rounded up: the bits of
    Pillow, in less time. None where the file is not in order: Pillow decides what that means.
    """
    from simplejpeg import decode_jpeg

    smallest = {"min_height": -(-height // reduce), "min_width": -(-width // reduce)} if reduce > 1 else {}
    with suppress(ValueError):
        return torch.from_numpy(decode_jpeg(encoded, "RGB", min_factor=reduce, **smallest))
    return None


def _rgb(image: Image.Image) -> Tensor:
    """uint8 (H, W, 3)."""
    if image.mode.startswith(("I", "F")):
        raise UnreadKind("holds floats or 32-bit integers, whose range as rgb is not known: save it in 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image))


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Turned as EXIF's ``orientation`` (1 to 8) says: (H, W, 3), or (W, H, 3) from 5 on."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(0, 1)
    flipped = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return (pixels.flip(flipped) if flipped else pixels).contiguous()


def reason_of(error: Exception, encoded: bytes = b"") -> str:
    """One line; Pillow's "cannot identify image file <_io.BytesIO …>" names an object of ours, and says the same of
    damaged files and of kinds that it does not read.
    """
    message = (str(error).partition("<_io")[0].strip() or type(error).__name__).splitlines()[0]
    kind = describe_unidentified(encoded) if isinstance(error, UnidentifiedImageError) else ""
    return f"{message}; {kind}" if kind else message
