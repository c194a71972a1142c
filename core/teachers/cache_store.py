"""The folder of a teacher cache: which files it has to hold, how they are filled by several processes, and why a folder
does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import write_text
from ..distributed import all_gather_ragged, rank, world_size
from ..errors import ContrastillError, UsageError
from ..fingerprint import network_fingerprint, tensors_hash, text_hash
from ..representation import Network, RepresentationSpec, describe
from ..run import writable_folder
from .cache_shard import CacheShard, FileRows, described
from .codec import TeacherOutputCodec
from .live import Key, LiveTeachers, width
from .same_outputs import near

SEAL = "cache.json"
# Of a view, by which data, seed and augmentation are told from others.
_GLIMPSED = 64


class CacheStore:
    """What the teachers say about every view, one :class:`~.cache_files.CacheShard` for each teacher, part and view.

    An entry's folder is named by a hash of all that its values depend on: the teacher's weights, architecture, taps,
    preprocessing and precision, how the values are kept, the number of samples, and 64 evenly spaced samples as the
    view shows them, which depend on data, seed and augmentation. So one folder serves any number of teachers, data sets
    and seeds, and more views are added to those that are there.

    Two networks of the same weights may still differ, in an attribute or a buffer that is no part of their state: so a
    few of the samples that are kept are asked about again before a view is read, and outputs that differ by more than
    rounding are refused.

    A folder that ``contrastill cache`` wrote is sealed: it is read only, and what is not in it is refused rather than
        asked of a teacher.

    Args:
        root: The folder.
        looking: Asks the teachers.
        packings: By part, how it is kept.
        parts: What is kept.
        told: What the data and views depend on in words, for an error: ``seed``, ``data.crop_padding`` …
        filling: Whether this is the command that fills it, which makes damaged files anew.
    """

    def __init__(
        self,
        root: Path,
        looking: LiveTeachers,
        packings: Mapping[str, TeacherOutputCodec],
        parts: Collection[str],
        told: Mapping[str, Any],
        *,
        filling: bool,
    ) -> None:
        self.root, self._looking, self._packings, self._parts, self._told, self._filling = (
            root,
            looking,
            packings,
            sorted(parts),
            told,
            filling,
        )
        self.sealed = (root / SEAL).is_file() and not filling
        self._repair = "run contrastill cache again with this config" if self.sealed else "the teacher looks again"
        self._teachers = list(looking.transfer.teachers)
        self._fingerprints = [network_fingerprint(teacher) for teacher in self._teachers]
        self._entries: dict[int, dict[Key, CacheShard]] = {}
        self._repeatable = False

    def entries(self, view: int) -> dict[Key, CacheShard]:
        """Where everything about a view has its place."""
        if view not in self._entries:
            shown = self._looking.glimpse(view, _GLIMPSED)
            contents = {
                name: tensors_hash("", [shown["index"], shown[name]])
                for name in {fingerprint.properties["modality"] for fingerprint in self._fingerprints}
            }
            self._entries[view] = {
                (number, part): CacheShard(
                    self.root,
                    self._looking.loader.num_samples,
                    fingerprint.properties
                    | {
                        "part": part,
                        "tap": fingerprint.taps[part],
                        "kept": str(self._packings[part]),
                        "view": str(view),
                        "content": contents[fingerprint.properties["modality"]],
                    },
                    self._told,
                    self._repair,
                )
                for number, fingerprint in enumerate(self._fingerprints)
                for part in self._parts
            }
        return self._entries[view]

    def missing(self, parts: Collection[str]) -> list[tuple[int, Key, int]]:
        """View, teacher and part, and number of each file of all views that is not there; where it is filled, also of
        damaged ones.
        """
        return [
            (view, key, number)
            for view in range(self._looking.loader.views)
            for key, entry in self.entries(view).items()
            if key[1] in parts
            for number in entry.missing(damaged=self._filling)
        ]

    def fill(self, view: int, advance: Callable[[int], None] = lambda count: None) -> int:
        """Write this process's share of the files of a view that are missing; the others write theirs.

        Args:
            view: Number of the view.
            advance: Told how many samples more are done.

        Returns:
            How many files were written here.

        Raises:
            UsageError: See :meth:`check`.
        """
        self.check(view)
        missing = {key: set(entry.missing(damaged=self._filling)) for key, entry in self.entries(view).items()}
        written = 0
        for number, rows in self._dealt(view):
            # Two teachers that are the same share their files.
            wanted = {entry.folder: key for key, entry in self.entries(view).items() if number in missing[key]}
            if wanted:
                self._write(view, number, rows, list(wanted.values()))
            written += len(wanted)
            advance(len(rows))
        return written

    def _dealt(self, view: int) -> Iterator[tuple[int, range]]:
        """Numbers and samples of the files of a view that this process writes: by place, whatever is there, as not all
        may see the same files at one time.
        """
        entry = next(iter(self.entries(view).values()))
        mine = (number for number in range(entry.count) if (view * entry.count + number) % world_size() == rank())
        return ((number, entry.rows(number)) for number in mine)

    def _write(self, view: int, number: int, rows: range, keys: list[Key]) -> None:
        entries, place = self.entries(view), 0
        with ExitStack() as stack:
            puts = {key: stack.enter_context(entries[key].writing(number)) for key in keys}
            for said in self._looking.said(view, torch.arange(rows.start, rows.stop), keys):
                for key, values in said.items():
                    puts[key](place, self._packings[key[1]].pack(values), width(values))
                place += len(next(iter(next(iter(said.values())).values())))

    def wait(self, views: Collection[int]) -> None:
        """Wait until every process has written its share.

        Raises:
            ContrastillError: A process does not see what another one wrote.
        """
        device = self._looking.loader.device
        all_gather_ragged(torch.ones(1, 1, dtype=torch.uint8), device)
        unseen = any(entry.missing() for view in views for entry in self.entries(view).values())
        if all_gather_ragged(torch.tensor([[unseen]], dtype=torch.uint8), device).any():
            raise ContrastillError(
                f"what one process writes to {self.root} another one does not see: name a folder on a disk that "
                "all machines share"
            )

    def open(self, view: int, parts: Collection[str]) -> dict[Key, FileRows]:
        """The rows of a view.

        Raises:
            ContrastillError: A file is damaged.
        """
        return {key: entry.open() for key, entry in self.entries(view).items() if key[1] in parts}

    def check(self, view: int) -> None:
        """Ask the teachers about a few samples of a view that are kept, and compare: two networks of the same weights
        may differ in an attribute.

        Raises:
            UsageError: The outputs that are kept are another network's, or a teacher is random.
        """
        problem = self._problem(view)
        # Raised by all processes or by none, as they go on together.
        if all_gather_ragged(
            torch.tensor([[problem is not None]], dtype=torch.uint8), self._looking.loader.device
        ).any():
            raise problem or UsageError(
                f"train.teacher_cache={self.root}: another process found other outputs in it than its teachers give"
            )

    def _problem(self, view: int) -> UsageError | None:
        """What :meth:`check` raises."""
        files: dict[int, dict[Key, FileRows]] = {}
        for key, entry in self.entries(view).items():
            number, rows = next(
                ((number, rows) for number in range(entry.count) if (rows := entry.file_rows(number)) is not None),
                (0, None),
            )
            if rows is not None:
                files.setdefault(number, {})[key] = rows
        entry = next(iter(self.entries(view).values()))
        for number, kept in files.items():
            samples = entry.rows(number)
            chosen, now = self._looking.some(view, samples, kept)
            for key, each in kept.items():
                pairs = self._packings[key[1]].comparable(
                    now[key], each.at((chosen - samples.start).to(self._looking.loader.device))
                )
                if not all(near(ours, theirs, self._looking.precision(key)) for ours, theirs in pairs):
                    return self._looking.unrepeatable(view, samples, [key]) or UsageError(
                        f"train.teacher_cache={self.root} holds other {key[1]} of the same samples than teacher "
                        f"{key[0]} gives now: they are of a network of the same "
                        "weights that differs in something else, such as an attribute or a buffer that is not "
                        "saved; name another folder, or remove this one"
                    )
        if not files and not self._repeatable:
            if problem := self._looking.unrepeatable(view, entry.rows(0), [*self.entries(view)]):
                return problem
            self._repeatable = True
        return None

    def kept_as(self, part: str) -> str:
        """How a part is kept, in words."""
        return str(self._packings[part])

    def share(self) -> int:
        """Samples, counted once for each view, of which this process writes the files."""
        return sum(len(rows) for view in range(self._looking.loader.views) for _, rows in self._dealt(view))

    def size(self) -> int:
        """Bytes of all views, from what the teachers say about two samples."""
        keys, count = self.entries(0).keys(), min(2, self._looking.loader.num_samples)
        said = next(iter(self._looking.said(0, torch.arange(count), keys)))
        each = (
            sum(field.nbytes for key, values in said.items() for field in self._packings[key[1]].pack(values).values())
            / count
        )
        return round(each * self._looking.loader.num_samples * self._looking.loader.views)

    def refusal(self, parts: Collection[str]) -> UsageError | None:
        """Why a sealed folder cannot be trained from; None where it can."""
        missing = self.missing(parts) if self.sealed else []
        if not missing:
            return None
        view, key, _ = missing[0]
        entry = self.entries(view)[key]
        if any(entry.path(number).is_file() for number in range(entry.count)):
            there = entry.count - len(entry.missing())
            reason = (
                f"is not complete (view {view} has {there} of {entry.count} files of teacher {key[0]}'s "
                f"{key[1]}): run contrastill cache again, which goes on"
            )
        else:
            reason = (
                f"{_difference(self.root, entry, key)}: give the config that it was made with, run "
                "contrastill cache with this one, or name another folder"
            )
        return UsageError(f"train.teacher_cache={self.root} {reason}")

    def seal(self) -> None:
        """Say that the folder is written by the command alone, and how long what the teachers say is; from then on all
        processes may write.
        """
        if rank() == 0:
            self._write_seal()
        all_gather_ragged(torch.ones(1, 1, dtype=torch.uint8), self._looking.loader.device)

    def _write_seal(self) -> None:
        shown = self._looking.glimpse(0, 2)
        specs = {_spec_key(teacher, shown): asdict(describe(teacher, shown)) for teacher in self._teachers}
        writable_folder(self.root)
        write_text(
            self.root / SEAL,
            json.dumps({"written_by": "contrastill cache", "specs": _sealed_specs(self.root) | specs}, indent=1) + "\n",
        )


_NAMES = {
    "kept": "cache.logits and cache.precision",
    "tap": "the tapped modules",
    "content": "the samples as the views show them",
    "samples": "the number of samples",
    "format": "the layout",
}


def _difference(root: Path, entry: CacheShard, key: Key) -> str:
    """How the nearest entry that a folder holds differs from the one that is wanted."""
    found = [each for folder in sorted(root.glob(f"{key[1]}-*")) if (each := described(folder)) is not None]
    if not found:
        return f"holds nothing about {key[1]}"

    def differing(marks: Mapping[str, str]) -> list[str]:
        names = [name for name, value in entry.marks.items() if marks.get(name) != value]
        # Another view is other content, too.
        return [name for name in names if name != "content" or "view" not in names]

    marks, told = min(found, key=lambda each: ("view" in differing(each[0]), len(differing(each[0]))))
    names = differing(marks)
    if names == ["view"]:
        views = sorted({int(one["view"]) for one, _ in found if not set(differing(one)) - {"view"}})
        return (
            f"holds view{'s' * (len(views) > 1)} {', '.join(map(str, views))} and "
            f"train.views={entry.marks['view']} or more are asked for"
        )
    changed = [
        f"{name}: {told.get(name)}, now {value}" for name, value in entry.told.items() if told.get(name) != value
    ]
    shown = [
        _shown(name, marks.get(name), entry.marks[name], key[0]) for name in names if name != "content" or not changed
    ]
    explained = changed if {"content", "samples", "weights", "precision"} & set(names) else []
    return f"was made for something else ({'; '.join([*shown, *explained])})"


def _shown(name: str, kept: str | None, now: str, number: int) -> str:
    """A difference in words."""
    if name in ("weights", "architecture", "preprocessing", "modality", "precision", "class_map", "tap"):
        whose = f"{_NAMES.get(name, f'the {name}')} of teacher {number}"
        return f"{whose} are others" if name == "weights" else f"{whose}: {kept}, now {now}"
    return f"{_NAMES[name]} are others" if name == "content" else f"{_NAMES[name]}: {kept}, now {now}"


def known_spec(root: str | None, teacher: Network, batch: Mapping[str, Tensor]) -> RepresentationSpec | None:
    """The shapes of what a teacher says, where a sealed folder tells them, so that it need not be asked.

    Args:
        root: The folder, or None.
        teacher: The network.
        batch: As :func:`~.representation.describe` takes it.
    """
    found = {} if root is None else _sealed_specs(Path(root)).get(_spec_key(teacher, batch), {})
    return RepresentationSpec(**found | {"map_shapes": tuple(map(tuple, found["map_shapes"]))}) if found else None


def _sealed_specs(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / SEAL).read_text(encoding="utf-8"))["specs"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise ContrastillError(
            f"{root / SEAL} is damaged: run contrastill cache again, or remove the file and the teachers look "
            "again where need be"
        ) from error


def _spec_key(teacher: Network, batch: Mapping[str, Tensor]) -> str:
    """Stands for all that shapes depend on: not the weights."""
    classes = None if teacher.classes is None else len(teacher.classes)
    return text_hash(
        str([str(teacher.module), teacher.taps, teacher.preprocess, classes, tuple(batch[teacher.modality].shape[1:])])
    )
