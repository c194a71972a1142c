"""``packed``: one HDF5 file; a group is a split, a dataset in it a field, the attribute ``classes`` the names of the
classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pydantic import Field

from ..core.classes import note_repeated
from ..core.config.fields import RESUMABLE
from ..core.errors import UsageError
from ..core.label_vectors import Labels
from ..core.registry import DATASETS
from .io.camera import UNIT_HELP, Unit, warn_of_unit
from .io.channel_order import check_channel_order
from .io.file_views import LABELS
from .io.hdf5 import SUFFIXES, check_coding, class_names, location, open_packed
from .io.in_memory import AugmentOptions, TensorSplit
from .io.packed_camera import packed_camera
from .io.packed_classes import read_classes
from .io.packed_splits import (
    USUAL_GROUPS,
    GroupNames,
    group_names,
    joined_groups,
    keep_labels,
    lacks_labels,
    split_group,
    tell_of_groups,
    unread_fields,
)
from .io.value_range import check_unit_range
from .io.values import (
    AUTO,
    NEGATIVE_MARKS,
    NO_LABEL,
    RGB,
    VECTORS_HELP,
    VOID_HELP,
    LabelRule,
    Void,
    check_vectors,
    number_kind,
    vectors_among,
    vectors_of_array,
    warn_once,
)
from .io.views import PaddedImages

# Stored dtype of a field of images -> dtype in memory. Sixteen bits become float32, which represents them exactly.
_IMAGE_DTYPES = {
    "uint8": torch.uint8,
    "int8": torch.float32,
    "uint16": torch.float32,
    "int16": torch.float32,
    "float16": torch.float32,
    "float32": torch.float32,
    "float64": torch.float32,
}
_ROWS_AT_ONCE = 4096
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
        if not names:
            with open_packed(options.path):  # Or there is no such file, which is another thing.
                return None
        if len(names) > 1:
            return joined_groups(options, split, lambda own: Packed(own).open(split))
        with open_packed(options.path) as file:
            if names and lacks_labels(file, names[0], options):
                fields = {key: field for key, field in options.fields.items() if key != LABELS}
                return Packed(options.model_copy(update={"fields": fields})).open(split)
            group = split_group(file, options.splits, split)
            rows = self._rows(group, split)
            padding = options.crop_padding if augmented else 0
            semantic = class_names(file, options.semantic_names) if LABELS in options.fields else None
            vectors = self._vectors(file, group)
            images = {
                modality: self._label_maps(file, group, name, rows, padding, semantic)
                if modality == LABELS
                else self._images(group, name, rows, padding, rgb=modality == RGB, vectors=modality in vectors)
                for modality, name in options.fields.items()
            }
            for modality, name in options.fields.items():
                marks: tuple[int | None, ...] = (0, *NEGATIVE_MARKS)
                void = {LABELS: (*marks, LabelRule.of(options.void).void), "depth": marks}.get(modality, ())
                check_coding(group[name], location(group, name), [value for value in void if value is not None])
            kinds = {modality: number_kind(group[name].dtype) for modality, name in options.fields.items()}
            labels, num_classes, classes = Labels(None, None), None, None
            if self.options.target is not None and self._labelled(group):
                groups = [name for each in options.splits for name in group_names(options.splits, each)]
                # Names of pixel classes are none of the samples'.
                named = options.semantic_names != "classes"
                labels, num_classes, classes = read_classes(file, group, self.options.target, groups, rows, named=named)
            camera = packed_camera(file, group, options)
            unread = unread_fields(group, options.fields)
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

    def _field(self, group: h5py.Group, name: str, option: str) -> h5py.Dataset:
        if isinstance(group.get(name), h5py.Dataset):
            return group[name]
        available = ", ".join(key for key, item in group.items() if isinstance(item, h5py.Dataset)) or "none"
        raise UsageError(
            f"{location(group, name)} does not exist: fields there are {available}; choose with data.{option}=NAME"
        )

    def _rows(self, group: h5py.Group, split: str) -> slice | np.ndarray:
        """The rows that are read; raises where the fields disagree on how many there are."""
        names = {name: self._field(group, name, f"fields.{modality}") for modality, name in self.options.fields.items()}
        target = self.options.target
        if target is not None and self._labelled(group):
            names[target] = group[target]
        counts = {name: field.shape[0] if field.shape else 0 for name, field in names.items()}
        if len(set(counts.values())) > 1:
            raise UsageError(
                f"fields of {location(group)} differ in length: "
                f"{', '.join(f'{name} {count}' for name, count in counts.items())}"
            )
        count = next(iter(counts.values()))
        if not count:
            raise UsageError(f"{location(group)} has no samples")
        limit = self.options.limit
        rows = self._block(count, group, split)
        available = count if rows is None else len(rows)
        if limit is None or limit >= available:
            return slice(0, count) if rows is None else rows
        chosen = np.arange(limit) * available // limit
        return chosen if rows is None else rows[chosen]

    def _block(self, count: int, group: h5py.Group, split: str) -> np.ndarray | None:
        """The rows of this split where training and testing share a group; None is all."""
        name = group_names(self.options.splits, split)[0]
        if name not in group_names(self.options.splits, "test" if split == "train" else "train"):
            return None
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
        fields = {modality: group[name].shape for modality, name in self.options.fields.items()}
        stored = class_names(file, "vectors")
        named = (
            self.options.vectors
            if self.options.vectors is not None or stored is None
            else [name for name, field in self.options.fields.items() if field in stored]
        )
        return vectors_among(
            named, {modality: shape[3] if len(shape) == 4 else 1 for modality, shape in fields.items()}
        )

    def _label_maps(
        self,
        file: h5py.File,
        group: h5py.Group,
        name: str,
        rows: slice | np.ndarray,
        padding: int,
        names: list[str] | None,
    ) -> PaddedImages:
        """Label maps, 0 for every void label: uint8 as such, wider ones int32."""
        field = group[name]
        if field.ndim not in (3, 4) or field.shape[3:] not in ((), (1,)) or field.dtype.kind not in "iuf":
            raise UsageError(
                f"{location(group, name)} is {field.dtype} {field.shape}: label maps are whole numbers (N, H, W)"
            )
        rule = self._label_rule(file, name, names)
        note_repeated(names or (), f"{file.filename}: {self.options.semantic_names}")
        if names and names[0].lower() not in NO_LABEL:
            warn_once(
                f"{file.filename}: 0 in {name} is unlabelled, and the first of {self.options.semantic_names}, "
                f"{names[0]}, is its name: if it is a class, add 1 to all"
            )
        count, height, width = field.shape[:3]
        num_rows = count if isinstance(rows, slice) else len(rows)
        images = PaddedImages.zeros(
            num_rows, height, width, 1, dtype=torch.uint8 if field.dtype.itemsize == 1 else torch.int32, padding=padding
        )
        for begin in range(0, num_rows, _ROWS_AT_ONCE):
            part = slice(begin, min(begin + _ROWS_AT_ONCE, num_rows))
            values = field[part if isinstance(rows, slice) else rows[part]]
            rule.warn_of_void([values], f"{file.filename}: {name}")
            images.interior[part] = torch.from_numpy(rule(values, location(group, name)).reshape(-1, height, width, 1))
        return images

    def _label_rule(self, file: h5py.File, name: str, names: list[str] | None) -> LabelRule:
        """Which labels are void: by the options, the file, or the labels of all splits."""
        explicit = self.options.void != AUTO
        if not explicit and file.attrs.get("void") == "none":
            return LabelRule.of(None, names)
        seen = 0
        if not explicit and names is None:
            for key in (name for each in self.options.splits for name in group_names(self.options.splits, each)):
                field = file[key].get(name) if isinstance(file.get(key), h5py.Group) else None
                if isinstance(field, h5py.Dataset) and field.dtype.itemsize > 1:
                    pieces = (field[begin : begin + _ROWS_AT_ONCE] for begin in range(0, len(field), _ROWS_AT_ONCE))
                    seen = max(seen, *(int(np.nan_to_num(piece).max(initial=0)) for piece in pieces), 0)
        return LabelRule.of(self.options.void, names, seen)

    def _images(
        self, group: h5py.Group, name: str, rows: slice | np.ndarray, padding: int, *, rgb: bool, vectors: bool
    ) -> PaddedImages:
        field = group[name]
        count, *shape = field.shape
        where = f"{location(group, name)} is {field.dtype} {field.shape}"
        if len(shape) == 3 and not rgb:
            order, way = "images are (N, H, W, channels)", "store channels last, as values.transpose(0, 2, 3, 1)"
            check_channel_order(name, shape, f"{where}, and {order}", way, first=False)
        if len(shape) not in (2, 3) or (rgb and max(shape[2:], default=1) > 4):
            raise UsageError(
                f"{where}: images are uint8 (N, H, W, 1 to 4), maps such as depth (N, H, W); more channels, last, are "
                f"read under another name, as data.fields={{multispectral: {name}}}"
            )
        dtype = _IMAGE_DTYPES.get(field.dtype.name)
        if dtype is None or (rgb and field.dtype.kind != "f" and field.dtype != np.uint8):
            allowed = "rgb is uint8, or floats in [0, 1]" if rgb else f"maps are {', '.join(_IMAGE_DTYPES)}"
            raise UsageError(f"{location(group, name)} is {field.dtype}: {allowed}")
        height, width, channels = (*shape, 1)[:3]
        num_rows = count if isinstance(rows, slice) else len(rows)
        images = PaddedImages.zeros(num_rows, height, width, channels, dtype=dtype, padding=padding)
        # In pieces, so that no second copy of the whole split is ever in memory.
        for begin in range(0, num_rows, _ROWS_AT_ONCE):
            part = slice(begin, min(begin + _ROWS_AT_ONCE, num_rows))
            values = field[part if isinstance(rows, slice) else rows[part]]
            if vectors:
                check_vectors(name, values, location(group))
            if rgb and dtype is not torch.uint8:
                check_unit_range(values, location(group, name))
            if dtype is not torch.uint8:
                values = vectors_of_array(values) if vectors else values.astype(np.float32)
            images.interior[part] = torch.from_numpy(values.reshape(-1, height, width, channels))
        return images

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
