"""``tiny_imagenet``: the official folder of TinyImageNet, or a part of it, all of it in memory."""

from __future__ import annotations

import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from pydantic import Field

from ..core.classes import read_names
from ..core.config.fields import Side
from ..core.errors import ContrastillError, UsageError, looked_in
from ..core.registry import DATASETS
from .io.folders import check_links, folders_in, is_hidden, walk
from .io.images import IMAGE_SUFFIXES, Picture, read_square, warn_of_files, warn_of_scaling
from .io.in_memory import AugmentOptions, TensorSplit
from .io.views import PaddedImages

log = logging.getLogger(__name__)

_FOLDER = "tiny-imagenet-200"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz")
_AT_ONCE = 256


@DATASETS.register("tiny_imagenet")
class TinyImageNet:
    """TinyImageNet (Stanford CS231n): 200 classes of ImageNet, 64×64; 500 training and 50 validation images each.

    The validation images, the split ``test``, lie in one folder: their classes are read from val_annotations.txt, or,
    where they were sorted into folders of classes (``val/n01443537/…``), from these. A class is one that wnids.txt
    lists and that has training images, in the order of wnids.txt, so that a part of the set is read as it is; its name
    is that of words.txt. Greyscale images become RGB.

    Raises:
        UsageError: It is no such folder, or its parts do not belong together.
        ContrastillError: An image is damaged.
    """

    class Options(AugmentOptions):
        path: str = Field(
            description=f"the folder with wnids.txt, train and val, or the one that holds it as {_FOLDER}"
        )
        size: Side = Field(64, description="side in pixels that images are resized to")
        limit: int | None = Field(
            None, gt=0, description="samples taken of each split, evenly spaced over it, for quick trials; null: all"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is a folder of this layout."""
        return any((root / "wnids.txt").is_file() for root in (Path(path), Path(path) / _FOLDER))

    def open(self, split: str) -> TensorSplit:
        """Read all of ``"train"`` or ``"test"``. Only ``"train"`` is ever augmented."""
        if split not in ("train", "test"):
            raise UsageError(f"tiny_imagenet has no split {split!r}: it has train, test")
        options, training, root = self.options, split == "train", self._root()
        wnids = _classes(root)
        files = _training(root, wnids) if training else _validation(root, wnids)
        if options.limit is not None and options.limit < len(files):
            files = [files[place * len(files) // options.limit] for place in range(options.limit)]
        images = PaddedImages.zeros(
            len(files),
            options.size,
            options.size,
            3,
            dtype=torch.uint8,
            padding=options.crop_padding if training else 0,
        )
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for begin in range(0, len(files), _AT_ONCE):
                part = files[begin : begin + _AT_ONCE]
                for place, pixels in enumerate(pool.map(lambda file: read_square(file[0], options.size), part), begin):
                    images.interior[place] = pixels
        targets = torch.tensor([target for _, target in files], dtype=torch.int64)
        return TensorSplit(
            {"rgb": images},
            targets=targets,
            num_classes=len(wnids),
            classes=_names(root, wnids),
            flip=options.flip and training,
        )

    def _root(self) -> Path:
        path = Path(self.options.path).expanduser()
        for root in (path, path / _FOLDER):
            if (root / "wnids.txt").is_file():
                return root
        if path.is_file() and path.suffix.lower() in _ARCHIVES:
            way = (
                f"unzip {path.name}"
                if path.suffix.lower() == ".zip"
                else f"tar -xf {path.name}, or tarfile's extractall(filter='data')"
            )
            raise UsageError(
                f"{path} is an archive: unpack it ({way}) and set data.path to the folder that comes of it"
            )
        what = (
            "is a file, not the folder of TinyImageNet"
            if path.is_file()
            else "has no wnids.txt"
            if path.is_dir()
            else f"does not exist{looked_in(path)}"
        )
        raise UsageError(f"{path} {what}: set data.path to the folder {_FOLDER}, with wnids.txt, train and val in it")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: unpack TinyImageNet again, all of it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ContrastillError(f"{path} cannot be read as text: unpack TinyImageNet again ({error})") from error


def _listed(root: Path) -> list[str]:
    """The wnids of wnids.txt."""
    lines = [line.strip() for line in _lines(root / "wnids.txt")]
    twice = next((wnid for wnid, count in Counter(lines).items() if count > 1), None)
    if twice is not None:
        # Which place is its number is not known: other programs take the first, or the last.
        raise UsageError(
            f"{root / 'wnids.txt'} names {twice} {lines.count(twice)} times, and a class's number is its place there: "
            "leave each in one line"
        )
    return lines


def _classes(root: Path) -> list[str]:
    """The wnids that have training images, in the order of wnids.txt."""
    listed = _listed(root)
    if not (root / "train").is_dir():
        raise UsageError(f"{root} has no folder train: unpack TinyImageNet again, all of it")
    folders = _known_folders(root / "train", listed)
    if not folders:
        raise UsageError(f"{root / 'train'} has no folders of classes: unpack TinyImageNet again, all of it")
    return [wnid for wnid in listed if wnid in folders]


def _known_folders(where: Path, listed: list[str]) -> set[str]:
    """The folders of classes there."""
    check_links(where)
    folders = {*folders_in(where)}
    strange = sorted(folders - {*listed})
    if strange:
        raise UsageError(f"{where / strange[0]} is not in wnids.txt: the folder is not, or not only, TinyImageNet")
    return folders


def _names(root: Path, wnids: list[str]) -> list[str]:
    """Names of the classes, from words.txt where it knows them."""
    path, words = root / "words.txt", dict[str, str]()
    for line in _lines(path) if path.is_file() else ():
        wnid, _, name = (part.strip() for part in line.partition("\t"))
        if name and words.setdefault(wnid, name) != name and wnid in wnids:
            raise UsageError(f"{path} calls {wnid} both {words[wnid]} and {name}: leave one of the two lines")
    return read_names([words.get(wnid, wnid) for wnid in wnids], str(path))


def _training(root: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """The images and their classes, by class, then name."""
    files, passed_over = [], Counter[str]()
    for target, wnid in enumerate(wnids):
        folder = root / "train" / wnid
        images = _images(folder, passed_over)
        if not images:
            raise UsageError(f"{folder / 'images'} has no images: unpack TinyImageNet again, or remove {folder}")
        files += [(path, target) for path in images]
    warn_of_files(root / "train", passed_over)
    warn_of_scaling(Picture(path) for path, _ in files[:: max(1, len(files) // 8)])
    if loose := sorted(_names_in(root / "train")):
        log.warning(
            "images in no folder of a class are passed over, %d such as %s: move each into that of its class",
            len(loose),
            root / "train" / loose[0],
        )
    return files


def _images(folder: Path, passed_over: Counter[str]) -> list[Path]:
    """The images below the folder of a class, by path: in ``images``, as they are published, or not; the endings of
    other files are counted, but for the lists of boxes.
    """
    files = list(walk(folder, ("",)))
    images = [path for path in files if path.name.lower().endswith(IMAGE_SUFFIXES)]
    passed_over.update(path.suffix.lower() for path in {*files} - {*images} if path.suffix.lower() != ".txt")
    return sorted(images, key=lambda path: path.parts)


def _validation(root: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """The images that val_annotations.txt lists of these classes, in its order; where none of them lies in val/images,
    those in folders of classes, by class, then name.
    """
    path, images = root / "val" / "val_annotations.txt", root / "val" / "images"
    listed, wnid_of = _listed(root), dict[str, str]()
    present = {*_names_in(images)}
    folders = (each for each in (images.parent, images) if each.is_dir() and {*folders_in(each)} & {*listed})
    in_classes = None if present else next(folders, None)
    for place, line in enumerate(_lines(path) if path.is_file() or not in_classes else (), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if wnid not in listed:
            raise UsageError(
                f"{path}, line {place}: {wnid or line.strip()!r} is not in wnids.txt; a line is the file's name, "
                "its wnid and its box, with tabs between"
            )
        if name in wnid_of:
            raise UsageError(
                f"{path}, line {place}: {name} is listed a second time, of {wnid}, and before of {wnid_of[name]}: "
                "leave one of the lines"
            )
        if name not in present and not in_classes:
            raise UsageError(
                f"{path}, line {place}: {name} is not in {images}: unpack TinyImageNet again, all of it, or take the "
                "line out"
            )
        wnid_of[name] = wnid
    if in_classes:
        return _sorted_validation(in_classes, wnids, listed, wnid_of)
    number = {wnid: place for place, wnid in enumerate(wnids)}
    files = [(images / name, number[wnid]) for name, wnid in wnid_of.items() if wnid in number]
    if not files:
        raise UsageError(
            f"{path} lists no image of the classes in {root / 'train'}: unpack TinyImageNet again, all of it"
        )
    _tell_of_classes(root, len(wnid_of) - len(files))
    others = {entry.name for entry in os.scandir(images) if entry.is_file() and not is_hidden(entry.name)} - present
    warn_of_files(images, Counter(Path(name).suffix.lower() for name in others))
    if unlisted := sorted(present - wnid_of.keys()):
        log.warning(
            "%s: images that %s does not list are passed over, %d such as %s",
            images,
            path.name,
            len(unlisted),
            unlisted[0],
        )
    return files


def _names_in(folder: Path) -> list[str]:
    """Names of the images directly in a folder; none where it does not exist."""
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)] if folder.is_dir() else []
    return [entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()]


def _tell_of_classes(where: Path, count: int) -> None:
    """Log that validation images are of classes without training images."""
    if count:
        log.warning("%s: %d validation images are of classes without training images, and left out", where, count)


def _sorted_validation(
    where: Path, wnids: list[str], listed: list[str], wnid_of: dict[str, str]
) -> list[tuple[Path, int]]:
    """The images of val where they were sorted into folders of classes, which agree with what is annotated."""
    files, passed_over = [], Counter[str]()
    for wnid in sorted(_known_folders(where, [*listed, "images"]) & {*listed}):
        for path in _images(where / wnid, passed_over):
            if wnid_of.get(path.name, wnid) != wnid:
                raise UsageError(
                    f"{path} lies in the folder of {wnid}, and val_annotations.txt says {wnid_of[path.name]}: move it, "
                    "or correct the line"
                )
            files.append((path, wnid))
    warn_of_files(where, passed_over)
    missing = sorted(wnid_of.keys() - {path.name for path, _ in files})
    if missing:
        raise UsageError(
            f"{missing[0]}, which val_annotations.txt lists, is in no folder of {where} ({len(missing)} are not): "
            "unpack TinyImageNet again, all of it, or remove val_annotations.txt"
        )
    number = {wnid: place for place, wnid in enumerate(wnids)}
    read = [(path, number[wnid]) for path, wnid in files if wnid in number]
    _tell_of_classes(where, len(files) - len(read))
    if not read:
        raise UsageError(f"{where} has no image of the classes to train on: unpack TinyImageNet again, all of it")
    return sorted(read, key=lambda file: file[1])
