"""Files of one modality: images of 8 or 16 bits, arrays of NumPy, EXR; their values stay as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.errors import ContrastillError, UsageError
from .file_views import LABELS
from .images import IMAGE_SUFFIXES, DamagedImage, Picture, reason_of

SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".exr")
_LOSSY = (".jpg", ".jpeg")


def read_pair(files: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """One sample: the files of all its modalities.

    Raises:
        DamagedImage: One of them cannot be read.
        ContrastillError: One holds what its modality cannot be, or they differ in size.
    """
    sample = {name: read_array(path, name) for name, path in files.items()}
    (first, (height, width)), *others = [(name, values.shape[:2]) for name, values in sample.items()]
    for name, size in others:
        if size != (height, width):
            raise ContrastillError(
                f"{files[name]} is {size[0]}×{size[1]} (height × width), its partner {files[first]} {height}×{width}: bring the files of a pair to one size"
            )
    return sample


def read_array(path: Path, modality: str) -> np.ndarray:
    """The values of a file: ``rgb`` uint8 (H, W, 3), ``depth`` (H, W), ``semantics`` uint8 (H, W), others (H, W) or (H, W, C).

    Raises:
        UsageError: A kind of file that is not read.
        DamagedImage: It is truncated, or not of the kind that its name says.
        ContrastillError: It holds what the modality cannot be.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path} is of a kind that is not read: convert it to one of {', '.join(SUFFIXES)}, or move it away")
    if suffix in IMAGE_SUFFIXES and modality == "rgb":
        return Picture(path).pixels().numpy()
    if suffix in _LOSSY and modality == LABELS:
        raise ContrastillError(f"{path} is a JPEG, which blends the labels of neighbours: save label maps as 8-bit PNG")
    values = {".npy": _numpy, ".exr": _exr}.get(suffix, _image)(path, modality)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "buif":
        raise ContrastillError(f"{path} is {values.dtype} {values.shape}: it should hold numbers (height, width) or (height, width, channels)")
    if modality == "rgb" and (values.dtype != np.uint8 or values.shape[2:] != (3,)):
        raise ContrastillError(f"{path} is {values.dtype} {values.shape}: rgb is uint8 (height, width, 3)")
    if modality in ("depth", LABELS) and values.ndim == 3:
        raise ContrastillError(f"{path} has {values.shape[2]} channels: {'depth' if modality == 'depth' else 'a label map'} has one")
    return _labels(path, values) if modality == LABELS else values


def _labels(path: Path, values: np.ndarray) -> np.ndarray:
    """uint8, if that is what they are."""
    kept = values.astype(np.uint8)
    if values.dtype.kind == "f" or (kept != values).any():
        raise ContrastillError(f"{path} holds {values.dtype} from {values.min():g} to {values.max():g}: labels are whole numbers, 0 (unlabelled) to 255")
    return kept


def _image(path: Path, modality: str) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            _refuse_deep_colour(path, opened)
            opened.load()
            image: Image.Image = opened
            # A label map's palette is for looking at it: its values are the numbers of the colours.
            if image.mode == "P" and modality != LABELS:
                image = image.convert("RGB")
            values = np.asarray(image)
            # Some versions of Pillow hand out sixteen bits as thirty-two.
            sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    except ContrastillError:
        raise
    except Exception as error:
        raise DamagedImage(path, reason_of(error)) from error
    return values.astype(np.uint16) if sixteen else values


def _refuse_deep_colour(path: Path, image: Image.Image) -> None:
    """Of a PNG with several channels of sixteen bits, Pillow keeps eight and says nothing."""
    if image.format != "PNG" or image.mode.startswith(("I", "L", "1", "P")):
        return
    with open(path, "rb") as file:
        # The header: signature, length, name, width, height, then the bits of a channel.
        bits = file.read(25)[24]
    if bits == 16:
        raise ContrastillError(f"{path} has several channels of 16 bits, which Pillow cannot read: save it as .npy")


def _numpy(path: Path, _: str) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if "allow_pickle" in str(error):
            raise ContrastillError(f"{path} holds Python objects, which may run code when they are loaded: save plain numbers with numpy.save") from error
        raise DamagedImage(path, reason_of(error), kind="an array") from error
    if not isinstance(values, np.ndarray):
        raise ContrastillError(f"{path} is an archive of arrays: save one array a file with numpy.save")
    return values


def _exr(path: Path, modality: str) -> np.ndarray:
    """Its one channel or group of channels (R, G, B), or Z among several."""
    try:
        import OpenEXR
    except ImportError as error:
        raise ContrastillError(f"{path} needs the library OpenEXR: pip install 'contrastill[exr]', or save it as .npy") from error
    try:
        with OpenEXR.File(str(path)) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, OSError) as error:
        raise DamagedImage(path, reason_of(error)) from error
    name = "Z" if "Z" in channels and modality == "depth" else next(iter(channels), None)
    if name is None or (len(channels) > 1 and name != "Z"):
        raise ContrastillError(f"{path} has the channels {', '.join(channels) or 'none'}: keep one, or R, G and B; of depth, Z")
    return channels[name]
