"""Images and label maps of a packed file's groups, read into one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import h5py
import numpy as np
import torch

from ...core.classes import note_repeated
from ...core.errors import UsageError
from .channel_order import check_channel_order
from .file_views import LABELS
from .hdf5 import check_coding, location
from .packed_attributes import single_value
from .packed_groups import GroupSamples
from .value_range import check_unit_range
from .values import (
    AUTO,
    NEGATIVE_MARKS,
    NO_LABEL,
    RGB,
    LabelRule,
    Void,
    check_vectors,
    number_kind,
    vectors_of_array,
    warn_once,
)
from .views import PaddedImages

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
_ONE_SIZE = "give groups of one size"


def read_images(
    parts: Sequence[GroupSamples], name: str, modality: str, padding: int, *, vectors: bool, of_one_unit: bool
) -> PaddedImages:
    """The images of a split.

    Args:
        parts: Its groups.
        name: Field of the images.
        modality: That they are.
        padding: Border around them.
        vectors: Whether their values are vectors.
        of_one_unit: Whether they are depth of one known unit in all groups, whatever numbers it is stored as.

    Raises:
        UsageError: A dtype or shape that is no image, or groups that differ in size or kind of numbers; values that
            are coded.
    """
    rgb = modality == RGB
    shapes = [_image_shape(part.group, name, rgb=rgb) for part in parts]
    _check_one_shape(parts, modality, shapes)
    kinds = [number_kind(part.group[name].dtype) for part in parts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind != kinds[0] and not of_one_unit:
            raise UsageError(
                f"the groups of data.splits differ in {modality}: {parts[0].field(name)} and {part.field(name)} hold "
                f"{kinds[0]} and {kind}, whose scales differ: store both as one kind of numbers"
            )
    dtypes = {_IMAGE_DTYPES[part.group[name].dtype.name] for part in parts}
    dtype = torch.uint8 if dtypes == {torch.uint8} else torch.float32
    height, width, channels = shapes[0]
    images = PaddedImages.zeros(sum(map(len, parts)), height, width, channels, dtype=dtype, padding=padding)
    begin = 0
    for part in parts:
        where = location(part.group, name)
        check_coding(part.group[name], where, (0, *NEGATIVE_MARKS) if modality == "depth" else ())
        for values in part.pieces(name):
            if vectors:
                check_vectors(name, values, location(part.group))
            if rgb and dtype is not torch.uint8:
                check_unit_range(values, where)
            if dtype is not torch.uint8:
                values = vectors_of_array(values) if vectors else values.astype(np.float32)
            images.interior[begin : begin + len(values)] = torch.from_numpy(values.reshape(-1, height, width, channels))
            begin += len(values)
    return images


def _image_shape(group: h5py.Group, name: str, *, rgb: bool) -> tuple[int, ...]:
    """(H, W, C) of a field of images.

    Raises:
        UsageError: It is none, by its shape or dtype.
    """
    field = group[name]
    shape = list(field.shape or ())[1:]
    where = f"{location(group, name)} is {field.dtype} {field.shape}"
    if len(shape) == 3 and not rgb:
        order, way = "images are (N, H, W, channels)", "store channels last, as values.transpose(0, 2, 3, 1)"
        check_channel_order(name, shape, f"{where}, and {order}", way, first=False)
    if len(shape) not in (2, 3) or (rgb and max(shape[2:], default=1) > 4):
        raise UsageError(
            f"{where}: images are uint8 (N, H, W, 1 to 4), maps such as depth (N, H, W); more channels, last, are "
            f"read under another name, as data.fields={{multispectral: {name}}}"
        )
    if field.dtype.name not in _IMAGE_DTYPES or (rgb and field.dtype.kind != "f" and field.dtype != np.uint8):
        allowed = "rgb is uint8, or floats in [0, 1]" if rgb else f"maps are {', '.join(_IMAGE_DTYPES)}"
        raise UsageError(f"{location(group, name)} is {field.dtype}: {allowed}")
    height, width, channels = (*shape, 1)[:3]
    return height, width, channels


def _check_one_shape(parts: Sequence[GroupSamples], modality: str, shapes: Sequence[tuple[int, ...]]) -> None:
    for part, shape in zip(parts, shapes, strict=True):
        if shape != shapes[0]:
            raise UsageError(
                f"the groups of data.splits differ in {modality}: (height, width, channels) are {shapes[0]} in "
                f"{parts[0].name} and {shape} in {part.name}: {_ONE_SIZE}"
            )


def read_label_maps(
    file: h5py.File,
    parts: Sequence[GroupSamples],
    name: str,
    padding: int,
    *,
    rule: LabelRule,
    names: Sequence[str] | None,
    attribute: str,
) -> PaddedImages:
    """The label maps of a split, 0 for every void label and in a group that has none: uint8 where all are of eight
    bits, else int32.

    Args:
        file: Open.
        parts: The groups of the split; one at least has the field.
        name: Field of the label maps.
        padding: Border around them.
        rule: Which labels are void.
        names: Of the values, from 0.
        attribute: That holds them.

    Raises:
        UsageError: No whole numbers (N, H, W), or groups that differ in size; values that are coded.
    """
    mapped = [part for part in parts if name in part.group]
    for part in mapped:
        field = part.group[name]
        if field.ndim not in (3, 4) or field.shape[3:] not in ((), (1,)) or field.dtype.kind not in "iuf":
            raise UsageError(
                f"{location(part.group, name)} is {field.dtype} {field.shape}: label maps are whole numbers (N, H, W)"
            )
    _check_one_shape(mapped, LABELS, [(*part.group[name].shape[1:3], 1) for part in mapped])
    note_repeated(names or (), f"{file.filename}: {attribute}")
    if names and names[0].lower() not in NO_LABEL:
        warn_once(
            f"{file.filename}: 0 in {name} is unlabelled, and the first of {attribute}, {names[0]}, is its name: if "
            "it is a class, add 1 to all"
        )
    height, width = mapped[0].group[name].shape[1:3]
    dtype = torch.uint8 if all(part.group[name].dtype.itemsize == 1 for part in mapped) else torch.int32
    images = PaddedImages.zeros(sum(map(len, parts)), height, width, 1, dtype=dtype, padding=padding)
    void = [value for value in (0, *NEGATIVE_MARKS, rule.void) if value is not None]
    begin = 0
    for part in parts:
        if name not in part.group:
            begin += len(part)
            continue
        where = location(part.group, name)
        check_coding(part.group[name], where, void)
        for values in part.pieces(name):
            rule.warn_of_void([values], f"{file.filename}: {name}")
            labels = torch.from_numpy(rule(values, where).reshape(-1, height, width, 1))
            images.interior[begin : begin + len(values)] = labels
            begin += len(values)
    return images


def label_rule(file: h5py.File, groups: Iterable[str], name: str, void: Void, names: Sequence[str] | None) -> LabelRule:
    """Which labels are void: by the option, by the file, or by the labels of all splits.

    Args:
        file: Open.
        groups: Of all splits.
        name: Field of the label maps.
        void: The option.
        names: Of the values, from 0; None: not known.
    """
    if void == AUTO and single_value(file, "void") == "none":
        return LabelRule.of(None, names)
    seen = 0
    if void == AUTO and names is None:
        for group in groups:
            field = file[group].get(name) if isinstance(file.get(group), h5py.Group) else None
            if isinstance(field, h5py.Dataset) and field.ndim and field.dtype.itemsize > 1:
                pieces = GroupSamples(group, file[group], slice(0, len(field))).pieces(name)
                seen = max(seen, *(int(np.nan_to_num(piece).max(initial=0)) for piece in pieces), 0)
    return LabelRule.of(void, names, seen)
