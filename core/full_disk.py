"""A disk that runs full: one sentence says where and how much, and nothing half-written stays behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import ContrastillError

# No space left, the user's quota used up, a file larger than it may be.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullDisk(ContrastillError):
    """Something could not be written for lack of room. Exit code 1."""


@contextmanager
def room_for(what: str, folder: Path, checkpoints: Path, needed: int | None = None) -> Iterator[None]:
    """Within it, an error of a full disk becomes a :class:`FullDisk` that names the folder and what is safe.

    Args:
        what: What is written, for the message.
        folder: Where.
        checkpoints: The run's folder of checkpoints; the newest there is what the run goes on from.
        needed: Bytes that are to be written; None: a few.

    Raises:
        FullDisk: The disk is full, the quota used up, or a limit on the size of files reached.

    Example:
        >>> with room_for("student.safetensors", Path("."), Path("checkpoints"), needed=5_000_000):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        contrastill.core.full_disk.FullDisk: student.safetensors could not be written to ...
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number not in _FULL:
            raise
        finished = sorted(checkpoints.glob("step-*"))
        intact = f"the last checkpoint, {finished[-1]}, is intact" if finished else "no checkpoint was written yet"
        required = f"{_size(needed)} are needed and " if needed is not None else ""
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        raise FullDisk(
            f"{what} could not be written to {folder} ({os.strerror(number)}): {required}{_size(free)} are free; "
            f"{intact}: "
            "make room, and the same command goes on from there"
        ) from error


def _number(error: OSError | SafetensorError) -> int | None:
    """The system's number of an error; safetensors has it in its message alone."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"os error (\d+)", str(error))
    return int(match[1]) if match else None


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
