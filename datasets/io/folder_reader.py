"""Reads aligned samples from folders of files, one folder per modality."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .aligned_reader import AlignedReader
from .fingerprint import file_sizes, listing_hash
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

    def listing(self) -> str:
        return "-".join(listing_hash(names, file_sizes(self.root, names)) for names in self.files.values())

    def _paths(self, row: int) -> dict[str, Path]:
        return {name: Path(os.fsdecode(os.path.join(self.root, paths[row]))) for name, paths in self.files.items()}
