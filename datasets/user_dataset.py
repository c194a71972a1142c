"""A user's own datasets in the place of a registered one: labels, modalities, and views that are
functions of (seed, view, index).
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..core.classes import check_numbers, listed, match_classes
from ..core.config.fields import PLACE, RESUMABLE
from ..core.errors import ContrastillError, UsageError
from ..core.label_vectors import NUMBER_FOR_EACH, Labels, check_one_form, read_label_vectors
from .io.camera import UNIT_HELP, Camera, Unit, check_intrinsics, warn_of_unit
from .io.file_splits import ReadSplit
from .io.file_views import LABELS
from .io.file_workers import Damaged
from .io.in_memory import Batch
from .io.pixel_class_names import pixel_class_names
from .io.shared_samples import warn_of_shared_samples
from .io.user_samples import UserSamples, drawing_from
from .io.value_range import share_range
from .io.values import (
    AUTO,
    UNSIGNED_16,
    VOID_HELP,
    LabelRule,
    Void,
    batch_values,
    check_vectors,
    vectors_among,
    vectors_of_array,
    warn_of_gaps,
)

log = logging.getLogger(__name__)

_SPLITS = {"train": "training", "test": "test"}
_PLAIN = 2**32  # the view's number where nothing is augmented


class UserDataset:
    """A training and a test dataset of the user's own, in the place of a registered class.

    A sample is ``(image, label)``, an image alone, or a dict of modalities with or without ``target`` (``image`` and
    ``label`` will do for ``rgb`` and ``target``), or a namedtuple with such names. A label is the number of a class, or
    a number for each class, (C,). An image is a picture of Pillow, an array (H, W, C) or (H, W), or a tensor (C, H, W)
    or (H, W), all of one size; ``rgb`` of uint8, of uint16, which is scaled to 8 bits, or of floats,
    in [0, 1] or normalised already. Its ``index`` is its place in the dataset. What a dataset draws from the generators
    of torch, NumPy and Python is a function of (seed, view, index). Values stay as they are, rgb and labels
    aside as float32: 8-bit values of other modalities are 0 … 255. ``semantics`` are whole numbers, 0, −1, −100 and 255
    (``data.void``) for unlabelled. Each sample's label is compared with the list of labels wherever samples are read:
    where they differ, the training stops at the first.

    Args:
        train: Of training samples, which it augments itself.
        test: Of test samples, or None.

    Raises:
        UsageError: Not a dataset with a length, or samples of another kind.
    """

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")

        workers: int = Field(0, ge=0, description="processes that read; 0: the training's own", json_schema_extra=PLACE)
        void: Void = Field(AUTO, description=VOID_HELP, json_schema_extra=RESUMABLE)
        vectors: list[str] | None = Field(
            None,
            description="modalities whose values are vectors: unsigned integers are read as −1 … 1; null: by "
            "their names",
        )
        depth_unit: Unit | None = Field(
            None, description=f"of depth: {UNIT_HELP} m for floats, mm for 16 bits, relative for 8 bits"
        )
        intrinsics: tuple[float, float, float, float] | None = Field(
            None,
            description="fx, fy, cx, cy of the camera in pixels of the frames that the dataset hands out, where it "
            "neither crops nor mirrors them at random; null: not known",
        )

    def __init__(self, train: Dataset, test: Dataset | None = None) -> None:
        self._train, self._test = UserSamples(train), None if test is None else UserSamples(test)
        parts = [self._train] if self._test is None else [self._train, self._test]
        for note in dict.fromkeys(note for part in parts for note in part.notes):
            log.warning("%s", note)
        warn_of_shared_samples(train, test)

    def __call__(self, options: Options) -> _OpenedDataset:
        return _OpenedDataset(self._train, self._test, options)


class _OpenedDataset:
    def __init__(self, train: UserSamples, test: UserSamples | None, options: UserDataset.Options) -> None:
        self._train, self._test, self._options = train, test, options
        self._parts = [train] if test is None else [train, test]
        self._vectors = self._label_vectors()
        if options.intrinsics is not None:
            self._check_frames()

    def _check_frames(self) -> None:
        """Refuse intrinsics of frames without depth, of two sizes, or that are turned."""
        sizes = [part.shapes["depth"][1:] for part in self._parts if "depth" in part.shapes]
        if len(sizes) < len(self._parts):
            raise UsageError(
                f"data.intrinsics are of a camera of depth, and samples of {self._train.name} have none: leave them "
                "out, or hand out depth"
            )
        if len({*sizes}) > 1:
            (height, width), (rows, columns) = sizes
            raise UsageError(
                f"data.intrinsics are of frames of one size, and depth is {height}×{width} in training and "
                f"{rows}×{columns} in the test: hand out one size"
            )
        assert self._options.intrinsics is not None
        check_intrinsics(self._options.intrinsics, sizes[0], self._train.name)
        for part in self._parts:
            part.check_intrinsics()

    def _label_vectors(self) -> dict[str, Labels]:
        """Labels that hold a number for each class, by the name of the split; none where labels are classes."""
        parts = {"train": self._train} | ({} if self._test is None else {"test": self._test})
        rows = {split: part.label_rows for split, part in parts.items() if part.label_rows is not None}
        if not rows:
            return {}
        labelled = {split: part for split, part in parts.items() if part.targets is not None or split in rows}
        check_one_form(
            {
                f"the {_SPLITS[split]} dataset {part.name}": NUMBER_FOR_EACH if split in rows else "numbers of classes"
                for split, part in labelled.items()
            }
        )
        names = [part.classes for part in parts.values() if part.classes is not None]
        if any(each != names[0] for each in names):
            raise UsageError(
                f"the training dataset has the classes {listed(names[0])}, and the test dataset {listed(names[-1])}: "
                "give both the same classes in the same order, as their labels hold a number for each"
            )
        return read_label_vectors(rows, self._train.name)

    def open(self, split: str) -> UserSplit | None:
        train = self._train
        share_range(train, self._test)
        samples = {"train": train, "test": self._test}[split]
        if samples is None:
            return None
        classes, targets = samples.classes or (train.classes if self._vectors else None), samples.targets
        if self._vectors:
            labels = self._vectors.get(split, Labels(None, None))
            count = None if samples.label_rows is None else samples.label_rows.shape[1]
            opened = UserSplit(
                samples, labels.targets, count, classes, self._options, self._labels(), augmented=split == "train"
            )
            opened.label_vectors = labels.vectors
            return opened
        if split == "test" and targets is not None and classes is not None and train.classes not in (None, classes):
            classes, targets = train.classes, _renumbered(classes, targets, samples.name, train)
        names = classes or train.classes
        if (
            split == "test"
            and targets is not None
            and train.targets is not None
            and names is not None
            and (classes is None or train.classes is None)
        ):
            unnamed = samples.name if classes is None else train.name
            check_numbers(names, "the other dataset", unnamed, "give it a list classes")
            log.warning(
                "the classes of the training and the test dataset are matched by number alone, as %s has no "
                "names for them: give it a list classes",
                unnamed,
            )
        # Names in both are matched; a split without names may have more classes than the other one names.
        counts = [
            int(part.targets.max()) + 1
            for part in self._parts
            if part.targets is not None and (part.classes is None or classes is None)
        ]
        num_classes = max([*counts, len(classes or ())], default=0)
        if split == "train" and targets is not None and names is None:
            warn_of_gaps(targets, samples.name, key=samples.key)
        return UserSplit(
            samples, targets, num_classes or None, classes, self._options, self._labels(), augmented=split == "train"
        )

    def _labels(self) -> LabelRule:
        """Which labels of label maps are void, the same in both splits."""
        seen = max(part.highest_label() for part in self._parts)
        return LabelRule.of(self._options.void, seen=seen)


def _renumbered(classes: list[str], targets: Tensor, name: str, train: UserSamples) -> Tensor:
    """The labels of the test dataset ``name`` by the numbers that the training dataset has for classes of the same
    names.
    """
    used = [classes[number] for number in targets.unique().tolist()]
    places = match_classes(
        train.classes or [],
        used,
        f"the training dataset {train.name}",
        f"the test dataset {name}",
        "pass both with the same classes",
    )
    numbers = dict(zip(used, places, strict=True))
    return torch.tensor([numbers.get(label, -1) for label in classes])[targets]


class UserSplit(ReadSplit):
    """One split of such data, see :class:`~contrastill.core.data.Split`."""

    def __init__(
        self,
        samples: UserSamples,
        targets: Tensor | None,
        num_classes: int | None,
        classes: list[str] | None,
        options: UserDataset.Options,
        labels: LabelRule,
        *,
        augmented: bool,
    ) -> None:
        self.samples, self.num_samples, self.modalities = samples, len(samples), dict(samples.shapes)
        self.targets, self.num_classes, self.classes = targets, num_classes, classes
        self.workers, self.augmented, self.color_jitter, self.skip_corrupted = options.workers, augmented, 0.0, False
        self.semantic_classes: list[str] | None = None
        if LABELS in samples.shapes:
            labelled = targets is not None or samples.label_rows is not None
            self.semantic_classes = pixel_class_names(
                samples.dataset, labelled=labelled, highest=samples.highest_label(labels.void)
            )
        unit = options.depth_unit or samples.depth_unit
        self.camera = None if unit is None else Camera(unit, options.intrinsics)
        self.kinds, self.labels, self.unreadable = dict(samples.kinds), labels, samples.unreadable
        self.vectors = vectors_among(options.vectors, {name: shape[0] for name, shape in samples.shapes.items()})
        self._check_values()

    def _check_values(self) -> None:
        """Check what the values of a few samples mean, with a warning or an error."""
        few = self.samples.few
        if few and "depth" in self.samples.shapes and self.camera is not None:
            warn_of_unit(
                torch.stack([images["depth"] for images in few]).float(),
                self.camera.unit,
                self.samples.name,
                key=self.samples.key,
            )
        if few and LABELS in self.samples.shapes:
            self.labels.warn_of_void(
                (images[LABELS].numpy() for images in few), self.samples.name, key=self.samples.key
            )
        for name in self.vectors if few else ():
            check_vectors(name, torch.stack([images[name] for images in few]).numpy(), self.samples.name)

    def reader(self, seed: int) -> Dataset:
        intrinsics = None if self.camera is None else self.camera.intrinsics
        return _Rows(self.samples, self.labels, self.vectors, seed, intrinsics)


class _Rows(Dataset):
    """Reads batches, in a worker or in the training's own process."""

    def __init__(
        self,
        samples: UserSamples,
        labels: LabelRule,
        vectors: tuple[str, ...],
        seed: int,
        intrinsics: tuple[float, float, float, float] | None,
    ) -> None:
        self.samples, self.labels, self.vectors, self.seed, self.intrinsics = samples, labels, vectors, seed, intrinsics

    def __getitem__(self, request: tuple[int | None, np.ndarray]) -> Batch | Damaged:
        """Each modality (B, H, W, C) of a view of some rows."""
        view, rows = request
        read = []
        try:
            for row in rows.tolist():
                with drawing_from(self.seed, _PLAIN if view is None else view, row):
                    read.append(self._batch_sample(row, self.samples.read(row)[0]))
            if self.intrinsics is not None:
                self.samples.check_intrinsics()
        except ContrastillError as error:
            if get_worker_info() is None:
                raise
            return Damaged(str(error))
        shapes = self.samples.shapes
        batch = {
            name: torch.stack([sample[name] for sample in read]) if read else torch.empty(0, *_last(shapes[name]))
            for name in shapes
        }
        if self.intrinsics is not None:
            batch["camera"] = torch.tensor([self.intrinsics] * len(read)).view(-1, 4)
        return batch

    def _batch_sample(self, row: int, images: dict[str, Tensor]) -> dict[str, Tensor]:
        values_of = {}
        for name, values in images.items():
            if name == LABELS:
                labels = self.labels(values.numpy(), f"{LABELS} of sample {row} of {self.samples.name}")
                values_of[name] = torch.from_numpy(np.ascontiguousarray(labels))
            elif name in self.vectors and self.samples.kinds[name] == UNSIGNED_16:
                values_of[name] = torch.from_numpy(vectors_of_array(values.to(torch.int32).numpy().astype(np.uint16)))
            else:
                values_of[name] = batch_values(name, values, self.vectors)
        return values_of


def _last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (*shape[1:], shape[0])
