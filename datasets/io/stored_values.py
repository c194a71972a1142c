"""Values of a split that are in memory or in few files, all of them: what a few samples and sizes do not tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from .file_views import LABELS
from .in_memory import TensorSplit

_LARGEST = 256 * 2**20
"""Bytes that are read in a fraction of a second."""
_ROWS_AT_ONCE = 1024


def values_hash(split: Any, modality: str | None = None) -> str | None:
    """16 hexadecimal digits that stand for all values of a split in memory, or for all bytes of files, shards or
    tables.

    None of one that is elsewhere, or that has more than 256 MiB in memory, or 5,000 files or 64 MiB outside of it.

    Args:
        split: Of any data set.
        modality: The stored one that counts; None: all, and a dataset's labels.
    """
    tensors = {name: value for name, value in _stored(split).items() if modality in (None, name)}
    if not tensors:
        for files in (getattr(split, "pictures", None), getattr(split, "samples", None)):
            if (of_files := getattr(files, "contents_hash", None)) is not None:
                return of_files(modality)
        return None
    digest = hashlib.blake2b(str([(name, value.dtype) for name, value in tensors.items()]).encode(), digest_size=8)
    for value in tensors.values():
        for rows in value.split(_ROWS_AT_ONCE):
            digest.update(_bytes(rows))
    return digest.hexdigest()


def image_hashes(split: Any) -> list[int]:
    """A number for each sample of a split in memory that stands for its images, not for its label maps; none of one
    that is elsewhere, or that has more than 256 MiB.
    """
    tensors = {name: value for name, value in _stored(split).items() if name not in (LABELS, "target")}
    if not tensors:
        return []
    columns = [[hash(row) for row in _rows(value)] for _, value in sorted(tensors.items())]
    return [hash(row) for row in zip(*columns, strict=True)]


def _stored(split: Any) -> dict[str, Tensor]:
    """By name, a row for each sample."""
    tensors: dict[str, Tensor] = {}
    if isinstance(split, TensorSplit):
        tensors = {name: stored.interior for name, stored in sorted(split.images.items())}
    elif (samples := getattr(split, "samples", None)) is not None:
        tensors = _of_dataset(getattr(samples, "dataset", None))
    return tensors if sum(value.nbytes for value in tensors.values()) <= _LARGEST else {}


def _of_dataset(dataset: Any) -> dict[str, Tensor]:
    if type(dataset) is Subset:
        rows = torch.as_tensor([int(index) for index in dataset.indices], dtype=torch.int64)
        return {name: value[rows] for name, value in _of_dataset(dataset.dataset).items()}
    if type(dataset) is not TensorDataset:
        return {}
    names = ("rgb", "target", *(f"value {place}" for place in range(2, len(dataset.tensors))))
    return dict(zip(names, dataset.tensors, strict=False))


def _rows(value: Tensor) -> Iterator[bytes]:
    for rows in value.split(_ROWS_AT_ONCE):
        stored, size = _bytes(rows), rows[0].nbytes
        for place in range(len(rows)):
            yield stored[place * size : (place + 1) * size]


def _bytes(rows: Tensor) -> bytes:
    return rows.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
