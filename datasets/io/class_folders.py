"""Images sorted into one folder per class: which folders are classes, and which files in them are their images."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError
from .folders import check_links, composed, folders_in, is_hidden, split_folder, tell_of_unread, walk
from .images import IMAGE_SUFFIXES, warn_of_files
from .modality_folders import are_all_modalities

log = logging.getLogger(__name__)


@dataclass
class ClassImages:
    """The images in a folder of classes.

    Attributes:
        root: The folder that their paths begin at.
        files: (path below ``root``, class), sorted by class, then path.
        passed_over: Ending -> how many other files lie in the folders of classes.
        loose: Images in no folder of a class.
    """

    root: Path
    files: list[tuple[str, int]]
    passed_over: Counter[str]
    loose: list[Path]

    def tell_of_others(self) -> None:
        """Log what is no image, or in no class."""
        warn_of_files(self.root, self.passed_over)
        if self.loose:
            log.warning(
                "images in no folder of a class are passed over, %d such as %s: move each into that of its class",
                len(self.loose),
                self.loose[0],
            )


def classes_of(train: Path) -> list[str]:
    """The classes of the training images in a folder.

    Raises:
        UsageError: It has none, or folders of modalities.
    """
    classes = sorted(class_folders(train))
    if not classes:
        raise UsageError(
            f"{train} has no folders of classes: the layout is train/CLASS/*.jpg with test or val beside "
            "train, or CLASS/*.jpg"
        )
    if are_all_modalities(classes):
        raise UsageError(
            f"{train} has folders {', '.join(classes)}, which are modalities of aligned files rather than classes: "
            "read it with data.name=paired_folder, or call the folders otherwise"
        )
    return classes


def images_of_split(root: Path, where: Path, classes: list[str], *, training: bool) -> ClassImages:
    """The images of a split in a folder of its own.

    Args:
        root: The folder of the data set.
        where: That of the split.
        classes: Those of the training split.
        training: Whether it is that one, in which each class has images.

    Raises:
        UsageError: A class that the training split lacks, or has no images of; no images.
    """
    strange = sorted(class_folders(where).keys() - {*classes})
    if strange:
        raise UsageError(
            f"{where / strange[0]} is not a class of train: sort the images of {where.name} into the folders "
            "of train's classes first"
        )
    return images_of(root, where, classes, complete=training)


def images_of(root: Path, where: Path, classes: list[str], *, complete: bool) -> ClassImages:
    """The images of these classes in ``where``.

    Raises:
        UsageError: There are none; or, if it should be ``complete``, one of the classes has none.
    """
    images = ClassImages(root, [], Counter(), [where / name for name in _loose_images(where)])
    folders = class_folders(where)
    for target, name in enumerate(classes):
        # A class may be missing among those to test on.
        files_in_class = list(walk(folders.get(name, where / name), ("",)))
        # Compared by parts and not by characters, so that the order does not hang on the separator.
        own = sorted(
            (path for path in files_in_class if path.name.lower().endswith(IMAGE_SUFFIXES)),
            key=lambda path: path.parts,
        )
        if len(own) < len(files_in_class):
            images.passed_over.update(
                path.suffix.lower() for path in files_in_class if not path.name.lower().endswith(IMAGE_SUFFIXES)
            )
        if complete and not own:
            raise UsageError(
                f"class {where / name} has no images ({', '.join(IMAGE_SUFFIXES)}): add some, or remove the folder"
            )
        images.files += [(path.relative_to(root).as_posix(), target) for path in own]
    if not images.files:
        beside = f", and {images.loose[0].name} in none: move it into the folder of its class" if images.loose else ""
        raise UsageError(f"{where} has no images ({', '.join(IMAGE_SUFFIXES)}) in folders of classes{beside}")
    return images


def tell_of_other_folders(root: Path, train: Path) -> None:
    """Log what lies beside the folders of the splits."""
    splits = [folder.name for folder in (train, split_folder(root, "test")) if folder is not None]
    beside = [name for name in folders_in(root) if name not in splits and holds_images(root / name)]
    tell_of_unread(root, beside + _loose_images(root), splits)


def _loose_images(where: Path) -> list[str]:
    """Names of the images directly in a folder of classes."""
    with os.scandir(where) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(entry.name) and entry.is_file()
        )


def class_folders(root: Path) -> dict[str, Path]:
    """The folders in ``root`` by the names of their classes, whose accents are of one form.

    Raises:
        UsageError: Two folders have one name, or one is a link to nothing.
    """
    check_links(root)
    folders_by_name: dict[str, Path] = {}
    for name in folders_in(root):
        if folders_by_name.setdefault(composed(name), root / name).name != name:
            raise UsageError(
                f"{root} has two folders {name}, whose accents are coded in different ways: move the images of "
                "one into the other"
            )
    return folders_by_name


def holds_images(folder: Path) -> bool:
    """Whether there is an image in it, or in a folder of it."""
    return next(walk(folder), None) is not None
