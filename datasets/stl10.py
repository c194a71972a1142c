"""``stl10``: the official binary files, all of it in memory: 5 000 labelled, 8 000 test and 100 000 unlabelled images
of 96×96.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import STL10

from ..core.classes import listed
from ..core.errors import ContrastillError, UsageError, looked_in
from ..core.registry import DATASETS
from .io.in_memory import AugmentOptions, TensorSplit
from .io.views import PaddedImages

log = logging.getLogger(__name__)

_SIDE, _FOLDS = 96, 10
_IMAGE = 3 * _SIDE * _SIDE
_OFFICIAL = {"train": 5_000, "test": 8_000, "unlabeled": 100_000}
_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
_AT_ONCE = 1024


@DATASETS.register("stl10")
class Stl10:
    """STL-10 (Coates et al., AISTATS 2011): 10 classes, and many more images without labels.

    The 100 000 unlabelled images take 2.8 GB at 96×96, 0.3 GB at 32×32: ``size`` resizes each once, while it is read;
    no second copy of them is in memory. Where unlabelled images are among the training split, it has no targets.

    Raises:
        UsageError: The folder does not hold the files and ``download`` is off, or labels and images do not belong
            together.
        ContrastillError: A file is truncated, or the download failed.
    """

    class Options(AugmentOptions):
        path: str = Field(description="the folder that holds, or with download receives, stl10_binary")
        train_split: Literal["train", "unlabeled", "train+unlabeled"] = Field(
            "train", description="what is trained on; the latter two have no targets"
        )
        fold: int | None = Field(
            None,
            ge=0,
            lt=_FOLDS,
            description="train on this one of the ten official folds of 1 000 labelled images; null: on all",
        )
        size: int = Field(_SIDE, gt=0, le=_SIDE, description="side in pixels that images are resized to")
        limit: int | None = Field(
            None, gt=0, description="samples taken of each split, evenly spaced over it, for quick trials; null: all"
        )
        download: bool = Field(False, description="fetch the archive (2.6 GB) into path if it is not there")

        @model_validator(mode="after")
        def _folds_are_labelled(self) -> Stl10.Options:
            if self.fold is not None and self.train_split != "train":
                raise ValueError("fold picks labelled images: set train_split=train, or fold=null")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is a folder with the official files in it, or the folder of these files."""
        return (Path(path) / STL10.base_folder).is_dir() or (Path(path) / "test_X.bin").is_file()

    def open(self, split: str) -> TensorSplit:
        """Read all of ``"train"`` or ``"test"``. Only ``"train"`` is ever augmented."""
        if split not in ("train", "test"):
            raise UsageError(f"stl10 has no split {split!r}: it has train, test")
        options, training, folder = self.options, split == "train", self._folder()
        parts = [_counted(folder, name) for name in (options.train_split if training else "test").split("+")]
        labelled = not training or options.train_split == "train"
        targets = _labels(folder, split, parts[0][1]) if labelled else None
        rows = self._rows(folder, sum(count for _, count in parts), training)
        images = PaddedImages.zeros(
            len(rows), options.size, options.size, 3, dtype=torch.uint8, padding=options.crop_padding if training else 0
        )
        _fill(images.interior, parts, rows)
        return TensorSplit(
            {"rgb": images},
            targets=None if targets is None else targets[torch.from_numpy(rows)],
            num_classes=len(_CLASSES),
            classes=list(_CLASSES),
            flip=options.flip and training,
        )

    def folds(self) -> list[Tensor]:
        """The ten official folds, each int64 places among the labelled training images: ``fold=k`` trains on
        ``folds()[k]``.
        """
        folder = self._folder()
        _, count = _counted(folder, "train")
        return [torch.from_numpy(_fold(folder / STL10.folds_list_file, fold, count)) for fold in range(_FOLDS)]

    def _folder(self) -> Path:
        root = Path(self.options.path).expanduser()
        folder = root if (root / "test_X.bin").is_file() else root / STL10.base_folder
        if folder.is_dir():
            return folder
        if not self.options.download:
            raise UsageError(
                f"{folder} does not exist{looked_in(folder)}: set data.download=true (in data pack: --download) to "
                f"fetch STL-10 (2.6 GB), or unpack {STL10.filename} from {STL10.url} into {root}"
            )
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            # It is unpacked only if its MD5 sum is the published one, which torchvision carries.
            download_and_extract_archive(STL10.url, root, filename=STL10.filename, md5=STL10.tgz_md5)
        except (RuntimeError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ContrastillError(
                f"STL-10 could not be downloaded ({reason}): without a network, unpack {STL10.filename} from "
                f"{STL10.url} into {root}"
            ) from error
        return folder

    def _rows(self, folder: Path, count: int, training: bool) -> np.ndarray:
        """The samples that are read, int64, of ``count``."""
        rows = np.arange(count)
        if training and self.options.fold is not None:
            rows = _fold(folder / STL10.folds_list_file, self.options.fold, count)
        limit = self.options.limit
        return rows if limit is None or limit >= len(rows) else rows[np.arange(limit) * len(rows) // limit]


def _counted(folder: Path, name: str) -> tuple[Path, int]:
    """A file of images, and how many it holds."""
    path = folder / f"{name}_X.bin"
    size = _size(path)
    if not size or size % _IMAGE:
        raise ContrastillError(
            f"{path} is truncated: its {size} bytes are no whole number of images of {_IMAGE}; unpack "
            f"{STL10.filename} again"
        )
    if size // _IMAGE != _OFFICIAL[name]:
        log.warning("%s has %d images, the published file %d", path, size // _IMAGE, _OFFICIAL[name])
    return path, size // _IMAGE


def _size(path: Path) -> int:
    if not path.is_file():
        raise UsageError(f"{path} does not exist: unpack {STL10.filename} from {STL10.url} again, all of it")
    return path.stat().st_size


def _labels(folder: Path, name: str, count: int) -> Tensor:
    """int64 (N,), 0..9; the file counts from 1."""
    path = folder / f"{name}_y.bin"
    if _size(path) != count:
        raise UsageError(
            f"{path} has {_size(path)} labels for {count} images of {name}_X.bin: unpack {STL10.filename} again"
        )
    labels = np.fromfile(path, dtype=np.uint8).astype(np.int64)
    names = folder / STL10.class_names_file
    if names.is_file() and (own := names.read_text(encoding="utf-8", errors="replace").split()) != _CLASSES:
        raise UsageError(
            f"{names} names the classes {listed(own)}, those of STL-10 are {listed(_CLASSES)}, in this order: unpack "
            f"{STL10.filename} again"
        )
    if labels.min() < 1 or labels.max() > len(_CLASSES):
        raise UsageError(
            f"{path} has labels {labels.min()} to {labels.max()}, those of STL-10 are 1 to {len(_CLASSES)}: "
            f"unpack {STL10.filename} again"
        )
    return torch.from_numpy(labels - 1)


def _fold(path: Path, fold: int, count: int) -> np.ndarray:
    """The samples of a fold: a line of the file, places from 0."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist: unpack {STL10.filename} again, or set data.fold=null")
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    try:
        rows = np.array(lines[fold].split(), dtype=np.int64)
    except (IndexError, ValueError) as error:
        raise ContrastillError(
            f"{path} has no line {fold + 1} of whole numbers: unpack {STL10.filename} again"
        ) from error
    if len(rows) > len(np.unique(rows)):
        values, counts = np.unique(rows, return_counts=True)
        raise UsageError(
            f"{path}: fold {fold} names image {values[counts.argmax()]} more than once: unpack {STL10.filename} again"
        )
    if rows.min() < 0 or rows.max() >= count:
        raise UsageError(
            f"{path}: fold {fold} names images up to {rows.max()}, and there are {count}: unpack {STL10.filename} again"
        )
    return rows


def _fill(out: Tensor, parts: list[tuple[Path, int]], rows: np.ndarray) -> None:
    """Put the given rows of the files, one file after the other, into ``out``, uint8 (n, H, W, 3), a piece at a
    time.
    """
    size = out.shape[1]
    first, begin = 0, 0
    for path, count in parts:
        of_part = rows[(rows >= first) & (rows < first + count)] - first
        for place in range(0, len(of_part), _AT_ONCE):
            # Columns come first in the file. It is mapped anew for each piece, so that what was read does not stay in
            # memory.
            mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=(count, 3, _SIDE, _SIDE))
            images = torch.from_numpy(mapped[of_part[place : place + _AT_ONCE]]).transpose(2, 3)
            if size != _SIDE:
                images = F.interpolate(
                    images.contiguous(memory_format=torch.channels_last), (size, size), mode="bilinear", antialias=True
                )
            out[begin : begin + len(images)] = images.permute(0, 2, 3, 1)
            begin += len(images)
        first += count
