"""Folders that would be classes, and seem to be splits that are not called train, test or val."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import UsageError
from .folders import SPLITS, folders_in, is_hidden
from .images import IMAGE_SUFFIXES

# Short words may be classes (te and tr are languages): they count where the folders hold the same folders as well.
_SHORT = {"train": ("tr", "trn", "learn", "learning"), "test": ("te", "tst", "eval", "evaluate", "evaluation", "dev")}
_AFFIXES = ("data", "dataset", "datasets", "set", "sets", "split", "images", "imgs")
_UNLESS = "where they are classes, set data.folders_are_classes=true"


def check_no_splits(root: Path, classes: Sequence[str]) -> None:
    """Refuse folders that are splits under other names, such as ``seg_train`` and ``seg_test`` or ``fold1`` and
    ``fold2``, or that hold splits: they would be classes.

    Raises:
        UsageError: There are some.
    """
    pair = pair_of_splits(classes)
    if pair is None:
        pair = pair_of_splits(classes, short=True)
        pair = pair if pair and _shared_folders(root, pair) else None
    if pair:
        raise UsageError(
            f"{root} has folders {pair[0]} and {pair[1]}, which are splits rather than classes: call them train and "
            f"test; {_UNLESS}"
        )
    # A few say enough: a folder may have thousands.
    holding = {name: inner for name in classes[:8] if (inner := pair_of_splits(folders_in(root / name)))}
    if len(holding) > 1 and all(
        holds_pictures(root / name / split) for name, inner in holding.items() for split in inner
    ):
        name, (train, test) = next(iter(holding.items()))
        raise UsageError(
            f"{root} has splits in each class ({name}/{train}, {name}/{test}), and the layout is train/CLASS beside "
            f"test/CLASS: move {name}/{train} to train/{name} and {name}/{test} to test/{name}, and so on; to hold out "
            "a share of all images instead, set data.folders_are_classes=true"
        )
    if holding:
        name = next(iter(holding))
        raise UsageError(f"{root / name} holds splits, so it is no class: set data.path={root / name}; {_UNLESS}")
    shared = _shared_folders(root, classes)
    numbered = len({re.sub(r"\d+", "", name) for name in classes}) == 1
    # Many classes may each hold the same few folders, by year or by camera; splits are few, or numbered, or hold more.
    if len(classes) > 1 and len(shared) > 1 and (len(classes) <= 3 or len(classes) <= len(shared) or numbered):
        raise UsageError(
            f"{root} has folders {_some(classes)}, which hold no images but the same folders ({_some(shared)}), as "
            f"splits do and classes seldom: call them train and test (or val), or read one alone with "
            f"data.path={root / classes[0]}; {_UNLESS}"
        )


def holds_pictures(folder: Path) -> bool:
    """Whether images lie directly in a folder."""
    with os.scandir(folder) as entries:
        return any(
            entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(entry.name) and entry.is_file()
            for entry in entries
        )


def pair_of_splits(names: Sequence[str], *, short: bool = False) -> tuple[str, str] | None:
    """The first names of a training split and of another that differ in the word of the split, in digits and in
    affixes alone.
    """
    # What is left of a name without the word of a split -> the name.
    left: dict[str, dict[tuple[str, ...], str]] = {}
    for split, groups in SPLITS.items():
        words = [*(word for group in groups for word in group), *(_SHORT[split] if short else ())]
        named = re.compile(f"(?:data)?(?:{'|'.join(words)})(?:{'|'.join(_AFFIXES)})?")
        left[split] = {}
        for name in names:
            # TrainSet are two words.
            parts = re.findall(r"[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
            for place in (place for place, part in enumerate(parts) if named.fullmatch(part)):
                rest = (*parts[:place], "*", *parts[place + 1 :])
                left[split].setdefault(tuple(part for part in rest if part not in _AFFIXES), name)
    return next(((name, left["test"][rest]) for rest, name in left["train"].items() if rest in left["test"]), None)


def _shared_folders(root: Path, names: Sequence[str]) -> list[str]:
    """Names of the folders that all of these hold, where they are two or more and no image lies beside them."""
    shared: set[str] | None = None
    for name in names:
        inner = {*folders_in(root / name)}
        shared = inner if shared is None else shared & inner
        if len(shared) < 2 or holds_pictures(root / name):
            return []
    return sorted(shared or ())


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
