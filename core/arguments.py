"""Arguments of public functions as the kinds that the functions work with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import UsageError


def path_list(value: Any, argument: str, kind: str, example: str) -> list[str]:
    """One path or several as a list of text.

    Args:
        value: A path, or several.
        argument: The argument's name, for the message.
        kind: What the paths are, ``"run folder"``.
        example: A path for the message.

    Raises:
        UsageError: There is none, or something else than paths.
    """
    single = isinstance(value, (str, os.PathLike))
    values = [value] if single else list(value) if _several(value) else None
    if values is None or not all(isinstance(path, (str, os.PathLike)) for path in values):
        raise UsageError(f"{argument} is {value!r}: pass a path or a list of paths, such as {example}")
    if not values:
        raise UsageError(f"{argument} is empty: name at least one {kind}, such as {example}")
    return [os.fspath(path) for path in values]


def plain_number(value: Any) -> Any:
    """A number of numpy or a tensor of one number as Python's own; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping))
