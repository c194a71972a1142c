"""``image_folder``: image files sorted into one folder per class, read by worker processes while the network trains."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path

import torch
from pydantic import Field

from ..core.config.fields import Side
from ..core.errors import UsageError, looked_in
from ..core.recognition import recognised
from ..core.registry import DATASETS
from .io.file_splits import FileSplit
from .io.file_workers import PictureFiles
from .io.folders import (
    SPLITS,
    check_links,
    folders_in,
    has_splits,
    is_free,
    is_hidden,
    split_folder,
    split_folders,
    tell_of_unread,
    test_folder,
    walk,
)
from .io.images import IMAGE_SUFFIXES, warn_of_files
from .io.kept_for_testing import hash_fraction, nothing_left, tell_of_share
from .io.modality_folders import Layout, are_all_modalities, layout_of
from .io.unnamed_splits import check_no_splits
from .io.view_options import FileOptions

log = logging.getLogger(__name__)


@DATASETS.register("image_folder")
class ImageFolder:
    """Images in ``train/CLASS`` and ``test/CLASS`` (or ``val/CLASS``); or in ``CLASS`` alone, of which a part is held
    out.

    ``Training``, ``testing``, ``valid`` and ``validation``, in whatever case, are splits as well.
    The classes are the folders of the training split in the order of their names; a class's images may lie in folders
    of their own. A sample's ``index`` is its place in the list sorted by class and path. What is held out is decided by
    a hash of each path below the folder, so that it is the same everywhere, and stays held out when images are added.

    Raises:
        UsageError: No such folder, no images, a class without any, a class that only the test split has, folders that
            seem to be splits under other names, unless ``folders_are_classes``.
    """

    class Options(FileOptions):
        path: str = Field(description="the folder")
        size: Side = Field(224, description="side in pixels of the images")
        test_fraction: float = Field(
            0.1,
            gt=0,
            le=1,
            description="share of the images held out for testing where there are no folders train and test; 1: all, "
            "for an evaluation",
        )
        folders_are_classes: bool = Field(
            False,
            description="folders that are called as splits are, or that all hold the same folders, are classes",
        )

    def __init__(self, options: Options) -> None:
        self.options = options
        self.root = Path(options.path).expanduser()
        self._passed_over: Counter[str] = Counter()
        self._loose: list[Path] = []

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is a folder of this layout, and of none that another data set knows: this one asks the least
        of a folder.
        """
        root = Path(path)
        if not is_free(root):
            return False
        train = split_folders(root, "train")
        in_doubt = layout_of(train[0] if train else root) is Layout.EITHER
        # Where they may be modalities as well, that has to be said.
        if set(recognised(path, leaving_out="image_folder")) - ({"paired_folder"} if in_doubt else set()):
            return False
        folders = folders_in(root)
        if train:
            # Without a test split too: opened, it says how that has to be called.
            return any(_holds_images(where / name) for where in train for name in folders_in(where))
        # A few say enough: a folder may have thousands.
        return len(folders) > 1 and all(is_free(root / name) and _holds_images(root / name) for name in folders[:8])

    def open(self, split: str) -> FileSplit:
        """List ``"train"`` or ``"test"``; of a few images the headers are read. Only ``"train"`` is ever augmented."""
        if split not in SPLITS:
            raise UsageError(f"image_folder has no split {split!r}: it has train, test")
        if not self.root.is_dir():
            missing = f"does not exist{looked_in(self.root)}"
            what = "is a file, not a folder of images" if self.root.exists() else missing
            raise UsageError(f"{self.root} {what}: set data.path")
        options = self.options
        classes, files = self._list(split)
        # Where both splits are of the same folders, once is enough.
        if split == "train" or (self.root / "train").is_dir():
            warn_of_files(self.root, self._passed_over)
            if self._loose:
                log.warning(
                    "images in no folder of a class are passed over, %d such as %s: move each into that of its class",
                    len(self._loose),
                    self._loose[0],
                )
        if options.limit is not None and options.limit < len(files):
            files = [files[place * len(files) // options.limit] for place in range(options.limit)]
        pictures, targets = (
            PictureFiles(self.root, [name for name, _ in files]),
            torch.tensor([target for _, target in files], dtype=torch.int64),
        )
        return FileSplit.from_options(pictures, targets, classes, options, options.size, training=split == "train")

    def _list(self, split: str) -> tuple[list[str], list[tuple[str, int]]]:
        """The classes, and the split's (path below the root, class), sorted by class, then path."""
        # A test folder without train beside it is no class: train is missed.
        prepared = has_splits(self.root)
        train = split_folder(self.root, "train") if prepared else self.root
        if train is None:
            alone = split_folders(self.root, "test")[0]
            raise UsageError(
                f"{self.root} has no folder train: the layout is train/CLASS/*.jpg with test or val beside train, "
                f"or CLASS/*.jpg; to measure on {alone.name} alone, data.path={alone} data.test_fraction=1"
            )
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
        if not prepared:
            if not self.options.folders_are_classes:
                check_no_splits(self.root, classes)
            return classes, self._hash_split(classes, split)
        self._tell_of_unread(train)
        where = train if split == "train" else test_folder(self.root, train)
        strange = sorted(class_folders(where).keys() - {*classes})
        if strange:
            raise UsageError(
                f"{where / strange[0]} is not a class of train: sort the images of {where.name} into the folders "
                "of train's classes first"
            )
        return classes, self._images(where, classes, complete=split == "train")

    def _tell_of_unread(self, train: Path) -> None:
        """Log what lies beside the splits."""
        splits = [folder.name for folder in (train, split_folder(self.root, "test")) if folder is not None]
        beside = [name for name in folders_in(self.root) if name not in splits and _holds_images(self.root / name)]
        tell_of_unread(self.root, beside + _loose_images(self.root), splits)

    def _hash_split(self, classes: list[str], split: str) -> list[tuple[str, int]]:
        """The images of ``split`` where there are folders of classes alone."""
        files = self._images(self.root, classes, complete=True)
        parts: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        for name, target in files:
            parts["test" if hash_fraction(name) < self.options.test_fraction else "train"].append((name, target))
        missed = sorted(set(range(len(classes))) - {target for _, target in parts["train"]})
        if split == "test":
            tell_of_share(self.root, len(parts["test"]), len(files), "images", self.options.test_fraction)
            if self.options.test_fraction == 1:
                return files
        if missed or not parts["test"]:
            short = (
                f"no image of {classes[missed[0]]} is left to train on"
                if missed
                else "no image is held out for testing"
            )
            raise nothing_left(self.root, "images", self.options.test_fraction, short)
        return parts[split]

    def _images(self, where: Path, classes: list[str], *, complete: bool) -> list[tuple[str, int]]:
        """(path below the root, class) of the images of these classes."""
        files = []
        self._passed_over = Counter()
        loose = self._loose = [where / name for name in _loose_images(where)]
        folders = class_folders(where)
        for target, name in enumerate(classes):
            # A class may be missing among those to test on.
            files_in_class = list(walk(folders.get(name, where / name), ("",)))
            # Compared by parts and not by characters, so that the order does not hang on the separator.
            images = sorted(
                (path for path in files_in_class if path.name.lower().endswith(IMAGE_SUFFIXES)),
                key=lambda path: path.parts,
            )
            if len(images) < len(files_in_class):
                self._passed_over.update(
                    path.suffix.lower() for path in files_in_class if not path.name.lower().endswith(IMAGE_SUFFIXES)
                )
            if complete and not images:
                raise UsageError(
                    f"class {where / name} has no images ({', '.join(IMAGE_SUFFIXES)}): add some, or remove the folder"
                )
            files += [(path.relative_to(self.root).as_posix(), target) for path in images]
        if not files:
            beside = f", and {loose[0].name} in none: move it into the folder of its class" if loose else ""
            raise UsageError(f"{where} has no images ({', '.join(IMAGE_SUFFIXES)}) in folders of classes{beside}")
        return files


def _loose_images(where: Path) -> list[str]:
    """Names of the images directly in a folder of classes."""
    with os.scandir(where) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(entry.name) and entry.is_file()
        )


def class_folders(root: Path) -> dict[str, Path]:
    """The folders in ``root`` by the names of their classes, whose accents are of one form (NFC): macOS may write
    another one, which looks the same.

    Raises:
        UsageError: Two folders have one name, or one is a link to nothing.
    """
    check_links(root)
    folders_by_name: dict[str, Path] = {}
    for name in folders_in(root):
        if folders_by_name.setdefault(unicodedata.normalize("NFC", name), root / name).name != name:
            raise UsageError(
                f"{root} has two folders {name}, whose accents are coded in different ways: move the images of "
                "one into the other"
            )
    return folders_by_name


def _holds_images(folder: Path) -> bool:
    return next(walk(folder), None) is not None
