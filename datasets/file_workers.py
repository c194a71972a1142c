"""What the worker processes do that read files: batches of samples, or why they could not be read; their threads, signals and end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ..core.errors import ContrastillError
from .camera import view_camera
from .file_views import LABELS, FileViews, transform_seed
from .images import DamagedImage, Picture
from .in_memory import Batch
from .joint_views import JointViews

WAY_OUT = "remove it, or set data.skip_damaged=true"


@dataclass(frozen=True)
class Damaged:
    """Stands for a batch that could not be read: an exception would come out of a worker with its traceback for a message."""

    message: str


class SampleReader(Protocol):
    """Reads the samples of a :class:`PairSplit`; it is pickled into workers, and opens what it reads from in each of them.

    Attributes:
        modalities: Modality -> shape (C, H, W) of a stored frame; H and W None where frames differ in size.
    """

    modalities: dict[str, tuple[int, int | None, int | None]]

    def read(self, row: int) -> dict[str, np.ndarray]:
        """rgb uint8 (H, W, 3), others (H, W) or (H, W, C), all of one height and width.

        Raises:
            ContrastillError: It cannot be read; the message is what the user is told.
        """
        ...


class PictureSource(Protocol):
    """Opens the pictures of a :class:`FileSplit`; it is pickled into workers, and opens what it reads from in each of them.

    Attributes:
        files: (N,) bytes, what each picture is called.
    """

    @property
    def files(self) -> np.ndarray: ...

    def open(self, row: int) -> Picture:
        """The picture of a sample, its header read.

        Raises:
            DamagedImage: It cannot be read.
        """
        ...


class PictureFiles:
    """Opens pictures by their paths.

    Args:
        root: The folder that ``files`` are in.
        files: Paths below ``root``; a sample's index is its place here.
    """

    def __init__(self, root: str | os.PathLike, files: Sequence[str]) -> None:
        # One block of bytes, so that a million names are neither pickled nor counted one by one in every worker.
        self.root, self.files = os.fsencode(root), np.array([os.fsencode(name) for name in files])

    def open(self, row: int) -> Picture:
        return Picture(os.fsdecode(os.path.join(self.root, self.files[row])))


class Images(Dataset):
    """Reads batches of pictures, in a worker or in the training's own process."""

    def __init__(self, pictures: PictureSource, views: FileViews, seed: int) -> None:
        self.pictures, self.views, self.seed = pictures, views, seed

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | Damaged:
        """rgb uint8 (B, size, size, 3): the given views of the given rows, or for view None their centres."""
        view, rows = request
        out = torch.empty((len(rows), self.views.size, self.views.size, 3), dtype=torch.uint8)
        try:
            for place, row, drawn in zip(out, rows.tolist(), _draws(self.views, self.seed, view, rows), strict=True):
                picture = self.pictures.open(row)
                place.copy_(self.views.plain(picture) if drawn is None else self.views.view(picture, drawn, transform_seed(self.seed, view, row)))
        except DamagedImage as error:
            return Damaged(f"{error.path} cannot be read as an image ({error.reason}): {WAY_OUT}")
        return {"rgb": out}


class Pairs(Dataset):
    """Reads batches of aligned modalities, in a worker or in the training's own process."""

    def __init__(self, samples: SampleReader, views: JointViews, intrinsics: tuple[float, float, float, float] | None, seed: int) -> None:
        self.samples, self.views, self.intrinsics, self.seed = samples, views, intrinsics, seed

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | Damaged:
        """Each modality (B, H, W, C): the given views of the given rows, or for view None the plain ones; ``camera`` (B, 4) if it is known."""
        view, rows = request
        channels = {name: self.samples.modalities[name][0] for name in self.views.modalities}
        whole = {"rgb": torch.uint8, LABELS: torch.uint8}
        out = {name: torch.empty((len(rows), *self.views.size, count), dtype=whole.get(name, torch.float32)) for name, count in channels.items()}
        places = []
        try:
            for place, (row, drawn) in enumerate(zip(rows.tolist(), _draws(self.views, self.seed, view, rows), strict=True)):
                read = self.samples.read(row)
                sample = {name: read[name] for name in out}
                if drawn is None:
                    seen, where = self.views.plain(sample), self.views.whole(*sample[self.views.modalities[0]].shape[:2])
                else:
                    seen, where = self.views.view(sample, drawn, transform_seed(self.seed, view, row))
                places.append((where.top, where.left, where.height, where.width, where.flip))
                for name, values in seen.items():
                    out[name][place].copy_(values)
        except ContrastillError as error:
            return Damaged(str(error))
        if self.intrinsics is None or (view is not None and self.views.moves):
            return out
        top, left, height, width, flip = torch.tensor(places, dtype=torch.float32).reshape(-1, 5).T
        camera = view_camera(self.intrinsics, top=top, left=left, height=height, width=width, size=self.views.size, flip=flip.bool())
        return {**out, "camera": camera}


def _draws(views: FileViews | JointViews, seed: int, view: int | None, rows: np.ndarray) -> list[list[float] | None]:
    return [None] * len(rows) if view is None else views.draws(seed, view, torch.from_numpy(rows))


@contextmanager
def sigterm_blocked() -> Iterator[None]:
    """SIGTERM waits: a worker that is started meanwhile has it blocked in all its threads, those too that a library starts before :func:`prepare_worker` is called."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker(_: int) -> None:
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
