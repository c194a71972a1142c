"""Facts that a run records of a split of its data, and which of them are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VALUES = "values"
"""Stands for all values of a split in memory; runs of older versions have no such fact."""


PIXEL_CLASSES, DEPTH_UNIT, INTRINSICS = "names of classes of label maps", "unit of depth", "intrinsics"
VECTOR_FIELDS = "vectors"
"""Like those before, what values stand for, which none of them shows; runs of older versions have no such facts."""
SHOWN_FACTS = ("samples", "classes", "modalities", DEPTH_UNIT, INTRINSICS, VECTOR_FIELDS)
"""Those whose values say to a reader what has changed."""
_LATER = (VALUES, PIXEL_CLASSES, DEPTH_UNIT, INTRINSICS, VECTOR_FIELDS)


def compared_facts(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a split now that are compared with what a run recorded of it, maybe in an older version.

    Example:
        >>> compared_facts({"samples": 3}, {"samples": 3, "values": "1f"})
        {'samples': 3}
    """
    return {name: value for name, value in now.items() if name not in _LATER or name in recorded}
