"""Where in a module of Hugging Face transformers logits, embedding and maps are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.outputs import described
from ..core.representation import Taps
from ..core.tapping import HIDDEN, OUTPUT, call, image_side
from ..core.token_grids import token_layout, token_map
from .library import Trace

HEAD = "ForImageClassification"
_NAMING = (HEAD, "ForSemanticSegmentation")


def is_of_transformers(module: nn.Module) -> bool:
    """Whether a module is one of transformers', without importing it."""
    return any(
        each.__module__ == "transformers.modeling_utils" and each.__name__ == "PreTrainedModel"
        for each in type(module).__mro__
    )


def check_input(module: nn.Module) -> None:
    """Refuse a module of transformers that reads more than images.

    Raises:
        UsageError: It does, as CLIPModel and text models do.
    """
    reads = getattr(module, "main_input_name", "pixel_values")
    if is_of_transformers(module) and (reads != "pixel_values" or hasattr(module, "text_model")):
        raise UsageError(
            f"{type(module).__name__} reads {'text' if reads == 'pixel_values' else reads}, not images alone: pass its "
            "vision tower (as CLIPVisionModelWithProjection), or 'hf/NAME', which takes that by itself"
        )


def class_names(module: nn.Module) -> list[str] | None:
    """The names in ``config.id2label`` of a transformers' classifier or segmenter; None of those that are just
    numbered.
    """
    names = getattr(getattr(module, "config", None), "id2label", None)
    if not is_of_transformers(module) or not names or not any(head in type(module).__name__ for head in _NAMING):
        return None
    ordered = [str(names[place]) for place in sorted(names, key=int)]
    return None if all(name == f"LABEL_{place}" for place, name in enumerate(ordered)) else ordered


def taps_of_transformers(
    module: Any, trace: Trace, shape: tuple[int, int, int], unused: set[str] | frozenset[str] = frozenset()
) -> tuple[Taps, tuple[str, ...], int | None]:
    """Where logits, embedding and maps of a transformers' module are, its classifiers, and the length of its logits.

    Args:
        module: As it is.
        trace: Of a forward pass of it.
        shape: (C, H, W) of an image.
        unused: Names of its weights that no file had, as those of a pooler that the checkpoint lacks.

    Raises:
        UsageError: It returns neither logits nor an embedding nor maps.
    """
    hidden = trace_with_states(module, shape).output
    output: Mapping[str, Any] = hidden if isinstance(hidden, Mapping) else {}
    if "ids_restore" in output:
        raise UsageError(
            f"{type(module).__name__} hides patches at random, also in eval mode: take a class that sees all of them, "
            "as ViTModel reads the weights of ViTMAE"
        )
    logits = output.get("logits")
    classifiers = classifiers_of(module, trace)
    taps = Taps(
        _embedding(output, trace, classifiers, module, unused),
        tuple(f"{OUTPUT}{path}" for path in _maps(output, module, shape, trace)),
        f"{OUTPUT}logits" if isinstance(logits, Tensor) and logits.ndim in (2, 4) else None,
    )
    if not taps.names():
        raise UsageError(
            f"{type(module).__name__} returns {described(hidden)}, and no logits, embedding or maps of images: take "
            "its vision tower, or a class for images"
        )
    length = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
    return taps, classifiers, length


def classifiers_of(module: nn.Module, trace: Trace) -> tuple[str, ...]:
    """Names of the linear layers that give the logits; a distilled DeiT has two."""
    output = trace.output if isinstance(trace.output, Mapping) else {}
    logits = [value for key, value in output.items() if key.endswith("logits")]
    return tuple(
        name
        for name, inner in module.named_modules()
        if isinstance(inner, nn.Linear)
        and name in trace.seen
        and any(trace.seen[name].output is value for value in logits)
    )


def _embedding(
    output: Mapping[str, Any], trace: Trace, classifiers: tuple[str, ...], module: nn.Module, unused: Any
) -> str | None:
    if classifiers:
        return trace.embedding(classifiers)
    if "logits" in output:
        return None
    for key in ("image_embeds", "pooler_output"):
        # An untrained pooler is noise.
        if isinstance(output.get(key), Tensor) and not (key == "pooler_output" and any("pooler." in x for x in unused)):
            return f"{OUTPUT}{key}"
    if maps := output.get("feature_maps"):
        return f"{OUTPUT}feature_maps.{len(maps) - 1}"
    last = output.get("last_hidden_state")
    if isinstance(last, Tensor) and last.ndim == 4:
        return f"{OUTPUT}last_hidden_state"
    return f"{OUTPUT}last_hidden_state.0" if isinstance(last, Tensor) and token_layout(module)[0] else None


def _maps(output: Mapping[str, Any], module: nn.Module, shape: tuple[int, int, int], trace: Trace) -> list[str]:
    """Paths of the maps among what a module returns."""
    if maps := output.get("feature_maps"):
        return [f"feature_maps.{place}" for place in range(len(maps))]
    key = next((key for key in ("reshaped_hidden_states", "hidden_states") if output.get(key)), None)
    if key is None:
        return []
    states = output[key]
    if all(value.ndim == 3 for value in states):
        blocks = [place for place, value in enumerate(states) if place and _is_map(value, shape, module)]
        chosen = blocks if len(blocks) < 5 else [blocks[quarter * len(blocks) // 4 - 1] for quarter in (1, 2, 3, 4)]
    else:
        # The first of DINOv3's ConvNeXt is the image itself.
        chosen = trace.indices_of_maps([None if value.shape[2:] == shape[1:] else value for value in states])
    return [f"{key}.{place}" for place in chosen]


def _is_map(value: Tensor, shape: tuple[int, int, int], module: nn.Module) -> bool:
    return token_map(value, (shape[1], shape[2]), module) is not None


def trace_with_states(module: nn.Module, shape: tuple[int, int, int]) -> Trace:
    return Trace(module, shape, lambda inner, images: call(inner, images, HIDDEN))


def image_shape(module: Any, channels: int) -> tuple[int, int, int]:
    """(C, H, W) of an image that it takes."""
    size = image_side(module.config) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width
