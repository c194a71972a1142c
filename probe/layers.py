"""Layers of a representation by their names, and their values as vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError, nearest
from ..core.representation import Representation

log = logging.getLogger(__name__)


def warn_of_spatial(layers: Sequence[str], spatial: int) -> None:
    """Log :func:`spatial_note`."""
    if note := spatial_note(layers, spatial):
        log.warning("%s", note)


def spatial_note(layers: Sequence[str], spatial: int) -> str:
    """The line about a ``spatial`` that no layer reads; empty where one does.

    Example:
        >>> spatial_note(("embedding",), 4)
        'spatial=4 changes nothing, as embedding has no positions and it is of maps.0, maps.1, …: leave it out'
        >>> spatial_note(("embedding", "maps.0"), 4)
        ''
    """
    if spatial == 1 or "maps" in map(part_of, layers):
        return ""
    verb = "has" if len(layers) == 1 else "have"
    return (
        f"spatial={spatial} changes nothing, as {' and '.join(layers)} {verb} no positions and it is of maps.0, "
        "maps.1, …: leave it out"
    )


def part_of(layer: str) -> str:
    """The part of a representation that a layer is in."""
    part, dot, number = layer.partition(".")
    if layer in ("embedding", "logits") or (part == "maps" and dot and number.isdecimal()):
        return part
    hint = nearest(layer, ("embedding", "logits", "maps.0"), "give embedding, logits, or maps.0, maps.1, …")
    raise UsageError(f"layer {layer!r} is none of a representation's: {hint}")


def vector_of(outputs: Representation, layer: str, spatial: int) -> Tensor:
    """(B, D) of a layer."""
    if layer in ("embedding", "logits"):
        return getattr(outputs, layer)
    number = int(layer.partition(".")[2])
    if number >= len(outputs.maps):
        raise UsageError(
            f"layer {layer} does not exist: the network gives {len(outputs.maps)} maps, maps.0 to "
            f"maps.{len(outputs.maps) - 1}"
        )
    return F.adaptive_avg_pool2d(outputs.maps[number], spatial).flatten(1)
