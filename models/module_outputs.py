"""Where in what a module returns, a dict, dataclass or tuple, its logits and its embedding are."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.outputs import LOGITS, described, items, part_of, tensors
from ..core.tapping import OUTPUT, call
from .classifier_outputs import classifier_output
from .library import TRACED, Trace

log = logging.getLogger(__name__)

EMBEDDINGS = ("image_embeds", "pooler_output", "embedding", "embeddings", "features", "feature", "pooled")
"""Keys of an embedding, the likeliest first."""


def output_paths(
    module: nn.Module, trace: Trace, data_classes: int | None, *, unclear: bool
) -> tuple[str | None, str | None]:
    """The paths of a module's logits and of its embedding, None for what there is none of.

    Args:
        module: As the trace saw it.
        trace: Of a forward pass of it.
        data_classes: Number of classes of the data, where it has any.
        unclear: Whether none at all is no error.

    Raises:
        UsageError: It is not clear what of the output they are.
    """
    try:
        logits = _logits_path(module, trace, data_classes)
    except LookupError:
        if unclear:
            return None, None
        raise _ambiguous(module, trace.output) from None
    embedding = _embedding_path(trace.output, logits)
    if logits is None and embedding is None and not unclear:
        raise _ambiguous(module, trace.output)
    return logits, embedding


def check_rows(module: nn.Module, trace: Trace) -> None:
    """Refuse a module that returns a tensor of more or fewer rows than it was given images (UsageError)."""
    output = trace.output
    if isinstance(output, Tensor) and output.ndim and len(output) != TRACED:
        raise UsageError(
            f"{type(module).__name__} returns a tensor of shape {tuple(output.shape)} for {TRACED} images, and a row "
            "answers for each image: keep dim 0 as it is (no mean over it, no part of it, no further views in it)"
        )


def prediction_tap(output: object) -> str | None:
    """The tap of an answer for each position (B, C, H, W): what a module returns, or a part of it under a key of
    logits; None where it returns none.
    """
    there = (
        {"": output} if isinstance(output, Tensor) else {key: value for key, value in items(output) if key in LOGITS}
    )
    for key in ("", *LOGITS):
        value = there.get(key)
        if isinstance(value, Tensor) and value.ndim == 4 and max(value.shape[2:]) > 1:
            return f"{OUTPUT}{key}"
    return None


def _logits_path(module: nn.Module, trace: Trace, data_classes: int | None) -> str | None:
    """The path of a module's logits; None where it returns none.

    By its key; else the only (B, C), or the one as long as the data has classes; of several the one that a linear
    layer gives, see :func:`~.classifier_outputs.classifier_output`, which a line names.

    Raises:
        LookupError: Several may be the logits.
    """
    there = dict(tensors(trace.output))
    for key in LOGITS:
        if key in there and there[key].ndim in (2, 4):
            return key
    flat = {path: value for path, value in there.items() if value.ndim == 2 and path not in EMBEDDINGS}
    fitting = {path: value for path, value in flat.items() if value.shape[1] == data_classes} or flat
    if len(fitting) < 2:
        return next(iter(fitting), None)
    if len({value.shape[1] for value in fitting.values()}) > 1:
        linear = {name for name, inner in module.named_modules() if isinstance(inner, nn.Linear)}
        outputs = [seen.output for name, seen in trace.seen.items() if name in linear]
        fitting = {path: value for path, value in flat.items() if any(value is output for output in outputs)}
        if len({value.shape[1] for value in fitting.values()}) != 1:
            raise LookupError
    path = next(iter(fitting)) if len(fitting) == 1 else classifier_output(module, trace, list(fitting))
    log.warning(
        "%s returns %s, of which %s is read as its logits: if another is, pass contrastill.Network(module, "
        "taps=contrastill.Taps(logits='%sKEY'), preprocess=…)",
        type(module).__name__, described(trace.output), path, OUTPUT,
    )  # fmt: skip
    return path


def _embedding_path(output: object, logits: str | None) -> str | None:
    """The path of an embedding (B, D) or (B, D, H, W) under one of its usual keys, or of the only (B, D) beside the
    logits; None where there is none.
    """
    there = {path: value for path, value in tensors(output) if path != logits}
    for key in EMBEDDINGS:
        if key in there and there[key].ndim in (2, 4):
            return key
    classes = part_of(output, logits, "").shape[1] if logits is not None else None
    flat = [path for path, value in there.items() if value.ndim == 2 and value.shape[1] != classes]
    return flat[0] if len(flat) == 1 and logits is not None else None


def training_path(module: nn.Module, output: object, shape: tuple[int, int, int]) -> str | None:
    """The path of the logits of a module that returns a tensor, but in training more, as torchvision's GoogLeNet.

    Args:
        module: A copy, whose statistics may change.
        output: What it returns in eval mode, of as many images as a trace has.
        shape: (C, H, W) of an image.
    """
    if not isinstance(output, Tensor):
        return None
    try:
        with torch.no_grad(), torch.random.fork_rng():
            images = torch.rand(len(output), *shape, generator=torch.Generator().manual_seed(0))
            there = dict(tensors(module.train()(images)))
    except Exception as error:  # it may want targets in training
        log.debug("%s does not run in training mode: %s", type(module).__name__, error)
        return None
    return next((key for key in (*LOGITS, "0") if key in there and there[key].shape == output.shape), None)


def traced(module: nn.Module, shape: tuple[int, int, int], path: str | None = None) -> Trace:
    """A forward pass of a module, with what is at a path as its output."""
    name = type(module).__name__

    def run(inner: nn.Module, images: Tensor) -> object:
        output = call(inner, images)
        return output if path is None else part_of(output, path, name)

    return Trace(module, shape, run)


def _ambiguous(module: nn.Module, output: object) -> UsageError:
    """The error for a module whose output does not say what is what."""
    returns = f"{type(module).__name__} returns {described(output)}, and it is not clear what of it"
    there = dict(tensors(output))
    maps = [path for path, value in there.items() if value.ndim == 4 and max(value.shape[2:]) > 1]
    if maps and not any(value.ndim == 2 for value in there.values()):
        return UsageError(
            f"{returns} is its answer: pass contrastill.Network(module, taps=contrastill.Taps("
            f"prediction='{OUTPUT}{maps[0]}'), preprocess=…) if that is for each position, as a segmenter's, "
            "embedding= if it is a backbone's, or wrap it in a module that returns its answer alone"
        )
    segmenter = f", of a segmenter prediction='{OUTPUT}{maps[0]}'" if maps else ""
    return UsageError(
        f"{returns} are logits (B, C) or an embedding (B, D): pass contrastill.Network(module, taps=contrastill.Taps("
        f"logits='output:KEY', embedding='output:KEY'), preprocess=…){segmenter}, or wrap it in a module that "
        "returns its logits"
    )
