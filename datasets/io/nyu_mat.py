"""The official files of NYU-Depth V2: nyu_depth_v2_labeled.mat (MATLAB 7.3, which is HDF5) a frame at a time, and
splits.mat.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...core.errors import ContrastillError, UsageError
from ..nyu_classes import RAW_LABELS
from .fingerprint import listing_hash
from .images import DamagedSample
from .values import warn_once

FILE, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
PAGE = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
"""The site of Silberman et al., Indoor segmentation and support inference from RGBD images (ECCV 2012): both files are
there.
"""

# Field -> its dimensions after the frame, and the dtypes it may have. MATLAB counts columns first: a picture lies on
# its side.
_LAYOUT = {"images": (3, "u1"), "depths": (2, "f4 f8"), "rawDepths": (2, "f4 f8"), "labels": (2, "u1 u2 i2 u4 i4")}


_FRAMES_READ = 8  # whose labels are looked at
_MAPPED = 40  # classes that other publications bring the labels to


class NyuReader:
    """Reads frames of the labelled set; no others.

    The file is opened at the first frame, in each process anew: HDF5 handles survive neither a fork nor a pickle.

    Args:
        path: The .mat.
        frames: int64 (N,), places in the file, from 0; a sample's row is its place here.
        fields: Modality -> field of the file.
        lookup: uint8 (895,), class of every label, for the modality ``semantics``.

    Attributes:
        modalities: Modality -> shape (C, H, W) of a frame.

    Raises:
        UsageError: The file lacks a field, or it is none of this layout.
        ContrastillError: The file is truncated or damaged.
    """

    def __init__(
        self, path: Path, frames: np.ndarray, fields: dict[str, str], lookup: np.ndarray | None = None
    ) -> None:
        self.path, self.frames, self.fields, self.lookup = path, frames, dict(fields), lookup
        with open_mat(path) as file:
            height, width = frame_size(file, fields.values())
        self.modalities = {name: (3 if name == "rgb" else 1, height, width) for name in fields}
        self._file: h5py.File | None = None
        self._owner: int | None = None

    def read(self, row: int) -> dict[str, np.ndarray]:
        """The modalities of one sample: ``rgb`` uint8 (H, W, 3), ``depth`` float32 (H, W) in metres, ``semantics``
        uint8 (H, W).

        Raises:
            ContrastillError: The frame is damaged, or has a label that does not exist.
        """
        frame = int(self.frames[row])
        try:
            stored = {name: self._opened()[field][frame] for name, field in self.fields.items()}
        except (OSError, RuntimeError, KeyError) as error:
            raise DamagedSample(str(_damaged(self.path, error, f"frame {frame} of "))) from error
        return {name: self._upright(name, values, frame) for name, values in stored.items()}

    def _upright(self, name: str, values: np.ndarray, frame: int) -> np.ndarray:
        if name == "semantics":
            lowest, highest = int(values.min()), int(values.max())
            if lowest < 0 or highest > RAW_LABELS:
                raise ContrastillError(
                    f"frame {frame} of {self.path} has a label {lowest if lowest < 0 else highest}, labels are 0 "
                    f"to {RAW_LABELS}: fetch the file again from {PAGE}"
                )
            values = values if self.lookup is None else self.lookup[values]
        elif name == "depth":
            values = values.astype(np.float32, copy=False)
        return np.ascontiguousarray(values.T)

    def listing(self) -> str:
        return listing_hash(np.asarray(self.frames), [os.path.getsize(self.path)])

    def _opened(self) -> h5py.File:
        if self._owner != os.getpid():
            # After a fork the parent's handle is here too, with its place in the file: close it before opening
            # another.
            self.close()
            self._file, self._owner = h5py.File(self.path, "r"), os.getpid()
        return self._file

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._owner = None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": None}


@contextmanager
def open_mat(path: Path) -> Iterator[h5py.File]:
    """The labelled set, opened for reading.

    Raises:
        UsageError: It is no HDF5 file that MATLAB wrote, but some other.
        ContrastillError: It is truncated or damaged, now or while it is read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(128)
    except OSError as error:
        raise ContrastillError(f"{path} cannot be read: {error}") from error
    if head.startswith(b"MATLAB 5.0"):
        raise UsageError(
            f"{path} is a MATLAB 5 file, not the labelled set, which is HDF5 (MATLAB 7.3): set data.path to the "
            f"folder that holds {FILE} of {PAGE}"
        )
    if head and not head.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise UsageError(
            f"{path} is no MATLAB 7.3 (HDF5) file: set data.path to the folder that holds {FILE} of {PAGE}"
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception, part: str = "") -> ContrastillError:
    return ContrastillError(
        f"{part}{path} cannot be read: it is truncated or damaged; fetch it again from {PAGE} "
        f"({' '.join(str(error).split())})"
    )


def frame_size(file: h5py.File, fields: Iterable[str]) -> tuple[int, int]:
    """Height and width of the frames; raises where ``fields`` are not what the labelled set has.

    Raises:
        UsageError: A field is missing, of another shape or dtype, or of another number of frames.
    """
    first: tuple[int, ...] | None = None
    for field in ("images", *fields):
        dimensions, dtypes = _LAYOUT[field]
        dataset = file.get(field)
        if not isinstance(dataset, h5py.Dataset):
            names = ", ".join(key for key in file if not key.startswith("#")) or "nothing"
            raise UsageError(
                f"{file.filename} has no field {field!r}, it has {names}: set data.path to the folder that holds "
                f"{FILE} of {PAGE}"
            )
        fits = (
            dataset.ndim == dimensions + 1
            and dataset.dtype.str[1:] in dtypes.split()
            and (dimensions == 2 or dataset.shape[1] == 3)
        )
        shape = (dataset.shape[0], *dataset.shape[-2:]) if fits else None
        first = first or shape
        if shape is None or shape != first:
            expected = "uint8 (N, 3, W, H)" if field == "images" else "(N, W, H), the same as images"
            raise UsageError(
                f"{file.filename}: {field} is {dataset.dtype} {dataset.shape}, the labelled set has {expected}: fetch "
                f"{FILE} from {PAGE}"
            )
    assert first is not None  # there is at least the field images
    return first[2], first[1]


def check_raw_labels(file: h5py.File, frames: np.ndarray) -> None:
    """Complain where labels do not seem to be those of the labelled set, which are mapped to fewer classes.

    Args:
        file: The labelled set.
        frames: Places of those that are read, of which a few are looked at.

    Raises:
        UsageError: It names no more labels than there are classes, so that they are mapped already.
    """
    places = np.unique(frames[np.arange(_FRAMES_READ) * len(frames) // _FRAMES_READ])
    highest = max(int(file["labels"][int(place)].max()) for place in places)
    if not 0 < highest <= _MAPPED:
        return
    text = (
        f"{file.filename}: labels go to {highest} in {len(places)} frames, and those of the labelled set, which are "
        f"mapped to classes here, to {RAW_LABELS}"
    )
    way = "write them to a packed file or a paired_folder as semantics, which are read as stored"
    names = file.get("names")
    if isinstance(names, h5py.Dataset) and highest <= names.size <= _MAPPED + 1:
        raise UsageError(f"{text}; the file names {names.size}, so that they are mapped already: {way}")
    warn_once(f"{text}: if they are mapped already, {way}")


def num_frames(file: h5py.File) -> int:
    """How many frames the file holds: 1 449."""
    return len(file["images"])


def scene_types(file: h5py.File) -> list[str]:
    """The scene type of every frame, such as ``bedroom``.

    Raises:
        UsageError: The file says none, or not of every frame.
    """
    dataset = file.get("sceneTypes")
    if not isinstance(dataset, h5py.Dataset) or dataset.size != num_frames(file) or dataset.dtype.kind != "O":
        raise UsageError(
            f"{file.filename} does not say the scene type of each frame: set data.scene_classes=false, or fetch "
            f"{FILE} from {PAGE}"
        )
    # Each is a reference to an array of character codes.
    return ["".join(map(chr, np.ravel(file[reference]))) for reference in np.ravel(dataset[()])]


def read_splits(path: Path, count: int) -> dict[str, np.ndarray]:
    """Places in the labelled set, int64 from 0, of the frames of ``train`` and ``test``, in the order of the file.

    Args:
        path: splits.mat: trainNdxs and testNdxs, counted from 1.
        count: Frames of the labelled set.

    Raises:
        UsageError: There is no such file, or it is that of another set: frames that do not exist, or that are in both
            splits.
        ContrastillError: It is damaged.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise UsageError(
            f"{path} does not exist: put {SPLITS} beside {FILE}, which says which frames are for training; it is "
            f"on the same page, {PAGE}"
        )
    try:
        matrices = loadmat(path)
    except Exception as error:
        # scipy says damage in many ways: MatReadError, ValueError, TypeError, zlib.error, an error of its own for
        # MATLAB 7.3, …
        raise ContrastillError(
            f"{path} cannot be read as a MATLAB 5 file: fetch {SPLITS} again from {PAGE} "
            f"({' '.join(str(error).split())})"
        ) from error
    splits = {}
    for split, key in (("train", "trainNdxs"), ("test", "testNdxs")):
        if key not in matrices:
            available = ", ".join(name for name in matrices if not name.startswith("__")) or "nothing"
            raise UsageError(f"{path} has no {key}, it has {available}: fetch {SPLITS} from {PAGE}")
        numbers = np.ravel(matrices[key])
        if not len(numbers) or numbers.dtype.kind not in "iuf" or (numbers != np.floor(numbers)).any():
            raise UsageError(f"{path}: {key} is no list of whole numbers: fetch {SPLITS} from {PAGE}")
        if numbers.min() < 1 or numbers.max() > count:
            strange = int(numbers.min() if numbers.min() < 1 else numbers.max())
            raise UsageError(
                f"{path}: {key} names frame {strange}, and {FILE} has frames 1 to {count}: the two files do not "
                "belong together"
            )
        splits[split] = numbers.astype(np.int64) - 1
    together = np.concatenate(list(splits.values()))
    seen, times = np.unique(together, return_counts=True)
    if times.max() > 1:
        raise UsageError(
            f"{path} names frame {seen[times > 1][0] + 1} twice: training and test frames are to be disjoint; "
            f"fetch {SPLITS} from {PAGE}"
        )
    return splits
