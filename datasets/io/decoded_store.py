"""Arrays that were decoded from files once, kept in files that are mapped into memory: ``data.decoded_cache``.

A folder holds a folder for each list of files and way to decode them. In it ``index.npy`` says of each file where its
values are; each process that decodes one appends it to a file of its own, ``part-N.raw``. A file is entered in the
index after its values are on the disk, so that a process that is killed leaves nothing half-written behind, and
processes and runs may fill and read one folder at a time. The index also has a stamp of the file, by inode and time of
change, and a digest of its bytes: where the stamp is another, as of a copy, the bytes are compared, and a replaced file
is decoded anew.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...core.atomic import write_text
from ...core.errors import ContrastillError, UsageError
from ...core.fingerprint import text_hash

log = logging.getLogger(__name__)

SAMPLED = 16
"""Samples from which the size of all is estimated, and by whose bytes sets of one listing are told apart."""
# Raised too where a file is decoded to other values than before.
_VERSION = 4
# part 0: the file is not there yet. channels 0: (height, width), without a third side.
_ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("dtype", "S8"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("channels", "<u4"),
        ("full_height", "<u4"),
        ("full_width", "<u4"),
        ("orientation", "<u4"),
        ("stamp", "<u8"),
        ("digest", "<u8"),
        ("part", "<u4"),
    ]
)
# Files that are written, and seconds that pass, before they are brought to the disk and entered.
_AT_ONCE, _SECONDS = 64, 1.0


class Decoded(NamedTuple):
    """What a file holds.

    Attributes:
        values: (H, W) or (H, W, C) of any dtype of numbers.
        height, width: Of the picture in its file, upright.
        orientation: EXIF's number by which it was turned.
    """

    values: np.ndarray
    height: int
    width: int
    orientation: int


class DecodedSource(Protocol):
    """A file that can be decoded."""

    def stamp(self) -> int:
        """64 bits that are others once the file is replaced, see :func:`~.fingerprint.file_stamp`."""
        ...

    def digest(self) -> int:
        """64 bits that stand for the file's bytes."""
        ...

    def decode(self) -> Decoded:
        """What it holds.

        Raises:
            DamagedImage: It cannot be read.
        """
        ...


class DecodedStore:
    """Decoded files by their numbers, filled with those that are not there yet.

    Args:
        folder: Where stores are kept; several data sets and runs may share it.
        about: What the values depend on; other facts have a store of their own.
        count: Files.

    Attributes:
        folder: Of this store.

    Raises:
        UsageError: The folder cannot be written.
        ContrastillError: It holds damaged files.
    """

    def __init__(self, folder: str | os.PathLike, about: dict[str, Any], count: int) -> None:
        about = {"version": _VERSION, **about}
        self.count, self.folder = count, Path(folder).expanduser() / text_hash(json.dumps(about, sort_keys=True))[:16]
        self._forget()
        try:
            if not (self.folder / "index.npy").is_file():
                self._create(about)
            self._index()
        except OSError as error:
            raise UsageError(
                f"data.decoded_cache={folder} cannot be written ({error.strerror}): name a folder that can, or "
                "leave it out"
            ) from error

    def open(self, number: int, source: DecodedSource) -> Decoded:
        """What a file holds, from the store; decoded and kept first where it is not there.

        Args:
            number: Of the file, from 0.
            source: The file.

        Raises:
            DamagedImage: The file cannot be read.
            ContrastillError: The disk is full, or a part of the store is gone.
        """
        entry = self._index()[number].item()
        with self._lock:
            entry = self._pending.get(number, entry)
            if not entry[-1]:
                return self._fill(number, source)
            if self._pending and time.monotonic() - self._flushed > _SECONDS:
                self.flush()
            *place, height, width, orientation, stamp, digest, part = entry
            values = self._mapped(part, *place)
        if stamp != source.stamp() and source.digest() != digest:
            return self._changed(source)
        return Decoded(values, height, width, orientation)

    def num_cached(self) -> int:
        """Files that are there."""
        return int((self._index()["part"] > 0).sum())

    def check_room(self, total: int, what: str, way: str = "") -> None:
        """Log what all files take, or refuse it where the disk has no room.

        Args:
            total: Estimated bytes of all.
            what: All files, for messages.
            way: How they would take less, ending in a comma and a space.

        Raises:
            UsageError: The disk has no room.
        """
        there, free = self.num_cached(), shutil.disk_usage(self.folder).free
        if round(total * (1 - there / max(1, self.count))) > free:
            raise UsageError(
                f"data.decoded_cache={self.folder.parent} takes about {_size(total)} for {what}, of which {there:,} "
                f"are there, and {_size(free)} are free: {way}name a folder on another disk, or leave it out"
            )
        log.info(
            "data.decoded_cache: %d of %s are in %s; all take about %s", there, what, self.folder, _size(total)
        )  # fmt: skip

    def flush(self) -> None:
        """Bring what this process decoded to the disk and enter it in the index."""
        if self._pending and self._writer is not None:
            os.fsync(self._writer.fileno())
            index = self._index()
            for number, entry in self._pending.items():
                # The part last: a reader takes an entry with one for whole.
                index[number] = (*entry[:-1], 0)
                index["part"][number] = entry[-1]
            self._pending.clear()
        self._flushed = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: each worker has its own."""
        return {"count": self.count, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        # Of a process that is ended otherwise the last few are decoded again. When the interpreter ends, what this
        # module imported may be gone.
        try:
            if self._process == os.getpid():
                self.flush()
        except Exception:  # noqa: SIM105
            pass

    def _forget(self) -> None:
        """Begin without open files."""
        self._process = os.getpid()
        self._entries: np.ndarray | None = None
        self._maps: dict[int, np.ndarray] = {}
        self._writer: Any = None
        self._part, self._warned = 0, False
        self._pending: dict[int, tuple[Any, ...]] = {}
        self._flushed = time.monotonic()
        self._lock = threading.Lock()

    def _index(self) -> np.ndarray:
        if self._process != os.getpid():
            # In a fork the parent's files are not to be written to.
            self._forget()
        if self._entries is None:
            self._entries = _entries(self.folder / "index.npy", self.count)
        return self._entries

    def _mapped(self, part: int, offset: int, dtype: bytes, height: int, width: int, channels: int) -> np.ndarray:
        """The values in a part; only those that are looked at are read."""
        shape = (height, width, channels) if channels else (height, width)
        numbers = np.dtype(dtype.decode())
        end = offset + math.prod(shape) * numbers.itemsize
        mapped = self._maps.get(part)
        if mapped is None or len(mapped) < end:
            path = self.folder / f"part-{part}.raw"
            size = path.stat().st_size if path.is_file() else 0
            if size < end:
                raise ContrastillError(f"{path} of data.decoded_cache is damaged or gone: remove {self.folder}")
            # Copied where it is written to, which nothing does: torch takes no arrays that cannot be.
            mapped = self._maps[part] = np.memmap(path, np.uint8, "c", shape=(size,))
        return np.ndarray(shape, numbers, mapped, offset)

    def _changed(self, source: DecodedSource) -> Decoded:
        """Of a file that was replaced since it was cached: from the file, each time it is read."""
        if not self._warned:
            self._warned = True
            log.warning(
                "%s was replaced since it was cached in %s, and is decoded each time it is read, as are other such "
                "files: remove that folder to cache all anew",
                source, self.folder,
            )  # fmt: skip
        return source.decode()

    def _fill(self, number: int, source: DecodedSource) -> Decoded:
        # In this order: a file that is replaced meanwhile has another stamp, and then another digest.
        stamp, digest, decoded = source.stamp(), source.digest(), source.decode()
        values = np.ascontiguousarray(decoded.values)
        try:
            if self._writer is None:
                self._part, self._writer = _new_part(self.folder)
            # Numbers begin at a multiple of their size.
            self._writer.write(bytes(-self._writer.tell() % values.itemsize))
            offset = self._writer.tell()
            self._writer.write(values.data)
            self._writer.flush()
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise ContrastillError(
                f"data.decoded_cache={self.folder.parent} cannot be written ({error.strerror}): {_size(free)} are free "
                "there; name a folder on another disk, or leave data.decoded_cache out"
            ) from error
        height, width, *channels = values.shape
        self._pending[number] = (
            offset, values.dtype.str.encode(), height, width, *(channels or [0]), *decoded[1:], stamp, digest,
            self._part,
        )  # fmt: skip
        if len(self._pending) >= _AT_ONCE or time.monotonic() - self._flushed > _SECONDS:
            self.flush()
        return decoded

    def _create(self, about: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "about.json", json.dumps(about, indent=1) + "\n")
        temporary = self.folder / f"index-{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": _ENTRY.descr, "fortran_order": False, "shape": (self.count,)}
            )
            file.truncate(file.tell() + _ENTRY.itemsize * self.count)
        # The first of several processes makes it.
        with suppress(FileExistsError):
            os.link(temporary, self.folder / "index.npy")
        temporary.unlink()


def _entries(path: Path, count: int) -> np.ndarray:
    try:
        entries = np.load(path, mmap_mode="r+", allow_pickle=False)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise ContrastillError(f"{path} is no index of data.decoded_cache: remove {path.parent}") from error
    if entries.dtype != _ENTRY or entries.shape != (count,):
        raise ContrastillError(f"{path} is no index of {count} files of data.decoded_cache: remove {path.parent}")
    return entries


def _new_part(folder: Path) -> tuple[int, Any]:
    """A number that no process has, and its file."""
    for number in range(1, 2**31):
        with suppress(FileExistsError):
            return number, open(folder / f"part-{number}.raw", "xb")  # noqa: SIM115 - as long as the process
    raise AssertionError("there are as many parts as numbers")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
