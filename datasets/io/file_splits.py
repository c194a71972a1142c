"""Splits whose samples are files: they are read when they are needed, by a loader's worker processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...core.errors import ContrastillError, UsageError
from .camera import Camera
from .decoded_cache import DecodedPictures
from .file_loader import FileLoader, default_workers
from .file_views import FileViews
from .file_workers import Images, Pairs, PictureSource, SampleReader
from .images import Picture, warn_of_scaling
from .joint_views import JointViews
from .values import vectors_among
from .view_options import FileOptions, ViewOptions

# Pictures whose headers are read when a split is opened.
_PICTURES_READ = 8


class ReadSplit(ABC):
    """What splits whose samples are read by their rows have in common.

    Attributes:
        rows: Which of the reader's samples this split has, by their place in it; None: all.
        way_to_classes: Of a split without classes, for messages: how what is stored would be some; empty: not known.
    """

    rows: np.ndarray | None = None
    num_samples: int
    targets: Tensor | None
    label_vectors: Tensor | None = None
    way_to_classes: str = ""
    camera: Camera | None
    augmented: bool
    color_jitter: float
    workers: int

    @abstractmethod
    def reader(self, seed: int) -> Dataset:
        """The samples, as the worker processes read them."""

    def loader(
        self,
        *,
        batch_size: int,
        device: torch.device | str,
        seed: int = 0,
        train: bool,
        rank: int = 0,
        world: int = 1,
        views: int | None = None,
    ) -> FileLoader:
        """Batches of this split, see :meth:`contrastill.Split.loader`; files are read as they are needed."""
        return FileLoader(
            self,
            batch_size=batch_size,
            device=torch.device(device),
            seed=seed,
            train=train,
            rank=rank,
            world=world,
            views=views,
        )


def read_here(split: Any) -> Any:
    """A split of any data set, read by this process: of a few samples in less time than others take to start."""
    if not isinstance(split, ReadSplit) or not split.workers:
        return split
    here = copy(split)
    here.workers = 0
    return here


class FileSplit(ReadSplit):
    """One split of a data set of images that are read when they are needed.

    Args:
        pictures: Opens the picture of a sample by its index.
        targets: int64 (N,), classes in 0..C-1; None for an unlabelled set.
        classes: Names of the classes; or C, where they have none; None: unlabelled.
        views: How a picture becomes a square.
        augmented: Whether training views are drawn; otherwise a loader with ``train`` only shuffles.
        color_jitter: Strength of the jitter of training views; 0 leaves it uint8.
        workers: Processes that read; 0 reads in this one.
        skip_corrupted: Whether the next sample stands in for one that cannot be read.

    Attributes:
        num_samples: N.
        modalities: Modality -> shape (C, H, W) of one sample.
    """

    def __init__(
        self,
        pictures: PictureSource,
        targets: Tensor | None,
        classes: list[str] | int | None,
        *,
        views: FileViews,
        augmented: bool,
        color_jitter: float = 0.0,
        workers: int = 0,
        skip_corrupted: bool = False,
    ) -> None:
        self.pictures, self.targets = pictures, targets
        self.classes: list[str] | None = classes if isinstance(classes, list) else None
        self.num_classes = len(classes) if isinstance(classes, list) else classes
        self.views, self.augmented, self.color_jitter, self.workers = views, augmented, color_jitter, workers
        self.skip_corrupted = skip_corrupted
        self.num_samples = len(pictures.files) if targets is None else len(targets)
        self.modalities = {"rgb": (3, views.size, views.size)}
        self.camera: Camera | None = None
        self.semantic_classes: list[str] | None = None

    @classmethod
    def from_options(
        cls,
        pictures: PictureSource,
        targets: Tensor | None,
        classes: list[str] | int | None,
        options: ViewOptions,
        size: int,
        *,
        training: bool,
    ) -> FileSplit:
        """The split with the views and workers that a data set's options ask for; only a training split is ever
        augmented.
        """
        views = FileViews(size, options.crop, options.scale, options.flip, options.transforms if training else [])
        if views.transforms:
            # Raises here, not in a worker.
            _ = views.compose
        workers = default_workers() if options.workers is None else options.workers
        skip = options.skip_corrupted
        if training:
            warn_of_scaling(_sample_pictures(pictures, len(pictures.files) if targets is None else len(targets)))
        if isinstance(options, FileOptions) and options.decoded_cache is not None:
            pictures = DecodedPictures(pictures, options.decoded_cache, views.needed_side)
        return cls(
            pictures,
            targets,
            classes,
            views=views,
            augmented=training,
            color_jitter=options.color_jitter,
            workers=workers,
            skip_corrupted=skip,
        )

    @property
    def files(self) -> np.ndarray:
        """What each picture is called, bytes (N,)."""
        return self.pictures.files

    def listing(self) -> str:
        """Stands for the names and sizes of all files."""
        return self.pictures.listing()

    def reader(self, seed: int) -> Dataset:
        return Images(self.pictures, self.views, seed, self.num_samples if self.skip_corrupted else None)


def _sample_pictures(pictures: PictureSource, count: int) -> Iterator[Picture]:
    """A few pictures, evenly spaced; those that cannot be read are reported where they are needed."""
    # A copy, whose open files are closed with it.
    pictures = copy(pictures)
    for place in range(min(count, _PICTURES_READ)):
        with suppress(ContrastillError):
            picture = pictures.open(place * count // min(count, _PICTURES_READ))
            if isinstance(picture, Picture):
                yield picture


class PairSplit(ReadSplit):
    """One split of aligned modalities that are read when they are needed.

    Args:
        reader: Reads a sample by its index.
        num_samples: N.
        views: How a sample becomes a view; its size None: as stored.
        targets: int64 (N,), classes in 0..num_classes-1; None for an unlabelled set.
        num_classes: Of the data set, not of this split; None: as many as there are names.
        classes: Their names.
        camera: Of a stored frame.
        semantic_classes: Names of the values of the label map, the first being ``unlabelled``.
        augmented: Whether training views are drawn; otherwise a loader with ``train`` only shuffles.
        color_jitter: Strength of the jitter of training views' rgb; 0 leaves it uint8.
        workers: Processes that read; 0 reads in this one.
        modalities: Those read modalities that a batch has; None: all.
        skip_corrupted: Whether the next sample stands in for one that cannot be read.
        vectors: Modalities whose values are vectors in the picture's axes; None: those with a usual name, such as
            ``normals``.

    Attributes:
        modalities: Modality -> shape (C, H, W) of a view.
        kinds: Modality -> the kind of numbers it is stored as, if the reader has them.

    Raises:
        UsageError: A modality that is not read, frames of unknown size without a size of the views, transforms that
            albumentations does not take.
    """

    def __init__(
        self,
        reader: SampleReader,
        num_samples: int,
        views: JointViews,
        *,
        targets: Tensor | None = None,
        num_classes: int | None = None,
        classes: list[str] | None = None,
        camera: Camera | None = None,
        semantic_classes: list[str] | None = None,
        augmented: bool,
        color_jitter: float = 0.0,
        workers: int = 0,
        modalities: Sequence[str] | None = None,
        skip_corrupted: bool = False,
        vectors: Sequence[str] | None = None,
    ) -> None:
        names = tuple(reader.modalities if modalities is None else modalities)
        missed = [name for name in names if name not in reader.modalities]
        if missed:
            raise UsageError(f"there is no modality {missed[0]!r}: there are {', '.join(reader.modalities)}")
        height, width = views.size or reader.modalities[names[0]][1:]
        if height is None or width is None:
            raise UsageError("the frames differ in size: set data.size=[HEIGHT,WIDTH]")
        self.skip_corrupted = skip_corrupted
        self.vectors = vectors_among(vectors, {name: reader.modalities[name][0] for name in names})
        self.kinds: dict[str, str] = dict(getattr(reader, "kinds", {}))
        self.samples, self.num_samples = reader, num_samples
        self.views = replace(
            views,
            size=(height, width),
            modalities=names,
            vectors=self.vectors,
            depth_unit=None if camera is None else camera.unit,
        )
        # Raises here, not in a worker.
        if views.transforms and self.views.moves and self.vectors:
            raise UsageError(
                f"data.transforms move pixels, and the vectors {', '.join(self.vectors)} would not turn with them: "
                "leave moving to data.crop and data.flip, or set data.vectors=[] if they are none"
            )
        self.targets, self.classes = targets, classes
        self.num_classes = len(classes) if num_classes is None and classes is not None else num_classes
        self.camera, self.semantic_classes = camera, semantic_classes
        self.augmented, self.color_jitter, self.workers = augmented, color_jitter if "rgb" in names else 0.0, workers
        self.modalities = {name: (reader.modalities[name][0], height, width) for name in names}

    def listing(self) -> str:
        """Stands for the names and sizes of all files."""
        return self.samples.listing()

    def reader(self, seed: int) -> Dataset:
        return Pairs(
            self.samples,
            self.views,
            None if self.camera is None else self.camera.intrinsics,
            seed,
            self.num_samples if self.skip_corrupted else None,
        )
