"""Classes and functions of a user's own: where they are defined, and their errors in one sentence."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ContrastillError

LIBRARIES = ("torch", "timm", "torchvision", "transformers")
"""Whose classes nobody changes between a training and what follows."""


def definition(entry: Any) -> Any:
    """The class or function behind a registered entry, as behind a derived modality its function."""
    if hasattr(entry, "__qualname__"):
        return entry
    function = getattr(entry, "function", None)
    return function if hasattr(function, "__qualname__") else type(entry)


def origin(entry: Any) -> str:
    """Where a registered class or function is defined, as ``my_package.losses.Cosine``."""
    defined = definition(entry)
    return f"{getattr(defined, '__module__', '?')}.{defined.__qualname__}"


def first_line(entry: Any) -> int | None:
    """The line on which the definition of a class or function begins, as far as its functions tell; None where they do
    not.
    """
    defined = definition(entry)
    values = vars(defined).values() if isinstance(defined, type) else (defined,)
    functions = [
        inspect.unwrap(getattr(value, "__func__", value))
        for value in values
        if callable(value) or hasattr(value, "__func__")
    ]
    lines = [
        function.__code__.co_firstlineno
        for function in functions
        if inspect.isfunction(function) and function.__module__ == defined.__module__
    ]
    return min(lines, default=None)


def module_spec(entry: Any) -> Any:
    """What a reload of the module of a class or function renews; None where it cannot be told, as in a script, a
    notebook or a session that is interactive.
    """
    module = getattr(definition(entry), "__module__", "__main__")
    return None if module == "__main__" or hasattr(sys, "ps1") else getattr(sys.modules.get(module), "__spec__", None)


def is_own(entry: Any) -> bool:
    """Whether contrastill itself defines it."""
    return origin(entry).partition(".")[0] == __name__.partition(".")[0]


def error_text(error: BaseException, module: str) -> str:
    """An exception in one line: its class, its message, and the last line of the user's package that it came from.

    Args:
        error: Raised by code of a user's own.
        module: A module of the package whose lines count.
    """
    root = module.partition(".")[0]
    lines = [
        f" ({Path(frame.f_code.co_filename).name}, line {number})"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == root
    ]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{message and f': {message}'}{lines[-1] if lines else ''}"


@contextmanager
def explained(what: str, entry: Any, way_out: str | Callable[[Exception], str] = "") -> Iterator[None]:
    """Within it, an exception of a class or function of the user's own becomes one sentence.

    Args:
        what: Begins the sentence, as "objective cosine of my_package".
        entry: The class or function; errors of contrastill's own stay as they are.
        way_out: The sentence's end, for this error: how it is called, say.

    Raises:
        ContrastillError: The code raised something else.
    """
    try:
        yield
    except ContrastillError:
        raise
    except Exception as error:
        # By name, as torch need not be loaded here.
        if is_own(entry) or type(error).__name__ == "OutOfMemoryError":
            raise
        reason = error_text(error, definition(entry).__module__)
        end = way_out if isinstance(way_out, str) else way_out(error)
        raise ContrastillError(f"{what} fails: {reason}{end and f'; {end}'}") from error
