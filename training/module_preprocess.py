"""How a module of Python that says nothing to contrastill itself is shown its images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.preprocess import Preprocess
from ..core.value_scale import in_unit_range
from ..models.transformers_adapter import published_of
from ..models.transformers_taps import is_of_transformers

log = logging.getLogger(__name__)

_OTHERWISE = "{'model': module, 'mean': …, 'std': …} says otherwise"


def module_preprocess(module: nn.Module, images: Tensor, modality: str, role: str | None, split: Any) -> Preprocess:
    """Of a module that came without: colours in [0, 1] by the mean and std that timm's and transformers' modules say of
    themselves; colours that somebody normalised, and all else, as the data has them. A line says which.

    Args:
        module: Reads ``images``.
        images: Of two samples.
        modality: What they are.
        role: Of the module, for the line; None: its mean and std are set, so that there is nothing to say.
        split: They are of.
    """
    plain = Preprocess((0.0,) * images.shape[1], (1.0,) * images.shape[1])
    if modality != "rgb":
        return plain
    low, high = _range_of(images, split)
    own, colours = _published(module), in_unit_range(low, high)
    if own is not None and len(own.mean) != len(plain.mean):
        own = None
    line = ""
    if own is None and colours and role == "teacher" and (reason := _unsaid(module)):
        line = f"{reason}, so it sees images in 0 … 1, as published weights do not"
    elif own is None and colours and (inner := _inner_normalisation(module)) is not None:
        name, seen = inner
        line = (
            f"it sees images in 0 … 1, as it says nothing of its own, and {name} in it has mean {seen.mean} and std "
            f"{seen.std}: that is right only if it normalises them itself"
        )
    elif own is not None and colours:
        line = f"images are normalised by its own mean {own.mean} and std {own.std}"
    elif own is not None:
        line = (
            f"images are floats from {low:.3g} to {high:.3g}, so they are taken as normalised already, and its own "
            f"mean {own.mean} and std {own.std} are not applied"
        )
    if line and role is not None:
        log.warning("%s %s: %s; %s", role, type(module).__name__, line, _OTHERWISE)
    return own if own is not None and colours else plain


def _unsaid(module: nn.Module) -> str:
    """Why a module of a library that publishes weights does not say how it normalises; "" for others."""
    if type(module).__module__.startswith("torchvision."):
        return "no module of torchvision says how it normalises"
    if not is_of_transformers(module):
        return ""
    name = getattr(module, "name_or_path", "")
    where = f"no preprocessor_config.json of {name} is on this machine" if name else "it was made without a name"
    return f"its mean and std are those of an image processor, and {where}"


def _published(module: nn.Module) -> Preprocess | None:
    """What a module of timm or transformers says of its normalisation."""
    config = getattr(module, "pretrained_cfg", None)  # timm's
    if isinstance(config, Mapping) and config.get("mean"):
        return Preprocess(tuple(config["mean"]), tuple(config["std"]))
    return published_of(module)


def _inner_normalisation(module: nn.Module) -> tuple[str, Preprocess] | None:
    """Name of a part that says how it sees images, and how; None where no part does or one of them normalises."""
    parts = [*module.named_modules()][1:]
    if any(type(part).__name__ == "Normalize" for _, part in parts):  # of torchvision or kornia
        return None
    for name, part in parts:
        own = getattr(part, "preprocess", None)
        if (seen := own if isinstance(own, Preprocess) else _published(part)) is not None:
            return name, seen
    return None


def _range_of(images: Tensor, split: Any) -> tuple[float, float]:
    """Lowest and highest value of colours: of several samples of a dataset of one's own, else of these; bytes are in
    [0, 1].
    """
    if not images.is_floating_point():
        return 0.0, 1.0
    known = getattr(getattr(split, "samples", None), "rgb_range", None)
    low, high = images.aminmax() if known is None else (known.low, known.high)
    return float(low), float(high)
