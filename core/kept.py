"""Tensors that are kept on the disk between runs: what stands for a network and for data, and files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import torch
from torch import Tensor

from .errors import ContrastillError
from .representation import Network


def network_hash(network: Network, needs: Collection[str]) -> str:
    """16 hexadecimal digits that stand for a network's weights and for how it sees and what of it is kept.

    Args:
        network: The network.
        needs: Parts of its representation; the taps of maps count only where these have ``maps``.
    """
    digest = hashlib.sha256()
    classes = None if network.classes is None else network.classes.tolist()
    taps = network.taps if "maps" in needs else replace(network.taps, maps=())
    digest.update(repr([str(network.module), taps, network.preprocess, network.modality, classes]).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


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


def write_fields(path: Path, fields: Mapping[str, Tensor]) -> None:
    """Write named tensors to an HDF5 file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with h5py.File(temporary, "w") as file:
        for name, values in fields.items():
            file[name] = values.cpu().numpy()
    os.replace(temporary, path)


def read_fields(path: Path, wanted: Callable[[str], bool], what: str, otherwise: str) -> dict[str, Tensor]:
    """Read the wanted ones of the tensors that :func:`write_fields` wrote.

    Args:
        path: The file.
        wanted: Told a name, whether to read it.
        what: What the file holds, for an error.
        otherwise: What happens once it is removed.

    Raises:
        ContrastillError: The file is damaged.
    """
    try:
        with h5py.File(path) as file:
            return {name: torch.from_numpy(file[name][()]) for name in file if wanted(name)}
    except OSError as error:
        raise ContrastillError(f"{path}, {what}, is damaged: remove it, and {otherwise} ({error})") from error


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
