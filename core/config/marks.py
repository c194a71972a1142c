"""Which keys of a config results depend on, and which may change when a run is resumed: marks on the schema's
fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import ContrastillError
from ..registry import DATASETS
from .schema import RunConfig


def changes_results(key: str, data: str | None = None) -> bool:
    """Whether what a training learns depends on a key; True of one that is unknown.

    Args:
        key: Dotted, such as ``train.lr`` or ``teachers.0.model``.
        data: Name of the data set, whose options are keys below ``data``; None where it is not known.

    Example:
        >>> changes_results("train.lr"), changes_results("train.keep_checkpoints"), changes_results("evaluation.head")
        (True, False, False)
    """
    return bool(_mark(key, "changes_results", data, True))


def resumable(key: str, data: str | None = None) -> bool:
    """Whether a run may be resumed with another value of a key; see :func:`changes_results`.

    Example:
        >>> resumable("out"), resumable("train.lr"), resumable("data.workers", "image_folder")
        (True, False, True)
    """
    return bool(_mark(key, "resumable", data, False))


def decisive(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a flattened config that results depend on, the seed among them."""
    data = flat.get("data.name")
    return {key: value for key, value in flat.items() if changes_results(key, data)}


def is_off(key: str, value: Any, data: str | None = None) -> bool:
    """Whether a value is what a run did before its key existed: the default; of a key that no schema here knows, as an
    objective's own, none, false or nothing.

    Example:
        >>> is_off("train.decay_biases", True), is_off("train.decay_biases", False), is_off("train.ema", None)
        (True, False, True)
    """
    *_, fields = _fields(key, data)
    if not fields:
        return value in (None, False, [])
    return any(not field.is_required() and value == field.get_default(call_default_factory=True) for field in fields)


def _mark(key: str, mark: str, data: str | None, default: bool) -> Any:
    """The mark of the first field on the way down to a key that bears it."""
    for fields in _fields(key, data):
        for field in fields:
            extra = field.json_schema_extra
            if isinstance(extra, dict) and mark in extra:
                return extra[mark]
    return default


def _fields(key: str, data: str | None) -> Iterator[list[FieldInfo]]:
    """The fields that each part of a key can be of, on the way down; none for a part that no schema has."""
    schemas: list[type[BaseModel]] = [RunConfig]
    for part in key.split("."):
        fields = [schema.model_fields[part] for schema in schemas if part in schema.model_fields]
        yield fields
        kinds = [field.annotation for field in fields]
        schemas = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if part == "data":
            schemas += _options(data)


def _options(data: str | None) -> list[type[BaseModel]]:
    """The schema of a data set's options; those of all where it is not known, or is not there any more."""
    try:
        return [DATASETS[data or ""].Options]
    except (ContrastillError, AttributeError):
        return [DATASETS[name].Options for name in DATASETS]
