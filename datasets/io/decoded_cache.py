"""Pictures that were decoded once: at the size that views need, uint8, see :mod:`~.decoded_store`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ContrastillError
from .decoded_store import SAMPLED, Decoded, DecodedStore
from .file_views import reduction, resized
from .file_workers import PictureSource
from .images import DecodedPicture, Picture


class DecodedPictures:
    """Opens pictures from a cache, and fills it with those that are not there yet.

    The cached picture is the file's, resized (bilinear, antialiased) so that its shorter side has ``short`` pixels; a
    smaller one is kept as it is, to the pixel. A view is a function of (seed, view, index) as without a cache; its
    pixels differ from those without by a second resizing.

    Args:
        pictures: Opens the files.
        folder: Where caches are kept; several data sets and runs may share it.
        short: Shorter side in pixels.

    Raises:
        UsageError: The disk has no room for all pictures, or the folder cannot be written.
        ContrastillError: The folder holds damaged files.
    """

    def __init__(self, pictures: PictureSource, folder: str | os.PathLike, short: int) -> None:
        self.pictures, self.short = pictures, short
        count = len(pictures.files)
        about = {"short": short, "pictures": count, "files": pictures.listing()}
        about["contents"] = [f"{picture.digest():016x}" for picture in self._sampled()]
        self.store = DecodedStore(folder, about, count)
        self.store.check_room(
            self.estimated_bytes(),
            f"{count:,} pictures of {short} pixels on the shorter side",
            "take a smaller data.size or a larger data.scale, ",
        )

    @property
    def files(self) -> np.ndarray:
        """What each picture is called, bytes (N,)."""
        return self.pictures.files

    def listing(self) -> str:
        """Stands for the names and sizes of all files."""
        return self.pictures.listing()

    def contents_hash(self, modality: str | None = None) -> str | None:
        """Stands for the bytes of all files, if they are few."""
        of_files = getattr(self.pictures, "contents_hash", None)
        return None if of_files is None else of_files(modality)

    def stamp(self, row: int) -> int:
        """Stands for the file of a sample's picture."""
        return self.pictures.stamp(row)

    def open(self, row: int) -> DecodedPicture:
        """The picture of a sample from the cache, decoded and kept first where it is not there.

        Raises:
            DamagedImage: Its file cannot be read.
            ContrastillError: The disk is full, or a part of the cache is gone.
        """
        pixels, height, width, _ = self.store.open(row, _PictureFile(self.pictures, row, self.short))
        return DecodedPicture(os.fsdecode(self.files[row]), height, width, torch.from_numpy(pixels))

    def estimated_bytes(self) -> int:
        """What all pictures will take, from the sizes of a few."""
        sizes = [cached_size(picture.height, picture.width, self.short) for picture in self._sampled()]
        return round(len(self.files) * 3 * float(np.mean(np.prod(sizes, axis=1)))) if sizes else 0

    def _sampled(self) -> Iterator[Picture]:
        """A few pictures, evenly spaced; damage is reported where a picture is read."""
        count = min(len(self.files), SAMPLED)
        # A copy, whose open files are closed with it.
        pictures = copy(self.pictures)
        for place in range(count):
            with suppress(ContrastillError):
                yield _file(pictures.open(place * len(self.files) // count))


class _PictureFile:
    """The file of a sample's picture, read when it is needed."""

    def __init__(self, pictures: PictureSource, row: int, short: int) -> None:
        self.pictures, self.row, self.short = pictures, row, short

    @cached_property
    def picture(self) -> Picture:
        return _file(self.pictures.open(self.row))

    def stamp(self) -> int:
        return self.pictures.stamp(self.row)

    def digest(self) -> int:
        return self.picture.digest()

    def decode(self) -> Decoded:
        picture = self.picture
        return Decoded(decoded(picture, self.short).numpy(), picture.height, picture.width, picture.orientation)

    def __str__(self) -> str:
        return str(self.picture.path)


def cached_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Height and width that a picture is cached with.

    Example:
        >>> cached_size(375, 500, 256), cached_size(100, 80, 256)
        ((256, 341), (100, 80))
    """
    side = min(height, width)
    if side <= short:
        return height, width
    long = int(short * max(height, width) / side)
    return (short, long) if height <= width else (long, short)


def decoded(picture: Picture, short: int) -> Tensor:
    """The pixels of a picture as they are cached, uint8 (h, w, 3)."""
    size = cached_size(picture.height, picture.width, short)
    # Twice the pixels needed, so that how it was decoded is hardly seen.
    return resized(picture.pixels(reduction(min(picture.height, picture.width), 2 * short)), *size).contiguous()


def _file(picture: Picture | DecodedPicture) -> Picture:
    assert isinstance(picture, Picture), "a cache reads files"
    return picture
