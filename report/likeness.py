"""What two runs have to have in common for a comparison: student, data, and the networks evaluated beside it."""

from __future__ import annotations

import json
from typing import Any

from ..core.config.marks import changes_results
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.run_data import compared_splits
from .transfers import resolution_text


def training_setting(config: RunConfig) -> tuple[Any, ...]:
    """What a baseline has in common with the student that it is compared with."""
    return _student(config), _data(config), config.train.epochs


def evaluated_beside(config: RunConfig, role: str) -> tuple[Any, ...]:
    """What the score of a network depends on that was evaluated beside a student: every setting of it."""
    teachers = [_settings_of(network) for network in config.teachers]
    return _student(config), _data(config), teachers, role == "teacher" or _settings_of(config.student, weights=None)


def _settings_of(network: NetworkConfig, **changes: Any) -> dict[str, Any]:
    """Those of a network, alike where a square is given by its side or by both."""
    return network.model_dump() | {"resolution": resolution_text(network)} | changes


def shared_splits(first: RunConfig, other: RunConfig) -> tuple[str, ...]:
    """Those in which the samples of two runs are compared."""
    alike = first.train.validation == other.train.validation
    return compared_splits(first.train.validation if alike else None)


def _student(config: RunConfig) -> tuple[str, str]:
    return config.student.model, config.student.modality


def _data(config: RunConfig) -> str:
    """The data, whatever modality is read from them; a file that was moved has mostly the same name."""
    values = config.data.model_dump(mode="json") | {
        "path": config.data.path and config.data.path.rstrip("/").rpartition("/")[2]
    }
    name = config.data.name
    return json.dumps(
        {key: value for key, value in values.items() if changes_results(f"data.{key}", name)}, sort_keys=True
    )


def same_test(first: RunConfig, other: RunConfig, *, recorded: bool) -> bool:
    """Whether two runs were tested on the same samples, however many each was trained on.

    Args:
        first: The config of the one.
        other: That of the other.
        recorded: Whether both record how many samples they were tested on, which are compared apart from this; else
            a limit is taken to be of these too.
    """
    limits = [config.data.options().get("limit") for config in (first, other)]
    if not recorded and limits[0] != limits[1]:
        return False
    data = [
        {
            key: value
            for key, value in config.data.model_dump(mode="json").items()
            if not key.startswith("train") and changes_results(f"data.{key}", config.data.name)
        }
        for config in (first, other)
    ]
    return _path_free(data[0]) == _path_free(data[1])


def _path_free(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("path", "limit")} | {
        "path": str(values.get("path") or "").rpartition("/")[2]
    }
