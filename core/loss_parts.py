"""Which part of a representation the tensors are that a loss is handed without one."""

from __future__ import annotations

import inspect
from typing import Any

from .errors import UsageError

_CHOICES = {"pair": "pair=(0, 0)", "pairs": "pairs=[(0, 0)]"}
"""Arguments by which a class reads maps, by their names, with an example."""


def check_part(objective: Any, outputs: Any, role: str) -> str:
    """The one part of a representation that a tensor stands for, or a list of maps.

    Args:
        objective: That reads it.
        outputs: Of a network, no Representation.
        role: ``"student"`` or ``"teacher"``.

    Raises:
        UsageError: The objective reads several parts, or no maps where they are handed over; the message names the
            option of its class that lets it read them.
    """
    name, parts = type(objective).__name__, sorted(objective.needs)
    several = isinstance(outputs, (list, tuple))
    maps = several or (parts == ["embedding"] and getattr(outputs, "ndim", 0) == 4)
    if maps:
        check_maps_read(objective, role)
    if len(parts) != 1 or (several and parts != ["maps"]):
        values = ", ".join(f"{part}=…" for part in parts)
        raise UsageError(f"{name} reads {' and '.join(parts)} of the {role}: pass contrastill.Representation({values})")
    return parts[0]


def check_maps_read(objective: Any, role: str) -> None:
    """Refuse maps where an objective was built to read another part and its class has an option to read them.

    Args:
        objective: That gets maps alone.
        role: Whose they are.

    Raises:
        UsageError: The message names that option.
    """
    if "maps" not in {*type(objective).needs} - {*objective.needs}:
        return
    options = inspect.signature(type(objective).__init__).parameters
    example = next((text for option, text in _CHOICES.items() if option in options), None)
    if example is not None:
        raise UsageError(
            f"{type(objective).__name__} was built to read {' and '.join(sorted(objective.needs))}, and the {role}'s "
            f"outputs are maps: build it with {example}, places of (student's map, teacher's map), to compare these"
        )
