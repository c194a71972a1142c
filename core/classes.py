"""Classes are their names: the number of a class in one list is looked up in another by its name, and never assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from typing import Any

from .class_entries import class_record, class_text
from .config.fields import MOST_CLASSES
from .errors import UsageError, unknown_name
from .representation import Network
from .value_scale import note_once

ClassMap = tuple[int, ...] | tuple[str, ...] | Mapping[str | int, str]
"""Of a network: a place of its own for each class of the data; or the name of each of its own classes; or for some of
its own, by name or place, what the data calls them."""

_SHOWN = 3
_WRAPPED = {2**31 - 1: "the highest of 31 bits", 2**32 - 1: "−1 in 32 unsigned bits", 2**63 - 1: "the highest of 63"}


def check_highest_class(highest: int) -> None:
    """Refuse labels that can hardly number classes, before anything is as long as the highest of them.

    Raises:
        UsageError: There would be more than ``MOST_CLASSES``.
    """
    if highest >= MOST_CLASSES:
        mark = f" ({_WRAPPED[highest]}, a mark for none?)" if highest in _WRAPPED else ""
        raise UsageError(
            f"labels go to {highest}{mark}, as if there were as many classes: number the classes from 0 on, without "
            "gaps, and leave out samples without a class"
        )


def check_ordered(names: Any, what: str) -> None:
    """Refuse names of classes that have no order, or one that is lost as they are read: a class's number is its place.

    Raises:
        UsageError: They are a set, whose order changes from process to process, or an iterator.
    """
    kind = type(names).__name__
    if isinstance(names, Set) and not isinstance(names, KeysView):
        raise UsageError(
            f"{what} is a {kind}, which has no order, and a class's number is its place: give a list, "
            "or a dict {number: name}"
        )
    if hasattr(names, "__next__"):
        raise UsageError(f"{what} is a {kind}, which can be read once alone: give a list of the names")


def read_names(names: Iterable[Any], what: str) -> list[str]:
    """Names of classes as text, the several names of one class joined by commas, of a record of it (a namedtuple, a
    mapping, a dataclass) its ``name``; a name of two classes is logged.

    Args:
        names: Of each class, in their order.
        what: Whose they are, for messages.

    Raises:
        UsageError: They are one text, have no order, or a class has no name.

    Example:
        >>> read_names([("tench", "Tinca tinca"), b"cat", 10], "the classes")
        ['tench, Tinca tinca', 'cat', '10']
    """
    if isinstance(names, (str, bytes)):
        raise UsageError(f"{what} is the text {names!r}: give a list with the name of each class")
    check_ordered(names, what)
    names = [*names]
    texts = [class_text(name) for name in names]
    if "" in texts:
        number = texts.index("")
        if isinstance(names[number], (tuple, list)) or class_record(names[number]) is not None:
            raise UsageError(
                f"{what} has {str(names[number])[:60]} for class {number}, which is no name: give each class its name "
                "alone, or several of text"
            )
        raise UsageError(f"{what} has no name for class {number}: name every class, or none")
    note_repeated(texts, what)
    return texts


def note_repeated(names: Sequence[str], what: str) -> None:
    """Log that a name is that of two classes; ``what`` says whose names they are."""
    for repeated in [name for name, count in Counter(names).items() if count > 1][:1]:
        numbers = " and ".join(str(number) for number, name in enumerate(names) if name == repeated)
        note_once(
            f"{what}: the classes {numbers} are both called {repeated}, so they can be matched with those of a network "
            "or of other data only by a list of the same names in the same order: rename one to match them by name"
        )


def match_classes(
    own: Sequence[str | None],
    data_names: Sequence[str],
    who: str,
    data: str,
    otherwise: str,
    *,
    length: int | None = None,
) -> list[int]:
    """The place in ``own`` of each class of the data; with a longer ``length`` then the others', in their order.

    Args:
        own: Names of a network's classes; None for one that has no name.
        data_names: Names of the data's classes.
        who: Whose classes ``own`` are, for an error.
        data: Whose ``data_names`` are.
        otherwise: What to do where they do not match, for an error.
        length: How many places; None: as many as ``data_names``.

    Raises:
        UsageError: A class is missing in ``own``, or has its name more than once in either.

    Example:
        >>> match_classes(["cat", "dog", "elk"], ["elk", "cat"], "the student", "the data", "")
        [2, 0]
        >>> match_classes(["cat", "dog", "elk"], ["elk", "cat"], "the student", "the data", "", length=3)
        [2, 0, 1]
    """
    if [*own] == [*data_names]:
        return [*range(len(own))]
    missing = [name for name in data_names if name not in {*own}]
    if missing:
        raise UsageError(
            f"{who} has no class {listed(missing)}, which {data} has (its own are {listed(own)}): {otherwise}"
        )
    for names, whose in ((own, who), (data_names, data)):
        if twice := sorted({name for name in names if name is not None and [*names].count(name) > 1}):
            raise UsageError(
                f"{whose} has more than one class called {twice[0]}, so its classes cannot be matched by their "
                "names: rename them"
            )
    place = {name: number for number, name in enumerate(own)}
    places = [place[name] for name in data_names]
    return [*places, *sorted({*range(len(own))} - {*places})][: length or len(places)]


def answer_as(
    network: Network,
    data_names: Sequence[str],
    who: str,
    data: str,
    otherwise: str,
    *,
    length: int | None = None,
) -> None:
    """Reorder a network's logits so that the first are those of ``data_names``, by name, and its ``recipe``.

    Args:
        network: Its ``recipe["classes"]`` are the names of its logits.
        data_names, who, data, otherwise, length: As :func:`match_classes` takes them.

    Raises:
        UsageError: It has no such class.
    """
    own = network.recipe["classes"]
    places = match_classes(own, data_names, who, data, otherwise, length=length)
    if places != [*range(len(own))]:
        before = range(len(own)) if network.classes is None else network.classes.tolist()
        network.map_classes([before[place] for place in places])
        network.recipe = {
            **network.recipe,
            "num_classes": len(places),
            "classes": tuple(own[place] for place in places),
        }


def check_numbers(names: Sequence[str | None], who: str, nameless: str, otherwise: str) -> None:
    """Complain where classes are called by numbers that are not in their order, and are to be matched with those of
    ``nameless`` by place alone.

    Folders ``0``, ``1``, ``10``, ``11``, ``2`` are sorted so, and a class without a name that has the number 2 may be
    the third of them, or that called 2.

    Raises:
        UsageError: They are.
    """
    if all(name is not None and str(name).isdecimal() for name in names):
        numbers = [int(str(name)) for name in names]
        if numbers != sorted(numbers):
            raise UsageError(
                f"the classes of {who} are called {', '.join(map(str, names[:3]))}, …, numbers in another order, "
                f"and {nameless} has no names for its own: {otherwise}"
            )


def apply_class_map(
    network: Network,
    class_map: ClassMap,
    classes: int | None,
    names: Sequence[str] | None,
    who: str,
    *,
    others: bool = False,
) -> None:
    """What a config's ``class_map`` says of a network: places reorder its logits, names become those of its classes.

    Args:
        network: Whose logits are as its weights have them.
        class_map: Of the config.
        classes: How many classes the data has; None: not known.
        names: Their names; None: not known.
        who: The network, for an error.
        others: Whether its classes that no place is given of stay possible answers, behind the others, as they do
            where names are given; else their logits are cut off.

    Raises:
        UsageError: There is no such place, class or name, too many or too few of them, the names that the network has
            say otherwise, or it is matched by names with data that has none.
    """
    own = network.recipe["num_classes"]
    if isinstance(class_map, Mapping) and classes is not None and names is None:
        raise UsageError(
            f"class_map of {who} says what the data calls its classes, and the data has no names for them: give a "
            "list of places instead, [PLACE,…], for each class of the data the number of its own"
        )
    _check_names(network.recipe.get("classes"), class_map, names, who)
    if isinstance(class_map, Mapping):
        network.recipe = {
            **network.recipe,
            "classes": _renamed(network.recipe.get("classes") or (None,) * own, class_map, names, who),
        }
    elif isinstance(class_map[0], str):
        if len(class_map) != own:
            raise UsageError(
                f"class_map of {who} names {len(class_map)} classes, and it has {own}: give a name for each of its "
                "own classes, in its own order"
            )
        known = network.recipe.get("classes") or ()
        moved = [name for place, name in enumerate(class_map) if name in known and known[place] != name]
        if moved:
            raise UsageError(
                f"class_map of {who} calls another of its classes {moved[0]} than the names it has, which are, in its "
                f"own order, {listed(known)}: leave class_map out, as classes are matched by name"
            )
        network.recipe = {**network.recipe, "classes": tuple(class_map)}
    else:
        if classes is not None and len(class_map) != classes:
            raise UsageError(
                f"class_map of {who} names {len(class_map)} classes, and the data has {classes}: give one place for "
                "each, in the data's order"
            )
        if not all(0 <= place < own for place in class_map):
            raise UsageError(f"class_map of {who} has a place outside 0 … {own - 1}, its own classes")
        if twice := sorted({place for place in class_map if [*class_map].count(place) > 1}):
            raise UsageError(
                f"class_map of {who} has the place {twice[0]} twice, and one class cannot answer for two of the data's"
                ": give each place once"
            )
        rest = [place for place in range(own) if place not in class_map] if others else []
        known = network.recipe.get("classes") or (None,) * own
        # What the data call so is another class of the network now.
        called = [known[place] if known[place] not in (names or ()) else None for place in rest]
        network.map_classes([*class_map, *rest])
        network.recipe = {
            **network.recipe,
            "num_classes": len(class_map) + len(rest),
            "classes": None if names is None else (*names, *called),
        }


def _check_names(own: Sequence[str | None] | None, class_map: ClassMap, names: Sequence[str] | None, who: str) -> None:
    """Complain of a class_map that takes one class for another where the network has both, and the data too.

    Numbers are no names: they differ between lists.
    """
    if own is None:
        return
    if isinstance(class_map, Mapping):
        places = [(_own_place(own, key, who), name) for key, name in class_map.items()]
        pairs = [(None if place is None else own[place], name) for place, name in places]
        names = names or [name for _, name in pairs]
    elif isinstance(class_map[0], int) and names is not None:
        pairs = [
            (own[place], name)
            for place, name in zip(class_map, names, strict=False)
            if isinstance(place, int) and 0 <= place < len(own)
        ]
    else:
        return
    for before, name in pairs:
        if before is not None and before != name and before in names and name in own and not before.isdecimal():
            raise UsageError(
                f"class_map of {who} takes its class {before} for the data's {name}, and both have a {before} and a "
                f"{name}: leave these out of class_map, as classes are matched by name"
            )


def _own_place(own: Sequence[str | None], key: str | int, who: str) -> int | None:
    """The place of the class that a key of a mapping stands for: a number is a place, text a name, or a place where no
    class is called by a number; None: there is no such class.

    Raises:
        UsageError: A number is the name of another class than that of its place.
    """
    if isinstance(key, str) and own.count(key) > 1:
        raise UsageError(f"class_map of {who}: several of its classes are called {key}: write a list of places instead")
    named = own.index(str(key)) if str(key) in own else None
    numbers = isinstance(key, str) and any(str(name).isdecimal() for name in own)
    place = int(key) if str(key).isdecimal() and int(key) < len(own) and not numbers else None
    if isinstance(key, int) and named not in (None, place):
        raise UsageError(
            f"class_map of {who} has the number {key}, a place, and its class called {key} is at the place {named}: "
            f"write '{key}' in quotes for the class of that name, or a list of places"
        )
    return place if named is None else named


def _renamed(
    own: Sequence[str | None], class_map: Mapping[str | int, str], names: Sequence[str] | None, who: str
) -> tuple[str | None, ...]:
    """Names of a network's classes, those of ``given`` by what the data call them."""
    if len({*class_map.values()}) < len(class_map):
        raise UsageError(
            f"class_map of {who} has two of its classes for one of the data: name the one that answers for it"
        )
    # What the data call so is another class of the network now.
    renamed: list[Any] = [None if name in class_map.values() else name for name in own]
    keys: dict[int, str | int] = {}
    for key, name in class_map.items():
        if names is not None and name not in names:
            raise unknown_name(f"in class_map of {who}, the data's class", name, names)
        place = _own_place(own, key, who)
        if place in keys:
            raise UsageError(f"class_map of {who} names one of its classes twice, by {keys[place]!r} and {key!r}")
        if place is not None:
            keys[place], renamed[place] = key, name
        else:
            known = listed(own) if any(own) else f"0 … {len(own) - 1}"
            raise UsageError(
                f"class_map of {who} has {key!r}, which is none of its own classes ({known}): write {{ITS CLASS: "
                f"CLASS OF THE DATA}}"
            )
    return tuple(renamed)


def gives_places(class_map: ClassMap | None) -> bool:
    """Whether a class_map says by numbers which class is which, so that nothing is left to be matched by names."""
    return class_map is not None and not isinstance(class_map, Mapping) and isinstance(class_map[0], int)


def listed(names: Sequence[str | None]) -> str:
    """The first names, and how many more there are."""
    shown = [str(name) for name in names if name is not None]
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
