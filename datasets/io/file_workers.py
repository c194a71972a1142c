"""What the worker processes do that read files: batches of samples, or why they could not be read; their threads,
signals and end.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ...core.errors import ContrastillError
from .camera import view_camera
from .corrupted import PatchedBatch, StandIns
from .file_views import LABELS, FileViews, transform_seed
from .fingerprint import contents_hash, file_sizes, file_stamp, listing_hash
from .images import DamagedImage, DecodedPicture, Picture
from .in_memory import Batch
from .joint_views import JointViews

REMEDY = "remove it, or set data.skip_corrupted=true"
# What reaches all processes of a job at once, and is the training's to heed.
_FOR_THE_TRAINING = {getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)}


@dataclass(frozen=True)
class Damaged:
    """Stands for a batch that could not be read: an exception would come out of a worker with its traceback for a
    message.
    """

    message: str


class SampleReader(Protocol):
    """Reads the samples of a :class:`PairSplit`; it is pickled into workers, and opens what it reads from in each of
    them.

    Attributes:
        modalities: Modality -> shape (C, H, W) of a stored frame; H and W None where frames differ in size.
        label_dtype: Of label maps, if it is not uint8.
        kinds: Modality -> the kind of numbers it is stored as, if the reader has such, see
            :func:`~.values.number_kind`.
    """

    @property
    def modalities(self) -> Mapping[str, tuple[int, int | None, int | None]]: ...

    def read(self, row: int) -> dict[str, np.ndarray]:
        """rgb uint8 (H, W, 3), others (H, W) or (H, W, C), all of one height and width.

        Raises:
            DamagedSample: It cannot be read; the message is what the user is told.
            ContrastillError: It is not what the data set's other samples are.
        """
        ...

    def listing(self) -> str:
        """Stands for the names and sizes of all files."""
        ...


class PictureSource(Protocol):
    """Opens the pictures of a :class:`FileSplit`; it is pickled into workers, and opens what it reads from in each of
    them.

    Attributes:
        files: (N,) bytes, what each picture is called.
    """

    @property
    def files(self) -> np.ndarray: ...

    def open(self, row: int) -> Picture | DecodedPicture:
        """The picture of a sample, its header read.

        Raises:
            DamagedImage: It cannot be read.
        """
        ...

    def listing(self) -> str:
        """Stands for the names and sizes of all files."""
        ...

    def stamp(self, row: int) -> int:
        """Stands for the file that holds the picture of a sample, see :func:`~.fingerprint.file_stamp`."""
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

    def listing(self) -> str:
        return listing_hash(self.files, file_sizes(self.root, self.files))

    def contents_hash(self, modality: str | None = None) -> str | None:
        return contents_hash(self.root, self.files)

    def stamp(self, row: int) -> int:
        return file_stamp(os.path.join(self.root, self.files[row]))


class Images(Dataset):
    """Reads batches of pictures, in a worker or in the training's own process.

    Args:
        skip_among: How many samples there are, the next of which stands in for a corrupted one; None: that is an error.
    """

    def __init__(self, pictures: PictureSource, views: FileViews, seed: int, skip_among: int | None = None) -> None:
        self.pictures, self.views, self.seed, self.skip_among = pictures, views, seed, skip_among

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | PatchedBatch | Damaged:
        """rgb uint8 (B, size, size, 3): the given views of the given rows, or for view None their centres."""
        view, rows = request
        out = torch.empty((len(rows), self.views.size, self.views.size, 3), dtype=torch.uint8)

        def read(row: int, drawn: list[float] | None) -> torch.Tensor:
            picture = self.pictures.open(row)
            return (
                self.views.plain(picture)
                if drawn is None or view is None
                else self.views.view(picture, drawn, transform_seed(self.seed, view, row))
            )

        try:
            patched = _read_all(
                read, self.views, self.seed, view, rows, self.skip_among, lambda place, seen: out[place].copy_(seen)
            )
        except DamagedImage as error:
            return Damaged(f"{error.path} cannot be read as an image ({error.reason}): {REMEDY}")
        except ContrastillError as error:
            return Damaged(str(error))
        return patched({"rgb": out})


class Pairs(Dataset):
    """Reads batches of aligned modalities, in a worker or in the training's own process.

    Args:
        skip_among: As :class:`Images` takes it.
    """

    def __init__(
        self,
        samples: SampleReader,
        views: JointViews,
        intrinsics: tuple[float, float, float, float] | None,
        seed: int,
        skip_among: int | None = None,
    ) -> None:
        self.samples, self.views, self.intrinsics, self.seed, self.skip_among = (
            samples,
            views,
            intrinsics,
            seed,
            skip_among,
        )

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | PatchedBatch | Damaged:
        """Each modality (B, H, W, C): the given views of the given rows, or for view None the plain ones; ``camera``
        (B, 4) if it is known.
        """
        view, rows = request
        size = self.views.size
        assert size is not None  # PairSplit sets it to the frames' own by default
        channels = {name: self.samples.modalities[name][0] for name in self.views.modalities}
        dtypes = {"rgb": torch.uint8, LABELS: getattr(self.samples, "label_dtype", torch.uint8)}
        out = {
            name: torch.empty((len(rows), *size, count), dtype=dtypes.get(name, torch.float32))
            for name, count in channels.items()
        }
        places = []

        def read(row: int, drawn: list[float] | None) -> tuple[dict, Any]:
            stored = self.samples.read(row)
            sample = {name: stored[name] for name in out}
            if drawn is None or view is None:
                return self.views.plain(sample), self.views.full_frame(*self.views.extent(sample))
            return self.views.view(sample, drawn, transform_seed(self.seed, view, row))

        def store(place: int, output: tuple[dict, Any]) -> None:
            seen, where = output
            places.append((where.top, where.left, where.height, where.width, where.flip))
            for name, values in seen.items():
                if (
                    name == LABELS
                    and values.dtype != out[name].dtype
                    and not (out[name][place].copy_(values) == values).all()
                ):
                    raise ContrastillError(
                        f"label maps hold {values.max()}, which {out[name].dtype} cannot: their reader has to say "
                        "a wider label_dtype"
                    )
                out[name][place].copy_(values)

        try:
            patched = _read_all(read, self.views, self.seed, view, rows, self.skip_among, store)
        except ContrastillError as error:
            return Damaged(str(error))
        if self.intrinsics is None or (view is not None and self.views.moves):
            return patched(out)
        top, left, height, width, flip = torch.tensor(places, dtype=torch.float32).reshape(-1, 5).T
        camera = view_camera(
            self.intrinsics, top=top, left=left, height=height, width=width, size=size, flip=flip.bool()
        )
        return patched({**out, "camera": camera})


def _read_all(
    read: Callable[[int, list[float] | None], Any],
    views: FileViews | JointViews,
    seed: int,
    view: int | None,
    rows: np.ndarray,
    skip_among: int | None,
    store: Callable[[int, Any], object],
) -> Callable[[Batch], Batch | PatchedBatch]:
    """Read the rows of a batch, with stand-ins for corrupted ones where they are skipped.

    Args:
        read: From a row and its draws to its output.
        store: Takes a place in the batch and the output of its row.

    Returns:
        A function from the finished batch to itself, or to a :class:`PatchedBatch` if stand-ins were read.
    """
    draws = _draws(views, seed, view, rows)
    stand_ins = None if skip_among is None else StandIns(skip_among)
    read_rows = rows.copy()
    for place, (row, drawn) in enumerate(zip(rows.tolist(), draws, strict=True)):
        if stand_ins is None:
            store(place, read(row, drawn))
            continue

        def read_sample(other: int, row: int = row, drawn: list[float] | None = drawn) -> Any:
            return read(other, drawn if other == row else _draws(views, seed, view, np.array([other]))[0])

        read_rows[place], output = stand_ins.read(row, read_sample)
        store(place, output)
    return lambda batch: (
        PatchedBatch(batch, torch.from_numpy(read_rows), stand_ins.corrupted)
        if stand_ins and stand_ins.corrupted
        else batch
    )


def _draws(views: FileViews | JointViews, seed: int, view: int | None, rows: np.ndarray) -> list[list[float] | None]:
    if view is None:
        return [None] * len(rows)
    return [*views.draws(seed, view, torch.from_numpy(rows))]


@contextmanager
def sigterm_blocked() -> Iterator[None]:
    """SIGTERM and SIGUSR1 wait: a worker started meanwhile has them blocked in all its threads, those too that a
    library starts before :func:`prepare_worker` is called.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_TRAINING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def unwarned() -> Iterator[None]:
    """Without torch's advice against more workers than it counts cores: ``data.workers`` is the user's own word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


def end_workers(iterator: Any, process: int) -> None:
    """End the workers of a loader that is cleared away, while their queues are whole: as garbage in a cycle they are
    closed first, and torch then waits five seconds for each worker.

    Args:
        iterator: Of a ``DataLoader``.
        process: The number of the process that started them; in its forks nothing happens.
    """
    if os.getpid() == process:
        # The end of a further worker is told by a signal amid this, with the error of one that was killed; all are
        # ended nonetheless.
        with suppress(RuntimeError):
            iterator._shutdown_workers()


def prepare_worker(_: int) -> None:
    """One thread each, and nothing but its training ends a worker: Ctrl-C and a scheduler's SIGTERM or SIGUSR1 go to
    all processes of a group.
    """
    # What came with a fork is not the worker's to clear away: torch's loaders of the training print a traceback there.
    gc.freeze()
    gc.enable()  # it rests while workers are started, as it would clear away such things before this is reached
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_TRAINING)
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
