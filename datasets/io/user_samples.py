"""Samples of a user's own dataset, one at a time: their modalities, their labels, and what they draw
at random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...core.arguments import plain_number
from ...core.errors import ContrastillError, UsageError
from ...core.generators import own_generators
from ...core.hashing import mix
from .camera import Unit, unit_of
from .file_views import LABELS
from .relabelled import changes_labels, why_names_are_of_others
from .sample_fields import fields_of
from .table_classes import hands_out_other_labels
from .table_columns import way_from_lists
from .user_classes import attribute_of, class_names_of
from .user_labels import listed_labels, read_label, shown_label
from .user_pictures import check_as_first, is_deep, kind_of, read_images, shown_kind, unread, unturned, why_unread
from .value_range import ValueRange
from .values import RGB, warn_once

# Samples whose labels are compared with the list of labels that a dataset brings, and whose values are checked.
_SAMPLES_READ = 8
_COLOURS_READ = 32  # those that are read for the range of colours, which may be wide in some classes alone
_GOLDEN = (5**0.5 - 1) / 2
_NO_MODALITY = ("index", "target", "camera")


class UserSamples:
    """The samples of a dataset, brought to one form.

    Args:
        dataset: Has a length and is read by index.

    Attributes:
        shapes: Modality -> shape (C, H, W).
        kinds: Modality -> the kind of numbers that it comes in.
        unreadable: What else a sample has -> why it is no modality.
        notes: What is worth a line of the log.
        targets: int64 (N,), or None where there are no labels of one class each.
        label_rows: (N, C) as the samples have them, where a label is a number for each class; else None.
        classes: Their names, where the dataset has ``classes``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.name = dataset, type(dataset).__name__
        self.key = object()  # others may be of the same class
        self.listed: str | None = None  # the list that labels are known from
        self.notes: list[str] = []
        self.unturned_noted = False
        self._turned: tuple[str, int] | None = None  # a sample whose depth is turned by EXIF, and its orientation
        self.rgb_range: ValueRange | None = None  # of floats, once it is known what networks expect
        streams = isinstance(dataset, IterableDataset)  # its __getitem__ only fails
        if streams or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UsageError(
                f"{self.name} has no length or cannot be read by place, which a row of a bank and an order of "
                "one's own need: "
                "pass a map-style Dataset, or name a folder of shards with data={'name': 'webdataset', 'path': …}"
            )
        try:
            count = len(dataset)
        except Exception as error:  # a user's own code may raise anything
            raise UsageError(f"the length of {self.name} cannot be read: {type(error).__name__}: {error}") from error
        if not count:
            raise UsageError(f"{self.name} has no samples")
        with drawing_from(0):
            sample = self._stored(0)
            fields = fields_of(sample, f"sample 0 of {self.name}")
            images, kinds, label = self._converted(0, fields)
        numbers = [name for name, value in fields.items() if name not in _NO_MODALITY and _is_whole(value)]
        if label is None and numbers:
            self.notes.append(
                f"samples of {self.name} have no target or label, so they are unlabelled: what is called "
                f"{' and '.join(numbers)} is not read; call it target"
            )
        if isinstance(sample, (tuple, list)) and len(sample) > max(2, len(fields)):
            self.notes.append(
                f"samples of {self.name} have {len(sample)} entries, and the first two are read, as the image and its "
                "label: return a dict to name further modalities"
            )
        if is_deep(fields.get(RGB)):
            self.notes.append(f"{self.name} returns rgb of 16 bits, which is scaled so that 65535 becomes 255")
        if not images:
            kinds_of = ", ".join(f"{name} {shown_kind(value)}" for name, value in fields.items())
            way = way_from_lists(dataset, sample)
            raise UsageError(
                f"a sample of {self.name} has no image ({kinds_of}): it should be (image, label), or a dict of "
                f"modalities such as {{'rgb': …, 'depth': …}}, each a picture of Pillow, an array or a tensor{way}"
            )
        if LABELS in images and images[LABELS].shape[2] != 1:
            raise UsageError(
                f"{LABELS} of {self.name} has {images[LABELS].shape[2]} channels: a label map holds one number "
                "for each pixel"
            )
        self.dtypes = {name: values.dtype for name, values in images.items()}
        self.shapes = {name: (values.shape[2], *values.shape[:2]) for name, values in images.items()}
        self.kinds = kinds
        others = {name: value for name, value in fields.items() if name not in images and name not in _NO_MODALITY}
        self.unreadable = {name: f"{name} of {self.name} is {why_unread(value)}" for name, value in others.items()}
        self.label_rows = self._label_rows(label) if isinstance(label, Tensor) else None
        self.targets = self._labels(label) if isinstance(label, int) else None
        self.depth_unit: Unit | None = unit_of(self.kinds["depth"]) if "depth" in images else None
        reason = None if label is None else self._why_unnamed()
        self.classes = None if label is None or reason is not None else self._names_of(self._num_classes())
        if reason is not None and class_names_of(self.dataset) is not None:
            self.notes.append(
                f"{reason}, so its names of classes are not used: give the names of the labels as they are handed out, "
                "as the list classes of a dataset around it"
            )

    def _why_unnamed(self) -> str | None:
        """What says that names of classes are of other labels than the samples have; None where nothing does."""
        labels = self.targets if self.label_rows is None else self.label_rows
        assert labels is not None, "there are labels"
        if hands_out_other_labels(self.dataset, labels, self.name):
            return f"{self.name} lists other labels than its samples have"
        with drawing_from(0):
            return why_names_are_of_others(self.dataset, labels)

    def _num_classes(self) -> int:
        """As many classes as there are numbers in a label, or as the highest label needs."""
        if self.label_rows is not None:
            return self.label_rows.shape[1]
        assert self.targets is not None
        return int(self.targets.max()) + 1

    def _names_of(self, count: int) -> list[str] | None:
        """Names of the classes; None where the dataset has none, or fewer than there are classes."""
        names = class_names_of(self.dataset)
        exactly = self.label_rows is not None
        if names is not None and (len(names) < count or (exactly and len(names) > count)):
            labels = f"labels are of {count} classes" if exactly else f"labels go to {count - 1}"
            self.notes.append(
                f"{self.name}.classes has {len(names)} names, and {labels}: its classes have no names here"
            )
            return None
        return names

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> tuple[dict[str, Tensor], int | Tensor | None]:
        """One sample: its modalities (H, W, C), uint8 and label maps as they are and everything else as float32, and
        its label.

        Raises:
            ContrastillError: It cannot be read, or is not of the kind and size of the first, or its label is not the
                listed one.
        """
        images, kinds, label = self._read_row(row)
        check_as_first(images, self.shapes, self.dtypes, f"sample {row} of {self.name}")
        for name, kind in kinds.items():
            if kind != self.kinds[name] and name not in (RGB, LABELS):
                raise ContrastillError(
                    f"{name} of sample {row} of {self.name} is {kind}, that of the first {self.kinds[name]}: "
                    "bring all to one unit and kind"
                )
        if RGB in images and images[RGB].is_floating_point() and not images[RGB].isfinite().all():
            raise ContrastillError(
                f"rgb of sample {row} of {self.name} holds NaN or infinite values: repair the image, or leave the "
                "sample out"
            )
        if self.rgb_range is not None and RGB in images:
            self.rgb_range.check(images[RGB], f"rgb of sample {row} of {self.name}")
        self._check_label(row, label)
        # A dataset may fill one buffer for all of its samples.
        return {name: values.clone() for name, values in images.items()}, label

    @property
    def hands_out_float_colours(self) -> bool:
        """Whether ``rgb`` is of floats, whose range the samples themselves tell."""
        return RGB in self.dtypes and self.dtypes[RGB].is_floating_point

    def colours(self) -> list[Tensor]:
        """``rgb`` of some samples, spread over all."""
        samples = []
        for row in _spaced(len(self), _COLOURS_READ):
            with drawing_from(row):
                samples.append(self.read(row)[0][RGB])
        return samples

    def _check_label(self, row: int, label: int | Tensor | None) -> None:
        """Refuse a sample whose label is not the listed one, by which negatives are chosen before it is read."""
        rows = self.targets if self.label_rows is None else self.label_rows
        if self.label_rows is not None and isinstance(label, Tensor):
            if torch.equal(label, self.label_rows[row]):
                return
            raise ContrastillError(
                f"the label of sample {row} of {self.name} is another than when the labels were read: return one "
                "label for a sample, always the same"
            )
        listed: Any = None if rows is None else rows[row].tolist()
        if not isinstance(label, Tensor) and label == listed:
            return
        if rows is None:
            raise ContrastillError(
                f"sample {row} of {self.name} has a label, and the first has none: return labels for all, or for none"
            )
        list_of = (
            "its samples had when they were read for their labels"
            if self.listed is None
            else f"{self.name}.{self.listed} says"
        )
        raise ContrastillError(
            f"sample {row} of {self.name} is of class {'none' if label is None else label}, and {listed} is what "
            f"{list_of}: "
            "return one label for a sample, always the same, and correct the list or leave it out"
        )

    def highest_label(self, void: int | None = None) -> int:
        """Of the label maps of a few samples, spread over all, but for ``void``; 0 where there are none."""
        labels = [images[LABELS].nan_to_num(0) for images in self.few if LABELS in images]
        labels = [values if void is None else values.masked_fill(values == void, 0) for values in labels]
        return max((int(values.max()) for values in labels), default=0)

    @cached_property
    def few(self) -> list[dict[str, Tensor]]:
        """Modalities of a few samples, spread over all, whose values are checked before the training."""
        samples = []
        for row in _spaced(len(self)) if set(self.shapes) - {RGB} else []:
            with drawing_from(row):
                samples.append(self.read(row)[0])
        return samples

    def _read_row(self, row: int) -> tuple[dict[str, Tensor], dict[str, str], int | Tensor | None]:
        return self._converted(row, fields_of(self._stored(row), f"sample {row} of {self.name}"))

    def _stored(self, row: int) -> Any:
        try:
            stored = self.dataset[row]
        except Exception as error:  # a user's own code may raise anything
            raise unread(f"sample {row} of {self.name}", error) from error
        if stored is None:
            raise ContrastillError(f"sample {row} of {self.name} is None: leave it out of the dataset")
        return stored

    def _converted(
        self, row: int, fields: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, str], int | Tensor | None]:
        label, sample = fields.get("target"), f"sample {row} of {self.name}"
        images, turns = read_images({name: fields[name] for name in fields if name not in _NO_MODALITY}, sample)
        for name in images:
            self._note_unturned(name, fields[name], sample)
        if turns.get("depth", 1) > 1:
            self._turned = sample, turns["depth"]
        kinds = {name: kind_of(fields[name]) for name in images}
        return images, kinds, None if label is None else read_label(label, sample)

    def check_intrinsics(self) -> None:
        """Refuse intrinsics, of frames as they are handed out, where one that was read has been turned (UsageError)."""
        if self._turned is not None:
            raise UsageError(
                f"depth of {self._turned[0]} is turned by its EXIF orientation {self._turned[1]}, and data.intrinsics "
                "are of frames as they are handed out: hand out upright ones, as PIL.ImageOps.exif_transpose(image)"
            )

    def _note_unturned(self, name: str, value: Any, sample: str) -> None:
        """Log once that a picture has an EXIF orientation that is not applied; workers do not log."""
        if not self.unturned_noted and get_worker_info() is None and unturned(value):
            self.unturned_noted = True
            warn_once(
                f"{name} of {sample} has an EXIF orientation, and stays as it lies, as it was changed after it was "
                "opened: if nothing turned it, call PIL.ImageOps.exif_transpose(image) first",
                self.key,
            )

    def _labels(self, first: int) -> Tensor:
        """All labels: those that the dataset lists, where they are what its samples have, else read one by one."""
        name = next((name for name in ("targets", "labels") if attribute_of(self.dataset, name) is not None), None)
        values = None if name is None else listed_labels(attribute_of(self.dataset, name), len(self))
        if values is not None:
            with drawing_from(0):
                changed = changes_labels(self.dataset, values.unique().tolist())
            if not changed and all(self._label_like(first, row) == int(values[row]) for row in _spaced(len(self))):
                self.listed = name
                return values
        return torch.tensor([self._label_like(first, row) for row in range(len(self))], dtype=torch.int64)

    def _label_rows(self, first: Tensor) -> Tensor:
        """The labels (N, C) of all samples, read one by one."""
        return torch.stack([torch.as_tensor(self._label_like(first, row)) for row in range(len(self))])

    def _label_like(self, first: int | Tensor, row: int) -> int | Tensor:
        """The label of a sample, of the form of the first."""
        label = self._label(row)
        if getattr(label, "shape", None) != getattr(first, "shape", None):
            raise UsageError(
                f"the label of sample {row} of {self.name} is {shown_label(label)}, and that of the first "
                f"{shown_label(first)}: give each sample a number for each class, or each the number of its class"
            )
        return label

    def _label(self, row: int) -> int | Tensor:
        with drawing_from(row):
            _, _, label = self._read_row(row)
        if label is None:
            raise UsageError(
                f"sample {row} of {self.name} has no label, others have: return labels for all, or for none"
            )
        return label


@contextmanager
def drawing_from(*key: int) -> Iterator[None]:
    """Within it, the global generators of Python, NumPy and torch begin at a state that the key names; afterwards they
    are as they were.
    """
    number = mix(*key)
    with own_generators(device=False):
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.default_generator.manual_seed(number)
        yield


def _spaced(count: int, samples: int = _SAMPLES_READ) -> list[int]:
    """A few of so many rows, spread over all, at distances that differ: those of one distance may all be of one class
    where classes take turns.
    """
    if count <= samples:
        return [*range(count)]
    return sorted({int(count * (place * _GOLDEN % 1)) for place in range(samples)})


def _is_whole(value: Any) -> bool:
    return isinstance(plain_number(value), Integral) and not isinstance(value, bool)
