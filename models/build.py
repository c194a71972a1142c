"""From a network's name to a :class:`~contrastill.core.representation.Network`, and a trained student to and from its file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from torch import nn

from ..core.errors import ContrastillError, UsageError
from ..core.registry import MODELS
from ..core.representation import Network, Preprocess, Taps
from ..core.weights import find_weights, load_weights, read_metadata, save_state_dict

_METADATA = "contrastill"


def build_network(
    name: str,
    *,
    num_classes: int,
    weights: str | os.PathLike | None = None,
    modality: str = "rgb",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resolution: int | tuple[int, int] | None = None,
    embedding: str | None = None,
    maps: tuple[str, ...] | None = None,
) -> Network:
    """Build a registered network, with its own taps and preprocessing where nothing else is given.

    Args:
        name: Such as ``resnet20``.
        num_classes: Length of its logits.
        weights: Run folder, ``.safetensors`` file or released checkpoint; None leaves it untaught.
        modality: Key of the batch that it reads.
        mean: A mean for each channel, of values in [0, 1]; their number is that of the network's input channels.
        std: A standard deviation for each channel, of values in [0, 1].
        resolution: Side, or (height, width), in pixels, that samples are resized to.
        embedding: Module whose output is the embedding, or ``input:MODULE``.
        maps: Modules whose outputs are the feature maps.

    Raises:
        UsageError: No such network, module or file; only one of ``mean`` and ``std``; weights of another network.
        ContrastillError: The file of weights is damaged or refused.

    Example:
        >>> network = build_network("resnet20", num_classes=10)
        >>> sum(parameter.numel() for parameter in network.parameters())
        272474
    """
    builder = MODELS[name]
    if (mean is None) != (std is None):
        raise UsageError(f"{name} was given {'std' if mean is None else 'mean'} alone: give mean and std together")
    options = {"num_classes": num_classes, "in_chans": 3 if mean is None else len(mean)}
    module = builder(**options)
    own: Preprocess = module.preprocess
    if weights is not None:
        load_weights(module, weights, name=name)
    network = Network(
        module,
        taps=Taps(embedding or module.taps.embedding, module.taps.maps if maps is None else tuple(maps), module.taps.logits),
        preprocess=Preprocess(
            tuple(mean or own.mean),
            tuple(std or own.std),
            own.resolution if resolution is None else resolution,
        ),
        modality=modality,
    )
    network.recipe = {"model": name, **options}
    return network


def save_student(network: Network, path: str | os.PathLike) -> None:
    """Write a network's weights as safetensors, with what :func:`load_student` needs to build it again in the header.

    Args:
        network: Made by :func:`build_network`.
        path: The file.

    Raises:
        UsageError: The network was not made by :func:`build_network`.
    """
    recipe = getattr(network, "recipe", None)
    if recipe is None:
        raise UsageError("only a network of build_network can be saved as a student: for another module save its state_dict")
    made = {**recipe, "modality": network.modality, "preprocess": asdict(network.preprocess), "taps": asdict(network.taps)}
    save_state_dict(network.module.state_dict(), path, metadata={_METADATA: json.dumps(made)})


def load_student(run: str | os.PathLike) -> nn.Module:
    """The student that a run trained, in eval mode on the CPU, as a plain module.

    Its input is normalised images; ``module.preprocess`` does that as in the training, ``module.taps`` says where its
    embedding and maps are.

    Args:
        run: A run folder, or the ``student.safetensors`` in one.

    Raises:
        UsageError: There is no such file.
        ContrastillError: The file is damaged, or was not written by a run.
    """
    path = find_weights(run)
    made = _recipe(path)
    module = MODELS[made["model"]](num_classes=made["num_classes"], in_chans=made["in_chans"])
    load_weights(module, path, name=made["model"])
    module.preprocess = Preprocess(**{key: _tuples(value) for key, value in made["preprocess"].items()})
    module.taps = Taps(**{key: _tuples(value) for key, value in made["taps"].items()})
    return module.eval()


def _recipe(path: os.PathLike) -> dict[str, Any]:
    header = read_metadata(path).get(_METADATA)
    if header is None:
        raise ContrastillError(f"{path} does not say which network it is: only a student that a run wrote can be loaded without its name")
    return json.loads(header)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(value) if isinstance(value, list) else value
