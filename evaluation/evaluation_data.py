"""The data that runs are evaluated on, and names that a config has."""

from __future__ import annotations

from typing import Any

from ..core.config.schema import ObjectiveConfig, RunConfig
from ..core.config.validation import validate


def location(config: RunConfig) -> str:
    """Path of the data, or the name of a data set without one."""
    return config.data.path or str(config.data.name)


def named_objectives(config: RunConfig) -> list[tuple[str, ObjectiveConfig]]:
    """Registered name and settings of each objective."""
    return [(entry.name or label, entry) for label, entry in config.objectives.items()]


def evaluation_data(config: RunConfig) -> RunConfig:
    """The config with ``evaluation.data`` merged over ``data``; alone, where it names another kind of data set."""
    changes = config.evaluation.data
    if not changes:
        return config
    own = config.data.model_dump(mode="json")
    merged = dict(changes) if changes.get("name", own["name"]) != own["name"] else _merged(own, changes)
    return validate({**config.model_dump(mode="json"), "data": merged})


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**tree, **both}
