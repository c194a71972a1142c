"""Folders of files: what lies in them, hidden files aside, and which of them are called as splits are."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.errors import UsageError
from ...core.value_scale import note_once
from .images import IMAGE_SUFFIXES

_LEFT_BY_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
# Of the names of a split those of the first group that is there count: a test folder beside one for validation.
SPLITS = {"train": (("train", "training"),), "test": (("test", "testing"), ("val", "valid", "validation"))}
# Signs that a folder of folders is something else: other data sets, and runs with their figures.
OTHERS = ("wnids.txt", "cifar-100-python", "config.yaml", "metrics.jsonl")


def is_free(folder: Path) -> bool:
    """Whether it is a folder with no sign of another kind of data."""
    return folder.is_dir() and not any((folder / name).exists() for name in OTHERS)


def has_splits(root: Path) -> bool:
    """Whether a folder in ``root`` is called as a split is; without one to train on ``valid`` and ``validation`` may be
    classes.
    """
    return bool(split_folders(root, "train")) or any(name.lower() in ("test", "val") for name in folders_in(root))


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split, ``train`` or ``Training``, ``test``, ``val`` or ``Validation``; None where there is none.

    Raises:
        UsageError: Two folders could be it.
    """
    folders = split_folders(root, split)
    if len(folders) > 1:
        raise UsageError(
            f"{root} has {' and '.join(path.name for path in folders)}, and either could be the folder to {split} "
            "on: keep one of them there"
        )
    return folders[0] if folders else None


def test_folder(root: Path, train: Path) -> Path:
    """What lies beside the folder of the training split."""
    folder = split_folder(root, "test")
    if folder is None:
        others = [name for name in folders_in(root) if name != train.name]
        add = f"rename {others[0]} to test where it is that" if len(others) == 1 else "add one"
        raise UsageError(
            f"{root} has a folder {train.name}, and none called test or val: {add}, or hold out a part of "
            f"{train.name} with data.path={train}"
        )
    return folder


def split_folders(root: Path, split: str) -> list[Path]:
    """The folders that are called as a split is, in whatever case."""
    folders = folders_in(root)
    groups = ([root / name for name in folders if name.lower() in names] for names in SPLITS[split])
    return next((group for group in groups if group), [])


def folders_in(root: Path) -> list[str]:
    """Names of the folders in ``root``, sorted, without those of operating systems and tools."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name))


def check_links(root: Path) -> None:
    """Refuse links to nothing in a folder: what they stood for would be left out without a word.

    Raises:
        UsageError: There is one.
    """
    with os.scandir(root) as entries:
        broken = sorted(e.name for e in entries if e.is_symlink() and not is_hidden(e.name) and not os.path.exists(e))
    if broken:
        raise UsageError(
            f"{root / broken[0]} is a link to {os.readlink(root / broken[0])}, which is not there: put that back, or "
            "remove the link"
        )


def tell_of_unread(where: Path | str, unread: Sequence[str], read: Sequence[str]) -> None:
    """Log once what of some data is in none of its splits.

    Args:
        where: The data.
        unread: What is not read.
        read: What is.
    """
    if unread:
        more = f" and {len(unread) - 8} more" if len(unread) > 8 else ""
        note_once(f"{where}: what is beside {' and '.join(read)} is not read: {', '.join(unread[:8])}{more}")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the data: hidden, or left there by an operating system or an archive."""
    return name.startswith(".") or name in _LEFT_BY_SYSTEMS


def composed(name: str) -> str:
    """A name with its accents in one form (NFC): macOS may write another one, which looks the same."""
    return unicodedata.normalize("NFC", name)


def walk(root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """The files below ``root`` whose names end so, nothing hidden; a link to a folder around it is not followed."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name) and not _is_loop(os.path.join(folder, name))]
        yield from (
            Path(folder, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")
        )


def _is_loop(path: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(path))]) == target
