"""One part of one teacher's outputs for one view of all samples, in HDF5 files of a few thousand samples each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..atomic import create_h5, open_h5
from ..errors import ContrastillError, UsageError
from ..fingerprint import text_hash

FORMAT = 2
ROWS = 4096
"""Samples in a file; a power of two, so that a file begins with a teacher's batch."""

_CONTENTS = "a teacher's outputs of some samples"
# Attributes of the files; caches of earlier versions have them.
_FINGERPRINT, _ORIGIN, _VALUES = "marks", "told", "values"
Put = Callable[[int, Mapping[str, Tensor], int], None]


class MemoryRows:
    """The cached fields of every sample, in memory.

    Args:
        fields: Name -> (N, …).
        num_classes: C, of logits or a prediction; else 0.
    """

    def __init__(self, fields: Mapping[str, Tensor], num_classes: int) -> None:
        self.fields, self.num_classes = dict(fields), num_classes

    def at(self, index: Tensor) -> dict[str, Tensor]:
        """Of the samples ``index`` (B,): name -> (B, …), on the device of ``index``."""
        device = next(iter(self.fields.values())).device
        rows = index.to(device)
        return {name: values[rows].to(index.device) for name, values in self.fields.items()}


class FileRows:
    """The cached fields of every sample, on the disk: only the rows of a batch are read.

    The files are mapped, not held open: there may be more of them than a process may open, and what the system has read
    stays in its cache for all processes. HDF5 checks sums of pieces that it reads itself, so mapped values have no
    checksum: one that is damaged on the disk, in a file whose structure is intact, is used as it is.

    Args:
        files: By field, an array (n, …) of each file, in order.
        num_classes: C, of logits or a prediction; else 0.
    """

    def __init__(self, files: Mapping[str, list[np.ndarray]], num_classes: int) -> None:
        self.files, self.num_classes = dict(files), num_classes
        counts = [len(values) for values in next(iter(self.files.values()))]
        self._bounds = np.cumsum([0, *counts])
        self.nbytes = sum(values.nbytes for files in self.files.values() for values in files)

    def at(self, index: Tensor) -> dict[str, Tensor]:
        """Of the samples ``index`` (B,): name -> (B, …), on the device of ``index``."""
        rows = index.cpu().numpy()
        # In rising order, so that a disk is read in one direction.
        order = np.argsort(rows, kind="stable")
        rising = rows[order]
        ends = np.searchsorted(rising, self._bounds)
        fields = {}
        for name, files in self.files.items():
            values = np.empty((len(rows), *files[0].shape[1:]), files[0].dtype)
            for file, first, begin, end in zip(files, self._bounds, ends, ends[1:], strict=False):
                if begin < end:
                    values[order[begin:end]] = file[rising[begin:end] - first]
            fields[name] = torch.from_numpy(values).to(index.device)
        return fields

    def loaded(self, device: torch.device) -> MemoryRows:
        """All of it in memory."""
        return MemoryRows(
            {name: torch.from_numpy(np.concatenate(files)).to(device) for name, files in self.files.items()},
            self.num_classes,
        )


class CacheShard:
    """The folder ``ROOT/PART-VIEW-HASH`` with its files ``00000.h5``, ``00001.h5``, …; each has its fingerprint in its
    attributes.

    Args:
        root: The cache's folder.
        samples: N.
        fingerprint: What the values depend on, by name; its hash is in the folder's name. Has ``part`` and ``view``.
        origin: What explains a difference to a person: options of the data, the seed.
        remedy: What to do about a damaged file once it is removed, for an error.
        values: Stands for all samples, of which the fingerprint has a few; None: not known, as in caches of earlier
            versions.
    """

    def __init__(
        self,
        root: Path,
        samples: int,
        fingerprint: Mapping[str, str],
        origin: Mapping[str, Any],
        remedy: str,
        values: str | None = None,
    ) -> None:
        self.samples, self.origin, self.remedy, self.values = samples, dict(origin), remedy, values
        self.fingerprint = {**fingerprint, "samples": str(samples), "format": f"{FORMAT} ({ROWS} samples a file)"}
        digest = text_hash(json.dumps(self.fingerprint, sort_keys=True))
        self.folder = root / f"{fingerprint['part']}-{fingerprint['view']}-{digest}"

    @property
    def count(self) -> int:
        """How many files it has."""
        return -(-self.samples // ROWS)

    def rows(self, number: int) -> range:
        """The samples of a file."""
        return range(number * ROWS, min((number + 1) * ROWS, self.samples))

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.h5"

    def missing(self, *, damaged: bool = False) -> list[int]:
        """Numbers of the files that are not there; with ``damaged`` also of those that cannot be read."""
        return [
            number
            for number in range(self.count)
            if not self.path(number).is_file() or (damaged and not self._readable(number))
        ]

    def _readable(self, number: int) -> bool:
        try:
            self._arrays(number)
        except ContrastillError:
            return False
        return True

    @contextmanager
    def writing(self, number: int) -> Iterator[Put]:
        """Write a file: yields a function of the place in the file, the fields of a batch from there on, and C."""
        count = len(self.rows(number))
        with create_h5(self.path(number)) as file:
            file.attrs[_FINGERPRINT] = json.dumps(self.fingerprint, sort_keys=True)
            file.attrs[_ORIGIN] = json.dumps(self.origin, sort_keys=True)
            if self.values is not None:
                file.attrs[_VALUES] = self.values

            def put(first: int, fields: Mapping[str, Tensor], num_classes: int) -> None:
                file.attrs["num_classes"] = num_classes
                for name, values in fields.items():
                    array = values.cpu().numpy()
                    if name not in file:
                        file.create_dataset(name, (count, *array.shape[1:]), array.dtype)
                    file[name][first : first + len(array)] = array

            yield put

    def open(self) -> FileRows:
        """Map all of its files.

        Raises:
            ContrastillError: One is damaged, or is another's.
        """
        opened = [self._arrays(number) for number in range(self.count)]
        return FileRows({name: [arrays[name] for arrays, _ in opened] for name in opened[0][0]}, opened[0][1])

    def file_rows(self, number: int) -> FileRows | None:
        """The rows of one of its files, numbered from 0; None where it is not there or cannot be read."""
        if not self.path(number).is_file():
            return None
        try:
            arrays, num_classes = self._arrays(number)
        except ContrastillError:
            return None
        return FileRows({name: [values] for name, values in arrays.items()}, num_classes)

    def _arrays(self, number: int) -> tuple[dict[str, np.ndarray], int]:
        """The fields of a file, mapped, and C."""
        path, count = self.path(number), len(self.rows(number))
        with open_h5(path, _CONTENTS, self.remedy) as file:
            if json.loads(file.attrs[_FINGERPRINT]) != self.fingerprint:
                raise ContrastillError(
                    f"{path} was not written where it lies: it is of another teacher or view; remove it, and "
                    f"{self.remedy}"
                )
            if self.values is not None and file.attrs.get(_VALUES, self.values) != self.values:
                raise UsageError(
                    f"{path} is of other samples: some changed since it was written; name another folder, or remove "
                    f"this one and {self.remedy}"
                )
            arrays = {name: _mapped(path, file[name]) for name in file}
            if not arrays or any(len(values) != count for values in arrays.values()):
                raise ContrastillError(
                    f"{path}, {_CONTENTS}, does not have all of its {count} samples: remove it, and {self.remedy}"
                )
            return arrays, int(file.attrs["num_classes"])


def _mapped(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    return np.memmap(path, dataset.dtype, mode="r", offset=dataset.id.get_offset(), shape=dataset.shape)


def read_origin(folder: Path) -> tuple[dict[str, str], dict[str, Any]] | None:
    """Fingerprint and origin of a shard's folder, from the first of its files that can be read; None where there is
    none.
    """
    for path in sorted(folder.glob("[0-9]*.h5")):
        try:
            with h5py.File(path) as file:
                return json.loads(file.attrs[_FINGERPRINT]), json.loads(file.attrs[_ORIGIN])
        except (OSError, KeyError):
            continue
    return None
