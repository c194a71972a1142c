"""Reads aligned samples from folders of files, one folder per modality."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .aligned_reader import AlignedReader
from .array_files import HIGHEST_LABEL, Content, read_file
from .decoded_store import Decoded, DecodedStore
from .file_views import LABELS
from .fingerprint import contents_hash, file_digest, file_sizes, file_stamp, listing_hash
from .values import LabelRule


class FolderReader(AlignedReader):
    """Reads the samples of a split.

    Args:
        root: The folder that ``files`` are in.
        files: For each modality the paths below ``root``; sample i is the i-th of each.
        labels: Which labels are void.
        channel: Of EXR files, the one that is read; None: by the modality's name.
    """

    def __init__(self, root: Path, files: dict[str, list[str]], labels: LabelRule, channel: str | None = None) -> None:
        super().__init__([*files], labels, channel)
        # One block of bytes a modality, so that a million names are neither pickled nor counted one by one in every
        # worker.
        self.files = {name: np.array([os.fsencode(path) for path in paths]) for name, paths in files.items()}
        self.root = os.fsencode(root)
        self.store: DecodedStore | None = None

    def cache_in(self, folder: str | os.PathLike) -> None:
        """From now on keep each file in a cache once it is decoded, with the values, dtype and size that it is read
        with; to be called after :meth:`read_samples`.

        Raises:
            UsageError: The disk has no room for all files, or the folder cannot be written.
            ContrastillError: The folder holds damaged files.
        """
        count = len(self.names) * len(self.files[self.names[0]])
        paths = [path for row in self._sampled_rows for path in self._paths(row).values()]
        void = self.labels.void or 0
        about = {
            "modalities": self.names,
            "files": self.listing(),
            "channel": self.channel,
            # Other labels become void after a label map was read.
            "void": void if LABELS in self.names and void > HIGHEST_LABEL else None,
            "contents": [f"{file_digest(path):016x}" for path in paths],
        }
        self.store = DecodedStore(folder, about, count)
        total = round(self._sample_bytes * count / len(self.names))
        self.store.check_room(total, f"{count:,} files of {', '.join(self.names)}")

    def listing(self) -> str:
        return "-".join(listing_hash(names, file_sizes(self.root, names)) for names in self.files.values())

    def contents_hash(self, modality: str | None = None) -> str | None:
        names = [files for name, files in self.files.items() if modality in (None, name)]
        return contents_hash(self.root, *names) if names else None

    def _paths(self, row: int) -> dict[str, Path]:
        return {name: Path(os.fsdecode(os.path.join(self.root, paths[row]))) for name, paths in self.files.items()}

    def _file(self, row: int, path: Path, name: str, content: Content | None) -> tuple[np.ndarray, int]:
        if self.store is None:
            return super()._file(row, path, name, content)
        number = row * len(self.names) + self.names.index(name)
        decoded = self.store.open(number, _ModalityFile(path, name, self.channel, self.labels.void))
        return decoded.values, decoded.orientation


@dataclass(frozen=True)
class _ModalityFile:
    """The file of one modality of a sample."""

    path: Path
    modality: str
    channel: str | None
    void: int | None

    def stamp(self) -> int:
        return file_stamp(os.fspath(self.path))

    def digest(self) -> int:
        return file_digest(self.path)

    def decode(self) -> Decoded:
        values, turned = read_file(self.path, self.modality, self.channel, void=self.void)
        height, width = values.shape[:2]
        return Decoded(values, height, width, turned)

    def __str__(self) -> str:
        return str(self.path)
