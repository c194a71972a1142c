"""What a caller gives by several spellings: keys that contradict each other, mappings after keys that are in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..arguments import plain_number
from ..errors import UsageError

Given = tuple[str, Any]
"""A dotted key and its value."""


def plain(value: Any) -> Any:
    """Mappings, sequences and paths as a file of YAML has them."""
    if isinstance(value, Mapping):
        return {plain_number(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else plain_number(value)


def check_agreement(given: Iterable[tuple[str, str, Any]]) -> None:
    """Complain of a key that is given twice, with different values, where no order says which is the last.

    Args:
        given: How each was written, as ``lr``, its dotted key and its value.

    Raises:
        UsageError: There is one.

    Example:
        >>> check_agreement([("lr", "train.lr", 0.1), ("train", "train", {"lr": 0.1})])
    """
    before: dict[str, tuple[str, Any]] = {}
    for written, key, value in given:
        for inner, one in _leaves(key, plain(value)):
            other, first = before.setdefault(inner, (written, one))
            if _plain_value(first) and _plain_value(one) and first != one:
                raise UsageError(
                    f"{inner} is given twice, as {first!r} by {other} and as {one!r} by {written}: leave one of them "
                    "out"
                )


def given_below(before: Sequence[Given], key: str, value: Any) -> list[Given]:
    """The keys that were given before a mapping and are below its own: it replaces what a config has there, and not
    what the caller wrote, as far as it does not name the same.

    Args:
        before: In their order.
        key: Of the mapping.
        value: The mapping, or any other value.

    Raises:
        UsageError: A list that is not empty would leave such keys out.
    """
    below = [(one, inner) for one, inner in before if one.startswith(f"{key}.")]
    if below and value and isinstance(value, (list, tuple)):
        raise UsageError(
            f"{key}=[…] comes after {below[0][0]}, which it would leave out: give the list before it, or write it there"
        )
    if not isinstance(value, Mapping):
        return []
    return [(one, inner) for one, inner in below if not _names(value, one.removeprefix(f"{key}.").split("."))]


def _names(value: Any, path: Sequence[str]) -> bool:
    """Whether a mapping says what is at a path."""
    if not path or not isinstance(value, Mapping):
        return True
    inner = {str(name): one for name, one in value.items()}
    return path[0] in inner and _names(inner[path[0]], path[1:])


def _leaves(key: str, value: Any) -> Iterator[Given]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _plain_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_plain_value, value))
    return value is None or isinstance(value, (str, bool, int, float))
