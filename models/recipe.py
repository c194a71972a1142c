"""What the header of a student's file says: which network it is, how it sees, and what it was trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.predicted_quantity import KEY as QUANTITY
from ..core.predicted_quantity import quantity_of
from ..core.preprocess import Preprocess
from ..core.registry import PRETRAINED, PYTHON_PREFIX, model_builder
from ..core.value_scale import ValueScale
from ..core.weights import find_weights, read_metadata

METADATA = "contrastill"
"""The key of the header."""
TRAINED_SIZE = "trained_size"
"""Height and width of the images of a network's training, before its own resolution; older files have none."""
TRAINED_FOR = ("several_classes", QUANTITY)
"""Keys that say how a network's answers are read; a module in memory has them, and its modality, in an attribute,
``trained_for``.
"""


def recipe_preprocess(recipe: Mapping[str, Any]) -> Preprocess:
    """How a student sees, and what the values of its training were."""
    return Preprocess(
        **recipe["preprocess"],
        colours=recipe.get("modality", "rgb") == "rgb",
        scale=ValueScale.from_recipe(recipe),
    )


def read_recipe(path: os.PathLike) -> dict[str, Any] | None:
    """The recipe, preprocessing and taps in the header of a student's file, as :func:`~.build.save_student` wrote
    them; None where there are none.
    """
    header = read_metadata(path).get(METADATA)
    return None if header is None else tuples(json.loads(header))


def recipe_of(file: Path | None, name: str) -> dict[str, Any]:
    """The recipe where the file is a student of this network, else nothing."""
    recipe = read_recipe(file) if file is not None and file.suffix == ".safetensors" else None
    return recipe if recipe is not None and recipe["model"] == name else {}


def several_classes_of(model: str, weights: str | os.PathLike | None) -> bool | None:
    """Whether the logits of a network with its weights were trained for any number of classes of a sample; None where
    no run trained them.
    """
    trained_for = _trained_for(model, weights)
    return bool(trained_for.get("several_classes")) if trained_for else None


def quantity_by(model: str, weights: str | os.PathLike | None) -> str | None:
    """What a run trained a network with its weights to predict at each position, see
    :func:`~contrastill.core.predicted_quantity.quantity_of`.
    """
    trained_for = _trained_for(model, weights)
    return quantity_of({"num_classes": 1, **trained_for})


def _trained_for(model: str, weights: str | os.PathLike | None) -> Mapping[str, Any]:
    """A recipe, or what a module in memory has of it; empty where no run trained these weights."""
    if weights in (None, PRETRAINED):
        return getattr(model_builder(model, weights), "trained_for", {}) if model.startswith(PYTHON_PREFIX) else {}
    return recipe_of(find_weights(weights), model)


def tuples(value: Any) -> Any:
    """A recipe's lists, as JSON has them, as the tuples they were."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
