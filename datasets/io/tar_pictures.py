"""Pictures in tar files, opened by their places there: nothing is unpacked."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from .fingerprint import BYTES_READ, file_stamp, listing_hash
from .images import DamagedImage, Picture, reason_of
from .tar_index import TarIndex

# Descriptors are few (1024 by default), shards may be thousands, and every worker has its own.
_OPEN = 64


class TarPictures:
    """Opens the pictures of a split by their places in tar files.

    Args:
        shards: The tars.
        index: Of the samples.
    """

    def __init__(self, shards: Sequence[Path], index: TarIndex) -> None:
        # Blocks of bytes and of numbers, so that a million samples are neither pickled nor counted one by one in every
        # worker.
        self.shards, self.index = np.array([os.fsencode(shard) for shard in shards]), index
        self._open: OrderedDict[int, _Tar] = OrderedDict()

    @property
    def files(self) -> np.ndarray:
        """``SHARD/MEMBER`` of each sample, bytes (N,)."""
        names = np.array([os.path.basename(shard) + b"/" for shard in self.shards.tolist()])
        return np.char.add(names[self.index.shard], self.index.files)

    def open(self, row: int) -> Picture:
        """The sample's picture, its header read.

        Raises:
            DamagedImage: It cannot be read; the error names shard and member.
        """
        shard, offset, size = (int(values[row]) for values in (self.index.shard, self.index.offset, self.index.size))
        name = os.path.join(os.fsdecode(self.shards[shard]), os.fsdecode(self.index.files[row]))
        try:
            tar = self._tar(shard)
            encoded = os.pread(tar.descriptor, size, offset)
        except OSError as error:
            raise DamagedImage(name, reason_of(error)) from error
        return Picture(name, encoded)

    def listing(self) -> str:
        return listing_hash(self.files, self.index.size)

    def contents_hash(self, modality: str | None = None) -> str | None:
        """Stands for the bytes of all pictures; None of more than 64 MiB."""
        if int(self.index.size.sum()) > BYTES_READ:
            return None
        digest, here = hashlib.blake2b(digest_size=8), copy(self)  # a copy, whose open files are closed with it
        places = (values.tolist() for values in (self.index.shard, self.index.offset, self.index.size))
        for shard, offset, size in zip(*places, strict=True):
            try:
                digest.update(os.pread(here._tar(shard).descriptor, size, offset))
            except OSError:
                digest.update(b"not read")
        return digest.hexdigest()

    def stamp(self, row: int) -> int:
        return file_stamp(self.shards[int(self.index.shard[row])])

    def _tar(self, shard: int) -> _Tar:
        """The tar, open in this process; of many, those that were used last."""
        tar = self._open.pop(shard, None) or _Tar(os.open(self.shards[shard], os.O_RDONLY))
        self._open[shard] = tar
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return tar

    def __getstate__(self) -> dict:
        """Without the open files: each worker has its own."""
        return {**self.__dict__, "_open": OrderedDict()}


class _Tar:
    """An open descriptor, closed with its last reader: another thread may still be reading."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)  # when the interpreter ends, what this module imported may be gone
