"""Writes packed HDF5 files, the layout that ``packed`` reads: a group a split, a dataset a field."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from ..core.errors import ContrastillError, UsageError
from ..core.registry import DATASETS
from .hdf5 import SUFFIXES
from .images import IMAGE_SUFFIXES, Picture

_ROWS_AT_ONCE = 256


@dataclass
class SplitSource:
    """What goes into one group: how many samples, and their fields in pieces, (n, …) arrays by field name, in order."""

    num_samples: int
    pieces: Iterator[dict[str, np.ndarray]]


@dataclass
class PackSource:
    """What goes into one file."""

    name: str
    classes: list[str] | None
    splits: dict[str, SplitSource]


def source_of(source: str, *, size: int | None = None, download: bool = False) -> PackSource:
    """What a SOURCE on the command line stands for.

    Args:
        source: ``NAME:PATH`` for a registered data set, or a folder ``train/<class>/*.png`` with ``test`` or ``val`` beside.
        size: Side in pixels that a folder's images are resized to (shorter side, then the centre square); None keeps them.
        download: Let a data set that can fetch itself do so.

    Raises:
        UsageError: No such data set or folder, or a folder of another layout.
    """
    name, _, path = source.partition(":")
    if path and not Path(source).exists():
        return _registered(name, path, size, download)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{source} is neither a folder nor NAME:PATH with NAME one of {', '.join(DATASETS)}")
    if download:
        raise UsageError("--download is for NAME:PATH, such as cifar100:data")
    return _image_folder(folder, size)


def write_packed(source: PackSource, out: str | Path, *, force: bool = False, advance: Callable[[int], None] = lambda _: None) -> None:
    """Write ``out``; it appears under its name when it is whole, never before.

    Args:
        force: Replace an existing file.
        advance: Called with the number of samples written since the last call.

    Raises:
        UsageError: ``out`` exists and ``force`` is off, or is not called .h5 or .hdf5.
        ContrastillError: It cannot be written.
    """
    out = check_out(out, force=force)
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # HDF5 locks what it writes: a second pack of the same name fails here, it doesn't mix its rows in.
        with h5py.File(partial, "w") as file:
            _fill(file, source, advance)
        os.replace(partial, out)
    except BaseException as error:
        if not isinstance(error, BlockingIOError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ContrastillError(f"{out} cannot be written: {error}") from error
        raise


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
    if source.classes is not None:
        file.attrs.create("classes", source.classes, dtype=h5py.string_dtype())
    for name, split in source.splits.items():
        group, written = file.create_group(name), 0
        for piece in split.pieces:
            count = len(next(iter(piece.values())))
            for field, values in piece.items():
                if field not in group:
                    _create(group, field, (split.num_samples, *values.shape[1:]), values.dtype)
                group[field][written : written + count] = values
            written += count
            advance(count)


def _create(group: h5py.Group, field: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    # One value a sample is too little to be worth compressing.
    stored = {"chunks": (min(_ROWS_AT_ONCE, shape[0]), *shape[1:]), "compression": "gzip"} if len(shape) > 1 else {}
    group.create_dataset(field, shape=shape, dtype=dtype, **stored)


def _registered(name: str, path: str, size: int | None, download: bool) -> PackSource:
    if size is not None:
        raise UsageError(f"--size resizes the images of a folder; {name} is packed as it is")
    dataset = DATASETS[name]
    # Not augmented: a border around the images would only be thrown away again.
    plain = {key: value for key, value in {"crop_padding": 0, "flip": False, "download": download}.items() if key in dataset.Options.model_fields}
    data = dataset(dataset.Options(path=path, **plain))
    opened = {split: data.open(split) for split in ("train", "test")}
    splits = {key: SplitSource(split.num_samples, _pieces(split)) for key, split in opened.items()}
    return PackSource(name, opened["train"].classes, splits)


def _pieces(split: object) -> Iterator[dict[str, np.ndarray]]:
    """The fields of a split as they are stored: images (n, H, W, C), maps (n, H, W)."""
    for batch in split.loader(batch_size=_ROWS_AT_ONCE, device="cpu", train=False).epoch(0):
        piece = {name: batch[name].permute(0, 2, 3, 1).numpy() for name in split.modalities}
        piece = {name: values[..., 0] if values.shape[3] == 1 else values for name, values in piece.items()}
        yield {**piece, **({"target": batch["target"].numpy()} if "target" in batch else {})}


def _image_folder(folder: Path, size: int | None) -> PackSource:
    there = {name: folder / name for name in ("train", "test", "val") if (folder / name).is_dir()}
    if "train" not in there:
        raise UsageError(f"{folder} has no folder train: the layout is train/<class>/*.png, with test or val beside train")
    if "test" not in there and "val" in there:
        there["test"] = there.pop("val")
    classes = sorted(entry.name for entry in there["train"].iterdir() if entry.is_dir())
    if not classes:
        raise UsageError(f"{there['train']} has no folders of classes: the layout is train/<class>/*.png")
    side = (size, size) if size else None
    splits = {}
    for name, where in there.items():
        files = _files(where, classes)
        if side is None:
            side = _read(files[0][0], None).shape[1::-1]
        splits[name] = SplitSource(len(files), _decoded(files, size, side))
    return PackSource(folder.resolve().name, classes, splits)


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The images of a split and their classes, in the order of the names."""
    strange = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in classes)
    if strange:
        raise UsageError(f"{folder / strange[0]} is not a class of train: sort the images of {folder.name} into the folders of train's classes first")
    files = [
        (path, target)
        for target, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    if not files:
        raise UsageError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) in folders of classes")
    return files


def _decoded(files: list[tuple[Path, int]], size: int | None, side: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(files), _ROWS_AT_ONCE):
            part = files[begin : begin + _ROWS_AT_ONCE]
            images = list(pool.map(lambda file: _read(file[0], size), part))
            for (path, _), image in zip(part, images, strict=True):
                if image.shape[1::-1] != side:
                    found, first = (f"{width}×{height}" for width, height in (image.shape[1::-1], side))
                    raise UsageError(f"{path} is {found} pixels, the first image {first}: give --size to make them equal")
            yield {"rgb": np.stack(images), "target": torch.tensor([target for _, target in part]).numpy()}


def _read(path: Path, size: int | None) -> np.ndarray:
    """One image as uint8 (H, W, 3)."""
    pixels = Picture(path).pixels().numpy()
    if not size or pixels.shape[:2] == (size, size):
        return pixels
    height, width = pixels.shape[:2]
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge)))
