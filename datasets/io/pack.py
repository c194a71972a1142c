"""Writes packed HDF5 files, the layout that ``packed`` reads: one group per split, one dataset per field."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ...core.atomic import atomic_write
from ...core.config.loading import dataset_options
from ...core.data import Split
from ...core.errors import ContrastillError, UsageError, names_beside, nearest, unknown_name
from ...core.recognition import check_path_given, recognised
from ...core.registry import DATASETS
from ...core.split_checks import dataset_of
from .class_folders import classes_of, images_of_split, tell_of_other_folders
from .file_views import LABELS
from .folders import split_folder
from .hdf5 import SUFFIXES
from .images import Picture, read_square, warn_of_scaling
from .pack_checks import check_all_fields, check_one_file
from .values import VECTORS
from .view_options import ViewOptions

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 256
# A piece of a loader's batches is at most so many bytes: frames of 480×640 with depth are 2 MB each.
_BYTES_AT_ONCE = 1 << 26
SPLITS = ("train", "test")


@dataclass
class SplitSource:
    """What goes into one group.

    Attributes:
        num_samples: How many samples.
        pieces: Their fields in pieces, (n, …) arrays by field name, in order. A field ``camera`` (n, 4) is not stored:
            the intrinsics of all samples become an attribute of the file, where they are the same.
    """

    num_samples: int
    pieces: Iterator[dict[str, np.ndarray]]


@dataclass
class PackSource:
    """What goes into one file.

    Attributes:
        name: Of the data set.
        classes: Names of the classes of ``target``.
        splits: Group -> its samples.
        attributes: Further attributes of the file: ``depth_unit``, ``semantic_classes``, ``void``, ``vectors``.
    """

    name: str
    classes: list[str] | None
    splits: dict[str, SplitSource]
    attributes: dict[str, float | str | list[str]] = field(default_factory=dict)


def source_of(
    source: str,
    *,
    size: int | None = None,
    download: bool = False,
    options: Sequence[str] = (),
    splits: Sequence[str] = SPLITS,
) -> PackSource:
    """The data that a SOURCE on the command line names.

    Args:
        source: ``NAME:PATH`` for a registered data set, ``NAME`` for one without files, a path that one recognises,
            or a folder ``train/<class>/*.png`` with ``test`` or ``val`` beside.
        size: Side in pixels that a folder's images are resized to (shorter side, then the centre square); None keeps
            them.
        download: Let a data set that can fetch itself do so.
        options: ``key=value`` for options of a registered data set.
        splits: Which of ``train`` and ``test`` are packed.

    Raises:
        UsageError: No such data set, folder or option, or a folder of another layout.
    """
    splits = list(dict.fromkeys(splits)) or list(SPLITS)
    strange = [split for split in splits if split not in SPLITS]
    if strange:
        raise unknown_name("--split", strange[0], SPLITS)
    name, colon, path = source.partition(":")
    if (colon or name in DATASETS) and not Path(source).exists():
        if name in DATASETS:
            paths = [option for option in options if option.removeprefix("data.").startswith("path=")]
            check_path_given(" ".join([source.removesuffix(":"), *paths]), name, bool(path or paths))
        return _registered(name, path, size, download, options, splits)
    folder = Path(source).expanduser()
    kinds = recognised(str(folder)) if folder.exists() else []
    if len(kinds) > 1:
        raise UsageError(f"{source} could be {' or '.join(kinds)}: name it as {kinds[0]}:{source}")
    if kinds and kinds != ["image_folder"]:
        return _registered(kinds[0], source, size, download, options, splits)
    if not folder.is_dir():
        hint = nearest(
            source,
            [*(f"{name}:PATH" if _reads_path(name) else name for name in DATASETS), *names_beside(source)],
            f"NAME is one of {', '.join(DATASETS)}, or of a package of yours (--import MY_PACKAGE)",
        )
        raise UsageError(f"{source} is neither a folder nor NAME:PATH: {hint}")
    if download:
        raise UsageError("--download is for NAME:PATH, such as cifar100:data")
    if options:
        way = f"give it with NAME:PATH, as image_folder:{source}"
        if options[0].partition("=")[0].removeprefix("data.") == "size":
            way = f"resize a folder's images with --size, or {way}"
        raise UsageError(f"{options[0]} is an option of a data set: {way}")
    return _image_folder(folder, size, splits)


def _reads_path(name: str) -> bool:
    return "path" in DATASETS[name].Options.model_fields


def write_packed(
    source: PackSource, out: str | Path, *, force: bool = False, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Write ``out``; it appears under its name when it is complete, never before.

    Args:
        force: Replace an existing file.
        advance: Called with the number of samples written since the last call.

    Raises:
        UsageError: ``out`` exists and ``force`` is off, or is not called .h5 or .hdf5.
        ContrastillError: It cannot be written.
    """
    out = check_out(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary, h5py.File(temporary, "w") as file:
            _fill(file, source, advance)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise ContrastillError(f"{out} cannot be written ({why}): make room, or choose another place") from error


def check_out(out: str | Path, *, force: bool = False) -> Path:
    """The path to write, or why it may not be written."""
    out = Path(out).expanduser()
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out} should be called .h5, so that it is recognised when it is read")
    if out.is_dir():
        raise UsageError(f"{out} is a folder")
    if out.exists() and not force:
        raise UsageError(f"{out} exists: give --force to replace it, or another name")
    return out


def _fill(file: h5py.File, source: PackSource, advance: Callable[[int], None]) -> None:
    file.attrs["name"] = source.name
    texts = source.attributes if source.classes is None else {"classes": source.classes, **source.attributes}
    for attribute, text in texts.items():
        # A unit may be the metres of one step.
        file.attrs.create(attribute, text, dtype=None if isinstance(text, float) else h5py.string_dtype())
    cameras = []
    for name, split in source.splits.items():
        group, written = file.create_group(name), 0
        for piece in split.pieces:
            cameras.append(piece.pop("camera", None))
            count = len(next(iter(piece.values())))
            for key, values in piece.items():
                if key not in group:
                    _create(group, key, (split.num_samples, *values.shape[1:]), values.dtype)
                group[key][written : written + count] = values
            written += count
            advance(count)
    _keep_intrinsics(file, cameras)


def _keep_intrinsics(file: h5py.File, cameras: list[np.ndarray | None]) -> None:
    """fx, fy, cx, cy in pixels of the frames as they are packed, if all samples have them, and the same."""
    known = [camera for camera in cameras if camera is not None]
    if not known:
        return
    every = np.concatenate(known)
    if len(known) == len(cameras) and np.allclose(every, every[0], rtol=0, atol=1e-3):
        file.attrs["intrinsics"] = every[0].astype(np.float64).round(4)
    else:
        log.warning(
            "%s: the frames' intrinsics differ, and a packed file has one set for all: they are left out", file.filename
        )


def _create(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) == 1:
        # One value a sample is too little to be worth compressing.
        group.create_dataset(name, shape=shape, dtype=dtype)
        return
    # Chunks of 4 MB at most: HDF5 unpacks a chunk to read any row in it.
    rows = min(_ROWS_AT_ONCE, shape[0], max(1, (1 << 22) // (math.prod(shape[1:]) * dtype.itemsize)))
    group.create_dataset(name, shape=shape, dtype=dtype, chunks=(rows, *shape[1:]), compression="gzip")


def _registered(
    name: str, path: str, size: int | None, download: bool, options: Sequence[str], names: list[str]
) -> PackSource:
    dataset = DATASETS[name]
    known = dataset.Options.model_fields
    if size is not None:
        hint = f"; give size={size} or size=[{size},{size}] after OUT instead" if "size" in known else ""
        raise UsageError(f"--size resizes the images of a folder; {name} is packed as its options say{hint}")
    # Not augmented: a border around the images would only be thrown away again.
    plain: dict[str, Any] = {"crop_padding": 0, "flip": False, "download": download}
    if issubclass(dataset.Options, ViewOptions):
        # The whole of each picture: views of testing cut off what those of training show.
        plain["crop"] = "none"
    values = {key: value for key, value in plain.items() if key in known} | ({"path": path} if path else {})
    chosen = dataset_options(name, values, [option.removeprefix("data.") for option in options])
    data = dataset_of(name, chosen)
    opened = {key: split for key in names if (split := _opened(data, key, names)) is not None}
    if not opened:
        raise UsageError(f"{name} has no split {' or '.join(names)} with these options")
    if "fields" not in chosen.model_fields_set:
        check_all_fields(path or name, opened)
    splits = {key: SplitSource(split.num_samples, _pieces(split)) for key, split in opened.items()}
    check_one_file(name, opened)
    modalities = {modality for split in opened.values() for modality in split.modalities}
    # What the file says holds for both splits, of fields that it has.
    cameras, labels, vectors, names_of_classes = (
        [value for split in opened.values() if (value := getattr(split, attribute, None))]
        for attribute in ("camera", "semantic_classes", "vectors", "classes")
    )
    attributes: dict[str, float | str | list[str]] = {}
    attributes |= {"depth_unit": cameras[0].unit} if cameras and "depth" in modalities else {}
    attributes |= {"semantic_classes": labels[0]} if labels and LABELS in modalities else {}
    # Void labels and coded vectors are 0 and −1 … 1 in what is packed.
    attributes |= {"void": "none"} if LABELS in modalities else {}
    coded = sorted({modality for each in vectors for modality in each})
    attributes |= {"vectors": coded} if coded or any(modality in VECTORS for modality in modalities) else {}
    return PackSource(name, list(names_of_classes[0]) if names_of_classes else None, splits, attributes)


def _opened(data: Any, split: str, names: list[str]) -> Split | None:
    try:
        return data.open(split)
    except UsageError as error:
        if split == "test" and len(names) > 1:
            raise UsageError(f"{error}; or pack the training split alone, with --split train") from error
        raise


def _pieces(split: Split) -> Iterator[dict[str, np.ndarray]]:
    """The fields of a split as they are stored: images (n, H, W, C), maps (n, H, W)."""
    rows = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (4 * sum(map(math.prod, split.modalities.values())))))
    for batch in split.loader(batch_size=rows, device="cpu", train=False).epoch(0):
        piece = {name: batch[name].permute(0, 2, 3, 1).numpy() for name in split.modalities}
        piece = {name: values[..., 0] if values.shape[3] == 1 else values for name, values in piece.items()}
        # Labels with a number for each class say more than the class.
        others = {"target": batch.get("label_vector", batch.get("target"))}
        others |= {"camera": batch.get("camera")} if "depth" in split.modalities else {}
        yield {**piece, **{name: values.numpy() for name, values in others.items() if values is not None}}


def _image_folder(folder: Path, size: int | None, names: list[str]) -> PackSource:
    folders = {name: where for name in ("train", "test") if (where := split_folder(folder, name)) is not None}
    if "train" not in folders:
        raise UsageError(
            f"{folder} has no folder train: the layout is train/<class>/*.png, with test or val beside train"
        )
    # The same listing as that of the data set image_folder, so that both read the same samples.
    classes = classes_of(folders["train"])
    tell_of_other_folders(folder, folders["train"])
    side = (size, size) if size else None
    splits = {}
    for name, where in ((name, where) for name, where in folders.items() if name in names):
        images = images_of_split(folder, where, classes, training=name == "train")
        images.tell_of_others()
        files = [(folder / path, target) for path, target in images.files]
        if name == "train":
            warn_of_scaling(Picture(path) for path, _ in files[:: max(1, len(files) // 8)])
        if side is None:
            height, width = read_square(files[0][0]).shape[:2]
            side = (width, height)
        splits[name] = SplitSource(len(files), _decoded(files, size, side))
    if not splits:
        raise UsageError(f"{folder} has no folder {' or '.join(names)}")
    return PackSource(folder.resolve().name, classes, splits)


def _decoded(files: list[tuple[Path, int]], size: int | None, side: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(files), _ROWS_AT_ONCE):
            part = files[begin : begin + _ROWS_AT_ONCE]
            images = list(pool.map(lambda file: read_square(file[0], size).numpy(), part))
            for (path, _), image in zip(part, images, strict=True):
                if image.shape[1::-1] != side:
                    own_size, first_size = (f"{width}×{height}" for width, height in (image.shape[1::-1], side))
                    raise UsageError(
                        f"{path} is {own_size} pixels, the first image {first_size}: give --size to make them equal"
                    )
            yield {"rgb": np.stack(images), "target": torch.tensor([target for _, target in part]).numpy()}
