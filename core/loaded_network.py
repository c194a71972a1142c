"""A network of a trained student, in the forms in which people have one."""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import UsageError
from .preprocess import Preprocess
from .representation import Network, Taps


def as_network(network: Any) -> Network:
    """A network, or a student as :func:`~contrastill.load_student` or :class:`~contrastill.Student` gives it, by its
    own taps and preprocessing.

    Raises:
        UsageError: A module that does not say where its representation is.
    """
    if isinstance(network, Network):
        return network
    module, preprocess = network, getattr(network, "preprocess", None)
    # A Student normalises itself, and has the network that says where its representation is inside.
    if not isinstance(getattr(module, "taps", None), Taps) and isinstance(getattr(module, "module", None), nn.Module):
        module = module.module
    taps = getattr(module, "taps", None)
    if not (isinstance(module, nn.Module) and isinstance(taps, Taps) and isinstance(preprocess, Preprocess)):
        raise UsageError(
            f"a {type(network).__name__} does not say where its representation is: pass contrastill.Network(module, "
            "taps=…, preprocess=…), or a student of contrastill.load_student"
        )
    return Network(module, taps=taps, preprocess=preprocess, modality=getattr(module, "modality", "rgb"))
