"""Names of several networks, no two of which are taken for one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from ..core.representation import Network
from .probe_inputs import NetworkName, network_named


def networks_named(networks: Sequence[str | os.PathLike | Network | NetworkName]) -> list[NetworkName]:
    """Understand networks together, see :func:`~.probe_inputs.network_named`: equal texts are of one network.

    Networks in memory go by their class, and further ones of that name are numbered: ``Sequential``, ``Sequential 2``.

    Raises:
        UsageError: One is neither a run nor a network.
    """
    names = [network_named(network) for network in networks]
    known: dict[str, Network | None] = {name.text: name.network for name in names if name.network is None}
    numbered = []
    for name in names:
        if name.network is not None:
            texts = (name.text if number == 1 else f"{name.text} {number}" for number in count(1))
            text = next(text for text in texts if text not in known or _same(known[text], name.network))
            known[text] = name.network
            name = replace(name, text=text)
        numbered.append(name)
    return numbered


def _same(one: Network | None, other: Network) -> bool:
    """Whether both answer alike: of a student that was loaded, each use makes a network of the same module."""
    return one is other or (
        one is not None
        and one.module is other.module
        and (one.taps, one.preprocess, one.modality) == (other.taps, other.preprocess, other.modality)
    )
