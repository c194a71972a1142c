"""What training, evaluation and probes ask of data: a split of a data set, and the loader of its batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Loader(Protocol):
    """Batches of an epoch, from any batch on.

    ``epoch(k, start)`` yields the same batches at every call, so that a run can resume in the middle of an epoch. With
    several processes each gets its rank's slice of every batch; in training an empty slice is replaced by the batch's
    last sample with a field ``is_padding``, which counts for nothing.

    Attributes:
        num_samples: Samples in an epoch, over all ranks together.
    """

    @property
    def num_samples(self) -> int: ...

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches ``start``, ``start + 1``, … of epoch ``k``."""


class ViewLoader(Loader, Protocol):
    """A loader that also yields the samples of a view in the order of their index.

    ``in_order(view, rows, batch_size)`` yields the samples ``rows`` (n,), by default all, the same on every rank.

    Attributes:
        batch_size: Samples in a batch, over all ranks together.
        views: Number of different views of each sample; None: a new one in every epoch.
        device: Device of the batches.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def views(self) -> int | Any: ...  # Any for None: readers that repeat views check it once

    @property
    def device(self) -> torch.device: ...

    def in_order(
        self, view: int, rows: Tensor | None = None, batch_size: int | None = None
    ) -> Iterator[dict[str, Tensor]]: ...


class Split(Protocol):
    """One split of a data set, as a registered data set's ``open("train")`` or ``open("test")`` returns it.

    Attributes:
        num_samples: N.
        modalities: Modality -> shape (C, H, W) of one sample.
        targets: (N,) int64 classes, or None for an unlabelled split. A split whose labels hold a number for each class
            has ``label_vectors`` too, (N, C) float32: probabilities, and ``targets`` are the most probable classes; or
            0 and 1 for any number of classes, and ``targets`` is None.
        num_classes: Of the data set, not of this split; None where there are none.
        classes: Their names, or None.
        semantic_classes: Names of the values of the label maps ``semantics``, or None.
        camera: Unit of ``depth`` and intrinsics, a :class:`~contrastill.datasets.io.camera.Camera`, or None.
    """

    @property
    def num_samples(self) -> int: ...

    @property
    def modalities(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def targets(self) -> Tensor | None: ...

    @property
    def num_classes(self) -> int | None: ...

    @property
    def classes(self) -> Sequence[str] | None: ...

    @property
    def semantic_classes(self) -> Sequence[str] | None: ...

    @property
    def camera(self) -> Any: ...

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
    ) -> ViewLoader:
        """Batches of this split.

        Args:
            batch_size: Samples in a batch, over all ranks together.
            device: Device of the batches.
            seed: Of the order and of the views.
            train: Shuffled and augmented; otherwise in order, each view a plain one.
            rank, world: This process's rank and the number of ranks; each rank gets a contiguous slice of each batch.
            views: Number of different views of each sample; None: a new one in every epoch.
        """
