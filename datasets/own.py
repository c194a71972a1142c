"""Datasets that somebody made elsewhere, in the place of a registered one: labels, modalities, and views that are functions of (seed, view, index)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

from ..core.classes import match_classes
from ..core.errors import ContrastillError, UsageError
from ..core.hashing import mix
from .camera import Camera, Unit
from .file_splits import ReadSplit
from .file_views import LABELS
from .file_workers import Damaged
from .in_memory import Batch

# Samples whose labels are compared with the list of labels that a dataset brings, and that are looked at for the range of values.
_LOOKED_AT = 8
_RENAMED = {"image": "rgb", "label": "target"}
_NO_MODALITY = ("index", "target", "camera")
_PLAIN = 2**32  # stands for a view's number where nothing is augmented


class OwnData:
    """A training and a test dataset as they were handed over, in the place of a registered class.

    A sample is ``(image, label)``, an image alone, or a dict of modalities with or without ``target`` (``image`` and ``label`` will do for ``rgb`` and
    ``target``). An image is a picture of Pillow, an array (H, W, C) or (H, W), or a tensor (C, H, W) or (H, W), all of one size. Its ``index`` is its
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
        classes, targets = samples.classes, samples.targets
        train = self._read["train"]
        if split == "test" and classes is not None and train.classes is not None and classes != train.classes:
            classes, targets = train.classes, _renumbered(samples, train)
        # Names in both are matched; a split without names may have more classes than the other one names.
        nameless = [one for one in labelled if one.classes is None or classes is None]
        num_classes = max([*(int(one.targets.max()) + 1 for one in nameless), len(classes or ())], default=0)
        return OwnSplit(samples, targets, num_classes or None, classes, self._options, augmented=split == "train")


def _renumbered(samples: OwnSamples, train: OwnSamples) -> Tensor:
    """The labels of a dataset by the numbers that the training dataset has for classes of the same names."""
    used = [samples.classes[number] for number in samples.targets.unique().tolist()]
    places = match_classes(
        train.classes, used, f"the training dataset {train.name}", f"the test dataset {samples.name}", "hand over both with the same classes"
    )
    number = dict(zip(used, places, strict=True))
    return torch.tensor([number.get(name, -1) for name in samples.classes])[samples.targets]


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
            images, label = self._looked(0)
        if not images:
            raise UsageError(f"a sample of {self.name} has no image: it should be (image, label), or a dict of modalities such as {{'rgb': …, 'depth': …}}")
        self.dtypes = {name: values.dtype for name, values in images.items()}
        self.shapes = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
        self.targets = None if label is None else self._labels()
        self.depth_unit: Unit | None = _unit(_fields(dataset[0])["depth"]) if "depth" in images else None
        names = _class_names(dataset)
        self.classes = names if self.targets is not None else None
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
        try:
            sample = self.dataset[row]
        except Exception as error:  # whatever somebody's own code raises
            raise ContrastillError(f"sample {row} of {self.name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
        fields = _fields(sample)
        label = fields.pop("target", None)
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

    def __init__(
        self, samples: OwnSamples, targets: Tensor | None, num_classes: int | None, classes: list[str] | None, options: OwnData.Options, *, augmented: bool
    ) -> None:
        self.samples, self.num_samples, self.modalities = samples, len(samples), dict(samples.shapes)
        self.targets, self.num_classes, self.classes = targets, num_classes, classes
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


def _class_names(dataset: Any) -> list[str] | None:
    """A dataset's ``classes``, or those of which it is a Subset; numbers from 0 on are no names."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)) or [*names] == [*range(len(names))]:
        return None
    return [str(name) for name in names]


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
    """An image as (H, W, C), uint8 or float32; None for what is none."""
    if isinstance(value, Image.Image):
        value = np.array(value.convert("RGB") if name == "rgb" else value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        values = torch.from_numpy(value if value.dtype.kind != "u" or value.dtype == np.uint8 else value.astype(np.float32))
    elif isinstance(value, Tensor) and not value.is_complex():
        values = value.permute(1, 2, 0) if value.ndim == 3 else value
    else:
        return None
    if values.ndim not in (2, 3):
        return None
    values = values if values.ndim == 3 else values[:, :, None]
    return values.to(torch.uint8 if name == LABELS or values.dtype == torch.uint8 else torch.float32)


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
