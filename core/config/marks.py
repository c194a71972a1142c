"""Which keys of a config results depend on, and which may change when a run is resumed: marks on the schema's
fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

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


def _mark(key: str, mark: str, data: str | None, default: bool) -> Any:
    """The mark of the first field on the way down to a key that bears it."""
    schemas: list[type[BaseModel]] = [RunConfig]
    for part in key.split("."):
        fields = [schema.model_fields[part] for schema in schemas if part in schema.model_fields]
        for field in fields:
            extra = field.json_schema_extra
            if isinstance(extra, dict) and mark in extra:
                return extra[mark]
        kinds = [field.annotation for field in fields]
        schemas = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if part == "data":
            schemas += _options(data)
    return default


def _options(data: str | None) -> list[type[BaseModel]]:
    """The schema of a data set's options; those of all where it is not known, or is not there any more."""
    try:
        return [DATASETS[data or ""].Options]
    except (ContrastillError, AttributeError):
        return [DATASETS[name].Options for name in DATASETS]
