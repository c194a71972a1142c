"""The command that makes a run again: the shipped config that is nearest, and the overrides that lead from it to the
run's own.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..run import flatten
from .loading import find_config, load_config, shipped_configs
from .schema import RunConfig

_ROUNDS = 4
"""Overrides bring keys with them whose defaults differ in turn: an objective its options, a teacher its
preprocessing.
"""


def command_of(config: RunConfig) -> str | None:
    """The shortest ``contrastill train SHIPPED key=value…`` whose resolved config is this one; None where no shipped
    config leads to it.

    Example:
        >>> command_of(load_config("teachers/rooms", ["student.model=resnet8", "train.epochs=3", "out=runs/small"]))
        'contrastill train teachers/rooms out=runs/small student.model=resnet8 train.epochs=3'
    """
    wanted = flatten(config.model_dump(mode="json"), plain_lists=True)
    found = [
        (len(overrides), name, overrides)
        for name in shipped_configs()
        if (overrides := _overrides(name, wanted)) is not None
    ]
    if not found:
        return None
    _, name, overrides = min(found)
    return shlex.join(["contrastill", "train", name, *overrides])


def _overrides(name: str, wanted: Mapping[str, Any]) -> list[str] | None:
    """What leads from a shipped config to the wanted values; None where nothing does."""
    given = _unset(name, wanted)
    for _ in range(_ROUNDS):
        try:
            config = load_config(name, [f"{key}={_text(value)}" for key, value in given.items()])
        except UsageError:
            return None
        there = flatten(config.model_dump(mode="json"), plain_lists=True)
        if there == wanted:
            return [f"{key}={_text(value)}" for key, value in sorted(given.items(), key=_order)]
        given |= _differences(there, wanted)
    return None


def _unset(name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Values for what the config leaves to its reader, and the data's name where its files are not here to be
    recognised.
    """
    from omegaconf import OmegaConf

    tree = OmegaConf.load(find_config(name))
    given = {key: wanted[key] for key in (_dotted(key) for key in OmegaConf.missing_keys(tree)) if key in wanted}
    path = wanted.get("data.path")
    if tree.data.get("name") is None and (path is None or not os.path.exists(path)):
        given["data.name"] = wanted["data.name"]
    return given


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides for what is missing, other or too much."""
    given = {
        key: value for key, value in wanted.items() if there.get(key, _ABSENT) != value and not _has_inner(key, there)
    }
    for key in there:
        section, _, rest = key.partition(".")
        if section == "objectives" and not any(
            other.startswith(f"objectives.{rest.split('.')[0]}.") for other in wanted
        ):
            given[f"objectives.{rest.split('.')[0]}"] = None
    # An objective or teacher that is new brings its defaults: what differs from them is said in the next round.
    new = {head for key in given if (head := _head(key)) and not any(other.startswith(f"{head}.") for other in there)}
    return {key: value for key, value in given.items() if _head(key) not in new or _names(key, value)}


_ABSENT = object()


def _has_inner(key: str, there: Mapping[str, Any]) -> bool:
    """Whether a key that holds nothing here has keys below it there."""
    return any(other.startswith(f"{key}.") for other in there)


def _head(key: str) -> str | None:
    """``objectives.kd`` of objectives.kd.weight, ``teachers.1`` of teachers.1.model."""
    parts = key.split(".")
    return ".".join(parts[:2]) if parts[0] in ("objectives", "teachers") and len(parts) > 2 else None


def _names(key: str, value: Any) -> bool:
    """Whether it is what brings an objective or teacher in: its weight, and its name where it stands under another; its
    model.
    """
    section, label, last = key.split(".", 2)
    return last == "model" if section == "teachers" else last == "weight" or (last == "name" and value != label)


def _order(entry: tuple[str, Any]) -> tuple:
    """Teachers by their number and model first, as a list grows by its next number."""
    parts = entry[0].split(".")
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, "" if part == "model" else part) for part in parts
    ], entry[0]


def _text(value: Any) -> str:
    """A value as an override has it."""
    from yaml import safe_dump

    text = safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def _dotted(key: str) -> str:
    return key.replace("[", ".").replace("]", "")
