"""The two ways contrastill says no: the work failed, or it was asked for in the wrong way."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ContrastillError(Exception):
    """The work failed: the message is one sentence that names the thing and the way out. Exit code 1."""

    exit_code = 1


class UsageError(ContrastillError, ValueError):
    """It was asked for in a way that cannot work (config, option, name). Exit code 2."""

    exit_code = 2


class Stopped(ContrastillError):
    """The work was asked to stop, and did so in order. Exit code 128 + the signal's number, as a shell has it."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist: suggests the nearest ones, else lists them all."""
    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known) or 'none'}."
    return UsageError(f"{kind} {name!r} does not exist: {hint}")
