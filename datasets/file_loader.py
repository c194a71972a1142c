"""A split whose images are files, and the loader whose worker processes read them and cut out their views."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..core.errors import ContrastillError
from .file_views import FileViews, jitter, transform_seed
from .images import DamagedImage, Picture
from .in_memory import Batch, check_shares, shares
from .views import epoch_order

WAY_OUT = "remove it, or set data.skip_damaged=true"


class FileSplit:
    """One split of a data set of image files.

    Args:
        root: The folder that ``files`` are in.
        files: Paths below ``root``; a sample's index is its place here.
        targets: int64 (N,), classes in 0..len(classes)-1.
        classes: Names of the classes.
        views: How a picture becomes a square.
        augmented: Whether training views are drawn; otherwise a loader with ``train`` only shuffles.
        color_jitter: Strength of the jitter of training views; 0 hands out uint8.
        workers: Processes that read; 0 reads in this one.

    Attributes:
        num_samples: N.
        modalities: Modality -> shape (C, H, W) of one sample.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        targets: Tensor,
        classes: list[str],
        *,
        views: FileViews,
        augmented: bool,
        color_jitter: float = 0.0,
        workers: int = 0,
    ) -> None:
        self.root, self.targets, self.classes, self.num_classes = root, targets, classes, len(classes)
        # One block of bytes, so that a million names are neither pickled nor counted one by one in every worker.
        self.files = np.array([os.fsencode(name) for name in files])
        self.views, self.augmented, self.color_jitter, self.workers = views, augmented, color_jitter, workers
        self.num_samples = len(files)
        self.modalities = {"rgb": (3, views.size, views.size)}

    def loader(self, *, batch_size: int, device: torch.device | str, seed: int = 0, train: bool, rank: int = 0, world: int = 1) -> FileLoader:
        """Batches of this split.

        Args:
            batch_size: Samples in a batch, over all ranks together.
            device: Where the batches are.
            seed: Of the order and of the views.
            train: Shuffled and augmented; otherwise in order, the centre of each picture.
            rank, world: Which contiguous share of each batch this process takes, of how many.
        """
        return FileLoader(self, batch_size=batch_size, device=torch.device(device), seed=seed, train=train, rank=rank, world=world)


class FileLoader:
    """The batches of a :class:`FileSplit`; what they hold depends on nothing but (seed, epoch) and their place in it.

    The workers start with the first epoch and stay. An epoch may be left early, and several may be under way at once: the
    one that is asked takes the workers over, at the cost of what they had read ahead.

    Raises:
        UsageError: batch_size is smaller than the number of ranks.
    """

    def __init__(self, split: FileSplit, *, batch_size: int, device: torch.device, seed: int, train: bool, rank: int, world: int) -> None:
        check_shares(batch_size, rank, world)
        self.batch_size, self.device, self.seed, self.train, self.rank, self.world = batch_size, device, seed, train, rank, world
        self.num_samples = split.num_samples
        self._augmented = train and split.augmented
        self._jitter = split.color_jitter if self._augmented else 0.0
        self._targets = split.targets.to(device)
        self._reader = _Reader(os.fsencode(split.root), split.files, split.views, seed)
        self._workers = split.workers
        self._requests = _Requests()
        self._data: DataLoader | None = None
        self._turn: object | None = None

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.batch_size)

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of the batches ``start``, ``start + 1``, … of epoch ``k``; in training its views are view ``k``.

        Yields:
            A dict of ``rgb`` (B, 3, size, size) in channels_last, uint8 or with jitter float in [0, 1], ``index`` and
            ``target`` int64 (B,).

        Raises:
            ContrastillError: A file is damaged, or a worker was killed.
        """
        order = epoch_order(self.seed, k, self.num_samples) if self.train else torch.arange(self.num_samples)
        view = k if self._augmented else None
        while start < len(self):
            turn = self._turn = object()
            batches = [order[rows] for rows in shares(self.num_samples, self.batch_size, self.rank, self.world, start)]
            for index, images in zip(batches, self._read(batches, view), strict=True):
                yield self._batch(images, index, k)
                start += 1
                if self._turn is not turn:
                    # Another epoch took the workers over in the meantime: ask again for the rest.
                    break

    def _batch(self, images: Tensor, index: Tensor, k: int) -> Batch:
        """From what was read, (B, H, W, 3), to what is handed out."""
        images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self._jitter:
            images = jitter(images, index, seed=self.seed, view=k, strength=self._jitter)
        index = index.to(self.device, non_blocking=True)
        return {"rgb": images, "index": index, "target": self._targets[index]}

    def _read(self, batches: list[Tensor], view: int | None) -> Iterator[Tensor]:
        """The images of these samples, (B, H, W, 3) each, in order."""
        if self._data is None:
            import cv2  # noqa: F401  here once, not in each worker that is forked

            self._data = DataLoader(
                self._reader,
                batch_size=None,
                sampler=self._requests,
                num_workers=self._workers,
                persistent_workers=self._workers > 0,
                worker_init_fn=_prepare_worker,
                pin_memory=self.device.type == "cuda",
                # Of its own: DataLoader draws a number at the start of each pass, and the global generator's state is the training's.
                generator=torch.Generator(),
            )
        self._requests.pending = [(view, index.numpy()) for index in batches]
        try:
            for images in self._data:
                if isinstance(images, _Damaged):
                    raise ContrastillError(images.message)
                yield images
        except (RuntimeError, OSError, EOFError) as error:
            # What a dead worker had sent cannot always be picked up: then it is a broken connection that is seen first.
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
                raise
            self._data = None
            said = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
            raise ContrastillError(f"a worker that reads images ended ({said}): lower data.workers={self._workers}, or give it more (shared) memory") from error


class _Requests(Sampler):
    """What the workers are asked for: (view, rows) of each batch; DataLoader asks for it anew in each pass."""

    def __init__(self) -> None:
        self.pending: list[tuple[int | None, np.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int | None, np.ndarray]]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)


@dataclass(frozen=True)
class _Damaged:
    """Stands for a batch that could not be read: an exception would come out of a worker with its traceback for a message."""

    message: str


class _Reader(Dataset):
    """Reads batches, in a worker or in the training's own process."""

    def __init__(self, root: bytes, files: np.ndarray, views: FileViews, seed: int) -> None:
        self.root, self.files, self.views, self.seed = root, files, views, seed

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Tensor | _Damaged:
        """uint8 (B, size, size, 3): the given views of the given rows, or for view None their centres."""
        view, rows = request
        out = torch.empty((len(rows), self.views.size, self.views.size, 3), dtype=torch.uint8)
        draws = [None] * len(rows) if view is None else self.views.draws(self.seed, view, torch.from_numpy(rows))
        try:
            for place, row, drawn in zip(out, rows.tolist(), draws, strict=True):
                picture = Picture(os.fsdecode(os.path.join(self.root, self.files[row])))
                place.copy_(self.views.plain(picture) if drawn is None else self.views.view(picture, drawn, transform_seed(self.seed, view, row)))
        except DamagedImage as error:
            return _Damaged(f"{error.path} cannot be read as an image ({error.reason}): {WAY_OUT}")
        return out


def _prepare_worker(_: int) -> None:
    """One thread each, and nothing but its training ends a worker: Ctrl-C and a scheduler's SIGTERM go to all processes of a group."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_the_end, daemon=True).start()


def _await_the_end() -> None:
    """Heed the SIGTERM of the process that reads from this worker, and no other's; end when that process is gone."""
    from multiprocessing import parent_process

    parent = parent_process()
    while parent is not None and parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, 5)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(0)
