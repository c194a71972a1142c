"""Networks by name, with their weights, normalisation and taps; students saved and loaded."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import safe_open
from torch import nn

from ..core.errors import ContrastillError, UsageError
from ..core.registry import MODELS
from ..core.representation import Network, Preprocess, Taps
from ..core.weights import find_weights, load_weights, save_state_dict


def build_network(
    name: str,
    *,
    num_classes: int,
    weights: str | os.PathLike[str] | None = None,
    modality: str = "rgb",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resolution: int | None = None,
    embedding: str | None = None,
    maps: tuple[str, ...] | None = None,
) -> Network:
    """Build a network by its name; what is left out is the network's own.

    Args:
        name: Such as ``resnet20``.
        num_classes: Length of the logits.
        weights: Run folder, .safetensors file or released checkpoint; None leaves the random start.
        modality: The modality it reads.
        mean, std: Of each channel, of values in [0, 1]; as many as the modality has channels.
        resolution: Side in pixels that samples are resized to.
        embedding, maps: Modules it is read at, see :class:`~contrastill.Taps`.

    Raises:
        UsageError: Unknown name or module, weights of another network, mean and std that differ in length.
    """
    builder = MODELS[name]
    channels = {} if mean is None else {"in_chans": len(mean)}
    module = builder(num_classes=num_classes, **channels)
    taps, own = module.taps, module.preprocess
    if (mean is None) != (std is None) or (mean is not None and len(mean) != len(std)):
        raise UsageError(f"mean and std of {name} go together, one number for each channel: {mean} and {std}")
    network = Network(
        module,
        taps=Taps(embedding or taps.embedding, taps.maps if maps is None else tuple(maps), taps.logits),
        preprocess=Preprocess(mean or own.mean, std or own.std, resolution or own.resolution),
        modality=modality,
    )
    network.recipe = {"model": name, "num_classes": num_classes, **channels}
    if weights is not None:
        try:
            load_weights(module, weights)
        except UsageError as error:
            raise UsageError(str(error).replace(type(module).__name__, name)) from error
    return network


def save_student(network: Network, path: str | os.PathLike[str]) -> None:
    """Write the student's own weights, and in the header what is needed to build it again; heads are left out.

    Args:
        network: As :func:`build_network` made it.
        path: The .safetensors file.
    """
    save_state_dict(network.module.state_dict(), path, {"contrastill": json.dumps(network.recipe)})


def load_student(path: str | os.PathLike[str]) -> nn.Module:
    """The student of a run as a plain module, in eval mode.

    Args:
        path: A run folder or its student.safetensors.

    Raises:
        UsageError: There is no such file.
        ContrastillError: The file is damaged or was not written by a run.
    """
    file = find_weights(path)
    try:
        with safe_open(file, "pt") as opened:
            recipe: dict[str, Any] = json.loads((opened.metadata() or {})["contrastill"])
    except Exception as error:
        raise ContrastillError(f"{file} is no student of a run, or damaged: load it with torch into the network it belongs to") from error
    module = MODELS[recipe.pop("model")](**recipe)
    load_weights(module, file)
    return module.eval()
