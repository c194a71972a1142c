"""Pictures that were decoded once: at the size that views need, uint8, in files that are mapped into memory.

A folder holds a folder for each list of files and size. In it ``index.npy`` says of each picture where its pixels are;
each process that decodes one appends it to a file of its own, ``part-N.rgb``. A picture is entered in the index after
its pixels are on the disk, so that a process that is killed leaves nothing half-written behind, and processes and runs
may fill and read one folder at a time. It also has a stamp of the file, by inode and time of change, and a digest of
its bytes: where the stamp is another, as of a copy, the bytes are compared, and a replaced file is decoded anew.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.atomic import write_text
from ...core.errors import ContrastillError, UsageError
from ...core.fingerprint import text_hash
from .file_views import reduction, resized
from .file_workers import PictureSource
from .images import DecodedPicture, Picture

log = logging.getLogger(__name__)

_VERSION = 2
# part 0: the picture is not there yet. height and width are those kept, full_height and full_width the picture's own.
_ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("full_height", "<u4"),
        ("full_width", "<u4"),
        ("stamp", "<u8"),
        ("digest", "<u8"),
        ("part", "<u4"),
    ]
)
# Pictures that are written, and seconds that pass, before they are brought to the disk and entered.
_AT_ONCE, _SECONDS = 64, 1.0
# Pictures from which the size of all is estimated, and by whose bytes sets of one listing are told apart.
_SAMPLED = 16


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
        about = {"version": _VERSION, "short": short, "pictures": len(pictures.files), "files": pictures.listing()}
        about["contents"] = [f"{picture.digest():016x}" for picture in self._sampled()]
        self.folder = Path(folder).expanduser() / text_hash(json.dumps(about, sort_keys=True))[:16]
        self._forget()
        if not (self.folder / "index.npy").is_file():
            try:
                self._create(about)
            except OSError as error:
                raise UsageError(
                    f"data.decoded_cache={folder} cannot be written ({error.strerror}): name a folder that can, or "
                    "leave it out"
                ) from error
        self._check_room(Path(folder))

    @property
    def files(self) -> np.ndarray:
        """What each picture is called, bytes (N,)."""
        return self.pictures.files

    def listing(self) -> str:
        """Stands for the names and sizes of all files."""
        return self.pictures.listing()

    def stamp(self, row: int) -> int:
        """Stands for the file of a sample's picture."""
        return self.pictures.stamp(row)

    def open(self, row: int) -> DecodedPicture:
        """The picture of a sample from the cache, decoded and kept first where it is not there.

        Raises:
            DamagedImage: Its file cannot be read.
            ContrastillError: The disk is full, or a part of the cache is gone.
        """
        entry = self._index()[row].item()
        with self._lock:
            entry = self._pending.get(row, entry)
            if not entry[-1]:
                return self._fill(row)
            if self._pending and time.monotonic() - self._flushed > _SECONDS:
                self.flush()
            offset, height, width, full_height, full_width, stamp, digest, part = entry
            pixels = self._mapped(part, offset, (height, width, 3))
        if stamp != self.pictures.stamp(row) and (picture := self._opened(row)).digest() != digest:
            return self._changed(picture)
        return DecodedPicture(os.fsdecode(self.files[row]), full_height, full_width, pixels)

    def num_cached(self) -> int:
        """Pictures that are there."""
        return int((self._index()["part"] > 0).sum())

    def estimated_bytes(self) -> int:
        """What all pictures will take, from the sizes of a few."""
        sizes = [cached_size(picture.height, picture.width, self.short) for picture in self._sampled()]
        return round(len(self.files) * 3 * float(np.mean(np.prod(sizes, axis=1)))) if sizes else 0

    def flush(self) -> None:
        """Bring what this process decoded to the disk and enter it in the index."""
        if self._pending and self._writer is not None:
            os.fsync(self._writer.fileno())
            index = self._index()
            for row, entry in self._pending.items():
                # The part last: a reader takes an entry with one for whole.
                index[row] = (*entry[:-1], 0)
                index["part"][row] = entry[-1]
            self._pending.clear()
        self._flushed = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: each worker has its own."""
        return {"pictures": self.pictures, "short": self.short, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        # Of a process that is ended otherwise the last few are decoded again.
        with suppress(Exception):
            if self._process == os.getpid():
                self.flush()

    def _forget(self) -> None:
        """Begin without open files."""
        self._process = os.getpid()
        self._entries: np.ndarray | None = None
        self._maps: dict[int, np.ndarray] = {}
        self._writer: Any = None
        self._part, self._told = 0, False
        self._pending: dict[int, tuple[int, ...]] = {}
        self._flushed = time.monotonic()
        self._lock = threading.Lock()

    def _index(self) -> np.ndarray:
        if self._process != os.getpid():
            # In a fork the parent's files are not to be written to.
            self._forget()
        if self._entries is None:
            self._entries = _entries(self.folder / "index.npy", len(self.files))
        return self._entries

    def _mapped(self, part: int, offset: int, shape: tuple[int, int, int]) -> Tensor:
        """The pixels in a part; only those that are looked at are read."""
        end = offset + shape[0] * shape[1] * 3
        mapped = self._maps.get(part)
        if mapped is None or len(mapped) < end:
            path = self.folder / f"part-{part}.rgb"
            size = path.stat().st_size if path.is_file() else 0
            if size < end:
                raise ContrastillError(f"{path} of data.decoded_cache is damaged or gone: remove {self.folder}")
            # Copied where it is written to, which nothing does: torch takes no arrays that cannot be.
            mapped = self._maps[part] = np.memmap(path, np.uint8, "c", shape=(size,))
        return torch.from_numpy(mapped[offset:end].reshape(shape))

    def _sampled(self) -> Iterator[Picture]:
        """A few pictures, evenly spaced; damage is reported where a picture is read."""
        count = min(len(self.files), _SAMPLED)
        # A copy, whose open files are closed with it.
        pictures = copy(self.pictures)
        for place in range(count):
            with suppress(ContrastillError):
                yield _file(pictures.open(place * len(self.files) // count))

    def _opened(self, row: int) -> Picture:
        return _file(self.pictures.open(row))

    def _changed(self, picture: Picture) -> DecodedPicture:
        """A picture whose file was replaced since it was cached: from the file, each time it is read."""
        if not self._told:
            self._told = True
            log.warning(
                "%s was replaced since it was cached in %s, and is decoded each time it is read, as are other such "
                "files: remove that folder to cache all anew",
                picture.path, self.folder,
            )  # fmt: skip
        return DecodedPicture(picture.path, picture.height, picture.width, decoded(picture, self.short))

    def _fill(self, row: int) -> DecodedPicture:
        # Before its bytes are read: a file that is replaced meanwhile has another stamp.
        stamp = self.pictures.stamp(row)
        picture = self._opened(row)
        pixels = decoded(picture, self.short)
        if self._writer is None:
            self._part, self._writer = _new_part(self.folder)
        offset = self._writer.tell()
        try:
            self._writer.write(np.ascontiguousarray(pixels.numpy()).data)
            self._writer.flush()
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise ContrastillError(
                f"data.decoded_cache={self.folder.parent} cannot be written ({error.strerror}): {_size(free)} are free "
                "there; name a folder on another disk, or leave data.decoded_cache out"
            ) from error
        height, width, _ = pixels.shape
        self._pending[row] = (
            offset, height, width, picture.height, picture.width, stamp, picture.digest(), self._part,
        )  # fmt: skip
        if len(self._pending) >= _AT_ONCE or time.monotonic() - self._flushed > _SECONDS:
            self.flush()
        return DecodedPicture(picture.path, picture.height, picture.width, pixels)

    def _create(self, about: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "about.json", json.dumps(about, indent=1) + "\n")
        temporary = self.folder / f"index-{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": _ENTRY.descr, "fortran_order": False, "shape": (len(self.files),)}
            )
            file.truncate(file.tell() + _ENTRY.itemsize * len(self.files))
        # The first of several processes makes it.
        with suppress(FileExistsError):
            os.link(temporary, self.folder / "index.npy")
        temporary.unlink()

    def _check_room(self, folder: Path) -> None:
        total, there = self.estimated_bytes(), self.num_cached()
        missing = round(total * (1 - there / max(1, len(self.files))))
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise UsageError(
                f"data.decoded_cache={folder} takes about {_size(total)} for {len(self.files):,} pictures of "
                f"{self.short} pixels on the shorter side, of which {there:,} are there, and {_size(free)} are free: "
                "take a smaller data.size or a larger data.scale, name a folder on another disk, or leave it out"
            )
        log.info(
            "data.decoded_cache: %d of %d pictures are in %s; all take about %s",
            there, len(self.files), self.folder, _size(total),
        )  # fmt: skip


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


def _entries(path: Path, count: int) -> np.ndarray:
    try:
        entries = np.load(path, mmap_mode="r+", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ContrastillError(f"{path} is no index of data.decoded_cache: remove {path.parent}") from error
    if entries.dtype != _ENTRY or entries.shape != (count,):
        raise ContrastillError(f"{path} is no index of {count} pictures of data.decoded_cache: remove {path.parent}")
    return entries


def _new_part(folder: Path) -> tuple[int, Any]:
    """A number that no process has, and its file."""
    for number in range(1, 2**31):
        with suppress(FileExistsError):
            return number, open(folder / f"part-{number}.rgb", "xb")  # noqa: SIM115 - as long as the process
    raise AssertionError("there are as many parts as numbers")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
