"""The keywords of the one call as dotted keys of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.config.loading import with_values
from ..core.config.schema import NetworkConfig, RunConfig, TrainConfig
from ..core.config.stated import plain
from ..core.config.validation import checked
from ..core.errors import UsageError, device_hint, unknown_name
from ..core.registry import OBJECTIVES
from .arguments import networks


def dotted_keys(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as dotted keys of a config."""
    named = {"out", "seed", "data", "teachers", "student", "objectives"}
    dotted: dict[str, Any] = {}
    for key, value in overrides.items():
        if key in TrainConfig.model_fields:
            dotted[f"train.{key}"] = value
        elif "." not in key and (key not in RunConfig.model_fields or key in named):
            section, _, inner = key.partition("_")
            if section in ("data", "student", "cache", "evaluation", "ensemble") and inner:
                raise UsageError(
                    f"keyword of distill {key!r} does not exist: a key of a section is **{{'{section}.{inner}': …}}"
                )
            owners = [name for name, entry in OBJECTIVES.items() if key in entry.Options.model_fields]
            if owners:
                raise UsageError(
                    f"keyword of distill {key!r} does not exist: it is an option of {', '.join(owners)}, as "
                    f"objectives={{'{min(owners, key=len)}': {{'{key}': …}}}}"
                )
            if hint := device_hint(key):
                raise UsageError(f"keyword of distill {key!r} does not exist: {hint}")
            raise unknown_name("keyword of distill", key, {*TrainConfig.model_fields, *RunConfig.model_fields} - named)
        elif isinstance(value, Mapping) and "." not in key:
            dotted |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            dotted[key] = value
    return dotted


def given_keys(
    teacher: Any, student: Any, data: Any, objectives: Any, named: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any]]:
    """How each setting was written, its dotted key and its value."""
    for name, argument in (("teacher", teacher), ("student", student), ("data", data)):
        if isinstance(argument, Mapping):
            yield name, "teachers.0" if name == "teacher" else name, argument
    if isinstance(objectives, Mapping):
        for label, entry in objectives.items():
            yield "objectives", f"objectives.{label}" + ("" if isinstance(entry, Mapping) else ".weight"), entry
    keys = {"student_modality": "student.modality", "embedding": "student.embedding"}
    if len(networks(teacher)) == 1:  # to several it is what those have that say nothing of their own
        keys["teacher_modality"] = "teachers.0.modality"
    yield from ((name, keys[name], value) for name, value in named.items() if name in keys and value is not None)
    for name, value in overrides.items():
        yield name, f"train.{name}" if name in TrainConfig.model_fields else name, value


def network_keys(settings: Mapping[str, Any], network: str) -> dict[str, Any]:
    """What dotted keys say of a network, such as ``student`` or ``teachers.0``, but for its name: as a dict of it has
    that.

    Raises:
        UsageError: An unknown key, or a value that is not allowed.
    """
    below = {key.removeprefix(f"{network}."): value for key, value in settings.items() if key.startswith(f"{network}.")}
    keys = {key: value for key, value in below.items() if "." not in key and key != "model"}
    if keys:
        checked(NetworkConfig, {"model": "", **plain(keys)}, f"{network}.")
    return keys


def with_network_keys(
    teachers: list[dict[str, Any]], student: dict[str, Any], settings: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The entries of teachers and student as the config will have them: with all that dotted keys say of them.

    Raises:
        UsageError: An unknown key, a value that is not allowed, or a network without a name.
    """
    below = {key: value for key, value in settings.items() if key.partition(".")[0] in ("teachers", "student")}
    if not below:
        return teachers, student
    tree = with_values({"teachers": teachers, "student": student}, below)
    for number, entry in enumerate(tree["teachers"]):
        checked(NetworkConfig, entry, f"teachers.{number}.")
    checked(NetworkConfig, tree["student"], "student.")
    return tree["teachers"], tree["student"]
