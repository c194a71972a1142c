"""Reads aligned samples, each modality of which is a file or its content, checked against what the first is like."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...core.errors import ContrastillError, UsageError
from .array_files import Content, blends, is_image, read_file, read_pair
from .file_views import LABELS
from .images import DamagedImage, Picture, warn_of_scaling
from .values import LabelRule, number_kind

log = logging.getLogger(__name__)


class AlignedReader(ABC):
    """Reads the samples of a split.

    Args:
        names: The modalities.
        labels: Which labels are void.
        channel: Of EXR files, the one that is read; None: by the modality's name.

    Attributes:
        modalities: Modality -> shape (C, H, W) of a frame; H and W None where they may differ. Known after
            :meth:`read_samples`.
        kinds: Modality -> the kind of numbers that its files hold. Known after :meth:`read_samples`.
        turned: Whether samples may be turned by their EXIF orientation, which intrinsics do not follow.
    """

    turned = True

    def __init__(self, names: Sequence[str], labels: LabelRule, channel: str | None = None) -> None:
        self.names, self.labels, self.channel = tuple(names), labels, channel
        self.kinds: dict[str, str] = {}
        self.modalities: dict[str, tuple[int, int | None, int | None]] = {}
        self._sizes: str | None = None
        self._sampled_rows: list[int] = []
        self._sample_bytes = 0.0

    @abstractmethod
    def listing(self) -> str:
        """Stands for the names and sizes of all files."""

    @abstractmethod
    def _paths(self, row: int) -> dict[str, Path]:
        """The files of a sample, or where its contents are from."""

    def _file(self, row: int, path: Path, name: str, content: Content | None) -> tuple[np.ndarray, int]:
        """The values of one modality of a sample, and the EXIF orientation by which they were turned."""
        return read_file(path, name, self.channel, content, self.labels.void)

    def _contents(self, row: int) -> Mapping[str, Content] | None:
        """Of a sample, where they are not in files of their own."""
        return None

    def read_samples(
        self, rows: Sequence[int], *, sizes: str | None, skip_corrupted: bool
    ) -> list[dict[str, np.ndarray]]:
        """Read some samples; the first sets the channels, kinds and sizes of all.

        Args:
            sizes: Rest of the error for frames of another size, with its remedy; None: they may differ.
            skip_corrupted: Whether those that cannot be read are passed over, as long as there are others.
        """
        samples: list[dict[str, np.ndarray]] = []
        self._sizes = sizes
        for row in rows:
            try:
                sample = self._stored(row)
            except DamagedImage:
                if not skip_corrupted or (row == rows[-1] and not samples):
                    raise
                continue
            if not samples:
                size = next(iter(sample.values())).shape[:2] if sizes else (None, None)
                self.modalities = {name: (_channels(values), *size) for name, values in sample.items()}
                self._note_sizes(sample)
                self.kinds = {name: number_kind(values.dtype) for name, values in sample.items()}
            if LABELS in sample:
                self.labels.warn_of_void([sample[LABELS]], self._paths(row)[LABELS].parent)
            samples.append(self._checked(row, sample))
            self._sampled_rows.append(row)
        self._sample_bytes = float(np.mean([sum(values.nbytes for values in sample.values()) for sample in samples]))
        return samples

    def _note_sizes(self, sample: Mapping[str, np.ndarray]) -> None:
        """Log that the modalities of a sample differ in size, and what becomes of it."""
        shapes = {name: values.shape[:2] for name, values in sample.items()}
        if len(set(shapes.values())) > 1:
            log.warning(
                "the modalities of a sample differ in size (%s): they are taken for the same picture, edge on edge, "
                "and brought to data.size",
                ", ".join(f"{name} {height}×{width}" for name, (height, width) in shapes.items()),
            )

    def warn(self) -> None:
        """Log what the files that were read lose: bits of rgb, values of others that a lossy compression
        blends.
        """
        sampled = [
            (name, path, None if contents is None else contents[name])
            for paths, contents in ((self._paths(row), self._contents(row)) for row in self._sampled_rows)
            for name, path in paths.items()
        ]
        warn_of_scaling(
            Picture(path, content if isinstance(content, bytes) else None)
            for name, path, content in sampled
            if name == "rgb" and is_image(path, content)
        )
        for modality in self.names:
            blended = [path for name, path, content in sampled if name == modality != "rgb" and blends(path, content)]
            if blended:
                log.warning(
                    "%s is stored with lossy compression, which blends the values of neighbours and keeps 8 "
                    "bits: PNG, TIFF or .npy keep %s",
                    blended[0],
                    modality,
                )

    def read(self, row: int) -> dict[str, np.ndarray]:
        """The files of a sample, checked against what the first is like."""
        return self._checked(row, self._stored(row))

    def _stored(self, row: int) -> dict[str, np.ndarray]:
        contents = self._contents(row)

        def read(path: Path, name: str) -> tuple[np.ndarray, int]:
            values, orientation = self._file(row, path, name, None if contents is None else contents[name])
            if orientation > 1 and not self.turned:
                raise UsageError(
                    f"{path} is turned by its EXIF orientation {orientation}, and whether data.intrinsics are of the "
                    "frames before or after it is not known: turn the pixels of all files, leave the tag out, and set "
                    "the intrinsics of upright frames, or leave them out"
                )
            return values, orientation

        try:
            return read_pair(self._paths(row), read, other_sizes=self._sizes is None)
        except DamagedImage as error:
            raise DamagedImage(
                error.path, error.reason, f"{error.remedy}, or set data.skip_corrupted=true", error.kind
            ) from error

    def _checked(self, row: int, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        paths = self._paths(row)
        for name, values in sample.items():
            channels, height, width = self.modalities[name]
            if _channels(values) != channels:
                raise ContrastillError(
                    f"{paths[name]} has {_channels(values)} channels, other files of {name} {channels}: bring "
                    "them to one kind"
                )
            if height is not None and values.shape[:2] != (height, width):
                raise ContrastillError(
                    f"{paths[name]} is {values.shape[0]}×{values.shape[1]} (height × width), other samples "
                    f"{height}×{width}: {self._sizes}"
                )
            if number_kind(values.dtype) != self.kinds[name] and name != LABELS:
                raise ContrastillError(
                    f"{paths[name]} holds {number_kind(values.dtype)}, other files of {name} {self.kinds[name]}: "
                    "their units would differ, "
                    "bring them to one kind"
                )
        if LABELS not in sample:
            return sample
        return {**sample, LABELS: self.labels(sample[LABELS], paths[LABELS])}


def _channels(values: np.ndarray) -> int:
    return values.shape[2] if values.ndim == 3 else 1
