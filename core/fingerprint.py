"""Tensors that are kept on the disk between runs: what stands for a network and for data, and files that are there
whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import torch
from torch import Tensor

from .errors import ContrastillError
from .representation import Network


def network_marks(network: Network) -> dict[str, str]:
    """What what a network says depends on, by what it is called; its taps apart, see :func:`tap_of`."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return {
        "architecture": f"{type(network.module).__name__} {text_hash(str(network.module))}",
        "weights": digest.hexdigest()[:16],
        "preprocessing": str(network.preprocess) + ("" if network.preprocess.colours else ", values as stored"),
        "modality": network.modality,
        "precision": str(network.precision or torch.float32).removeprefix("torch."),
        "class_map": "none" if network.classes is None else str(network.classes.tolist()),
    }


def tap_of(network: Network, part: str) -> str:
    """Where a network's logits, embedding or maps are read off."""
    return str(getattr(network.taps, part))


def network_hash(network: Network, needs: Collection[str]) -> str:
    """16 hexadecimal digits that stand for a network's weights and for how it sees and what of it is kept.

    Args:
        network: The network.
        needs: Parts of its representation; other parts' taps do not count.
    """
    return text_hash(str([network_marks(network), [(part, tap_of(network, part)) for part in sorted(needs)]]))


def text_hash(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tensors_hash(header: str, values: Sequence[Tensor]) -> str:
    """16 hexadecimal digits that stand for tensors, their shapes and dtypes, and for what the header says of them.

    Example:
        >>> tensors_hash("one", [torch.zeros(2)]) == tensors_hash("one", [torch.zeros(2).double()])
        False
    """
    digest = hashlib.sha256(f"{header} {[(tuple(one.shape), one.dtype) for one in values]}".encode())
    for one in values:
        digest.update(_bytes(one))
    return digest.hexdigest()[:16]


@contextmanager
def whole_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write, which has its name only once it is whole; several processes may write the same one at
    once.

    Raises:
        ContrastillError: It cannot be written, as where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            yield file
        os.replace(temporary, path)
        # Of processes that were killed while they wrote it; to one that still writes it, it does not matter either.
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        if not (isinstance(error, FileNotFoundError) and path.is_file()):
            raise ContrastillError(
                f"{path} cannot be written ({error.strerror or error}): make room or choose another folder; the "
                "files that are there are whole"
            ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def sound_file(path: Path, what: str, otherwise: str) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Args:
        path: The file.
        what: What it holds, for an error.
        otherwise: What to do, or what happens, once it is removed.

    Raises:
        ContrastillError: The file is damaged.
    """
    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ContrastillError(f"{path}, {what}, is damaged: remove it, and {otherwise} ({reason})") from error


def write_fields(path: Path, fields: Mapping[str, Tensor]) -> None:
    """Write named tensors to an HDF5 file, whole or not at all."""
    with whole_file(path) as file:
        for name, values in fields.items():
            file[name] = values.cpu().numpy()


def read_fields(path: Path, wanted: Callable[[str], bool], what: str, otherwise: str) -> dict[str, Tensor]:
    """Read the wanted ones of the tensors that :func:`write_fields` wrote.

    Args:
        path: The file.
        wanted: Told a name, whether to read it.
        what, otherwise: As :func:`sound_file` takes them.

    Raises:
        ContrastillError: The file is damaged.
    """
    with sound_file(path, what, otherwise) as file:
        return {name: torch.from_numpy(file[name][()]) for name in file if wanted(name)}


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
