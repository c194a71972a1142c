"""A cheap fingerprint of a data set: counts, labels, names and sizes of files, and a few samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np

from ...core.data import Split
from ...core.data_facts import DEPTH_UNIT, INTRINSICS, PIXEL_CLASSES, VALUES, VECTOR_FIELDS
from ...core.fingerprint import tensors_hash, text_hash
from .file_views import LABELS
from .stored_values import values_hash

# Samples that are read, evenly spaced over a split.
_SAMPLES_READ = 8
# What is read of a split of files to tell all of it from others: a fraction of a second.
FILES_READ, BYTES_READ = 5_000, 64 * 2**20
# Files whose sizes one thread asks for at a time; on a network's file system each answer takes a while.
_AT_ONCE = 4096


def fingerprint(split: Split) -> dict[str, Any]:
    """Facts about a split by their names; equal facts are taken for the same data.

    Of a split in memory, or of few bytes in files, all values are compared, of a split of more the names and sizes of
    all, never the times of change: a copy is the same data.

    Args:
        split: What a data set's ``open`` gives.
    """
    facts: dict[str, Any] = {
        "samples": split.num_samples,
        "classes": split.num_classes,
        "modalities": ", ".join(f"{name} {list(shape)}" for name, shape in sorted(split.modalities.items())),
    }
    if split.classes is not None:
        facts["names of classes"] = hashlib.blake2b("\n".join(split.classes).encode(), digest_size=8).hexdigest()
    if split.targets is not None:
        facts["labels"] = tensors_hash("", [split.targets])
    if (vectors := getattr(split, "label_vectors", None)) is not None:
        facts["label vectors"] = tensors_hash("", [vectors])
    facts |= _meaning(split)
    if hasattr(split, "listing"):
        facts["names or sizes of files"] = split.listing()
    in_process: Any = copy(split)
    in_process.workers = 0  # no processes are started for a few samples
    # Past a cache of decoded pictures, whose pixels differ slightly: the data are the same with and without it.
    if (files := getattr(getattr(split, "pictures", None), "pictures", None)) is not None:
        in_process.pictures = files
    loader = in_process.loader(batch_size=1, device="cpu", train=False)
    places = sorted({place * split.num_samples // _SAMPLES_READ for place in range(_SAMPLES_READ)})
    seen = [next(iter(loader.epoch(0, place))) for place in places]
    facts["contents"] = tensors_hash("", [sample[name] for sample in seen for name in sorted(split.modalities)])
    if (values := values_hash(split)) is not None:
        facts[VALUES] = values
    return facts


def _meaning(split: Split) -> dict[str, str]:
    """What the values of label maps, of depth and of further modalities stand for, which none of them shows."""
    facts: dict[str, str] = {}
    if LABELS in split.modalities:
        facts[PIXEL_CLASSES] = text_hash("\n".join(getattr(split, "semantic_classes", None) or ()))
    if "depth" in split.modalities and (camera := getattr(split, "camera", None)) is not None:
        facts[DEPTH_UNIT] = str(camera.unit)
        facts[INTRINSICS] = ", ".join(map(str, camera.intrinsics or ())) or "not known"
    if {*split.modalities} - {"rgb", "depth", LABELS}:
        facts[VECTOR_FIELDS] = ", ".join(getattr(split, "vectors", None) or ()) or "none"
    return facts


def listing_hash(names: np.ndarray, sizes: Sequence[int] | np.ndarray) -> str:
    """16 hexadecimal digits that stand for files in their order.

    Args:
        names: (N,) bytes.
        sizes: (N,) bytes in each.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(names).tobytes(), digest_size=8)
    digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
    return digest.hexdigest()


def file_sizes(root: bytes, names: np.ndarray) -> np.ndarray:
    """Size of each file below ``root``; -1 where there is none: int64 (N,)."""

    def of(part: np.ndarray) -> list[int]:
        return [_size(os.path.join(root, name)) for name in part.tolist()]

    with ThreadPoolExecutor(max_workers=16) as pool:
        parts = pool.map(of, [names[begin : begin + _AT_ONCE] for begin in range(0, len(names), _AT_ONCE)])
        return np.array([size for part in parts for size in part], dtype=np.int64)


def contents_hash(root: bytes, *names: np.ndarray) -> str | None:
    """16 hexadecimal digits that stand for the bytes of all files; None of more than 5,000 files or 64 MiB.

    Args:
        root: The folder that the files are in.
        names: (N,) bytes each, below ``root``.
    """
    total = sum(len(each) for each in names)
    if not 0 < total <= FILES_READ or sum(int(file_sizes(root, each).sum()) for each in names) > BYTES_READ:
        return None
    paths = [os.path.join(root, name) for each in names for name in each.tolist()]
    with ThreadPoolExecutor(max_workers=16) as pool:
        digests = list(pool.map(file_digest, paths))
    return hashlib.blake2b(np.array(digests, dtype=np.uint64).tobytes(), digest_size=8).hexdigest()


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def file_stamp(path: str | bytes) -> int:
    """64 bits that are others once a file is replaced, written to or copied: of inode, size, times; 0: no file."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    facts = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return int.from_bytes(hashlib.blake2b(facts.encode(), digest_size=8).digest(), "little")


def file_digest(path: str | bytes | os.PathLike) -> int:
    """64 bits that stand for a file's bytes; 0: it cannot be read."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    except OSError:
        return 0
    return int.from_bytes(digest.digest(), "little")
