"""The loader whose worker processes read samples when they are needed and cut out their views."""

from __future__ import annotations

import gc
import math
import os
import weakref
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ...core.cores import available_cores
from ...core.errors import ContrastillError
from ...core.label_vectors import label_fields
from .corrupted import CorruptedLog, PatchedBatch
from .file_views import jitter
from .file_workers import Damaged, end_workers, prepare_worker, sigterm_blocked, unwarned
from .in_memory import Batch, check_ranks, padded_slice, rank_slices, view_fields
from .stored_values import values_hash
from .views import epoch_order


class Readable(Protocol):
    """A split whose samples are read by worker processes.

    Attributes:
        num_samples: N.
        targets: int64 (N,), or None without labels.
        augmented: Whether training views are drawn.
        color_jitter: Strength of the jitter of training views.
        workers: Processes that read; 0 reads in this one.
        rows: Which of the reader's samples it has; None: all.
    """

    num_samples: int
    rows: np.ndarray | None
    targets: Tensor | None
    augmented: bool
    color_jitter: float
    workers: int

    def reader(self, seed: int) -> Dataset: ...


class FileLoader:
    """The batches of a split: functions of (seed, epoch) and their number in it alone.

    The workers start with the first epoch and stay. An epoch may be left early, and several may be under way at once:
    the one that is asked takes the workers over, at the cost of what they had read ahead.

    Raises:
        UsageError: batch_size is smaller than the number of ranks.
    """

    def __init__(
        self,
        split: Readable,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        train: bool,
        rank: int,
        world: int,
        views: int | None = None,
    ) -> None:
        check_ranks(batch_size, rank, world)
        self.views = views
        self.batch_size, self.device, self.seed, self.train, self.rank, self.world = (
            batch_size,
            device,
            seed,
            train,
            rank,
            world,
        )
        self.num_samples = split.num_samples
        self._augmented = train and split.augmented
        self._jitter = split.color_jitter if self._augmented else 0.0
        self._targets, self._label_vectors = (
            None if labels is None else labels.to(device)
            for labels in (split.targets, getattr(split, "label_vectors", None))
        )
        self._reader, self._rows = split.reader(seed), split.rows
        self._workers = split.workers
        self._split = split
        self._corrupted = CorruptedLog(split.num_samples)
        self._requests = _Requests()
        self._data: DataLoader | None = None
        self._end: weakref.finalize | None = None
        self._turn: object | None = None

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.batch_size)

    @property
    def targets(self) -> Tensor | None:
        """Classes of all samples, (N,), on the device; None if unlabelled."""
        return self._targets

    def listing(self) -> str | None:
        """What changes with the names, the sizes or, of a few, the bytes of the split's files; None: it has none."""
        if not hasattr(self._split, "listing"):
            return None
        return f"{self._split.listing()} {values_hash(self._split)}"

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """This rank's slice of the batches ``start``, ``start + 1``, … of epoch ``k``; in training its views are view
        ``k``, or ``k`` mod ``views``.

        Yields:
            A dict of each modality (B, C, H, W) in channels_last: ``rgb`` uint8, or with jitter float in [0, 1];
            ``semantics`` uint8, others float32 as stored. ``index`` int64 (B,); if labelled,
            ``target`` int64 (B,) or ``label_vector`` float32 (B, C) or both;
            where the split knows its intrinsics and no transform of albumentations moved the view, ``camera`` float32
            (B, 4); ``view`` int64 (B,) if views repeat; ``is_padding``, all true, on the padding of an empty training
            slice.

        Raises:
            ContrastillError: A file is damaged, or a worker was killed.
        """
        order = epoch_order(self.seed, k, self.num_samples) if self.train else torch.arange(self.num_samples)
        yield from self._batches(order, k, self.rank, self.world, start)

    def in_order(self, view: int, rows: Tensor | None = None, batch_size: int | None = None) -> Iterator[Batch]:
        """The samples ``rows`` (n,), or all in the order of their index, on every rank the same batches: of a training
        loader in view ``view``, else as they are.
        """
        yield from self._batches(torch.arange(self.num_samples) if rows is None else rows, view, 0, 1, 0, batch_size)

    def _batches(
        self, order: Tensor, k: int, rank: int, world: int, start: int, batch_size: int | None = None
    ) -> Iterator[Batch]:
        k = k % self.views if self.views else k
        view = k if self._augmented else None
        batch_size = batch_size or self.batch_size
        while start * batch_size < len(order):
            turn = self._turn = object()
            slices = list(rank_slices(len(order), batch_size, rank, world, start))
            padded = [padded_slice(rank_slice) if self.train else rank_slice for rank_slice in slices]
            batches = [order[rows] for rows in padded]
            paddings = [rows != rank_slice for rows, rank_slice in zip(padded, slices, strict=True)]
            for index, is_padding, read in zip(batches, paddings, self._read(batches, view), strict=True):
                if isinstance(read, PatchedBatch):
                    self._corrupted.add(read.corrupted)
                    index, read = read.rows, read.batch
                batch = self._batch(read, index, k)
                yield batch | view_fields(batch["index"], k if self.views else None, is_padding=is_padding)
                start += 1
                if self._turn is not turn:
                    # Another epoch took the workers over in the meantime: ask again for the rest.
                    break
        self._corrupted.end_epoch()

    def _batch(self, read: Batch, index: Tensor, k: int) -> Batch:
        """A batch on the device, channels first, from images (B, H, W, C) as they were read."""
        batch = {name: values.to(self.device, non_blocking=True) for name, values in read.items()}
        batch = {name: values.permute(0, 3, 1, 2) if values.dim() == 4 else values for name, values in batch.items()}
        if self._jitter:
            batch["rgb"] = jitter(batch["rgb"], index, seed=self.seed, view=k, strength=self._jitter)
        index = index.to(self.device, non_blocking=True)
        return {**batch, "index": index, **label_fields(self._targets, self._label_vectors, index)}

    def _read(self, batches: list[Tensor], view: int | None) -> Iterator[Batch]:
        """The samples as the workers read them, in order."""
        if self._data is None:
            with unwarned():
                self._data = DataLoader(
                    self._reader,
                    batch_size=None,
                    sampler=self._requests,
                    num_workers=self._workers,
                    persistent_workers=self._workers > 0,
                    worker_init_fn=prepare_worker,
                    pin_memory=self.device.type == "cuda",
                    # Of its own: DataLoader draws a number at the start of each pass, and the global generator's state
                    # is the training's.
                    generator=torch.Generator(),
                )
        rows = [index.numpy() for index in batches]
        self._requests.pending = [(view, each if self._rows is None else self._rows[each]) for each in rows]
        try:
            for read in self._started(self._data):
                if isinstance(read, Damaged):
                    self._stop()
                    raise ContrastillError(read.message)
                yield read
        except (RuntimeError, OSError, EOFError) as error:
            # What a dead worker had sent cannot always be picked up: then it is a broken connection that is seen first.
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
                raise
            self._stop()
            reason = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
            raise ContrastillError(
                f"a worker that reads images ended ({reason}): lower data.workers={self._workers}, or give it more "
                "(shared) memory; "
                "the same command goes on from the last checkpoint"
            ) from error

    def _stop(self) -> None:
        """End the workers now: where an error's traceback holds on to them they would end when garbage is collected,
        seconds later.
        """
        if self._end is not None:
            self._end()
        self._data = self._end = None

    def _started(self, data: DataLoader) -> Iterator[Batch | Damaged]:
        """A pass over the requests; the first one starts the workers."""
        # Imported here once, not in each worker that is forked.
        import cv2

        threads, collects = cv2.getNumThreads(), gc.isenabled()
        if self._workers:
            # A worker that cleared away an earlier loader of this process would print torch's traceback.
            gc.disable()
            # OpenCV's threads do not live on in a fork, and setNumThreads there would wait for their end for ever.
            cv2.setNumThreads(1)
        try:
            with sigterm_blocked(), unwarned():
                iterator = iter(data)
            if self._workers and self._end is None:
                self._end = weakref.finalize(self, end_workers, iterator, os.getpid())
                self._end.atexit = False  # torch sees to that
            return iterator
        finally:
            if self._workers:
                cv2.setNumThreads(threads)
                if collects:
                    gc.enable()


class _Requests(Sampler):
    """The workers' requests: (view, rows) of each batch; DataLoader iterates over them in each pass."""

    def __init__(self) -> None:
        self.pending: list[tuple[int | None, np.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int | None, np.ndarray]]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)


def default_workers() -> int:
    """One for each CPU that this process may use, shared with the other ranks on the machine; at most 8."""
    return max(1, min(8, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
