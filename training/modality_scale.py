"""Whether a teacher reads the modality that it was trained on."""

from __future__ import annotations

from ..core.config.schema import NetworkConfig
from ..core.errors import UsageError
from ..core.weights import find_weights
from ..models.recipe import read_recipe


def check_trained_modality(entry: NetworkConfig) -> None:
    """Complain where a frozen network reads rgb, as by default, and its run trained it on another modality.

    Args:
        entry: Of a network with weights that are in a file or run.

    Raises:
        UsageError: The message names the way out.
    """
    file = find_weights(str(entry.weights))
    recipe = read_recipe(file) if file.suffix == ".safetensors" else None
    trained = (recipe or {}).get("modality", entry.modality)
    if entry.modality == "rgb" != trained:
        raise UsageError(
            f"{entry.model} of {entry.weights} was trained on {trained}, and reads rgb here: name its modality, as "
            f"teachers.0.modality={trained}"
        )
