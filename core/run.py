"""A run's folder: config.yaml, versions.json, weights.json, metrics.jsonl, checkpoints/, student.safetensors,
curves.png.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from .atomic import write_text
from .config.marks import is_off, resumable
from .data_facts import SHOWN_FACTS, compared_facts
from .errors import UsageError
from .full_disk import room_for
from .home import expanded

log = logging.getLogger(__name__)


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there yet.

    Raises:
        UsageError: It cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(f"{path} cannot be written to as a folder ({error.strerror}): choose another") from error
    return path


class Run:
    """The folder of a run.

    Args:
        path: The folder; made when the first thing is written.

    Attributes:
        problems: Sentences about what its readers met missing or damaged, and left out.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(expanded(path))
        self.config = self.path / "config.yaml"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student.safetensors"
        self.best_student = self.path / "student_best.safetensors"
        self.adaptors = self.path / "adaptors.safetensors"
        self.curves = self.path / "curves.png"
        self.data = self.checkpoints / "data.json"
        self.weights = self.path / "weights.json"
        self.problems: list[str] = []

    @property
    def finished(self) -> bool:
        """Whether its student is there."""
        return self.student.is_file()

    def claim(self, config_yaml: str, data: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Make the folder for this config and these data, or check that it is theirs.

        Args:
            config_yaml: The resolved config.
            data: Facts that identify the data of each split; None: they are not checked.

        Raises:
            UsageError: It holds a run with another config or of other data; the run stays as it is.
        """
        if self.config.exists():
            from .config.yaml_values import read_resolved

            try:
                before = read_resolved(self.config)
            except UsageError as error:
                raise UsageError(f"{error}; put it back, choose another out=…, or remove the folder") from error
            changed = _changed_lines(before, config_yaml)
            if changed:
                raise UsageError(
                    f"{self.path} holds a run with other settings ({changed}): choose another out=…, or remove "
                    "the folder"
                )
        if data is not None and self.data.exists():
            self._check_data(data)
        writable_folder(self.path)
        with self.room_for(self.config.name, len(config_yaml)):
            if not self.config.exists() or self.config.read_text(encoding="utf-8") != config_yaml:
                write_text(self.config, config_yaml)
            if data is not None and not self.data.exists():
                self.checkpoints.mkdir(exist_ok=True)
                write_text(self.data, json.dumps(data, indent=1) + "\n")
        for leftover in self.path.glob(".*.tmp"):  # of a write that a kill cut off
            leftover.unlink()

    def abandon(self) -> None:
        """Undo :meth:`claim` and :meth:`record` of a training that was refused before its first step."""
        for path in (self.config, self.versions, self.data, self.weights):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path):
            with suppress(OSError):  # something else is in it
                folder.rmdir()

    def record(self, versions: Mapping[str, str], command: str | None = None) -> None:
        """Append the software versions and the command to versions.json, unless its last entry has these versions.

        Args:
            versions: As :func:`~.versions.versions` returns them.
            command: The command line or call that trains the run, if it is known.
        """
        entries = self.version_entries()
        if entries and _versions_of(entries[-1]) == _versions_of(versions):
            return
        entry = {**versions, **({} if command is None else {"command": command})}
        with self.room_for(self.versions.name):
            write_text(self.versions, json.dumps([*entries, entry], indent=1) + "\n")

    def latest_versions(self) -> dict[str, str]:
        """The software versions that the run was last trained with; empty where they are not recorded."""
        entries = self.version_entries()
        return {name: value for name, value in entries[-1].items() if name != "command"} if entries else {}

    def version_entries(self) -> list[dict[str, str]]:
        """The entries of versions.json, oldest first; none where the file is missing or damaged."""
        entries = self.read_json(self.versions.name)
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def read_json(self, name: str) -> Any:
        """A JSON file of the run; None where there is none, or where it is damaged, which :attr:`problems` says."""
        return read_json(self.path / name, self.problems)

    def data_facts(self) -> dict[str, dict[str, Any]]:
        """The facts that identify the data of each split; none where they are not recorded, or damaged."""
        try:
            return json.loads(self.data.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse data that the run did not begin with."""
        try:
            recorded = json.loads(self.data.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self.data}, which tells this run's data from others, is damaged: remove it to go on with those given"
            ) from error
        now = {name: compared_facts(recorded.get(name, {}), facts) for name, facts in data.items()}
        before, now = flatten(recorded), flatten(now)
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                split, _, fact = key.partition(".")
                counts = f" ({before.get(key)}, now {now.get(key)})" if fact in SHOWN_FACTS else ""
                raise UsageError(
                    f"the data changed since {self.path} began: {fact} of {split or 'the data'} differ{counts}; "
                    "resume it with the data it began with, "
                    f"choose another out=…, or remove {self.data} to go on with these all the same"
                )

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, by epoch.

        A last line that was cut off is left out silently, as a training in progress leaves it so; :attr:`problems`
        says which others cannot be read.
        """
        try:
            lines = self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else []
        except OSError as error:
            self._note(f"{self.metrics.name} cannot be read: {error.strerror}.")
            return []
        rows, damaged = [], []
        for place, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode("utf-8")) if line.strip() else None
            except ValueError:
                row = ...
            if isinstance(row, dict) and isinstance(row.get("epoch"), int):
                rows.append(row)
            elif row is not None and place < len(lines):
                damaged.append(place)
        if damaged:
            several = len(damaged) > 1
            shown = f"{', '.join(map(str, damaged[:5]))}{' and more' if len(damaged) > 5 else ''}"
            self._note(
                f"Line{'s' * several} {shown} of {self.metrics.name} cannot be read and {'are' if several else 'is'} "
                "left out."
            )
        return sorted(rows, key=lambda row: row["epoch"])

    def rewind(self, epoch: int) -> None:
        """Remove the rows from ``epoch`` on: they were written after the checkpoint that a run resumes from.

        A line says which before it are not there.
        """
        rows = [row for row in self.history() if row["epoch"] < epoch]
        lost = sorted({*range(epoch)} - {row["epoch"] for row in rows})
        if lost:
            epochs = ", ".join(map(str, lost[:5])) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            log.warning(
                "%s lacks the row%s of epoch %s, as if removed or damaged, so what was measured there is not known: "
                "put the file back, or train anew with another out=…",
                self.metrics,
                "s" * (len(lost) > 1),
                epochs,
            )
        if self.metrics.exists():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            with self.room_for(self.metrics.name, len(text)):
                write_text(self.metrics, text)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, completely or not at all.

        Raises:
            FullDisk: There is no room for it.
        """
        line = (json.dumps(row) + "\n").encode()
        # Without a buffer, so that what could not be written is not tried again when the file is closed.
        with self.room_for(f"a row of {self.metrics.name}", len(line)), open(self.metrics, "ab", buffering=0) as file:
            before = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError:
                file.truncate(before)
                raise

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def room_for(self, what: str, needed: int | None = None) -> AbstractContextManager[None]:
        """:func:`~.full_disk.room_for` something in this folder."""
        return room_for(what, self.path, self.checkpoints, needed)


def _versions_of(entry: Mapping[str, str]) -> dict[str, str]:
    """What two entries of versions.json are compared by: neither when nor how the training was started."""
    return {name: value for name, value in entry.items() if name not in ("date", "command")}


def read_json(path: Path, problems: list[str]) -> Any:
    """A JSON file; None where there is none, or where it is damaged, which is noted once.

    Args:
        path: The file.
        problems: Takes the note, a sentence.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        note = f"{path.name} is damaged and left out ({type(error).__name__})."
        if note not in problems:
            problems.append(note)
        return None


def walk_runs(path: str | os.PathLike[str], depth: int) -> Iterator[Path]:
    """A folder and those below it, down to ``depth`` levels and to the runs, whose own folders are not entered.

    Names are in natural order, ``seed-9`` before ``seed-10``; hidden folders, and those that cannot be read, are left
    out.
    """
    path = Path(path)
    yield path
    if depth == 0 or Run(path).config.is_file():
        return
    try:
        children = [child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")]
    except OSError:
        return
    for child in sorted(children, key=_natural):
        yield from walk_runs(child, depth - 1)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _changed_lines(old: Mapping[str, Any], new: str) -> str:
    """The first key whose value differs between two resolved configs, as ``train.epochs: 240, now 15``."""
    from .config.yaml_values import read_written, values_of

    before, after = flatten(old), flatten(values_of(read_written(new)))
    data = after.get("data.name")
    for key in [*before, *after]:
        # A run that was begun before a key existed did what its being off means.
        added = key not in before and is_off(key, after[key], data)
        if not (added or _same(before.get(key), after.get(key))) and not resumable(key, data):
            return f"{key}: {before.get(key)}, now {after.get(key)}"
    return ""


def _same(before: Any, now: Any) -> bool:
    """Whether two values of a key are one, however a number is written in the file: ``'8'`` and ``0_8`` are 8."""
    from .config.yaml_values import parse_scalar

    return now == (parse_scalar(before) if isinstance(before, str) and isinstance(now, (int, float)) else before)


def flatten(tree: Any, prefix: str = "", *, plain_lists: bool = False) -> dict[str, Any]:
    """A nested tree as one level of dotted keys.

    Args:
        tree: Dicts and lists of values.
        prefix: Before each key.
        plain_lists: Keep a list that holds no dict as one value, as an override of a config gives it.
    """
    if isinstance(tree, dict):
        pairs = list(tree.items())
    elif isinstance(tree, list) and (not plain_lists or any(isinstance(value, dict) for value in tree)):
        pairs = list(enumerate(tree))
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key), plain_lists=plain_lists)
    return flat
