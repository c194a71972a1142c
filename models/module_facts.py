"""What comes with a module that is handed over: taps, preprocessing, modality, class names, and how its answers are
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from torch import nn

from ..core.classes import check_ordered
from ..core.representation import Network, Preprocess, Taps
from .recipe import TRAINED_FOR
from .wrappers import unwrapped


def module_parts(module: nn.Module) -> tuple[nn.Module, Taps, Preprocess | None, str | None]:
    """A module with the taps, the preprocessing and the modality that came with it, as those of a
    :class:`~contrastill.Network` do.
    """
    if isinstance(module, Network):
        return unwrapped(module.module), module.taps, module.preprocess, module.modality
    taps, preprocess = getattr(module, "taps", None), getattr(module, "preprocess", None)
    modality = getattr(module, "modality", None) if isinstance(preprocess, Preprocess) else None
    return (
        module,
        taps if isinstance(taps, Taps) else Taps(),
        preprocess if isinstance(preprocess, Preprocess) else None,
        modality if isinstance(modality, str) else None,
    )


def module_classes(module: nn.Module) -> list[str] | None:
    """Names of a module's logits that came with it, as those of :func:`~contrastill.load_student` and of a
    :class:`~contrastill.Network` do.
    """
    names = module.recipe.get("classes") if isinstance(module, Network) else getattr(module, "classes", None)
    if isinstance(names, Set) and any(isinstance(name, str) for name in names):
        check_ordered(names, f"the attribute classes of {type(module).__name__}")
    return (
        [*names]
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
        else None
    )


def module_training(module: nn.Module) -> dict[str, Any]:
    """How the answers of a module are read, and the modality that it was trained on, as far as a run trained it: of
    :func:`~contrastill.load_student` or a :class:`~contrastill.Network`; empty of others.
    """
    own = getattr(module, "trained_for", None)
    known = module.recipe if isinstance(module, Network) else own if isinstance(own, Mapping) else {}
    return {key: known[key] for key in ("modality", *TRAINED_FOR) if key in known}
