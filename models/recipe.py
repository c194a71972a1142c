"""What the header of a student's file says: which network it is, how it sees, and what it was trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.predicted_quantity import quantity_of
from ..core.preprocess import Preprocess
from ..core.registry import PRETRAINED
from ..core.value_scale import ValueScale
from ..core.weights import find_weights, read_metadata

METADATA = "contrastill"
"""The key of the header."""


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
    recipe = {} if weights in (None, PRETRAINED) else recipe_of(find_weights(weights), model)
    return bool(recipe.get("several_classes")) if recipe else None


def quantity_by(model: str, weights: str | os.PathLike | None) -> str | None:
    """What a run trained a network with its weights to predict at each position, see
    :func:`~contrastill.core.predicted_quantity.quantity_of`.
    """
    return None if weights in (None, PRETRAINED) else quantity_of(recipe_of(find_weights(weights), model))


def tuples(value: Any) -> Any:
    """A recipe's lists, as JSON has them, as the tuples they were."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
