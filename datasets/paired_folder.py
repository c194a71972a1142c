"""``paired_folder``: one folder per modality, files of the same name are one sample; a user's own aligned sensors,
without labels.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

from pydantic import Field

from ..core.classes import note_repeated
from ..core.errors import ContrastillError, UsageError, looked_in
from ..core.registry import DATASETS
from .io.array_files import SUFFIXES
from .io.file_splits import PairSplit
from .io.file_views import LABELS
from .io.folder_reader import FolderReader
from .io.folders import (
    SPLITS,
    check_links,
    composed,
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
from .io.kept_for_testing import hash_fraction, nothing_left, tell_of_share
from .io.modality_folders import (
    Layout,
    label_modality,
    layout_of,
    modalities_of_folders,
    split_in_modalities,
    stem_of,
)
from .io.pairs import PairOptions, open_pairs
from .io.values import NO_LABEL, RGB, VECTORS, LabelRule
from .io.view_options import FileOptions

log = logging.getLogger(__name__)

_LAYOUT = (
    "the layout is rgb/0001.png, depth/0001.png, …, or train/rgb/…, train/depth/… with test or val beside train, "
    "or "
    "rgb/train/…, depth/train/… with rgb/test/…, depth/test/…"
)
_RESERVED = ("index", "target", "camera")
# Modalities whose values are read in a way of their own.
_SPELT = (RGB, "depth", LABELS, *VECTORS)


@DATASETS.register("paired_folder")
class PairedFolder:
    """Aligned modalities in ``rgb``, ``depth``, … or in ``train/rgb``, ``train/depth``, … with ``test`` (or ``val``)
    beside ``train``, or in ``rgb/train``, ``rgb/test``, ``depth/train``, ``depth/test``, ….

    Folders with usual names are these modalities, in whatever case: ``image``, ``color`` or ``visible`` is ``rgb``,
    ``depth_map`` ``depth``; ``labels``, ``masks`` or ``annotations`` is ``semantics`` where its files are label maps.

    Files whose paths below their folders are the same but for the ending are one sample. ``rgb`` is any image, of which
    more than 8 bits are scaled to 8; other folders hold images of 8 or 16 bits, ``.npy`` (H, W) or (H, W, C), or EXR,
    read as float32 with their values as stored. ``semantics`` holds label maps: 0 unlabelled, then the lines of
    ``classes.txt`` beside the folders, if it is there. A sample's ``index`` is its place in the list sorted by path.
    What is held out is decided by a hash of the path, as in ``image_folder``.

    Raises:
        UsageError: No such folder, one modality alone, two folders of one, splits in some modalities only, no files, a
            partner missing, a kind of file that is not read; a cache that cannot be written or that the disk has no
            room for.
        ContrastillError: A file is damaged, or not as large as its partners, or holds what its modality cannot be.
    """

    class Options(PairOptions, FileOptions):
        path: str = Field(description="the folder")
        folders: dict[str, str] | None = Field(
            None,
            description="modality -> its folder; null: every folder with images or arrays, called as its name is usual "
            "for, else as the folder is",
        )
        channel: str | None = Field(
            None,
            description="of EXR files with several, the one that is read, such as depth.V, or the layer of x, y and z; "
            "null: the only one, x, y and z, that of a layer called as the modality is, or of depth Z",
        )
        test_fraction: float = Field(
            0.1,
            gt=0,
            le=1,
            description="share of the samples held out for testing where there are no folders train and test; 1: all, "
            "for an evaluation",
        )

    def __init__(self, options: Options) -> None:
        self.options = options
        self.root = Path(options.path).expanduser()

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` holds folders called as modalities are, ``rgb`` or ``depth`` among them, or one of these
        beside others with files of the same names.
        """
        root = Path(path)
        return is_free(root) and layout_of(next(iter(split_folders(root, "train")), root)) is not Layout.CLASSES

    def open(self, split: str) -> PairSplit:
        """List ``"train"`` or ``"test"``, and read a few samples. Only ``"train"`` is ever augmented."""
        if split not in SPLITS:
            raise UsageError(f"paired_folder has no split {split!r}: it has train, test")
        if not self.root.is_dir():
            missing = f"does not exist{looked_in(self.root)}"
            what = "is a file, not a folder of modalities" if self.root.exists() else missing
            raise UsageError(f"{self.root} {what}: set data.path")
        options = self.options
        where, files = self._list(split)
        names = self._class_names(split_folder(self.root, "train") or self.root) if LABELS in files else None
        reader = FolderReader(where, files, LabelRule.of(options.void, names), options.channel)
        count = len(next(iter(files.values())))
        opened = open_pairs(reader, count, options, where, training=split == "train", semantic_classes=names)
        if options.decoded_cache is not None:
            reader.cache_in(options.decoded_cache)
        return opened

    def _tell_of_unread(self, where: Path, folders: dict[str, str]) -> None:
        """Log what lies beside the folders of modalities, and beside those of splits."""
        others = [name for name in folders_in(where) if name not in folders.values() and _holds_files(where / name)]
        if where == self.root:
            others = [name for name in others if name not in _split_names(where)]
        with os.scandir(where) as entries:
            loose = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
        tell_of_unread(where, others + sorted(name for name in loose if not is_hidden(name)), [*folders.values()])
        if where != self.root and has_splits(self.root):
            splits = _split_names(self.root)
            beside = [name for name in folders_in(self.root) if name not in splits and _holds_files(self.root / name)]
            tell_of_unread(self.root, beside, splits)

    def _class_names(self, train: Path) -> list[str] | None:
        path = next((path for folder in (self.root, train) if (path := folder / "classes.txt").is_file()), None)
        if path is None:
            return None
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").strip().splitlines()]
        except UnicodeDecodeError as error:
            raise ContrastillError(f"{path} is no text in UTF-8: write the name of a class on each line") from error
        named = [line for line in lines if not line.startswith("#")]
        if "" in named:
            raise ContrastillError(
                f"{path}: line {lines.index('') + 1} is empty, and which value has no name is not known: write a "
                "name on each line"
            )
        # What is without a label is 0, whether the list begins with it or not.
        if named and named[0].lower() in NO_LABEL:
            log.warning("%s begins with %s, which is taken for the name of the value 0", path, named[0])
            note_repeated(named, str(path))
            return named
        if named and named[0].lower() == "background":
            log.warning(
                "%s names the values from 1: background is 1, and 0 is unlabelled; where your 0 is background, "
                "put unlabelled in its place",
                path,
            )
        note_repeated(["unlabelled", *named], str(path))
        return ["unlabelled", *named]

    def _list(self, split: str) -> tuple[Path, dict[str, list[str]]]:
        """The folder of the split, and for each modality the files below it, in the order of their names."""
        prepared = has_splits(self.root)
        train = split_folder(self.root, "train") if prepared else self.root
        if train is None:
            raise UsageError(f"{self.root} has no folder train: {_LAYOUT}")
        where = test_folder(self.root, train) if prepared and split == "test" else train
        folders = self._folders(where, train)
        paths = None if prepared else split_in_modalities(where, folders, split)
        prepared = prepared or paths is not None
        paths = paths or folders
        by_stem = {name: _files(where / path) for name, path in paths.items()}
        _check_partners(where, by_stem, folders, paths)
        # Ordered and held out by the names as they are stored, whatever the form of their accents.
        first = next(iter(by_stem))
        stored = {stem: stem_of(file, where / paths[first]) for stem, file in by_stem[first].items()}
        stems = sorted(stored, key=lambda stem: PurePosixPath(stored[stem]).parts)
        if not prepared:
            total, fraction = len(stems), self.options.test_fraction
            stems = [stem for stem in stems if (hash_fraction(stored[stem]) < fraction) == (split == "test")]
            if split == "test":
                tell_of_share(self.root, len(stems), total, "samples", fraction)
            if not stems:
                kind = "held out for testing" if split == "test" else "left to train on"
                raise nothing_left(self.root, "samples", fraction, f"no sample is {kind}")
        limit = self.options.limit
        if limit is not None and limit < len(stems):
            stems = [stems[place * len(stems) // limit] for place in range(limit)]
        return where, {
            name: [files[stem].relative_to(where).as_posix() for stem in stems] for name, files in by_stem.items()
        }

    def _folders(self, where: Path, train: Path) -> dict[str, str]:
        """Modality -> name of its folder in ``where``, beside or the same as the folder of the training split."""
        if self.options.folders is not None:
            folders = dict(self.options.folders)
            missed = [name for name, folder in folders.items() if not (where / folder).is_dir()]
            if missed:
                raise UsageError(
                    f"{where / folders[missed[0]]} does not exist: data.folders names it for {missed[0]}; there "
                    f"are {', '.join(folders_in(where)) or 'none'}"
                )
            spelt = next((name for name in folders if name != name.lower() and name.lower() in _SPELT), None)
            if spelt is not None:
                raise UsageError(f"data.folders names {spelt}, and the modality is called {spelt.lower()}: write it so")
        else:
            check_links(where)
            folders = modalities_of_folders(where)
            self._tell_of_unread(where, folders)
            if len(folders) > 1 and LABELS in folders:
                # What they are in training they are in the test split.
                of_train = modalities_of_folders(train).get(LABELS)
                maps = where / folders[LABELS] if of_train is None else train / of_train
                name = label_modality(maps, self.options.channel, LabelRule.of(self.options.void).void)
                folders = {name if modality == LABELS else modality: folder for modality, folder in folders.items()}
        if not self.options.folders and len(folders) < 2:
            empty = [name for name in folders_in(where) if name not in folders.values()]
            available = f"one folder of a modality ({', '.join(folders)})" if folders else "no folders of modalities"
            without = f", and no files ({', '.join(SUFFIXES)}) in {', '.join(empty)}" if empty else ""
            raise UsageError(f"{where} has {available}{without}: {_LAYOUT}")
        if len(folders) < 2:
            raise UsageError(f"data.folders names one modality ({', '.join(folders)}): two or more make a pair")
        wrong = [name for name in folders if name in _RESERVED]
        if wrong:
            raise UsageError(
                f"a modality cannot be called {wrong[0]}: give it another name with data.folders, such as {{rgb: "
                f"rgb, thermal: {folders[wrong[0]]}}}"
            )
        # A picture is what people look at first, and what the others are compared with.
        return dict(sorted(folders.items(), key=lambda item: (item[0] != "rgb", item[0])))


def _split_names(root: Path) -> list[str]:
    """The folders that are read as splits there."""
    return [folder.name for split in SPLITS for folder in split_folders(root, split)]


def _holds_files(folder: Path) -> bool:
    return next(walk(folder, ("",)), None) is not None


def _files(folder: Path) -> dict[str, Path]:
    """The files of a modality by their stems."""
    files: dict[str, Path] = {}
    for file in walk(folder, ("",)):
        if not file.name.lower().endswith(SUFFIXES):
            raise UsageError(
                f"{file} is of a kind that is not read: convert it to one of {', '.join(SUFFIXES)}, or move it away"
            )
        # Accents in one form: modalities that were written on two systems may differ in it.
        other = files.setdefault(composed(stem_of(file, folder)), file)
        if other != file:
            first, second = sorted((other.name, file.name))
            if stem_of(other, folder) != stem_of(file, folder):
                raise UsageError(
                    f"{file.parent} holds {first} and {second}, whose accents are coded in different ways, and which "
                    "would both be the same sample's: remove one"
                )
            raise UsageError(
                f"{file.parent} holds {first} and {second}, which would both be the same sample's: remove one"
            )
    if not files:
        raise UsageError(
            f"{folder} has no files ({', '.join(SUFFIXES)}): add some, or name other folders in data.folders"
        )
    return files


def _check_partners(
    where: Path, listed: dict[str, dict[str, Path]], folders: dict[str, str], paths: dict[str, str]
) -> None:
    """Refuse files without a partner.

    Raises:
        UsageError: A modality lacks one.
    """
    everything = set().union(*listed.values())
    first, *others = listed
    for name in others:
        if listed[first].keys().isdisjoint(listed[name]):
            one, other = (min(listed[each].values()).name for each in (first, name))
            raise UsageError(
                f"{where}: no file of {name} is called as one of {first} is ({other}, {one}): give the files of a "
                "sample one name, whatever their endings"
            )
    for name, files in listed.items():
        lacking = min(everything - files.keys(), default=None)
        if lacking is not None:
            unpaired = next(other[lacking] for other in listed.values() if lacking in other)
            missed = len(everything) - len(files)
            more = f" ({missed} files lack theirs)" if missed > 1 else ""
            read = ", ".join(f"{other}: {folders[other]}" for other in listed if other != name)
            without = f", or leave {name} out, with data.folders={{{read}}}" if len(listed) > 2 else ""
            raise UsageError(
                f"{unpaired} has no partner of {name}, {where / paths[name] / lacking}.*{more}: add it, or move the "
                f"former away{without}"
            )
