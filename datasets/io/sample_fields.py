"""What a sample of a user's own dataset holds, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import UsageError
from ...core.registry import MODALITIES
from .file_views import LABELS

_RENAMED = {"image": "rgb", "label": "target"}
_IMAGES = ("image", "img", "images", "picture", "input", "inputs", "x")


def fields_of(sample: Any, where: str) -> dict[str, Any]:
    """A sample as a dict of its modalities and its ``target``.

    Raises:
        UsageError: One of them is there under two names.
    """
    if isinstance(sample, tuple) and _has_names(names := getattr(sample, "_fields", ())):
        sample = dict(zip(names, sample, strict=True))
    if isinstance(sample, Mapping):
        for name, modality in _RENAMED.items():
            if name in sample and modality in sample:
                raise UsageError(
                    f"{where} holds both {modality!r} and {name!r}, and either would be its "
                    f"{'class' if modality == 'target' else 'picture'}: return one of them, or give the other another "
                    "name"
                )
        return {_RENAMED[name] if name in _RENAMED else name: value for name, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        return dict(zip(("rgb", "target"), sample, strict=False))
    return {"rgb": sample}


def _has_names(names: tuple[str, ...]) -> bool:
    """Whether the fields of a namedtuple say what they are; an ``img`` and its ``label`` are so by their places."""
    known = {*_RENAMED, *_RENAMED.values(), LABELS, *MODALITIES, *(entry.of for _, entry in MODALITIES.items())}
    return bool(known & {*names}) and not (len(names) == 2 and names[0] in _IMAGES)
