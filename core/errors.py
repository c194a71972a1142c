"""The two kinds of errors: the work failed, or the usage was wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_DEVICES = {"device", "devices", "gpu", "gpus", "cuda", "cpu", "use_cpu", "use_gpu"}


class ContrastillError(Exception):
    """The work failed: the message is one sentence that names the thing and the way out. Exit code 1."""

    exit_code = 1


class UsageError(ContrastillError, ValueError):
    """Wrong usage: a config, an option or a name that cannot work. Exit code 2."""

    exit_code = 2


class Stopped(ContrastillError):
    """The work was asked to stop, and did so in order. Exit code 128 + the signal's number, as a shell has it."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


@contextmanager
def located(owner: str, place: str = "") -> Iterator[None]:
    """Within it, a UsageError begins with whose it is, as "objective kd", and with its place, as " towards teacher 1";
    without an owner it stays as it is.
    """
    try:
        yield
    except UsageError as error:
        if not owner:
            raise
        text = str(error).removeprefix(owner)
        raise UsageError(f"{owner}{place}{': ' if text == str(error) else ''}{text}") from error


def required(value: T | None, part: str) -> T:
    """``value``, which the caller has asked for.

    Raises:
        UsageError: It is None.
    """
    if value is None:
        raise UsageError(f"there is no {part} here, which an objective reads: declare it in needs or needs_teacher")
    return value


def article(noun: str) -> str:
    """``an objective``, ``a model``."""
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def unknown_name(kind: str, name: str, known: Iterable[str], others: str = "") -> UsageError:
    """The error for a name that does not exist: suggests the nearest ones, else lists them all; and ``others``, unless
    a name is so near that it is meant.
    """
    known = sorted(known)
    hint = nearest(name, known, f"there are {', '.join(known) or 'none'}{others and f', {others}'}.")
    if others and others not in hint and not get_close_matches(name, known, n=1, cutoff=0.8):
        hint = f"{hint.removesuffix('?')}, {others.replace('and', 'or', 1)}?"
    return UsageError(f"{kind} {name!r} does not exist: {hint}")


def device_hint(name: str) -> str:
    """Where a device is chosen, of a setting that is called as one of a device; else empty."""
    if name not in _DEVICES:
        return ""
    return (
        "the device is no setting: it is the GPU where there is one, as Accelerate finds it (CUDA_VISIBLE_DEVICES=1 "
        "chooses another, ACCELERATE_USE_CPU=true the CPU; networks and losses alone are moved by .to(device))"
    )


def nearest(name: str, known: Iterable[str], otherwise: str, prefix: str = "") -> str:
    """``did you mean A or B?`` with the names that are most like this one, ``prefix`` before each; ``otherwise`` where
    none is. The name itself, as of a path that is there and no such thing, is none.
    """
    close = get_close_matches(name, sorted({*known} - {name}), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(prefix + one for one in close)}?" if close else otherwise


def looked_in(path: str | os.PathLike) -> str:
    """Where a relative path was looked for, as a bracket behind it; of an absolute one nothing."""
    return "" if Path(path).expanduser().is_absolute() else f" (in {Path.cwd()})"


def names_beside(path: str | os.PathLike) -> list[str]:
    """What lies in the folder in which ``path`` is looked for, written as ``path`` is; of a folder with very many a
    part. Where there is no such folder, what lies at the same place in folders of a similar name.
    """
    folder, begin = Path(path).expanduser().parent, os.path.dirname(os.fspath(path).rstrip(os.sep))
    try:
        with os.scandir(folder) as entries:
            return [
                os.path.join(begin, entry.name) for entry in islice(entries, 2000) if not entry.name.startswith(".")
            ]
    except (OSError, ValueError):
        parent, name = os.path.split(os.fspath(path).rstrip(os.sep))
        if not name or parent in ("", os.fspath(path)):
            return []
        similar = get_close_matches(parent, names_beside(parent), n=3)
        return [there for each in similar if os.path.exists(os.path.expanduser(there := os.path.join(each, name)))]
