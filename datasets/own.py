"""Datasets that somebody made elsewhere, in the place of a registered one: labels, modalities, and views that are functions of (seed, view, index)."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

from ..core.classes import match_classes
from ..core.errors import ContrastillError, UsageError
from ..core.hashing import mix
from .camera import Camera, Unit, warn_of_unit
from .file_splits import ReadSplit
from .file_views import LABELS
from .file_workers import Damaged
from .in_memory import Batch
from .own_pictures import is_deep, kind_of, pixels
from .values import RGB, UNSIGNED_16, VOID, VOID_HELP, LabelRule, check_vectors, handed_out, vectors_among, vectors_of_array

log = logging.getLogger(__name__)

# Samples whose labels are compared with the list of labels that a dataset brings, and that are looked at for the range of values.
_LOOKED_AT = 8
_RENAMED = {"image": "rgb", "label": "target"}
_NO_MODALITY = ("index", "target", "camera")
_UNITS: dict[str, Unit] = {"floats": "m", "8-bit integers": "relative"}  # of depth; of wider integers millimetres
_PLAIN = 2**32  # stands for a view's number where nothing is augmented


class OwnData:
    """A training and a test dataset as they were handed over, in the place of a registered class.

    A sample is ``(image, label)``, an image alone, or a dict of modalities with or without ``target`` (``image`` and ``label`` will do for ``rgb`` and
    ``target``). An image is a picture of Pillow, an array (H, W, C) or (H, W), or a tensor (C, H, W) or (H, W), all of one size; ``rgb`` of uint8, of
    uint16, which is scaled to 8 bits, or of floats, in [0, 1] or normalised already. Its ``index`` is its
    place in the dataset. What a dataset draws from the generators of torch, NumPy and Python is a function of (seed, view, index).
    Values are handed out as they are, rgb and labels aside as float32: 8-bit values of other modalities are 0 … 255. ``semantics`` are whole
    numbers, 0, −1, −100 and 255 (``data.void``) for unlabelled. Each label that a sample comes with is compared with the list of labels,
    wherever samples are read: where they differ, the training stops at the first.

    Args:
        train: Of training samples; augmentation is its own affair.
        test: Of test samples, or None.

    Raises:
        UsageError: Not a dataset with a length, or samples of another kind.
    """

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")

        workers: int = Field(0, ge=0, description="processes that read; 0: the training's own")
        void: int | None = Field(VOID, ge=0, description=VOID_HELP)
        vectors: list[str] | None = Field(None, description="modalities whose values are vectors: unsigned integers are read as −1 … 1; null: by their names")
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
        return OwnSplit(samples, targets, num_classes or None, classes, self._options, self._labels(), augmented=split == "train")

    def _labels(self) -> LabelRule:
        """Which labels of label maps stand for none, in both splits alike."""
        seen = max((one.highest_label() for one in self._read.values() if one is not None), default=0)
        return LabelRule.of(self._options.void, "void" in self._options.model_fields_set, None, seen)


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
        kinds: Modality -> the kind of numbers that it comes in.
        targets: int64 (N,), or None where there are no labels.
        classes: Their names, where the dataset has ``classes``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.name = dataset, type(dataset).__name__
        self.key = object()  # others may be of the same class
        self.listed: str | None = None  # the list that labels are known from
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UsageError(
                f"{self.name} has no length or cannot be read by place, which a row of a bank and an order of one's own need: "
                "hand over a map-style Dataset, or name a folder of shards with data={'name': 'webdataset', 'path': …}"
            )
        if not len(dataset):
            raise UsageError(f"{self.name} has no samples")
        with _drawing_from(0):
            fields = self._sample(0)
            images, kinds, label = self._converted(0, fields)
        if is_deep(fields.get(RGB)):
            log.warning("%s hands out rgb of 16 bits, which is scaled so that 65535 becomes 255", self.name)
        if not images:
            raise UsageError(f"a sample of {self.name} has no image: it should be (image, label), or a dict of modalities such as {{'rgb': …, 'depth': …}}")
        if LABELS in images and images[LABELS].shape[2] != 1:
            raise UsageError(f"{LABELS} of {self.name} has {images[LABELS].shape[2]} channels: a label map holds one number for each pixel")
        self.dtypes = {name: values.dtype for name, values in images.items()}
        self.shapes = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
        self.kinds = kinds
        self.targets = None if label is None else self._labels()
        self.depth_unit: Unit | None = _UNITS.get(self.kinds["depth"], "mm") if "depth" in images else None
        names = _class_names(dataset)
        self.classes = names if self.targets is not None else None
        if self.classes is not None and len(self.classes) <= int(self.targets.max()):
            self.classes = None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> tuple[dict[str, Tensor], int | None]:
        """One sample: its modalities (H, W, C), uint8 and label maps as they are and everything else as float32, and its label.

        Raises:
            ContrastillError: It cannot be read, or is not of the kind and size of the first, or its label is not the listed one.
        """
        images, kinds, label = self._looked(row)
        shapes = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
        if shapes != self.shapes or {name: values.dtype for name, values in images.items()} != self.dtypes:
            raise ContrastillError(
                f"sample {row} of {self.name} is {_shown(images)}, the first was {_shown(self.shapes, self.dtypes)} "
                "(channels, height, width): let the dataset bring all to one size and kind"
            )
        for name, kind in kinds.items():
            if kind != self.kinds[name] and name not in (RGB, LABELS):
                raise ContrastillError(f"{name} of sample {row} of {self.name} is {kind}, that of the first {self.kinds[name]}: bring all to one unit and kind")
        if RGB in images and images[RGB].is_floating_point() and not images[RGB].isfinite().all():
            raise ContrastillError(f"rgb of sample {row} of {self.name} holds NaN or infinite values: mend the image, or leave the sample out")
        self._check_label(row, label)
        return images, label

    def _check_label(self, row: int, label: int | None) -> None:
        """Complain where a sample's label is not the listed one, by which negatives are chosen before it is read."""
        listed = None if self.targets is None else int(self.targets[row])
        if label == listed:
            return
        list_of = "its samples gave when they were read for their labels" if self.listed is None else f"{self.name}.{self.listed} says"
        raise ContrastillError(
            f"sample {row} of {self.name} is of class {'none' if label is None else label}, and {'none' if listed is None else listed} is what {list_of}: "
            "hand out one label for a sample, always the same, and correct the list or leave it out"
        )

    def highest_label(self) -> int:
        """Of the label maps of a few samples, evenly spaced; 0 where there are none."""
        return max((int(images[LABELS].max()) for images in self.few if LABELS in images), default=0)

    @cached_property
    def few(self) -> list[dict[str, Tensor]]:
        """Modalities of a few samples, evenly spaced, in which values are looked at before the training."""
        looked = []
        for row in sorted({place * len(self) // _LOOKED_AT for place in range(_LOOKED_AT)}) if set(self.shapes) - {RGB} else []:
            with _drawing_from(row):
                looked.append(self.read(row)[0])
        return looked

    def _looked(self, row: int) -> tuple[dict[str, Tensor], dict[str, str], int | None]:
        return self._converted(row, self._sample(row))

    def _sample(self, row: int) -> dict[str, Any]:
        try:
            sample = self.dataset[row]
        except Exception as error:  # whatever somebody's own code raises
            raise ContrastillError(f"sample {row} of {self.name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
        return _fields(sample)

    def _converted(self, row: int, fields: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str], int | None]:
        label = fields.get("target")
        images = {name: values for name, given in fields.items() if name not in _NO_MODALITY and (values := pixels(name, given)) is not None}
        kinds = {name: kind_of(fields[name]) for name in images}
        return images, kinds, None if label is None else self._class(row, label)

    def _class(self, row: int, label: Any) -> int:
        value = label.item() if isinstance(label, (Tensor, np.ndarray, np.generic)) and np.asarray(label).size == 1 else label
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            shown = str(label).split("\n")[0][:40]
            raise UsageError(f"the label of sample {row} of {self.name} is {shown}: classes are whole numbers from 0; for other modalities hand out a dict")
        return value

    def _labels(self) -> Tensor:
        """All labels: those that the dataset lists, where they are what its samples have, else read one by one."""
        name = next((name for name in ("targets", "labels") if getattr(self.dataset, name, None) is not None), None)
        listed = None if name is None else getattr(self.dataset, name)
        places = sorted({place * len(self) // _LOOKED_AT for place in range(_LOOKED_AT)})
        if listed is not None and not callable(listed) and np.shape(listed) == (len(self),):
            found = torch.as_tensor(np.asarray(listed)) if np.asarray(listed).dtype.kind in "iu" else None
            if found is not None and all(self._label(place) == int(found[place]) for place in places):
                self.listed = name
                return found.to(torch.int64)
        return torch.tensor([self._label(row) for row in range(len(self))], dtype=torch.int64)

    def _label(self, row: int) -> int:
        with _drawing_from(row):
            _, _, label = self._looked(row)
        if label is None:
            raise UsageError(f"sample {row} of {self.name} has no label, others have: hand out labels for all, or for none")
        return label


class OwnSplit(ReadSplit):
    """One split of such data, see :class:`~.file_loader.FileSplit` for what it has."""

    def __init__(
        self,
        samples: OwnSamples,
        targets: Tensor | None,
        num_classes: int | None,
        classes: list[str] | None,
        options: OwnData.Options,
        labels: LabelRule,
        *,
        augmented: bool,
    ) -> None:
        self.samples, self.num_samples, self.modalities = samples, len(samples), dict(samples.shapes)
        self.targets, self.num_classes, self.classes = targets, num_classes, classes
        self.workers, self.augmented, self.color_jitter, self.skip_corrupted = options.workers, augmented, 0.0, False
        self.semantic_classes: list[str] | None = None
        unit = options.depth_unit or samples.depth_unit
        self.camera = None if unit is None else Camera(unit)
        self.kinds, self.labels = dict(samples.kinds), labels
        self.vectors = vectors_among(options.vectors, {name: shape[0] for name, shape in samples.shapes.items()})
        self._look()

    def _look(self) -> None:
        """Complain, or say, what values of a few samples mean."""
        few = self.samples.few
        if few and "depth" in self.samples.shapes and self.camera is not None:
            warn_of_unit(torch.stack([images["depth"] for images in few]).float(), self.camera.unit, self.samples.name, key=self.samples.key)
        if few and LABELS in self.samples.shapes:
            self.labels.tell((images[LABELS].numpy() for images in few), self.samples.name, key=self.samples.key)
        for name in self.vectors if few else ():
            check_vectors(name, torch.stack([images[name] for images in few]).numpy(), self.samples.name)

    def reader(self, seed: int) -> Dataset:
        return _Rows(self.samples, self.labels, self.vectors, seed)


class _Rows(Dataset):
    """Reads batches, in a worker or in the training's own process."""

    def __init__(self, samples: OwnSamples, labels: LabelRule, vectors: tuple[str, ...], seed: int) -> None:
        self.samples, self.labels, self.vectors, self.seed = samples, labels, vectors, seed

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | Damaged:
        """Each modality (B, H, W, C): the given views of the given rows."""
        view, rows = request
        read = []
        try:
            for row in rows.tolist():
                with _drawing_from(self.seed, _PLAIN if view is None else view, row):
                    read.append(self._handed_out(row, self.samples.read(row)[0]))
        except ContrastillError as error:
            if get_worker_info() is None:
                raise
            return Damaged(str(error))
        shapes = self.samples.shapes
        return {name: torch.stack([one[name] for one in read]) if read else torch.empty(0, *_last(shapes[name])) for name in shapes}

    def _handed_out(self, row: int, images: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {}
        for name, values in images.items():
            if name == LABELS:
                kept = self.labels(values.numpy(), f"{LABELS} of sample {row} of {self.samples.name}")
                given[name] = torch.from_numpy(np.ascontiguousarray(kept))
            elif name in self.vectors and self.samples.kinds[name] == UNSIGNED_16:
                given[name] = torch.from_numpy(vectors_of_array(values.to(torch.int32).numpy().astype(np.uint16)))
            else:
                given[name] = handed_out(name, values, self.vectors)
        return given


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


def _last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (*shape[1:], shape[0])


def _shown(images: Mapping[str, Any], dtypes: Mapping[str, torch.dtype] | None = None) -> str:
    shapes = images if dtypes is not None else {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
    dtypes = dtypes or {name: values.dtype for name, values in images.items()}
    return ", ".join(f"{name} {tuple(shape)} of {str(dtypes[name]).removeprefix('torch.')}" for name, shape in shapes.items())
