"""Whether a network reads the modality that it was trained on, and in which scale that was."""

from __future__ import annotations

from typing import Any

from ..core.config.schema import NetworkConfig
from ..core.errors import UsageError
from ..core.registry import PRETRAINED
from ..core.value_scale import ValueScale
from ..core.weights import find_weights
from ..models.recipe import read_recipe


def check_trained_modality(entry: NetworkConfig) -> None:
    """Complain where a frozen network reads rgb, as by default, and its run trained it on another modality.

    Args:
        entry: Of a network with weights that are in a file or run.

    Raises:
        UsageError: The message names the way out.
    """
    trained = _recipe(entry).get("modality", entry.modality)
    if entry.modality == "rgb" != trained:
        raise UsageError(
            f"{entry.model} of {entry.weights} was trained on {trained}, and reads rgb here: name its modality, as "
            f"teachers.0.modality={trained}"
        )


def trained_scale(entry: NetworkConfig) -> ValueScale | None:
    """What the values of its modality were in the training of a network's weights; None where that is not known."""
    recipe = {} if entry.weights in (None, PRETRAINED) else _recipe(entry)
    return ValueScale.from_recipe(recipe) if recipe.get("modality") == entry.modality else None


def _recipe(entry: NetworkConfig) -> dict[str, Any]:
    """That of the weights in a file or run; empty where there is none."""
    file = find_weights(str(entry.weights))
    return (read_recipe(file) if file.suffix == ".safetensors" else None) or {}
