"""``image_folder``: image files sorted into one folder per class, read by worker processes while the network trains."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field

from ..core.config.fields import Side
from ..core.errors import UsageError, looked_in
from ..core.recognition import recognised
from ..core.registry import DATASETS
from .io.class_folders import (
    ClassImages,
    classes_of,
    holds_images,
    images_of,
    images_of_split,
    tell_of_other_folders,
)
from .io.file_splits import FileSplit
from .io.file_workers import PictureFiles
from .io.folders import SPLITS, folders_in, has_splits, is_free, split_folder, split_folders, test_folder
from .io.kept_for_testing import hash_fraction, nothing_left, tell_of_share
from .io.modality_folders import Layout, layout_of
from .io.unnamed_splits import check_no_splits
from .io.view_options import FileOptions


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
            return any(holds_images(where / name) for where in train for name in folders_in(where))
        # A few say enough: a folder may have thousands.
        return len(folders) > 1 and all(is_free(root / name) and holds_images(root / name) for name in folders[:8])

    def open(self, split: str) -> FileSplit:
        """List ``"train"`` or ``"test"``; of a few images the headers are read. Only ``"train"`` is ever augmented."""
        if split not in SPLITS:
            raise UsageError(f"image_folder has no split {split!r}: it has train, test")
        if not self.root.is_dir():
            missing = f"does not exist{looked_in(self.root)}"
            what = "is a file, not a folder of images" if self.root.exists() else missing
            raise UsageError(f"{self.root} {what}: set data.path")
        options = self.options
        classes, images = self._list(split)
        # Where both splits are of the same folders, once is enough.
        if split == "train" or has_splits(self.root):
            images.tell_of_others()
        files = images.files
        if options.limit is not None and options.limit < len(files):
            files = [files[place * len(files) // options.limit] for place in range(options.limit)]
        pictures, targets = (
            PictureFiles(self.root, [name for name, _ in files]),
            torch.tensor([target for _, target in files], dtype=torch.int64),
        )
        return FileSplit.from_options(pictures, targets, classes, options, options.size, training=split == "train")

    def _list(self, split: str) -> tuple[list[str], ClassImages]:
        """The classes, and the images of the split."""
        # A test folder without train beside it is no class: train is missed.
        prepared = has_splits(self.root)
        train = split_folder(self.root, "train") if prepared else self.root
        if train is None:
            alone = split_folders(self.root, "test")[0]
            raise UsageError(
                f"{self.root} has no folder train: the layout is train/CLASS/*.jpg with test or val beside train, "
                f"or CLASS/*.jpg; to measure on {alone.name} alone, data.path={alone} data.test_fraction=1"
            )
        classes = classes_of(train)
        if not prepared:
            if not self.options.folders_are_classes:
                check_no_splits(self.root, classes)
            images = images_of(self.root, self.root, classes, complete=True)
            images.files = self._hash_split(classes, images.files, split)
            return classes, images
        tell_of_other_folders(self.root, train)
        where = train if split == "train" else test_folder(self.root, train)
        return classes, images_of_split(self.root, where, classes, training=split == "train")

    def _hash_split(self, classes: list[str], files: list[tuple[str, int]], split: str) -> list[tuple[str, int]]:
        """The images of ``split`` where there are folders of classes alone."""
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
