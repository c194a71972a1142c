"""From a network's name to a :class:`~contrastill.core.representation.Network`, and a trained student to and from its
file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.arguments import checked
from ..core.config.fields import MOST_CLASSES
from ..core.errors import ContrastillError, UsageError
from ..core.input_values import refuse_integers
from ..core.plugins import import_plugins, imports_of
from ..core.predicted_quantity import KEY as QUANTITY
from ..core.predicted_quantity import quantity_of
from ..core.registry import MODELS, PRETRAINED, PYTHON_PREFIX, has_option, model_builder
from ..core.representation import Network, Preprocess, Taps
from ..core.tapping import answer_tap, is_part
from ..core.torch_settings import own_settings
from ..core.weights import (
    classes_in,
    find_weights,
    load_weights,
    save_state_dict,
)
from .builder_checks import built_by
from .file_weights import classifiers_in, encoder_alone, encoder_recipe, load_file, network_source
from .recipe import METADATA, TRAINED_FOR, TRAINED_SIZE, read_recipe, recipe_of, recipe_preprocess
from .recorded_answer import KEY as ANSWER
from .recorded_answer import is_of_a_user, recorded, warn_of_another
from .reused_weights import classifier_order
from .wrappers import to_be_filled

log = logging.getLogger(__name__)

_OPTIONS = ("num_classes", "in_chans", "resolution", "config")
"""Keys of a recipe that its builder takes; the resolution and the config only where it takes one."""


def build_network(
    name: str,
    *,
    num_classes: int | None = None,
    weights: str | os.PathLike | None = None,
    new_classifier: bool = False,
    modality: str = "rgb",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    resolution: int | tuple[int, int] | None = None,
    embedding: str | None = None,
    maps: tuple[str, ...] | None = None,
    classes: Sequence[str] | None = None,
    weights_key: str = "weights",
) -> Network:
    """Build a network by name, with its own taps and preprocessing by default.

    Args:
        name: A registered network such as ``resnet20``, or any of timm's, torchvision's or transformers':
            ``timm/vit_tiny_patch16_224``, ``torchvision/resnet18``, ``hf/facebook/dinov2-small``.
        num_classes: Length of its logits; None keeps the classifier that its weights came with.
        weights: Run folder, ``.safetensors`` file or released checkpoint; ``"pretrained"`` for those its library
            publishes (fetched once, then kept in the library's cache); None leaves it untrained.
        modality: Key of the batch that it reads. Weights of a network that read another one fit where no more than the
            number of input channels differs: the first convolution's are then summed and spread evenly.
        new_classifier: Let a file whose number of classes is another than ``num_classes`` fill all but the classifier;
            published weights always do.
        classes: Names of the data's classes. With ``new_classifier``, a classifier of a run with the same classes in
            another order is brought into this one, and that of a run with other classes is left out.
        mean: A mean for each channel, of values in [0, 1]; their number is that of the network's input channels. Left
            out, mean and std are those of the run that ``weights`` is from, else the network's own.
        std: A standard deviation for each channel, of values in [0, 1].
        statistics: Mean and std of a modality that no network has its own for; they count where neither ``mean`` is
            given nor ``weights`` are of a run.
        resolution: Side, or (height, width), in pixels, that samples are resized to. Left out, it is that of the run
            that ``weights`` is from, else the one other weights were published for, else the data's own; a
            network that takes one size only, as most vision transformers, always has its own.
        embedding: Module whose output is the embedding, or ``input:MODULE``.
        maps: Modules whose outputs are the feature maps.
        weights_key: What names its weights, as ``student.weights``, for messages.

    Raises:
        UsageError: No such network, module or file; only one of ``mean`` and ``std``; weights of another network.
        ContrastillError: The file of weights is damaged or refused, or published weights could not be fetched.

    Example:
        >>> network = build_network("resnet20", num_classes=10)
        >>> sum(parameter.numel() for parameter in network.parameters())
        272474
    """
    builder: Any = model_builder(name, weights, weights_key)
    if (mean is None) != (std is None):
        raise UsageError(f"{name} was given {'std' if mean is None else 'mean'} alone: give mean and std together")
    if num_classes is None and weights is None:
        raise UsageError(f"{name} has no weights that say how many classes it has: set num_classes")
    if num_classes is not None and num_classes > MOST_CLASSES:
        raise UsageError(
            f"num_classes={num_classes} of {name} is more than any classifier has room for, {MOST_CLASSES}: give the "
            "number of classes"
        )
    file = None if weights in (None, PRETRAINED) else find_weights(weights)
    recipe = recipe_of(file, name) or encoder_recipe(file, builder)
    same = recipe.get("modality") == modality
    own_mean, own_std = (
        (mean, std) if mean is not None else (recipe["preprocess"][key] if same else None for key in ("mean", "std"))
    )
    if own_mean is None and statistics is not None:
        own_mean, own_std = statistics
    options: dict[str, Any] = {"in_chans": len(own_mean) if own_mean else 3}
    if num_classes is not None or "num_classes" in recipe:
        options["num_classes"] = recipe["num_classes"] if num_classes is None else num_classes
    if has_option(builder, "resolution") and (resolution or recipe.get("resolution")):
        options["resolution"] = resolution or recipe["resolution"]
    if hasattr(builder, "config_of") and recipe.get("config"):
        options["config"] = recipe["config"]
    if weights == PRETRAINED and hasattr(builder, "encoder_builder") and not new_classifier:
        raise encoder_alone(name, f"the published weights of {builder.encoder_name}", weights_key)
    if weights == PRETRAINED:
        module = built_by(name, builder, {**options, "pretrained": True})
    else:
        module = built_by(name, builder, options)
    if file is not None:
        order = classifier_order(recipe.get("classes"), classes) if new_classifier else None
        recipe = recipe if order is None else {**recipe, "classes": classes}
        module = load_file(
            module,
            builder,
            options,
            file,
            name,
            new_classifier,
            order,
            new_stem=modality != recipe.get("modality", "rgb"),
            key=weights_key,
        )
    source = network_source(module, builder)
    if hasattr(builder, "config_of"):
        options["config"] = builder.config_of(module)
    own = _preprocess(source, recipe, file, same)
    network = Network(
        module,
        taps=replace(
            source.taps,
            embedding=embedding or source.taps.embedding,
            maps=source.taps.maps if maps is None else tuple(maps),
        ),
        preprocess=Preprocess(
            tuple(own_mean or own.mean),
            tuple(own_std or own.std),
            own.resolution if resolution is None else resolution,
            scale=own.scale if same and (mean is None or tuple(mean) == tuple(own.mean)) else None,
        ),
        modality=modality,
    )
    count, names = (
        options.get("num_classes", _num_logits(module, source)),
        recipe.get("classes") or getattr(source, "classes", None),
    )
    trained_for = recipe or getattr(source, "trained_for", {})
    as_trained = all(options.get(key) == recipe.get(key) for key in ("num_classes", "resolution"))
    if file is not None and same and order is None and as_trained:
        warn_of_another(module, recipe, file)
    network.recipe = {
        "model": name,
        **options,
        "num_classes": count,
        "classes": tuple(names) if names and len(names) == count else None,
        # What a run trained for says how its logits are read; of other weights it is not known.
        **({"several_classes": bool(trained_for.get("several_classes"))} if trained_for else {}),
        **({TRAINED_SIZE: recipe[TRAINED_SIZE]} if same and TRAINED_SIZE in recipe else {}),
        **({QUANTITY: quantity} if (quantity := quantity_of({**trained_for, "num_classes": count})) else {}),
    }
    return network


def class_names(model: str, weights: str | os.PathLike | None) -> tuple[str, ...] | None:
    """Names of the classes of a network with its weights, where they name them; nothing is built."""
    if weights not in (None, PRETRAINED):
        return recipe_of(find_weights(weights), model).get("classes")
    return getattr(model_builder(model, weights), "classes", None) if model.startswith(PYTHON_PREFIX) else None


def classifier_names(network: Network) -> tuple[str, ...]:
    """The layers of a network's own module that give its logits; empty where they are not known."""
    return getattr(network.module, "classifiers", None) or classifiers_in(network)


def _num_logits(module: nn.Module, source: Any) -> int | None:
    """Length of the logits as the network has it."""
    return getattr(source, "num_logits", None) or classes_in(module.state_dict(), classifiers_in(source))


def _preprocess(source: Any, recipe: dict[str, Any], file: Path | None, same: bool) -> Preprocess:
    """That of the run the weights are from, of which another modality keeps the size alone; else the network's own,
    with its published size for a file from elsewhere.
    """
    own: Preprocess = source.preprocess
    if recipe:
        written = recipe_preprocess(recipe)
        return written if same else replace(own, resolution=written.resolution)
    return (
        own
        if file is None
        else replace(own, resolution=own.resolution or getattr(source, "published_resolution", None))
    )


def save_student(network: Network, path: str | os.PathLike) -> None:
    """Write a network's weights as safetensors, with what :func:`load_student` needs to build it again in the header.

    Args:
        network: Made by :func:`build_network`.
        path: The file.

    Raises:
        UsageError: The network was not made by :func:`build_network`.
    """
    if "model" not in network.recipe:
        raise UsageError(
            "only a network of build_network can be saved as a student: for another module save its state_dict"
        )
    recipe = {
        **network.recipe,
        "modality": network.modality,
        "preprocess": {key: getattr(network.preprocess, key) for key in ("mean", "std", "resolution")},
        "taps": asdict(network.taps),
        **({} if network.preprocess.scale is None else {"scale": network.preprocess.scale.to_recipe()}),
    }
    save_module(network.module, with_answer(recipe, network.module), path)


def record_shape(network: Network, images: Tensor) -> None:
    """Keep in a network's recipe the shape of what it takes, where its code is a user's: by what it answers to such
    images it is known again when the weights are loaded, see :mod:`~contrastill.models.recorded_answer`.

    Args:
        network: With a recipe.
        images: (B, C, H, W) as the data have them.
    """
    model = network.recipe["model"]
    if model.startswith(PYTHON_PREFIX) or is_of_a_user(network.module, MODELS[model]):
        shape = network.preprocess(images).shape[1:]
        network.recipe = {**network.recipe, ANSWER: {"shape": [*shape]}}


def with_answer(recipe: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """A recipe with what a module answers now, where it has the shape of what it takes, see :func:`record_shape`."""
    if ANSWER not in recipe:
        return recipe
    answer = recorded(module, tuple(recipe[ANSWER]["shape"]), answer_tap(Taps(**recipe["taps"])))
    others = {key: value for key, value in recipe.items() if key != ANSWER}
    return others if answer is None else {**others, ANSWER: answer}


def save_module(module: nn.Module, recipe: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a student's weights with its recipe, as :func:`read_recipe` reads it, in the header."""
    save_state_dict(module.state_dict(), path, metadata={METADATA: json.dumps(recipe)})


@checked
@own_settings(device=False)
def load_student(run: str | os.PathLike, *, module: nn.Module | None = None) -> nn.Module:
    """The student that a run trained, in eval mode on the CPU, as a plain module.

    Its input is normalised images, and integers are refused, unless its code is a user's; ``module.preprocess``
    normalises as in the training (after ``module.half()`` call ``module.preprocess(images, like=module)``),
    ``module.taps`` says where its embedding and maps are, ``module.modality`` what it reads, and ``module.classes`` are
    the names of its logits (None where the data had no names), or of the channels of a segmenter's prediction
    (B, C, H, W): channel c is class c + 1 of the label maps; ``module.trained_for`` says, to a training that it is
    handed to as teacher, how its answers are
    read. A network that returns a dict, as torchvision's segmenters do, returns it here too:
    ``module.taps.prediction`` names the part, and :class:`~contrastill.Student` returns the prediction alone;
    where a tap names a module, a line says so.
    ``torch.export.export`` and ``torch.jit.trace`` take it; ``torch.jit.script`` does not compile such classes.

    Args:
        run: A run folder, or the ``student.safetensors`` in one.
        module: For a student of a class of your own, which contrastill cannot make: one of that class, which is filled
            with the weights; of a wrapper, as of ``torch.compile``, the module inside is returned.

    Raises:
        UsageError: There is no such file, or its network is of a class that only you can make, or ``module`` is of
            another.
        ContrastillError: The file is damaged, or was not written by a run.
    """
    loaded = plain_student(run, module)
    tap = answer_tap(getattr(loaded, "taps", None))
    if tap is not None and not is_part(tap):
        log.warning(
            "%s was trained by what %s gives, and its own forward may return something else: contrastill.Student and "
            "exported files answer as it was trained",
            type(loaded).__name__,
            tap,
        )
    return loaded


def plain_student(run: str | os.PathLike, module: nn.Module | None = None) -> nn.Module:
    """:func:`load_student` for who reads a student by its taps."""
    path = find_weights(run)
    recipe = read_recipe(path)
    if recipe is None:
        raise ContrastillError(
            f"{path} does not say which network it is: only a student that a run wrote can be loaded without its name"
        )
    if module is None and recipe["model"] not in MODELS:
        import_plugins(imports_of(path.parent))  # of the run, whose config names the package that registered it
    loaded = load_module(build_module(recipe) if module is None else to_be_filled(module), recipe, path)
    # A user's own network may take integers.
    if module is None and not is_of_a_user(loaded, MODELS[recipe["model"]]):
        loaded.register_forward_pre_hook(refuse_integers)
    return loaded


def build_module(recipe: Mapping[str, Any]) -> nn.Module:
    """The untrained module that a recipe describes."""
    name = recipe["model"]
    return built_by(name, MODELS[name], {key: recipe[key] for key in _OPTIONS if key in recipe})


def load_module(module: nn.Module, recipe: Mapping[str, Any], path: os.PathLike) -> nn.Module:
    """Load a student's weights into its module, and set its preprocessing, taps and class names; in eval
    mode.
    """
    # Files hold the weights of training mode; a part may have others in eval mode, as low-rank ones that are added.
    load_weights(module.train(), path, name=recipe["model"])
    names = recipe.get("classes")
    parts = {
        "preprocess": recipe_preprocess(recipe),
        "taps": Taps(**recipe["taps"]),
        "classes": names and list(names),
        "modality": recipe.get("modality", "rgb"),
        "trained_for": {key: recipe[key] for key in ("modality", *TRAINED_FOR) if key in recipe},
    }
    for name, value in parts.items():
        # A user's own class may use the name for something else.
        if not hasattr(module, name) or isinstance(getattr(module, name), type(value)):
            setattr(module, name, value)
    warn_of_another(module, recipe, path)
    return module.eval()
