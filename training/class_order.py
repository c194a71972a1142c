"""Brings the logits of a run's teachers into one order of classes, that of the data, by the classes' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.classes import answer_as, check_numbers, gives_places, listed
from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.label_vectors import several_classes
from ..core.registry import OBJECTIVES, TEACHER_AGGREGATIONS, short_name
from ..core.representation import Network


@dataclass
class ClassOrder:
    """What the logits of teachers and student stand for.

    Attributes:
        names: Of the student's logits; None: not known.
        refusal: Why the logits of a teacher cannot be matched, to be raised where an objective compares them.
        notes: What was matched by number alone, for the line at the start.
    """

    names: tuple[str, ...] | None = None
    refusal: UsageError | None = None
    notes: list[str] = field(default_factory=list)


def order_classes(
    teachers: Sequence[Network], config: RunConfig, splits: Mapping[str, Any], length: int | None
) -> ClassOrder:
    """Let each teacher answer in the order of the data's classes, by their names.

    Where the data has neither labels nor names, in the order of the first teacher that has names. A teacher without
    names, and any teacher of labelled data without names, keeps its order where it has as many classes as the student,
    which a note says.

    Args:
        teachers: As they were built; their logits are reordered.
        config: Of the run.
        splits: Of its data.
        length: Of the student's logits; None: that of the teachers'.

    Raises:
        UsageError: The training and the test split name other classes.
    """
    check_same_classes(splits)
    order, data = ClassOrder(), splits["train"]
    matched = [
        (number, teacher)
        for number, teacher in enumerate(teachers)
        # One channel is a quantity, such as depth, and of no class.
        if not gives_places(config.teachers[number].class_map) and teacher.recipe["num_classes"] != 1
    ]
    named = {
        number: own
        for number, teacher in matched
        if (own := teacher.recipe.get("classes")) and None not in own and length in (None, len(own))
    }
    whose = "the data"
    if data.classes is not None:
        order.names = tuple(data.classes)
    elif not _labelled(data) and named:
        first = min(named)
        order.names, whose = named[first], f"teacher {first}"
    elif len({*named.values()}) > 1:
        order.refusal = UsageError(
            "the teachers have their classes in different orders, and the data does not name its own: name them, "
            "or give each teacher a class_map of places"
        )
    for number, teacher in matched:
        who = f"teacher {number} ({short_name(config.teachers[number].model)})"
        own, count = teacher.recipe.get("classes"), teacher.recipe["num_classes"]
        if order.names and own:
            # A student with more outputs than the data has classes: what the others are, a teacher of its length says.
            full = length if length is not None and length == count > len(order.names) else None
            otherwise = (
                f"say with teachers.{number}.class_map={{ITS CLASS: CLASS OF THE DATA}} which is which, "
                "or take objectives that read no logits, such as crd"
            )
            try:
                answer_as(teacher, order.names, who, whose, otherwise, length=full)
            except UsageError as error:
                order.refusal = order.refusal or error
            else:
                order.names = teacher.recipe["classes"] if full else order.names
        elif count == length and (_labelled(data) or len(teachers) > 1):
            nameless, named_ones = (who, "the data") if order.names else ("the data", who)
            try:
                check_numbers(
                    order.names or own or (),
                    named_ones,
                    nameless,
                    f"name them, or say the place of each with teachers.{number}.class_map=[PLACE,…]",
                )
            except UsageError as error:
                order.refusal = order.refusal or error
            order.notes.append(
                f"the {count} classes of {who} are matched by number alone, as {nameless} has no names for them"
            )
    return order


def _labelled(split: Any) -> bool:
    return split.targets is not None or several_classes(split)


def check_same_classes(splits: Mapping[str, Any]) -> None:
    """Complain where the test split numbers its classes in another way than the training split.

    Raises:
        UsageError: It does.
    """
    train, test = splits["train"], splits.get("test")
    if test is not None and train.classes and test.classes and [*train.classes] != [*test.classes]:
        raise UsageError(
            f"the training split has the classes {listed(train.classes)}, and the test split "
            f"{listed(test.classes)}: give both the same classes in the same order"
        )


def compares_classes(config: RunConfig) -> bool:
    """Whether anything in the loss compares the teachers' logits, or predictions, class by class."""
    entries = [(OBJECTIVES[entry.name or label], entry) for label, entry in config.objectives.items()]
    reading = [(objective, entry) for objective, entry in entries if objective.needs_teacher]
    if any(objective.needs_with(entry.options()) & {"logits", "prediction"} for objective, entry in reading):
        return True
    rules = {entry.rule or config.ensemble.rule for _, entry in reading} if len(config.teachers) > 1 else ()
    return any(TEACHER_AGGREGATIONS[rule].compares_classes for rule in rules)


def answer_for(
    network: Network,
    split: Any,
    who: str,
    data: str,
    otherwise: str,
    *,
    placed: bool = False,
    by_number: str = "name them, or say the place of each with class_map=[PLACE,…]",
    others: bool = True,
) -> str:
    """Let a network's first logits be those of a split's classes, by name; its others stay possible answers, and wrong
    ones.

    Args:
        network: Whose logits are reordered.
        split: Labelled.
        who: The network, for an error.
        data: Where the split is from.
        otherwise: What to do where its classes are others.
        placed: Whether a class_map of places has brought its logits into the order of the split's classes.
        by_number: What to do where classes cannot be matched by their numbers.
        others: False: its others are cut off.

    Returns:
        What is worth knowing of the match; empty where names and numbers agree on all classes.

    Raises:
        UsageError: The data has a class that the network has not, or another number of classes where either has no
            names.
    """
    own, count = network.recipe.get("classes"), network.recipe.get("num_classes")
    if placed:
        if count is not None and (count < split.num_classes or (not others and count != split.num_classes)):
            raise UsageError(f"class_map of {who} names {count} classes, and {data} has {split.num_classes}")
        return _left_over(split, count or split.num_classes, who, data, "matched by class_map") if others else ""
    if own is None or split.classes is None:
        if count != split.num_classes:
            raise UsageError(f"{who} tells {count} classes apart, and {data} has {split.num_classes}: {otherwise}")
        nameless, named = (data, who) if split.classes is None else (who, data)
        check_numbers(own or split.classes or (), named, nameless, by_number)
        return f"the {count} classes of {who} are matched by number alone, as {nameless} has no names for them"
    answer_as(network, split.classes, who, data, otherwise, length=count if others else None)
    if not others and split.num_classes < len(own):
        return f"{who} has {len(own)} classes: its probabilities are those among the {split.num_classes} of {data}"
    return _left_over(split, len(own), who, data, "matched by name")


def _left_over(split: Any, count: int, who: str, data: str, matched: str) -> str:
    """What is worth knowing of a network with more classes than a split; empty where it has no more."""
    if split.num_classes >= count:
        return ""
    note = f"{data} has {split.num_classes} of the {count} classes of {who}, {matched}"
    return note if several_classes(split) else f"{note}: to answer with another one counts as wrong"
