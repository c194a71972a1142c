"""Whether a network reads the modality that it was trained on, and in which scale that was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..core.config.schema import NetworkConfig
from ..core.errors import UsageError
from ..core.registry import MODALITIES, PRETRAINED
from ..core.user_code import origin
from ..core.value_scale import ValueScale
from ..core.weights import find_weights
from ..models.recipe import read_recipe
from ..xmodal.recorded_modality import is_made_otherwise

log = logging.getLogger(__name__)


def check_trained_modality(entry: NetworkConfig, key: str, *, learns: bool) -> None:
    """Complain where a network reads another modality than the one that its run trained it on.

    Args:
        entry: Of a network with weights that are in a file or run.
        key: Of its section, as ``teachers.0``; empty where it has none.
        learns: Whether it is trained from these weights: then another modality is what they are for, as of a depth
            student that starts from colours, and is only named.

    Raises:
        UsageError: It is to be used as it is; the message names the way out.
    """
    trained = trained_modality(entry)
    if trained == entry.modality:
        return
    if learns:
        log.warning(
            "the weights of %s (%s) were trained on %s, and this training starts from them on %s, with its mean and "
            "std: if that is not meant, set %s.modality=%s",
            key or "the student", entry.weights, trained, entry.modality, key or "student", trained,
        )  # fmt: skip
        return
    raise another_modality(f"{entry.model} of {entry.weights}", trained, entry.modality, key)


def check_modality_of_module(name: str, training: Mapping[str, Any], modality: str, *, learns: bool) -> None:
    """The same of a module in memory that a run trained.

    Args:
        name: Of its class.
        training: What is known of its training, see :func:`~contrastill.models.module_facts.module_training`.
        modality: What it is to read.
        learns: See :func:`check_trained_modality`.

    Raises:
        UsageError: It is to be used as it is, on another modality.
    """
    trained = training.get("modality", modality)
    if trained == modality:
        return
    if not learns:
        raise UsageError(
            f"{name} was trained on {trained}, and reads {modality} here: leave the modality of this teacher out, or "
            f"say modality={trained!r} in a dict of it"
        )
    log.warning(
        "the weights of %s were trained on %s, and this training starts from them on %s, with its mean and std: if "
        "that is not meant, set student_modality=%r",
        name, trained, modality, trained,
    )  # fmt: skip


def warn_of_changed_modality(entry: NetworkConfig) -> None:
    """Say where a modality of the user's own is made otherwise now than in the training of a network's weights."""
    recipe = {} if entry.weights in (None, PRETRAINED) else _recipe(entry)
    if recipe.get("modality") == entry.modality and is_made_otherwise(entry.modality, recipe):
        log.warning(
            "modality %s (%s) is made otherwise now than when %s was trained on it: put its function back as it was, "
            "or train it again",
            entry.modality, origin(MODALITIES[entry.modality]), entry.weights,
        )  # fmt: skip


def another_modality(name: str, trained: str, modality: str, key: str) -> UsageError:
    """The error for a network that reads another modality than it was trained on.

    Args:
        name: What it is called.
        trained: The modality of its training.
        modality: The one that it is to read.
        key: Of its section in the config; empty where it has none.
    """
    way = f"as {key}.modality={trained}" if key else f"which is {trained}"
    return UsageError(f"{name} was trained on {trained}, and reads {modality} here: name its modality, {way}")


def trained_modality(entry: NetworkConfig) -> str:
    """The modality that a network's weights were trained on; where that is not known, the one that it is to read."""
    known = {} if entry.weights in (None, PRETRAINED) else _recipe(entry)
    return known.get("modality", entry.modality)


def trained_scale(entry: NetworkConfig) -> ValueScale | None:
    """What the values of its modality were in the training of a network's weights; None where that is not known."""
    recipe = {} if entry.weights in (None, PRETRAINED) else _recipe(entry)
    return ValueScale.from_recipe(recipe) if recipe.get("modality") == entry.modality else None


def _recipe(entry: NetworkConfig) -> dict[str, Any]:
    """That of the weights in a file or run; empty where there is none."""
    file = find_weights(str(entry.weights))
    return (read_recipe(file) if file.suffix == ".safetensors" else None) or {}
