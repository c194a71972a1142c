"""``webdataset``: images in WebDataset's tar shards, each read by its place in its tar; nothing is unpacked."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from ..core.config.fields import Side
from ..core.errors import UsageError, looked_in
from ..core.registry import DATASETS
from .io.file_splits import FileSplit
from .io.folders import SPLITS, folders_in, is_free, is_hidden, tell_of_unread, walk
from .io.tar_index import TarIndex, tar_index
from .io.tar_pictures import TarPictures
from .io.values import warn_of_gaps
from .io.view_options import FileOptions

_SHARD = re.compile(r"\.(tar(\.\w+)?|tgz)$", re.IGNORECASE)
_LAYOUT = "the layout is train-*.tar or train/*.tar with test-*.tar, val-*.tar, test/*.tar or val/*.tar beside it"


@DATASETS.register("webdataset")
class WebDataset:
    """Images in WebDataset's tar shards: the files of one key are one sample, ``KEY.jpg`` beside ``KEY.cls``, the class
    as text, or ``KEY.json`` with ``label``.

    A key is a member's path up to the first dot of its file name, and what follows is its kind, as WebDataset parts
    them: ``v1.0/a.jpg`` and ``v1.0/a.seg.png`` are of one sample, and ``a.1.jpg`` is no image of a key ``a.1``.

    A hard link is the earlier member that it names. Tars that were joined as ``cat`` does are read to their end;
    symbolic links and sparse files are not read, as a line says.

    WebDataset itself streams its shards and mixes what it has in a buffer. Here the headers are read once, into an
    index stored beside the shards, and from then on any sample is read by its place. So ``index`` is a row that never
    changes, the place in the order of shard names and of members in each; every epoch is a permutation of all samples,
    and views, ranks and resuming are those of ``image_folder``. It asks for a disk or file system with fast seeks;
    shards behind HTTP or in an object store have to be copied to one first.

    Raises:
        UsageError: No such folder or shard, a class that the training split does not have.
        ContrastillError: A tar is compressed, cut off or damaged, a key lacks its class or its image, has it behind a
            second dot, or has two classes.
    """

    class Options(FileOptions):
        path: str = Field(description="the folder that holds the shards")
        train: str | None = Field(
            None,
            description="shards to train on, below path: a folder, or a pattern such as "
            "train-{000000..000146}.tar or train-*.tar; null: train*.tar or train/*.tar",
        )
        test: str | None = Field(
            None, description="shards to test on, as train; null: test*.tar, test/*.tar, val*.tar or val/*.tar"
        )
        num_classes: int | None = Field(
            None, gt=0, description="how many classes there are; null: as many as the training split names"
        )
        cache: str | None = Field(
            None, description="folder to keep the index in where that of the shards cannot be written to"
        )
        size: Side = Field(224, description="side in pixels of the images")

    def __init__(self, options: Options) -> None:
        self.options = options
        self.root = Path(options.path).expanduser()

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is a folder with shards to train on."""
        root = Path(path)
        return is_free(root) and bool(_sets(root, SPLITS["train"][0]))

    def open(self, split: str) -> FileSplit:
        """Find the samples of ``"train"`` or ``"test"``; of a few images the headers are read. Only ``"train"`` is ever
        augmented.
        """
        if split not in SPLITS:
            raise UsageError(f"webdataset has no split {split!r}: it has train, test")
        if not self.root.is_dir():
            missing = f"does not exist{looked_in(self.root)}"
            what = "is a file, not a folder of shards" if self.root.exists() else missing
            raise UsageError(f"{self.root} {what}: set data.path")
        options = self.options
        shards, index = self._index(split)
        classes = self._num_classes(split, shards, index)
        if split == "train" and self.options.num_classes is None:
            warn_of_gaps(index.target, self.root)
        if options.limit is not None and options.limit < len(index):
            index = index.take([place * len(index) // options.limit for place in range(options.limit)])
        pictures = TarPictures(shards, index)
        return FileSplit.from_options(
            pictures, torch.from_numpy(index.target), classes, options, options.size, training=split == "train"
        )

    def _index(self, split: str) -> tuple[list[Path], TarIndex]:
        asked = self.options.train if split == "train" else self.options.test
        shards = usual_shards(self.root, split) if asked is None else named_shards(self.root, asked, split)
        if not shards:
            where = f"no shards to {split} on" if asked is None else f"no shards {asked}"
            raise UsageError(f"{self.root} has {where}: {_LAYOUT}, or name others with data.{split}=")
        if broken := next((shard for shard in shards if not shard.exists()), None):
            raise UsageError(
                f"{broken} is a link to {os.readlink(broken)}, which is not there: put that back, or remove the link"
            )
        if self.options.train is None and self.options.test is None:
            self._tell_of_unread()
        cache = None if self.options.cache is None else Path(self.options.cache).expanduser()
        index = tar_index(shards, cache)
        if not len(index):
            raise UsageError(
                f"{shards[0]}{' and the others' if len(shards) > 1 else ''} to {split} on hold no samples: each "
                "is KEY.jpg with KEY.cls or KEY.json"
            )
        return shards, index

    def _tell_of_unread(self) -> None:
        """Log the shards that lie beside those of the splits: compressed, of another name, or deeper."""
        read = {shard for split in SPLITS for shard in usual_shards(self.root, split)}
        called = {name for groups in SPLITS.values() for names in groups for name in names}
        folders = [self.root / name for name in folders_in(self.root) if name.lower() in called]
        files = [*self.root.iterdir(), *(path for folder in folders for path in walk(folder, ("",)))]
        every = sorted(path for path in files if _SHARD.search(path.name) and path not in read and path.is_file())
        splits = sorted({_called(shard, self.root) for shard in read})
        tell_of_unread(self.root, [path.relative_to(self.root).as_posix() for path in every], splits)

    def _num_classes(self, split: str, shards: Sequence[Path], index: TarIndex) -> int:
        """How many there are; shards number their classes and do not name them."""
        count = self.options.num_classes
        if count is None:
            count = int((index if split == "train" else self._index("train")[1]).target.max()) + 1
        outside = np.flatnonzero(index.target >= count)
        if len(outside):
            row = int(outside[0])
            known = (
                f"data.num_classes is {count}"
                if self.options.num_classes
                else f"the shards to train on end at class {count - 1}"
            )
            name = f"{shards[index.shard[row]]}: {os.fsdecode(index.files[row])}"
            raise UsageError(
                f"{name} is of class {index.target[row]}, and {known}: set data.num_classes, or correct the class"
            )
        return count


def _called(shard: Path, root: Path) -> str:
    """What shards are called as that one is, or their folder."""
    if shard.parent != root:
        return shard.parent.name
    return f"{re.split('[^a-zA-Z]', shard.name, maxsplit=1)[0]}*.tar"


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".tar" and not is_hidden(path.name))


def usual_shards(root: Path, split: str) -> list[Path]:
    """The shards of a split: ``NAME/*.tar`` where there is such a folder, else ``NAME*.tar``, for the first of its
    names that has any.

    Raises:
        UsageError: Two sets of shards could be it.
    """
    for names in SPLITS[split]:
        sets = _sets(root, names)
        if len(sets) > 1:
            raise UsageError(
                f"{root} has shards in {' and '.join(sorted(sets))}, and either could be those to {split} on: "
                f"name them with data.{split}="
            )
        if sets:
            return next(iter(sets.values()))
    return []


def _sets(root: Path, names: Sequence[str]) -> dict[str, list[Path]]:
    """Shards by what they are called or the folder they are in, in whatever case: in folders called so where there are
    any.
    """
    folders = {name: _tars(root / name) for name in folders_in(root) if name.lower() in names}
    sets = {name: paths for name, paths in folders.items() if paths}
    if folders:
        return sets
    for path in (path for path in _tars(root) if path.name.lower().startswith(names[0])):
        # train, training; what follows train in another way is part of a longer name: trainA-000.tar.
        word = re.split("[^a-z]", path.name.lower(), maxsplit=1)[0]
        sets.setdefault(word if word in names else names[0], []).append(path)
    return sets


def named_shards(root: Path, pattern: str, split: str) -> list[Path]:
    """The shards that ``data.train`` or ``data.test`` names, in the order of their names."""
    shards: set[Path] = set()
    for name in braces(os.path.expanduser(pattern)):
        where = os.path.join(glob.escape(str(root)), name)
        paths = [Path(path) for path in glob.glob(where)] if glob.has_magic(name) else [root / name]
        for path in paths:
            if not path.exists():
                raise UsageError(f"{path} does not exist: data.{split}={pattern} names it")
            shards |= set(path.glob("*.tar")) if path.is_dir() else {path}
    return sorted(shards)


def braces(pattern: str) -> Iterator[str]:
    """The names a pattern stands for: ``{08..11}`` is 08, 09, 10, 11 and ``{a,b}`` is a, b, as in a shell.

    Example:
        >>> list(braces("{a,b}-{08..10}.tar"))
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    parts = []
    for text in re.split(r"(\{[^{}]*\})", pattern):
        if between := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", text):
            first, last = between.groups()
            width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
            step = 1 if int(first) <= int(last) else -1
            parts.append([f"{number:0{width}}" for number in range(int(first), int(last) + step, step)])
        elif text.startswith("{") and "," in text:
            parts.append(text[1:-1].split(","))
        else:
            parts.append([text])
    yield from map("".join, itertools.product(*parts))
