"""``tiny_imagenet``: the official folder of TinyImageNet, or a part of it, all of it in memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from pydantic import Field

from ..core.config.fields import Side
from ..core.errors import ContrastillError, UsageError, looked_in
from ..core.registry import DATASETS
from .io.folders import is_hidden
from .io.images import IMAGE_SUFFIXES, read_square
from .io.in_memory import AugmentOptions, TensorSplit
from .io.views import PaddedImages

_FOLDER = "tiny-imagenet-200"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz")
_AT_ONCE = 256


@DATASETS.register("tiny_imagenet")
class TinyImageNet:
    """TinyImageNet (Stanford CS231n): 200 classes of ImageNet, 64×64; 500 training and 50 validation images each.

    The validation images, the split ``test``, lie in one folder: their classes are read from val_annotations.txt. A
    class is one that wnids.txt lists and that has training images, in the order of wnids.txt, so that a part of the set
    is read as it is; its name is that of words.txt. Greyscale images become RGB.

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
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: unpack TinyImageNet again, all of it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ContrastillError(f"{path} cannot be read as text: unpack TinyImageNet again ({error})") from error


def _classes(root: Path) -> list[str]:
    """The wnids that have training images, in the order of wnids.txt."""
    listed = [line.strip() for line in _lines(root / "wnids.txt")]
    if not (root / "train").is_dir():
        raise UsageError(f"{root} has no folder train: unpack TinyImageNet again, all of it")
    folders = {entry.name for entry in os.scandir(root / "train") if entry.is_dir() and not is_hidden(entry.name)}
    strange = sorted(folders - set(listed))
    if strange:
        raise UsageError(
            f"{root / 'train' / strange[0]} is not in wnids.txt: the folder is not, or not only, TinyImageNet"
        )
    if not folders:
        raise UsageError(f"{root / 'train'} has no folders of classes: unpack TinyImageNet again, all of it")
    return [wnid for wnid in listed if wnid in folders]


def _names(root: Path, wnids: list[str]) -> list[str]:
    """Names of the classes, from words.txt where it knows them."""
    words = (
        dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
        if (root / "words.txt").is_file()
        else {}
    )
    return [words.get(wnid, wnid).strip() for wnid in wnids]


def _training(root: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """The images and their classes, by class, then name."""
    files = []
    for target, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        names = (
            sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES))
            if folder.is_dir()
            else []
        )
        if not names:
            raise UsageError(f"{folder} has no images: unpack TinyImageNet again, or remove {folder.parent}")
        files += [(folder / name, target) for name in names]
    return files


def _validation(root: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """The images that val_annotations.txt lists of these classes, in its order."""
    number, path = {wnid: place for place, wnid in enumerate(wnids)}, root / "val" / "val_annotations.txt"
    listed = {line.strip() for line in _lines(root / "wnids.txt")}
    files = []
    for place, line in enumerate(_lines(path), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if wnid not in listed:
            raise UsageError(
                f"{path}, line {place}: {wnid or line.strip()!r} is not in wnids.txt; a line is the file's name, "
                "its wnid and its box, with tabs between"
            )
        if wnid in number:
            files.append((root / "val" / "images" / name, number[wnid]))
    if not files:
        raise UsageError(
            f"{path} lists no image of the classes in {root / 'train'}: unpack TinyImageNet again, all of it"
        )
    return files
