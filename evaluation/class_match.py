"""Brings a network's answers into the order of the classes that they are compared with: the one way of all that
compares logits with targets.
"""

from __future__ import annotations

from typing import Any

from ..core.classes import ClassMap, apply_class_map, gives_places
from ..core.errors import UsageError
from ..core.representation import Network
from ..training.class_order import answer_for
from .messages import Say


def places_fit(network: Network, class_map: ClassMap | None, split: Any) -> bool:
    """Whether a class_map of places, applied as a network was built, says which class is which of a split, where names
    do not.

    Raises:
        UsageError: It was for other data: the order that it gave is none of the split's.
    """
    if not gives_places(class_map) or (network.recipe.get("classes") is not None and split.classes is not None):
        return False
    if len(class_map or ()) != split.num_classes:
        raise UsageError(
            f"its class_map gives places of {len(class_map or ())} classes, and the data has {split.num_classes}"
        )
    return True


def match_classes_of(
    network: Network,
    split: Any,
    who: str,
    where: str,
    warn: Say,
    *,
    option: str | None = "student.class_map",
    class_map: ClassMap | None = None,
    otherwise: str = "name data of its classes with data.path=…",
    placed: bool = False,
    own_data: bool = False,
    others: bool = True,
) -> None:
    """Let a network's first logits be those of a split's classes, by name, or by number where either has no names.

    Args:
        network: Its logits are reordered.
        split: Labelled, or the classes of its label maps.
        who: The network, for messages.
        where: The data, for messages.
        warn: Is told what is worth knowing of the match, such as that numbers alone are matched.
        option: Where a ``class_map`` may be given; None: nowhere.
        class_map: What is given there and not yet applied.
        otherwise: What else to do where the classes are others.
        placed: Whether a class_map of places for this split was applied before.
        own_data: Whether the network was trained on these data, and its training spoke of numbers.
        others: Whether classes that the data has not stay possible answers, and wrong ones; else they are cut off.

    Raises:
        UsageError: The classes are others, or numbered in another way.
    """
    if class_map is not None:
        apply_class_map(network, class_map, split.num_classes, split.classes, who, others=others)
    form = "[PLACE,…]" if split.classes is None else "{ITS CLASS: CLASS OF THE DATA}"
    way, numbers = (f"say with {option}={form} which is which, or ", f"say the place of each with {option}=[PLACE,…]")
    named = network.recipe.get("classes") is not None and split.classes is not None
    placed = placed or gives_places(class_map)
    note = answer_for(
        network,
        split,
        who,
        where,
        f"{way if option else ''}{otherwise}",
        placed=placed,
        by_number=f"name them, or {numbers if option else otherwise}",
        others=others,
    )
    if note and (placed or named or not own_data):
        warn(note)
