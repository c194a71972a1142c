"""Weights from a file for a network that was built: in another form, without a classifier, of an encoder alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.representation import Preprocess, Taps
from ..core.user_code import origin
from ..core.weights import classes_in, load_into, load_state_dict, without_prefix
from .builder_checks import built_by
from .recipe import read_recipe, recipe_of
from .reused_weights import reordered, with_channels

log = logging.getLogger(__name__)


def network_source(module: nn.Module, builder: Any) -> Any:
    """The object with taps, preprocessing and the names of the classifiers: the module, or the builder of
    one that was made elsewhere.
    """
    source = builder if hasattr(builder, "taps") else module
    for name, kind in (("taps", Taps), ("preprocess", Preprocess)):
        if not isinstance(getattr(source, name, None), kind):
            raise UsageError(
                f"{origin(type(module))} was built, and has no {name}: let its builder return contrastill.Network("
                "module, taps=…, preprocess=…), or give its class the attributes taps and preprocess"
            )
    return source


def load_file(
    module: nn.Module,
    builder: Any,
    options: dict[str, Any],
    file: Path,
    name: str,
    new_classifier: bool,
    order: list[int] | None,
    new_stem: bool,
    key: str,
) -> nn.Module:
    """The module with a file's weights; rebuilt if only the file says how many classes it has."""
    own, loaded = module.state_dict(), load_state_dict(file)
    if hasattr(builder, "encoder_builder") and not any("decoder." in key for key in loaded):
        if not new_classifier:
            raise encoder_alone(name, f"weights {file}", key)
        _load_encoder(module, builder, loaded, file, new_stem=new_stem)
        return module
    state = without_prefix(loaded, own, file, classifiers_in(network_source(module, builder)))
    if any(key not in own or own[key].shape != value.shape for key, value in state.items()) and hasattr(
        builder, "convert"
    ):
        state = _converted(builder, module, state)
    classifiers = classifiers_in(network_source(module, builder))
    classes = classes_in(state, classifiers)
    if "num_classes" not in options and classes is not None and classes != classes_in(own, classifiers):
        options["num_classes"] = classes
        module = built_by(name, builder, options)
    if new_stem:
        state = {key: with_channels(value, own[key]) if key in own else value for key, value in state.items()}
    if order is not None:
        state = reordered(state, classifiers, order)
    written = read_recipe(file) if file.suffix == ".safetensors" else None
    of = written["model"] if written and written["model"] != name else None
    load_into(module, state, file, name=name, classifiers=classifiers, new_classifier=new_classifier, of=of)
    _turn(builder, module, written)
    return module


def _turn(builder: Any, module: nn.Module, written: Any) -> None:
    """Let published weights in a file take RGB, whatever they were trained on; those of a run do so already."""
    if written is None and hasattr(builder, "turn"):
        builder.turn(module)


def _converted(builder: Any, module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the library makes of a file in another form of its own; a file it cannot read stays as it is and is refused
    later.
    """
    try:
        return builder.convert(module, state)
    except Exception as error:  # conversions take for granted that the file is of their network
        log.debug("%s is in no other form of this network: %s", type(module).__name__, error)
        return state


def classifiers_in(source: Any) -> tuple[str, ...]:
    """The layers that give the logits: those of the adapters, else the one whose input is the embedding."""
    embedding = source.taps.embedding or ""
    return getattr(source, "classifiers", (embedding.removeprefix("input:"),) if embedding.startswith("input:") else ())


def encoder_recipe(file: Path | None, builder: Any) -> dict[str, Any]:
    """What a run's file says of how the encoder of a network with a decoder sees; nothing where it is none of that
    encoder.
    """
    if not hasattr(builder, "encoder_builder"):
        return {}
    recipe = recipe_of(file, builder.encoder_name)
    return {key: value for key, value in recipe.items() if key in ("modality", "preprocess", "scale", "in_chans")}


def encoder_alone(name: str, weights: str, key: str) -> UsageError:
    """The error of a teacher whose decoder is not trained."""
    return UsageError(
        f"{weights} are of an encoder without a decoder, and {name} answers for each pixel: train it first, as the "
        f"student of a run, and name that run under {key}"
    )


def _load_encoder(module: Any, builder: Any, state: dict[str, Tensor], file: Path, *, new_stem: bool) -> None:
    """Fill the encoder of a network with a decoder with the weights of a classifier's run or file."""
    encoder, name = module.encoder, builder.encoder_name
    own = encoder.state_dict()
    state = without_prefix(state, own, file, ())
    if any(key not in own or own[key].shape != value.shape for key, value in state.items()) and hasattr(
        builder.encoder_builder, "convert"
    ):
        state = _converted(builder.encoder_builder, encoder, state)
    classifier = (module.taps.embedding or "").removeprefix("input:encoder.")
    state = {key: value for key, value in state.items() if key.rpartition(".")[0] != classifier}
    if new_stem:
        state = {key: with_channels(value, own[key]) if key in own else value for key, value in state.items()}
    load_into(encoder, state, file, name=name)
    _turn(builder.encoder_builder, encoder, read_recipe(file) if file.suffix == ".safetensors" else None)
    log.info("the encoder starts from %s; the decoder is new", file)
