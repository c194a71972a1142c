"""Rules of a user's own that combine teachers, checked as they are registered, built and called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from .arguments import fits
from .config.schema import EnsembleConfig
from .entry_checks import check_initialised, check_methods, check_options_class, is_module_with, kind_of
from .errors import UsageError
from .objective_checks import check_needs
from .user_code import explained, is_own, origin

_METHODS = {
    "forward": ("objectives", "student", "teachers", "batch"),
    "build": ("options", "label", "objective", "settings"),
    "chosen": ("count",),
}
_INTERFACE = (*_METHODS, "teacher_needs", "compares_classes", "takes_mixed")


def check_entry(name: str, entry: Any) -> None:
    """Refuse what is registered as a rule and cannot be one; a module with all that a rule has passes.

    Raises:
        UsageError: It is no class, has no ``forward``, or an attribute or a method is of another kind.
    """
    what = f"rule {name} ({origin(entry)})"
    if not is_module_with(entry, _INTERFACE):
        raise UsageError(
            f"{what} is {kind_of(entry)}: register a class, class NAME(contrastill.TeacherAggregation), with forward"
        )
    if missing := sorted(getattr(entry, "__abstractmethods__", ())):
        raise UsageError(
            f"{what} has no {' and no '.join(missing)}: define forward(self, objectives, student, teachers, batch), "
            "which returns the loss of the batch"
        )
    check_options_class(what, entry, EnsembleConfig.model_fields)
    check_methods(what, entry, _METHODS, on_class=("build",))
    check_needs(what, "teacher_needs", entry.teacher_needs)
    for flag in ("compares_classes", "takes_mixed"):
        if not isinstance(getattr(entry, flag), bool):
            raise UsageError(f"{what} has {flag}={getattr(entry, flag)!r}: give True or False")


def build_rule(name: str, rule: Any, options: Any, label: str, objective: type, settings: Sequence[Any]) -> Any:
    """The rule of one term, as its class builds it.

    Args:
        name: Of the rule.
        rule: Its class.
        options: Validated.
        label: Of the term.
        objective: The class of its objective.
        settings: One for each teacher.

    Raises:
        UsageError: What was built is no rule.
        ContrastillError: The class fails as it is built.
    """
    what = f"rule {name} ({origin(rule)})"
    way_out = "define __init__ with its options, or the classmethod build(options, label, objective, settings)"
    with explained(f"{what}, built from its options,", rule, way_out):
        built = rule.build(options, label, objective, settings)
    if is_own(rule):
        return built
    if not (isinstance(built, nn.Module) and hasattr(type(built), "chosen")):
        raise UsageError(f"{what}: build returns {kind_of(built)}: return a rule, as cls(…) makes it")
    check_initialised(what, built, "weights")
    return built


def check_chosen(what: str, numbers: Any, count: int) -> list[int]:
    """What a rule's ``chosen`` returned, if it is a list of teachers' numbers.

    Raises:
        UsageError: It is not.
    """
    each = list(numbers) if isinstance(numbers, Iterable) else []
    if not each or not all(fits(number, int) and 0 <= number < count for number in each):
        raise UsageError(
            f"{what}: chosen returns {numbers!r}: return the numbers of the teachers that take part, from 0 to "
            f"{count - 1}, at least one"
        )
    return each


def check_rule_weights(what: str, weights: Any, count: int) -> None:
    """Refuse ``weights`` of a rule that are no number for each teacher."""
    shape = getattr(weights, "shape", None)
    wrong = shape is not None and tuple(shape) != (count,)
    if wrong or not isinstance(weights, Iterable) or isinstance(weights, str) or len(list(weights)) != count:
        has = f"of shape {tuple(shape)}" if shape is not None else f"that are {kind_of(weights)}"
        raise UsageError(f"{what} has weights {has}: keep one for each of the {count} teachers, ({count},), or None")
