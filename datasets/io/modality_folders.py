"""Which modalities folders and columns are called as, and whether folders hold modalities or classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import islice
from pathlib import Path

import numpy as np

from ...core.errors import ContrastillError, UsageError
from ...core.registry import MODALITIES
from .array_files import HIGHEST_LABEL, SUFFIXES, is_image, read_file
from .file_views import LABELS
from .folders import SPLITS, composed, folders_in, is_hidden, split_folder, split_folders, walk
from .images import DamagedImage
from .tiff_values import open_image
from .values import RGB, VECTORS, warn_once

RGB_NAMES = (RGB, "image", "img", "images", "imgs", "color", "colour", "visible", "jpegimages")
DEPTH_NAMES = ("depth", "depths", "depth_map", "depth_maps", "depthmap")
LABEL_NAMES = (
    "label", "labels", "label_map", "label_maps", "mask", "masks", "annotation", "annotations", "semantic",
    "segmentation", "segmentations", "segmentationclass",
)  # fmt: skip
"""Folders of label maps are called so, and folders of other things too: what they hold decides."""
# Bands that are not the same sensor's, so that each has a name of its own, and what is computed from pictures.
_OWN_NAMES = ("thermal", "infrared", "ir", "nir", "swir", "mwir", "lwir", "disparity", *VECTORS)
_USUAL = {
    **dict.fromkeys(RGB_NAMES, RGB),
    **dict.fromkeys(DEPTH_NAMES, "depth"),
    **dict.fromkeys((LABELS, *LABEL_NAMES), LABELS),
    **{name: name for name in _OWN_NAMES},
}
# What is looked at of a folder, which may have millions of files.
_FILES = 64
_LABEL_FILES = 8


def usual_modality(name: str) -> str | None:
    """The modality that is usually called so, in whatever case; None where that is not known.

    Example:
        >>> [usual_modality(name) for name in ("Depth", "colour", "masks", "NIR", "cat")]
        ['depth', 'rgb', 'semantics', 'nir', None]
    """
    name = name.lower()
    return _USUAL.get(name) or (name if name in MODALITIES else None)


class Layout(Enum):
    """What the folders in a folder are."""

    CLASSES = "classes"
    MODALITIES = "modalities"
    EITHER = "either"


def are_all_modalities(names: Sequence[str]) -> bool:
    """Whether folders are called as several modalities and as nothing else, a picture or depth among them."""
    usual = {usual_modality(name) for name in names}
    return len(usual) > 1 and None not in usual and bool(usual & {RGB, "depth"})


def layout_of(where: Path) -> Layout:
    """What the folders in ``where`` are, by their names first: equal names of files alone say nothing, as classes are
    often numbered alike.
    """
    named = folders_in(where)
    # Classes may be thousands, in none of which has to be looked where no name is a modality's.
    if not any(usual_modality(name) for name in named):
        return Layout.CLASSES
    names = [name for name in named if next(walk(where / name, SUFFIXES), None) is not None]
    if are_all_modalities(names):
        return Layout.MODALITIES
    usual = {usual_modality(name) for name in names}
    known = usual - {None}
    if len(names) < 2 or not known:
        return Layout.CLASSES
    if None not in usual and len(known) > 1:
        return Layout.EITHER
    both = {RGB, "depth"} <= known
    if both or RGB in {name.lower() for name in names}:
        if _have_partners(where, names):
            return Layout.MODALITIES
        return Layout.EITHER if both else Layout.CLASSES
    # One of the other names may be that of a class: normal, mask, depth.
    if not known & {RGB, "depth"} and len(known) == 1:
        return Layout.CLASSES
    depth = next((name for name in names if usual_modality(name) == "depth"), None)
    coloured = depth is not None and _is_coloured(next(walk(where / depth, SUFFIXES)))
    return Layout.EITHER if not coloured and _are_one_to_one(where, names) else Layout.CLASSES


def stem_of(file: Path, folder: Path) -> str:
    """What partners have in common: the path below the folder without its ending."""
    return file.relative_to(folder).with_suffix("").as_posix()


def _have_partners(where: Path, names: Sequence[str]) -> bool:
    """Whether the files of each folder are called as those of the first. One that lacks its partner here and there
    raises an error when it is opened.
    """
    first, *others = names
    stems = {stem_of(file, where / first) for file in islice(walk(where / first, SUFFIXES), _FILES)}
    return all(any(_has(where / name, each) for each in stems) for name in others)


def _has(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}{suffix}").exists() for ending in SUFFIXES for suffix in (ending, ending.upper()))


def _are_one_to_one(where: Path, names: Sequence[str]) -> bool:
    """Whether all folders have files of the same names."""
    first, *others = (
        {composed(stem_of(file, where / name)) for file in walk(where / name, SUFFIXES)} for name in names
    )
    return all(stems == first for stems in others)


def _is_coloured(file: Path) -> bool:
    """Whether it is a picture of several channels, which depth is not."""
    if not is_image(file):
        return False
    try:
        with open_image(file.read_bytes()) as image:
            return len(image.getbands()) > 1
    except (OSError, ValueError, ContrastillError):  # an error where it is read
        return False


def modalities_of_folders(where: Path) -> dict[str, str]:
    """Modality -> its folder in ``where``, of those with images or arrays: the usual modality of its name, or the name.

    Raises:
        UsageError: Several are called as one modality.
    """
    folders: dict[str, str] = {}
    for name in folders_in(where):
        if next(walk(where / name, SUFFIXES), None) is None:
            continue
        modality = usual_modality(name) or name
        if (other := folders.setdefault(modality, name)) != name:
            raise UsageError(
                f"{where} has {other} and {name}, and either could be {modality}: name the folder of each modality "
                f"with data.folders={{{modality}: {other}, …}}"
            )
    return folders


def split_in_modalities(root: Path, folders: Mapping[str, str], split: str) -> dict[str, str] | None:
    """Modality -> the folder of a split in its own, of ``rgb/train``, ``rgb/test``, ``depth/train``; None where they
    hold no splits.

    Raises:
        UsageError: Some modalities hold splits and others do not, one lacks this split, or they call it differently.
    """
    holding = [name for name, folder in folders.items() if _holds_splits(root / folder)]
    if not holding:
        return None
    without = next((folder for name, folder in folders.items() if name not in holding), None)
    if without is not None:
        raise UsageError(
            f"{root / folders[holding[0]]} holds splits and {root / without} does not: give all modalities the same "
            "folders of splits, or name those to read with data.folders"
        )
    of_split = {name: split_folder(root / folder, split) for name, folder in folders.items()}
    lacking = next((name for name, path in of_split.items() if path is None), None)
    if lacking is not None:
        called = " or ".join(group[0] for group in SPLITS[split])
        raise UsageError(
            f"{root / folders[lacking]} has no folder {called}: the layout is rgb/train/…, rgb/test/…, "
            "depth/train/…, depth/test/…; to hold out a part of one split, name it as data.folders="
            f"{{{', '.join(f'{name}: {folder}/SPLIT' for name, folder in folders.items())}}}"
        )
    names = {path.name.lower(): path for path in of_split.values() if path is not None}
    if len(names) > 1:
        first, second, *_ = names.values()
        raise UsageError(f"{first} and {second} could be other samples: call the folders to {split} on alike")
    return {name: f"{folders[name]}/{path.name}" for name, path in of_split.items() if path is not None}


def _holds_splits(folder: Path) -> bool:
    """Whether a modality's folder holds splits: both, or nothing but folders called so. A scene may be called train."""
    splits = {split: split_folders(folder, split) for split in SPLITS}
    if all(splits.values()):
        return True
    called = {name for groups in SPLITS.values() for group in groups for name in group}
    others = [entry for entry in os.scandir(folder) if not is_hidden(entry.name) and entry.name.lower() not in called]
    return any(splits.values()) and not others


def label_modality(folder: Path, channel: str | None, void: int | None) -> str:
    """The modality of a folder that is called as those of label maps are: ``semantics`` where its files are label maps,
    else its name; a line says which.
    """
    name = folder.name.lower()
    if name == LABELS:
        return LABELS
    files = sorted(walk(folder, SUFFIXES))
    seen: set[int] = set()
    reason = ""
    for file in (files[place * len(files) // _LABEL_FILES] for place in range(_LABEL_FILES)):
        try:
            seen |= {*np.unique(read_file(file, LABELS, channel, void=void)[0]).tolist()}
        except DamagedImage:  # an error where it is read
            continue
        except ContrastillError as error:
            reason = str(error)
            break
    if not reason and seen == {0, HIGHEST_LABEL}:
        reason = f"those that were read hold 0 and {HIGHEST_LABEL} alone"
    if not reason:
        warn_once(f"{folder} is read as label maps (modality {LABELS}), in which 0 is unlabelled")
        return LABELS
    warn_once(
        f"{folder} is read as the modality {name} and not as label maps: {reason}; data.folders with {LABELS}: "
        f"{folder.name} says otherwise"
    )
    return name
