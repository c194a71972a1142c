"""One training at a time writes a run's folder: a lock that the system releases when its process ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UsageError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Within it, no other process can take the lock of the same folder.

    It is of this process alone, so a worker that outlives a killed training does not keep it. A file system that has no
    locks is used without.

    Args:
        folder: Of a run; it exists.

    Raises:
        UsageError: Another process has the lock.
    """
    descriptor = _locked(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                (folder / _NAME).unlink()
            os.close(descriptor)
            with suppress(OSError):  # a run that was refused leaves nothing
                folder.rmdir()


def _locked(folder: Path) -> int | None:
    """The open file whose lock this process has; None where there are no locks."""
    if fcntl is None:
        return None
    path = folder / _NAME
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            # Not flock, which forked workers of a data loader would share.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 300).decode(errors="replace").strip()
            os.close(descriptor)
            if isinstance(error, (BlockingIOError, PermissionError)):
                raise UsageError(
                    f"{folder} is being written by {owner or 'another process'}: wait until it ends, stop it, or "
                    "choose another out=…"
                ) from error
            return None
        if _is_file(descriptor, path):
            break
        os.close(descriptor)  # its owner removed it in between
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
