"""``packed``: one HDF5 file; a group is a split, a dataset in it a field, the attribute ``classes`` the names of the
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import Field

from ..core.config.fields import RESUMABLE
from ..core.depth_marks import metres_of
from ..core.errors import UsageError
from ..core.label_vectors import Labels
from ..core.registry import DATASETS
from .io.camera import UNIT_HELP, Unit, warn_of_unit
from .io.file_views import LABELS
from .io.hdf5 import SUFFIXES, location, open_packed
from .io.in_memory import AugmentOptions, TensorSplit
from .io.packed_attributes import class_names
from .io.packed_camera import packed_camera
from .io.packed_classes import read_classes
from .io.packed_groups import GroupSamples, check_alike, evenly_spaced, joined_labels
from .io.packed_images import label_rule, read_images, read_label_maps
from .io.packed_splits import (
    USUAL_GROUPS,
    GroupNames,
    group_names,
    keep_labels,
    lacks_labels,
    split_group,
    tell_of_groups,
    unread_fields,
)
from .io.values import AUTO, VECTORS_HELP, VOID_HELP, Void, number_kind, vectors_among, warn_once
from .io.views import PaddedImages

_CLASS_FIELDS = ("label", "labels", "targets", "class", "classes", "y")


@DATASETS.register("packed")
class Packed:
    """A packed HDF5 file, all of it in memory.

    The layout: group ``train`` (and ``test``) with ``rgb`` (N, H, W, C) of uint8 or of floats in [0, 1], further
    modalities (N, H, W) such as depth or (N, H, W, C) of any C, and ``target`` integers or names of classes (N,), or a
    number for each class (N, C). Values stay as stored, of any dtype: millimetres stay millimetres, and 8-bit values
    of other modalities than rgb 0 … 255. Label maps ``semantics`` are whole numbers (N, H, W). A sample's ``index``
    is its place in the split.

    Raises:
        UsageError: A split or field that the file lacks; fields of differing lengths; a dtype or shape that is no image
            or no class.
        ContrastillError: The file is truncated or damaged.
    """

    class Options(AugmentOptions):
        path: str = Field(description="the HDF5 file")
        fields: dict[str, str] = Field(
            {"rgb": "rgb"}, min_length=1, description="modality -> name of its field in the file"
        )
        target: str | None = Field(
            "target", description="field of the classes; null, or no field 'target' in the file: unlabelled"
        )
        splits: GroupNames = Field(
            dict(USUAL_GROUPS),
            description="train and test -> name of the group in the file, or names of several, of which some may lack "
            "label maps; test may be null",
        )
        limit: int | None = Field(
            None, gt=0, description="samples taken of each split, evenly spaced over it, for quick trials; null: all"
        )
        label_fraction: float = Field(
            1.0,
            gt=0,
            le=1,
            description="share of the training samples with label maps that keep them, evenly spaced; the others are "
            "unlabelled",
        )
        blocks: int | None = Field(
            None,
            gt=0,
            description="where train and test name one group: it is cut in contiguous blocks of so many samples, "
            "of which every third is for testing",
        )
        semantic_names: str = Field(
            "semantic_classes",
            description="attribute of the file that names the values of the label maps, from 0, which is unlabelled",
        )
        void: Void = Field(AUTO, description=VOID_HELP, json_schema_extra=RESUMABLE)
        vectors: list[str] | None = Field(None, description=VECTORS_HELP + ", and those that the file names")
        depth_unit: Unit | None = Field(
            None,
            description=f"of a field of depth: {UNIT_HELP} as the file says, else m for floats, mm for 16 bits, "
            "relative for 8 bits",
        )
        intrinsics: tuple[float, float, float, float] | None = Field(
            None, description="fx, fy, cx, cy of the frames in pixels; null: as the file says"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` looks like a file of this layout."""
        return Path(path).is_file() and Path(path).suffix.lower() in SUFFIXES

    def open(self, split: str) -> TensorSplit | None:
        """Read all of ``"train"`` or ``"test"``; None where ``splits`` says that there is no such split. Only
        ``"train"`` is ever augmented.
        """
        options, augmented = self.options, split == "train"
        names = group_names(options.splits, split)
        with open_packed(options.path) as file:
            if not names:  # Opened all the same: that there is no such file is another thing.
                return None
            groups = [split_group(file, name, split) for name in names]
            lacking = [lacks_labels(file, name, options) for name in names]
            fields = self._fields(unlabelled=all(lacking))
            rows = [
                self._rows(name, group, split, self._fields(unlabelled=lacks))
                for name, group, lacks in zip(names, groups, lacking, strict=True)
            ]
            spaced = evenly_spaced(rows, options.limit)
            parts = [GroupSamples(*part) for part in zip(names, groups, spaced, strict=True)]
            camera = packed_camera(file, parts, options)
            padding = options.crop_padding if augmented else 0
            metric = camera is not None and metres_of(camera.unit) is not None
            images, kinds, vectors, semantic = self._read(file, parts, fields, padding, metric=metric)
            labels, num_classes, classes = self._classes(file, parts)
            unread = unread_fields(groups, options.fields)
            tell_of_groups(file, options)
        if augmented:
            keep_labels(images.get(LABELS), options.label_fraction)
        flip = options.flip and augmented
        labelled: dict[str, Any] = {"num_classes": num_classes, "classes": classes, "semantic_classes": semantic}
        labelled |= {"targets": labels.targets, "label_vectors": labels.vectors}
        opened = TensorSplit(images, **labelled, flip=flip, camera=camera, vectors=vectors, kinds=kinds)
        opened.unread = unread
        if camera is not None:
            warn_of_unit(
                opened.images["depth"].interior[:: max(1, opened.num_samples // 16)], camera.unit, options.path
            )
        return opened

    def _fields(self, *, unlabelled: bool) -> dict[str, str]:
        """Modality -> field, of groups that have no label maps without these."""
        return {key: field for key, field in self.options.fields.items() if key != LABELS or not unlabelled}

    def _all_groups(self) -> list[str]:
        """The groups of both splits."""
        return [name for each in self.options.splits for name in group_names(self.options.splits, each)]

    def _read(
        self, file: h5py.File, parts: Sequence[GroupSamples], fields: Mapping[str, str], padding: int, *, metric: bool
    ) -> tuple[dict[str, PaddedImages], dict[str, str], tuple[str, ...], list[str] | None]:
        """Images by modality, the kinds of numbers that they are stored as, which are vectors, and the names of the
        values of label maps; ``metric`` says whether depth is of one known unit.
        """
        options, vectors = self.options, self._vectors(file, parts[0].group)
        names = class_names(file, options.semantic_names) if LABELS in fields else None
        images, kinds = {}, {}
        for modality, field in fields.items():
            if modality == LABELS:
                rule = label_rule(file, self._all_groups(), field, options.void, names)
                images[modality] = read_label_maps(
                    file, parts, field, padding, rule=rule, names=names, attribute=options.semantic_names
                )
            else:
                of_one_unit, is_vectors = metric and modality == "depth", modality in vectors
                images[modality] = read_images(
                    parts, field, modality, padding, vectors=is_vectors, of_one_unit=of_one_unit
                )
            stored = {number_kind(part.group[field].dtype) for part in parts if field in part.group}
            if len(stored) == 1:  # Of several kinds it is that of what is read.
                kinds[modality] = stored.pop()
        return images, kinds, vectors, names

    def _classes(self, file: h5py.File, parts: Sequence[GroupSamples]) -> tuple[Labels, int | None, list[str] | None]:
        """Labels of the samples, the number of classes of the data set, and their names."""
        target, labelled = self.options.target, [self._labelled(part.group) for part in parts]
        if target is None or not any(labelled):
            return Labels(None, None), None, None
        check_alike(parts, target, labelled)
        training = group_names(self.options.splits, "train")
        # Names of pixel classes are none of the samples'.
        named = self.options.semantic_names != "classes"
        labels, count, classes = read_classes(file, target, self._all_groups(), training, named=named)
        return joined_labels(labels, parts), count, classes

    def _field(self, group: h5py.Group, name: str, option: str) -> h5py.Dataset:
        if isinstance(group.get(name), h5py.Dataset):
            return group[name]
        available = ", ".join(key for key, item in group.items() if isinstance(item, h5py.Dataset)) or "none"
        raise UsageError(
            f"{location(group, name)} does not exist: fields there are {available}; choose with data.{option}=NAME"
        )

    def _rows(self, name: str, group: h5py.Group, split: str, fields: Mapping[str, str]) -> slice | np.ndarray:
        """The rows of a group that are of the split; raises where the fields disagree on how many there are."""
        names = {field: self._field(group, field, f"fields.{modality}") for modality, field in fields.items()}
        target = self.options.target
        if target is not None and self._labelled(group):
            names[target] = group[target]
        counts = {key: field.shape[0] if field.shape else 0 for key, field in names.items()}
        if len(set(counts.values())) > 1:
            raise UsageError(
                f"fields of {location(group)} differ in length: "
                f"{', '.join(f'{key} {count}' for key, count in counts.items())}"
            )
        count = next(iter(counts.values()))
        if not count:
            raise UsageError(f"{location(group)} has no samples")
        if name not in group_names(self.options.splits, "test" if split == "train" else "train"):
            return slice(0, count)
        return self._block(count, name, group, split)

    def _block(self, count: int, name: str, group: h5py.Group, split: str) -> np.ndarray:
        """The rows of this split where training and testing share a group."""
        if self.options.blocks is None:
            raise UsageError(
                f"data.splits: train and test are both {name!r}: set data.blocks, such as 20, to hold out "
                "every third block of so many neighbouring samples"
            )
        testing = np.arange(count) // self.options.blocks % 3 == 2
        if not testing.any():
            raise UsageError(
                f"{location(group)} has {count} samples: data.blocks={self.options.blocks} leaves no third block "
                "for testing, take a smaller one"
            )
        return np.flatnonzero(testing if split == "test" else ~testing)

    def _vectors(self, file: h5py.File, group: h5py.Group) -> tuple[str, ...]:
        """Modalities that are vectors: from the options, from the file, or by their names."""
        fields = {modality: group[name].shape for modality, name in self.options.fields.items() if name in group}
        stored = class_names(file, "vectors")
        named = (
            self.options.vectors
            if self.options.vectors is not None or stored is None
            else [name for name, field in self.options.fields.items() if field in stored]
        )
        return vectors_among(
            named, {modality: shape[3] if len(shape) == 4 else 1 for modality, shape in fields.items()}
        )

    def _labelled(self, group: h5py.Group) -> bool:
        """Whether there are classes: the default field may be missing, another one from the options may not."""
        target = self.options.target
        if target is None:
            return False
        if target != "target":
            self._field(group, target, "target")
        elif target not in group:
            names = [name for name in group if name.lower() in _CLASS_FIELDS and group[name].ndim == 1]
            for name in names[:1]:
                warn_once(
                    f"{location(group)} has no field target, so its samples are unlabelled: data.target={name} reads "
                    "their classes there, data.target=null says that there are none"
                )
        return target in group
