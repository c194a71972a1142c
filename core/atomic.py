"""Files and folders that appear under their names only once they are complete, and are read back with one error."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ContrastillError

if TYPE_CHECKING:
    import h5py
    from torch import Tensor


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there is synced and renamed to ``path`` at the end.

    After an error nothing temporary is left and ``path`` is as it was. Several processes may write the same path at
    once: the first to finish wins. What killed processes left of the same file is removed.

    Args:
        path: The file or folder to write or replace; the folder around it exists.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        try:
            for part in sorted(temporary.iterdir()) if temporary.is_dir() else ():
                _sync(part)
            _sync(temporary)
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
        except FileNotFoundError:
            if not path.exists():  # else another process finished first
                raise
        _remove_leftovers(path)
        if path.is_dir():
            _sync(path.parent)
    finally:
        _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file (UTF-8) with :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def create_h5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write with :func:`atomic_write`; folders that are missing are created.

    Raises:
        ContrastillError: It cannot be written, as where the disk is full.
    """
    import h5py

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            yield file
    except OSError as error:
        raise ContrastillError(
            f"{path} cannot be written ({error.strerror or error}): make room or choose another folder; the "
            "files that are there are complete"
        ) from error


@contextmanager
def open_h5(path: Path, contents: str, remedy: str) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Args:
        path: The file.
        contents: What it holds, for an error.
        remedy: What to do, or what happens, once it is removed.

    Raises:
        ContrastillError: The file is damaged.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ContrastillError(f"{path}, {contents}, is damaged: remove it, and {remedy} ({reason})") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, each with a checksum, to an HDF5 file, see :func:`create_h5`."""
    with create_h5(path) as file:
        for name, values in tensors.items():
            # In pieces with a checksum each; what has no values has no pieces.
            file.create_dataset(name, data=values.cpu().numpy(), fletcher32=bool(values.ndim and values.numel()))


def read_tensors(path: Path, selects: Callable[[str], bool], contents: str, remedy: str) -> dict[str, Tensor]:
    """Read those of the tensors that :func:`write_tensors` wrote whose names ``selects`` accepts; else as
    :func:`open_h5`.
    """
    import torch

    with open_h5(path, contents, remedy) as file:
        return {name: torch.from_numpy(file[name][()]) for name in file if selects(name)}


def _sync(path: Path) -> None:
    """Have the system put a file or folder on the disk, so that a rename never precedes the contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    for beside in path.parent.iterdir():
        if beside.name.startswith(f".{path.name}.") and beside.name.endswith(".tmp"):
            _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
