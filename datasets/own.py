"""Datasets that somebody made elsewhere, in the place of a registered one: labels, modalities, and views that are functions of (seed, view, index)."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..core.errors import ContrastillError, UsageError
from ..core.hashing import mix
from .camera import Camera, Unit
from .file_splits import ReadSplit
from .file_views import LABELS
from .file_workers import Damaged
from .image_values import beyond_float32, to_8_bits
from .in_memory import Batch

log = logging.getLogger(__name__)

# Samples whose labels are compared with the list of labels that a dataset brings, and that are looked at for the range of values.
_LOOKED_AT = 8
_RENAMED = {"image": "rgb", "label": "target"}
_NO_MODALITY = ("index", "target", "camera")
_PLAIN = 2**32  # stands for a view's number where nothing is augmented


class OwnData:
    """A training and a test dataset as they were handed over, in the place of a registered class.

    A sample is ``(image, label)``, an image alone, or a dict of modalities with or without ``target`` (``image`` and ``label`` will do for ``rgb`` and
    ``target``). An image is a picture of Pillow, an array (H, W, C) or (H, W), or a tensor (C, H, W) or (H, W), all of one size; ``rgb`` of uint8, of
    uint16, which is scaled to 8 bits, or of floats, in [0, 1] or normalised already. Its ``index`` is its
    place in the dataset. What a dataset draws from the generators of torch, NumPy and Python is a function of (seed, view, index).

    Args:
        train: Of training samples; augmentation is its own affair.
        test: Of test samples, or None.

    Raises:
        UsageError: Not a dataset with a length, or samples of another kind.
    """

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")

        workers: int = Field(0, ge=0, description="processes that read; 0: the training's own")
        depth_unit: Unit | None = Field(None, description="of depth: m, mm or relative; null: m for floats, mm for 16 bits, relative for 8 bits")

    def __init__(self, train: Dataset, test: Dataset | None = None) -> None:
        self._read = {"train": OwnSamples(train), "test": None if test is None else OwnSamples(test)}

    def __call__(self, options: Options) -> _Opened:
        return _Opened(self._read, options)


class _Opened:
    def __init__(self, read: Mapping[str, OwnSamples | None], options: OwnData.Options) -> None:
        self._read, self._options = read, options

    def open(self, split: str) -> OwnSplit | None:
        samples = self._read[split]
        if samples is None:
            return None
        labelled = [one for one in self._read.values() if one is not None and one.targets is not None]
        classes = samples.classes
        num_classes = max([*(int(one.targets.max()) + 1 for one in labelled), len(classes or ())], default=0)
        return OwnSplit(samples, num_classes or None, classes, self._options, augmented=split == "train")


class OwnSamples:
    """The samples of a dataset, brought to one form.

    Args:
        dataset: Has a length and is read by place.

    Attributes:
        shapes: Modality -> shape (C, H, W).
        targets: int64 (N,), or None where there are no labels.
        classes: Their names, where the dataset has ``classes``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.name = dataset, type(dataset).__name__
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UsageError(
                f"{self.name} has no length or cannot be read by place, which a row of a bank and an order of one's own need: "
                "hand over a map-style Dataset, or name a folder of shards with data={'name': 'webdataset', 'path': …}"
            )
        if not len(dataset):
            raise UsageError(f"{self.name} has no samples")
        with _drawing_from(0):
            fields = self._sample(0)
            images, label = self._converted(0, fields)
        if _deep(fields.get("rgb")):
            log.warning("%s hands out rgb of 16 bits, which is scaled so that 65535 becomes 255", self.name)
        if not images:
            raise UsageError(f"a sample of {self.name} has no image: it should be (image, label), or a dict of modalities such as {{'rgb': …, 'depth': …}}")
        self.dtypes = {name: values.dtype for name, values in images.items()}
        self.shapes = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
        self.targets = None if label is None else self._labels()
        self.depth_unit: Unit | None = _unit(_fields(dataset[0])["depth"]) if "depth" in images else None
        names = getattr(dataset, "classes", None)
        self.classes = [str(name) for name in names] if self.targets is not None and isinstance(names, (list, tuple)) else None
        if self.classes is not None and len(self.classes) <= int(self.targets.max()):
            self.classes = None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> tuple[dict[str, Tensor], int | None]:
        """One sample: its modalities (H, W, C), uint8 as it is and everything else as float32, and its label.

        Raises:
            ContrastillError: It cannot be read, or is not of the kind and size of the first.
        """
        images, label = self._looked(row)
        shapes = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
        if shapes != self.shapes or {name: values.dtype for name, values in images.items()} != self.dtypes:
            raise ContrastillError(
                f"sample {row} of {self.name} is {_shown(images)}, the first was {_shown(self.shapes, self.dtypes)} "
                "(channels, height, width): let the dataset bring all to one size and kind"
            )
        return images, label

    def _looked(self, row: int) -> tuple[dict[str, Tensor], int | None]:
        return self._converted(row, self._sample(row))

    def _sample(self, row: int) -> dict[str, Any]:
        try:
            sample = self.dataset[row]
        except Exception as error:  # whatever somebody's own code raises
            raise ContrastillError(f"sample {row} of {self.name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
        return _fields(sample)

    def _converted(self, row: int, fields: dict[str, Any]) -> tuple[dict[str, Tensor], int | None]:
        label = fields.get("target")
        images = {name: values for name, given in fields.items() if name not in _NO_MODALITY and (values := _pixels(name, given)) is not None}
        return images, None if label is None else self._class(row, label)

    def _class(self, row: int, label: Any) -> int:
        value = label.item() if isinstance(label, (Tensor, np.ndarray, np.generic)) and np.asarray(label).size == 1 else label
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            shown = str(label).split("\n")[0][:40]
            raise UsageError(f"the label of sample {row} of {self.name} is {shown}: classes are whole numbers from 0; for other modalities hand out a dict")
        return value

    def _labels(self) -> Tensor:
        """All labels: those that the dataset lists, where they are what its samples have, else read one by one."""
        listed = next((values for name in ("targets", "labels") if (values := getattr(self.dataset, name, None)) is not None), None)
        places = sorted({place * len(self) // _LOOKED_AT for place in range(_LOOKED_AT)})
        if listed is not None and not callable(listed) and np.shape(listed) == (len(self),):
            found = torch.as_tensor(np.asarray(listed)) if np.asarray(listed).dtype.kind in "iu" else None
            if found is not None and all(self._label(place) == int(found[place]) for place in places):
                return found.to(torch.int64)
        return torch.tensor([self._label(row) for row in range(len(self))], dtype=torch.int64)

    def _label(self, row: int) -> int:
        with _drawing_from(row):
            _, label = self._looked(row)
        if label is None:
            raise UsageError(f"sample {row} of {self.name} has no label, others have: hand out labels for all, or for none")
        return label


class OwnSplit(ReadSplit):
    """One split of such data, see :class:`~.file_loader.FileSplit` for what it has."""

    def __init__(self, samples: OwnSamples, num_classes: int | None, classes: list[str] | None, options: OwnData.Options, *, augmented: bool) -> None:
        self.samples, self.num_samples, self.modalities = samples, len(samples), dict(samples.shapes)
        self.targets, self.num_classes, self.classes = samples.targets, num_classes, classes
        self.workers, self.augmented, self.color_jitter, self.skip_corrupted = options.workers, augmented, 0.0, False
        self.semantic_classes: list[str] | None = None
        unit = options.depth_unit or samples.depth_unit
        self.camera = None if unit is None else Camera(unit)

    def reader(self, seed: int) -> Dataset:
        return _Rows(self.samples, seed)


class _Rows(Dataset):
    """Reads batches, in a worker or in the training's own process."""

    def __init__(self, samples: OwnSamples, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | Damaged:
        """Each modality (B, H, W, C): the given views of the given rows."""
        view, rows = request
        read = []
        try:
            for row in rows.tolist():
                with _drawing_from(self.seed, _PLAIN if view is None else view, row):
                    read.append(self.samples.read(row)[0])
        except ContrastillError as error:
            if get_worker_info() is None:
                raise
            return Damaged(str(error))
        shapes = self.samples.shapes
        return {name: torch.stack([one[name] for one in read]) if read else torch.empty(0, *_last(shapes[name])) for name in shapes}


@contextmanager
def _drawing_from(*key: int) -> Iterator[None]:
    """Within it, the global generators of Python, NumPy and torch begin at a state that the key names; afterwards they are as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    number = mix(*key)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _fields(sample: Any) -> dict[str, Any]:
    """A sample as a dict of its modalities and its ``target``."""
    if isinstance(sample, Mapping):
        return {_RENAMED.get(name, name): value for name, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        return dict(zip(("rgb", "target"), sample, strict=False))
    return {"rgb": sample}


def _pixels(name: str, value: Any) -> Tensor | None:
    """An image as (H, W, C), uint8 or float32; None for what is none.

    Raises:
        UsageError: Its values would not be those that were meant.
    """
    if isinstance(value, Image.Image):
        value = _picture(name, value)
    if name == "rgb" and isinstance(value, (np.ndarray, Tensor)):
        value = _eight_bits(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        if name != LABELS and beyond_float32(value):
            raise UsageError(f"{name} holds whole numbers up to {value.max()}, and modalities are float32, which keeps those up to 16777216: hand out floats")
        # torch takes neither another byte order nor a mirrored view.
        value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
        values = torch.from_numpy(value if value.dtype.kind != "u" or value.dtype == np.uint8 else value.astype(np.float32))
    elif isinstance(value, Tensor) and not value.is_complex():
        values = value.permute(1, 2, 0) if value.ndim == 3 else value
    else:
        return None
    if values.ndim not in (2, 3):
        return None
    values = values if values.ndim == 3 else values[:, :, None]
    return values.to(torch.uint8 if name == LABELS or values.dtype == torch.uint8 else torch.float32)


def _picture(name: str, image: Image.Image) -> np.ndarray:
    """What a picture of Pillow holds: as ``rgb`` three channels, or one of 16 bits; else its values, of a palette the colours."""
    # What has not been loaded yet still says how Pillow will bring it to 8 or 16 bits.
    scaling = [tile for tile in getattr(image, "tile", ()) if _scales(tile, image.mode)]
    if name != "rgb" and scaling:
        raise UsageError(
            f"{name} is a picture of Pillow, which scales the values of this {image.format} when it loads it: read it with cv2.imread(…, cv2.IMREAD_UNCHANGED)"
        )
    if name == LABELS and image.format in ("JPEG", "MPO"):
        raise UsageError(f"{name} is a JPEG, which blends the labels of neighbours: save label maps as 8-bit PNG")
    if name != "rgb":
        return np.array(image.convert("RGB") if image.mode == "P" and name != LABELS else image)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise UsageError(f"rgb is a picture of Pillow of mode {image.mode}, whose range is not known: hand out 8 or 16 bits, or an array of floats in [0, 1]")
    deep = image.mode.startswith("I")
    return np.repeat(np.array(image).astype(np.uint16)[:, :, None], 3, 2) if deep else np.array(image.convert("RGB"))


def _scales(tile: Any, mode: str) -> bool:
    """Whether Pillow's decoder of this part of a file changes its values."""
    decoder, arguments = tile[0], tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if decoder in ("ppm", "ppm_plain"):
        return arguments[-1] != (65535 if mode == "I" else 255)
    # Such as "L;4", "RGB;16B", "L;I": fewer bits, more, or the inverse.
    kind = str(arguments[0] if arguments else "").partition(";")[2]
    return mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK") and kind.startswith(("2", "4", "16", "I"))


def _eight_bits(values: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """``rgb`` as networks take it, uint8 or floats in [0, 1]: 16 bits are scaled by their range, rounded."""
    dtype = str(values.dtype).removeprefix("torch.")
    if dtype == "uint16":
        array = values.numpy(force=True) if isinstance(values, Tensor) else values
        eight = to_8_bits(array, 65535)
        return torch.from_numpy(eight) if isinstance(values, Tensor) else eight
    if dtype != "bool" and not (dtype == "uint8" or dtype.startswith(("float", "bfloat"))):
        raise UsageError(f"rgb is of {dtype}, whose range is not known: hand out uint8, uint16 or floats in [0, 1]")
    return values


def _deep(rgb: Any) -> bool:
    """Whether it has 16 bits."""
    return rgb.mode.startswith("I") if isinstance(rgb, Image.Image) else str(getattr(rgb, "dtype", "")).endswith("uint16")


def _unit(depth: Any) -> Unit:
    """What a depth of this dtype is taken for."""
    dtype = np.asarray(depth).dtype
    return "m" if dtype.kind == "f" else "mm" if dtype.itemsize > 1 else "relative"


def _last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (*shape[1:], shape[0])


def _shown(images: Mapping[str, Any], dtypes: Mapping[str, torch.dtype] | None = None) -> str:
    shapes = images if dtypes is not None else {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
    dtypes = dtypes or {name: values.dtype for name, values in images.items()}
    return ", ".join(f"{name} {tuple(shape)} of {str(dtypes[name]).removeprefix('torch.')}" for name, shape in shapes.items())
