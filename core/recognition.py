"""Which data sets say that a path is their own."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path

from .errors import UsageError
from .registry import DATASETS
from .user_code import error_text, is_own, origin
from .value_scale import note_once

_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")
_ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|zip|7z|rar|gz|bz2|xz|zst)$", re.IGNORECASE)
# Of the endings of images the usual ones, for a message.
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".webp")
# So many of a folder's files say what it holds.
_FILES = 1000


def recognised(path: str, leaving_out: str | None = None) -> list[str]:
    """Names of the data sets that recognise a path; one of a user's own that fails at it, as a line says, does not.

    Args:
        path: Of a file or folder.
        leaving_out: Name of a data set that is not asked.
    """
    return [name for name, entry in DATASETS.items() if name != leaving_out and _recognises(name, entry, path)]


def check_path_given(source: str, name: str, given: bool) -> None:
    """Refuse the bare name of a data set that is read from a path, and a path of one that is not.

    Args:
        source: What was written, for the message.
        name: A registered data set.
        given: Whether a path stands beside its name.

    Raises:
        UsageError: It is one of both.
    """
    field = DATASETS[name].Options.model_fields.get("path")
    if not given and field is not None and field.is_required():
        raise UsageError(f"{source}: {name} is read from a file or folder; write {name}:PATH")
    if given and field is None:
        raise UsageError(f"{source}: {name} is not read from a file or folder; write {name}")


def unknown_layout(path: str) -> str:
    """That no data set recognises a path, and where in it lies one that is recognised, as in what an archive holds, or
    what in it is not read.
    """
    folders: list[Path] = []
    with suppress(OSError):  # a file, or a folder that may not be read
        folders = sorted(each for each in Path(path).iterdir() if each.is_dir() and not each.name.startswith("."))
    # A split is a part: whoever named it alone would train on samples to test on.
    wholes = [each for each in folders[:8] if each.name.lower() not in _SPLITS]
    inside = next((str(each) for each in wholes if len(recognised(str(each))) == 1), None)
    rest = _unread(Path(path)) if inside is None else f", but {inside} is (name that folder)"
    return f"is of no known layout{rest}"


def _unread(path: Path) -> str:
    """What a path holds in place of data that are read, in brackets; empty where that is not known."""
    if path.is_file():
        what = "an archive is to be unpacked, and the folder that comes of it named"
        what = what if _ARCHIVE.search(path.name) else "of tables and shards name the folder"
        return f" ({what})" if _ARCHIVE.search(path.name) or path.suffix.lower() == ".parquet" else ""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in sorted(names) if name[0] != ".")
    files = [*islice(below, _FILES)]
    packed = next((file for file in files if _ARCHIVE.search(file.name)), None)
    if packed is not None:
        tar = re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", packed.name.lower())
        way = "uncompress shards to .tar, and unpack other archives" if tar else "unpack it, or call shards train-*.tar"
        return f" (it holds {packed.relative_to(path)}: {way})"
    endings = [ending for ending, _ in Counter(file.suffix.lower() for file in files).most_common(3)]
    if not endings or any(ending in _IMAGES for ending in endings):
        return ""
    shown = ", ".join(ending or "no ending" for ending in endings)
    return f" (its files have {shown}; images are read as {', '.join(_IMAGES)})"


def _recognises(name: str, entry: object, path: str) -> bool:
    ask = getattr(entry, "recognises", None)
    if ask is None:
        return False
    what = f"dataset {name} ({origin(entry)}): recognises"
    try:
        answer = ask(path)
    except Exception as error:  # a user's own code may raise anything, and other data sets may know the path
        if is_own(entry):
            raise
        reason = error_text(error, getattr(entry, "__module__", ""))
        note_once(f"{what} fails for {path}, which is not taken for its data: {reason}")
        return False
    if answer is None:
        note_once(f"{what} returns None for {path}, which is not taken for its data: return True or False")
    return bool(answer)
