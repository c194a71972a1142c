"""Files of one modality: images, arrays of NumPy, EXR; their values stay as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...core.errors import ContrastillError, UsageError
from .channel_order import check_channel_order
from .file_views import LABELS
from .image_values import beyond_float32, lossy, orientation, stored_values
from .images import IMAGE_SUFFIXES, DamagedImage, Picture, reason_of, upright
from .tiff_values import open_image
from .unread_kind import UnreadKind
from .values import NEGATIVE_MARKS

SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".exr")
HIGHEST_LABEL = 255
Content = bytes | np.ndarray
"""Of a file that has been read already: the bytes of an image file, or an array."""
# What Pillow may take the contents of a file for, whatever its name.
_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "PPM", "TIFF", "WEBP")


def read_pair(
    files: Mapping[str, Path], read: Callable[[Path, str], tuple[np.ndarray, int]], *, other_sizes: bool = False
) -> dict[str, np.ndarray]:
    """One sample: the files of all its modalities.

    Args:
        files: Modality -> its file, or where its content is from, for messages.
        read: Reads the file of a modality, as :func:`read_file` does.
        other_sizes: Whether they may differ in size, as long as all are of one ratio of sides: all show one picture.

    Raises:
        DamagedImage: One of them cannot be read.
        ContrastillError: One holds what its modality cannot be, or they differ in size or in EXIF's orientation.
    """
    contents = {name: read(path, name) for name, path in files.items()}
    sample, turned = (
        {name: values for name, (values, _) in contents.items()},
        {name: number for name, (_, number) in contents.items()},
    )
    first, *others = sample
    for name in others:
        # One turned and the other not may have one size nevertheless.
        if turned[name] != turned[first]:
            numbers = [turned[modality] if turned[modality] > 1 else "none" for modality in (first, name)]
            raise ContrastillError(
                f"{files[first]} has the EXIF orientation {numbers[0]}, its partner {files[name]} {numbers[1]}, "
                "and which way both lie is not known: "
                "turn the pixels and leave the tag out of both, or tag both alike"
            )
        (height, width), size = sample[first].shape[:2], sample[name].shape[:2]
        if size != (height, width) and not (other_sizes and of_one_ratio(size, (height, width))):
            way = "bring the files of a pair to one size"
            if of_one_ratio(size, (height, width)):
                way += ", or, where both show the same picture and data.intrinsics are not given, set data.size"
            raise ContrastillError(
                f"{files[name]} is {size[0]}×{size[1]} (height × width), its partner {files[first]} "
                f"{height}×{width}: {way}"
            )
    return sample


def of_one_ratio(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) are resolutions of one picture: of one ratio of sides but for a pixel of the
    smaller one, which is smaller by more than the rows that a damaged file lacks.

    Example:
        >>> of_one_ratio((240, 320), (480, 640)), of_one_ratio((240, 320), (360, 640))
        (True, False)
    """
    (height, width), (h, w) = sorted((size, other))
    return height <= 0.9 * h and width <= 0.9 * w and abs(w * height - width * h) <= max(h, w)


def read_array(path: Path, modality: str) -> np.ndarray:
    """The values of a file, as they are stored, upright: ``rgb`` uint8 (H, W, 3), ``depth`` (H, W), ``semantics`` uint8
    (H, W), others (H, W) or (H, W, C).

    Raises:
        UsageError: A kind of file that is not read.
        DamagedImage: It is truncated, or not of the kind that its name says.
        ContrastillError: It holds what the modality cannot be, or what would not come out as it is stored.
    """
    return read_file(path, modality)[0]


def is_image(path: Path, content: Content | None = None) -> bool:
    """Whether it is an image file by its ending, or by its content if that has been read."""
    return path.suffix.lower() in IMAGE_SUFFIXES if content is None else isinstance(content, bytes)


def blends(path: Path, content: Content | None = None) -> bool:
    """Whether it is an image whose compression blends the values of neighbours."""
    if not is_image(path, content):
        return False
    with _opened(path, content) as (image, encoded):
        return lossy(image, encoded)


def read_file(
    path: Path,
    modality: str,
    channel: str | None = None,
    content: Content | None = None,
    void: int | None = None,
) -> tuple[np.ndarray, int]:
    """The values as :func:`read_array` has them, and the EXIF orientation by which they were turned; 1: by none.

    Args:
        path: The file, or where its content is from, for messages.
        channel: Of EXR files, the one that is read; None: by the modality's name, see :func:`_channels`.
        content: What has been read already: the bytes of an image file, or an array.
        void: A further label that stands for none, in label maps of more than 8 bits.
    """
    suffix = path.suffix.lower()
    if content is None and suffix not in SUFFIXES:
        raise UsageError(
            f"{path} is of a kind that is not read: convert it to one of {', '.join(SUFFIXES)}, or move it away"
        )
    image = is_image(path, content)
    if image and modality == "rgb":
        picture = Picture(path, content if isinstance(content, bytes) else None)
        return picture.pixels().numpy(), picture.orientation
    turned = 1
    if image:
        values, turned = _image(path, modality, content)
    elif isinstance(content, np.ndarray):
        values = content
    else:
        values = _numpy(path, modality) if suffix == ".npy" else _exr(path, modality, channel)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "buif":
        raise ContrastillError(
            f"{path} is {values.dtype} {values.shape}: it should hold numbers (height, width) or (height, width, "
            "channels)"
        )
    if modality == "rgb" and (values.dtype != np.uint8 or values.shape[2:] != (3,)):
        raise ContrastillError(f"{path} is {values.dtype} {values.shape}: rgb is uint8 (height, width, 3)")
    if values.ndim == 3 and modality not in ("depth", LABELS) and not image:
        where = f"{path} is {values.dtype} {values.shape}, and arrays are (height, width, channels)"
        way = f"save {modality}.transpose(1, 2, 0)"
        check_channel_order(modality, values.shape, where, way, first=False)
    if modality in ("depth", LABELS) and values.ndim == 3:
        what = "depth" if modality == "depth" else "a label map"
        raise ContrastillError(_too_many_channels(path, what, values, image))
    if modality == LABELS:
        return _labels(path, values, void), turned
    if beyond_float32(values):
        raise ContrastillError(
            f"{path} holds whole numbers up to {values.max()}, and modalities are float32, which keeps those up "
            "to 16777216: save it as floats"
        )
    return values, turned


def _too_many_channels(path: Path, what: str, values: np.ndarray, image: bool) -> str:
    """The message on depth or a label map (H, W, C)."""
    if not image and values.shape[0] == 1:
        return (
            f"{path} is {values.dtype} {values.shape}, and {what} is (height, width), or (height, width, 1): save its "
            "entry [0]"
        )
    if not image:
        way = f"it is {values.shape} (height, width, channels), so save the channel that is meant"
    else:
        way = "save it as greys" if what == "depth" else "save the numbers of its classes, as greys or with a palette"
    return f"{path} has {values.shape[2]} channels: {what} has one; {way}"


def _labels(path: Path, values: np.ndarray, void: int | None) -> np.ndarray:
    """uint8, if that is what they are; 0 for marks that 8 bits do not hold."""
    if not np.isfinite(values).all():
        raise ContrastillError(
            f"{path} holds labels that are NaN or infinite: labels are whole numbers, 0 (unlabelled) to {HIGHEST_LABEL}"
        )
    marks = [*NEGATIVE_MARKS, *([] if void is None or void <= HIGHEST_LABEL else [void])]
    values = np.where(np.isin(values, marks), values.dtype.type(0), values)
    if values.dtype.kind == "f" or (values.astype(np.uint8) != values).any():
        high = values.max()
        marked = values.dtype.kind != "f" and values.min() >= 0
        way = f"; data.void={high} if {high} stands for no label" if marked else ""
        raise ContrastillError(
            f"{path} holds {values.dtype} from {values.min():g} to {high:g}: labels are whole numbers, 0 "
            f"(unlabelled) to {HIGHEST_LABEL}{way}; more classes are read from a packed file"
        )
    return values.astype(np.uint8)


@contextmanager
def _opened(path: Path, content: Content | None = None) -> Iterator[tuple[Image.Image, bytes]]:
    """An image whose header has been read, and the bytes of its file; what goes wrong with it names the file."""
    encoded = b""
    try:
        encoded = content if isinstance(content, bytes) else path.read_bytes()
        image = open_image(encoded)
        if image.format not in _FORMATS:
            raise UnreadKind(f"is a {image.format}, whatever its name says: save it as PNG, TIFF or .npy")
        yield image, encoded
    except UnreadKind as error:
        raise ContrastillError(f"{path} {error}") from error
    except Exception as error:
        raise DamagedImage(path, reason_of(error, encoded)) from error


def _image(path: Path, modality: str, content: Content | None) -> tuple[np.ndarray, int]:
    with _opened(path, content) as (image, encoded):
        if modality == LABELS and lossy(image, encoded):
            kind = "JPEG" if image.format in ("JPEG", "MPO") else f"{image.format} with lossy compression"
            raise UnreadKind(f"is a {kind}, which blends the labels of neighbours: save label maps as 8-bit PNG")
        # Loading it, Pillow turns a TIFF itself, and takes the tag away.
        turned = orientation(image)
        values = stored_values(image, encoded)
        # A label map's palette is for looking at it: its values are the numbers of the colours.
        if image.mode == "P" and modality != LABELS:
            values = np.asarray(image.convert("RGB"))
        return values if turned == 1 or image.format == "TIFF" else upright(
            torch.from_numpy(values.copy()), turned
        ).numpy(), turned


def _numpy(path: Path, _: str) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if "allow_pickle" in str(error):
            raise ContrastillError(
                f"{path} holds Python objects, which may run code when they are loaded: save plain numbers with "
                "numpy.save"
            ) from error
        raise DamagedImage(path, reason_of(error), kind="an array") from error
    if not isinstance(values, np.ndarray):
        raise ContrastillError(f"{path} is an archive of arrays: save one array a file with numpy.save")
    return values


def _exr(path: Path, modality: str, channel: str | None = None) -> np.ndarray:
    """A channel, a group of channels (R, G, B), or x, y and z, see :func:`_channels`."""
    try:
        import OpenEXR
    except ImportError as error:
        raise ContrastillError(
            f"{path} needs the library OpenEXR: pip install 'contrastill[exr]', or save it as .npy"
        ) from error
    try:
        with OpenEXR.File(str(path)) as file:
            parts = len(file.parts)
            header, channels = file.header(), file.channels()
            windows = header["dataWindow"], header["displayWindow"]
            pixels = {name: channel.pixels for name, channel in channels.items()}
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        # A file that is cut off may open, and lack entries of its header.
        raise DamagedImage(path, reason_of(error)) from error
    if parts > 1:
        raise ContrastillError(f"{path} has {parts} parts: save the one that is meant in a file of its own")
    read = [
        _in_display_window(path, modality, pixels[name], *windows)
        for name in _channels(path, list(pixels), modality, channel)
    ]
    return read[0] if len(read) == 1 else np.stack(read, -1)


def _channels(path: Path, names: Sequence[str], modality: str, asked: str | None) -> list[str]:
    """The channel that is asked for, or the x, y and perhaps z of a layer that is; else the only one, or those of a
    layer that is called as the modality is (``depth.V``), of depth also ``Z``.

    Raises:
        ContrastillError: There is no such channel, or several could be meant.
    """
    if asked is not None:
        own = [asked] if asked in names else [name for name in names if name.startswith(f"{asked}.")]
    elif modality == "depth" and "Z" in names:
        own = ["Z"]
    else:
        own = [name for name in names if name.lower() == modality or name.lower().startswith(f"{modality}.")]
        own = own or list(names)
    by_axis = {name.rpartition(".")[2].lower(): name for name in own}
    if len(own) == len(by_axis) and {*by_axis} in ({"x", "y"}, {"x", "y", "z"}) and modality not in ("depth", LABELS):
        return [by_axis[axis] for axis in sorted(by_axis)]
    if len(own) != 1:
        raise ContrastillError(
            f"{path} has the channels {', '.join(names) or 'none'}, and "
            f"{f'not {asked}' if asked else f'which of them is {modality} is not clear'}: name it as data.channel=NAME"
            ", or the layer of its x, y and z"
        )
    return own


def _in_display_window(path: Path, modality: str, values: np.ndarray, data: Sequence, display: Sequence) -> np.ndarray:
    """The frame that partners have, of which a file may store a part, or more: NaN where nothing is stored.

    Args:
        data, display: Windows, each as the first and the last (x, y).
    """
    (left, top), (right, bottom) = (map(int, corner) for corner in data)
    (x, y), (last_x, last_y) = (map(int, corner) for corner in display)
    if values.shape[:2] != (bottom - top + 1, right - left + 1):
        raise ContrastillError(f"{path} does not store every pixel of its channel: save it without subsampling")
    if (left, top, right, bottom) == (x, y, last_x, last_y):
        return values
    height, width = last_y - y + 1, last_x - x + 1
    rows, columns = (max(top, y), min(bottom, last_y) + 1), (max(left, x), min(right, last_x) + 1)
    stored = values[rows[0] - top : max(rows[1] - top, 0), columns[0] - left : max(columns[1] - left, 0)]
    if stored.shape[:2] == (height, width):
        return stored
    if modality == LABELS or values.dtype.kind != "f":
        floats = "" if modality == LABELS else ", or floats"
        raise ContrastillError(
            f"{path} stores a part of its frame (its data window does not cover its display window), and whole "
            f"numbers cannot say which pixels are missing: save the whole as whole numbers{floats}"
        )
    frame = np.full((height, width, *values.shape[2:]), np.nan, values.dtype)
    frame[rows[0] - y : rows[0] - y + stored.shape[0], columns[0] - x : columns[0] - x + stored.shape[1]] = stored
    return frame
