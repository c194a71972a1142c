"""Objectives of a user's own, checked as they are registered, as they are built and in their first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

from torch import Tensor

from .arguments import fits, plain_number
from .config.schema import ObjectiveConfig
from .entry_checks import check_initialised, check_methods, check_options_class, is_module_with, kind_of
from .errors import UsageError
from .objective import Objective, Setting
from .representation import PARTS
from .user_code import error_text, explained, is_own, origin

_LOSS = ("student", "teacher", "batch")
_METHODS = {
    "forward": _LOSS,
    "per_sample": _LOSS,
    "initial": _LOSS,
    "build": ("options", "setting"),
    "build_each": ("options", "settings"),
    "prepare": ("teachers",),
    "enter": ("stage",),
    "student_needs": ("stage",),
}
_FLAGS = ("needs_teacher", "same_classes", "per_class", "only_initial", "joint", "takes_mixed")
_NUMBERS: dict[str, tuple[type, float, float, str]] = {
    "default_weight": (float, 1e-45, 1e30, "a positive number"),
    "default_warmup": (float, 0, 1, "a share of the training, from 0 to 1"),
    "initial_epochs": (int, 0, 1e9, "a whole number, 0 for none"),
    "least_samples": (int, 1, 1e9, "a whole number from 1 on"),
}
_INTERFACE = (*_METHODS, *_FLAGS, *_NUMBERS, "needs", "decomposes")


def check_entry(name: str, entry: Any) -> None:
    """Refuse what is registered as an objective and cannot be one; a module with all that an objective has passes.

    Raises:
        UsageError: It is no class, lacks a loss, or an attribute or a method is of another kind.
    """
    what = f"objective {name} ({origin(entry)})"
    if not is_module_with(entry, _INTERFACE):
        raise UsageError(
            f"{what} is {kind_of(entry)}: register a class, class NAME(contrastill.Objective), with per_sample or "
            "forward"
        )
    if issubclass(entry, Objective):
        _check_loss_is_there(what, entry)
    check_options_class(what, entry, ObjectiveConfig.model_fields)
    check_methods(what, entry, _METHODS, on_class=("build", "build_each"))
    check_attributes(what, entry)


def check_attributes(what: str, objective: Any) -> None:
    """Refuse attributes of another kind than an objective's; what an instance alone has, as a property, is left out.

    Args:
        what: Names it in the message.
        objective: The class or an instance.

    Raises:
        UsageError: One is of another kind.
    """
    values = {name: getattr(objective, name) for name in (*_FLAGS, *_NUMBERS, "needs")}
    values = {name: value for name, value in values.items() if not hasattr(value, "__get__")}
    for name in values.keys() & set(_FLAGS):
        if not fits(plain_number(values[name]), bool):
            raise UsageError(f"{what} has {name}={values[name]!r}: give True or False")
    for name in values.keys() & _NUMBERS.keys():
        kind, low, high, allowed = _NUMBERS[name]
        if name == "default_weight" and values[name] is None:  # then a config has to give one
            continue
        if not (fits(values[name], kind) and low <= values[name] <= high):
            raise UsageError(f"{what} has {name}={values[name]!r}: give {allowed}")
    if "needs" in values:
        check_needs(what, "needs", values["needs"])


def check_needs(what: str, name: str, value: Any) -> None:
    """Refuse anything but a set of ``logits``, ``embedding``, ``maps``."""
    if not isinstance(value, (set, frozenset, list, tuple)) or not set(value) <= set(PARTS):
        raise UsageError(f'{what} has {name} {value!r}: give a set of {", ".join(PARTS)}, as frozenset({{"logits"}})')


def _check_loss_is_there(what: str, entry: type[Objective]) -> None:
    losses = ("per_sample", "forward", *(("initial",) if entry.only_initial else ()))
    if any(getattr(entry, name) is not getattr(Objective, name) for name in losses):
        return
    defined = {name for kind in takewhile(lambda kind: kind is not Objective, entry.__mro__) for name in vars(kind)}
    near = sorted(name for name in defined if get_close_matches(name, losses, n=1, cutoff=0.75))
    typo = f"; is {near[0]} meant to be one?" if near else ""
    raise UsageError(
        f"{what} has no loss: define per_sample(self, student, teacher, batch), the loss of each sample, or forward, "
        f"that of the batch{typo}"
    )


def build_objectives(
    label: str, objective: type[Objective], options: Any, settings: Sequence[Setting]
) -> list[Objective]:
    """One objective for each teacher, as its class builds them; a single one without a teacher, or of all together.

    Args:
        label: Its key under ``objectives``.
        objective: The class.
        options: Validated.
        settings: One for each teacher, or a single one without.

    Raises:
        UsageError: It cannot be built, or what was built is no such objective.
        ContrastillError: The class fails as it is built.
    """
    what = f"objective {label} ({origin(objective)})"
    method = "build_each" if objective.needs_teacher else "build"
    with explained(f"{what}, built from its options,", objective):
        try:
            if objective.needs_teacher:
                built: Any = objective.build_each(options, settings)
            else:
                built = [objective.build(options, settings[0])]
        except TypeError as error:
            if is_own(objective):
                raise
            raise UsageError(
                f"{what} cannot be built from its options ({error_text(error, objective.__module__)}): define the "
                "classmethod build(options, setting), which knows dimensions and the number of samples"
            ) from error
    if is_own(objective):
        return built
    if not isinstance(built, (list, tuple)):
        raise UsageError(f"{what}: {method} returns {kind_of(built)}: return a list with an objective for each teacher")
    for each in built:
        if not is_module_with(type(each), _INTERFACE):
            raise UsageError(f"{what}: build returns {kind_of(each)}: return an objective, as cls(…) makes it")
        check_initialised(what, each, "logs")
        check_attributes(what, each)
    if len(built) != (1 if built and built[0].joint else len(settings) if objective.needs_teacher else 1):
        raise UsageError(f"{what}: {method} returns {len(built)} objectives for {len(settings)} teacher(s)")
    return list(built)


def check_logs(what: str, logs: Any) -> None:
    """Refuse values for metrics.jsonl that are no scalars.

    Args:
        what: Names the objective in the message.
        logs: Its ``logs`` after a step.

    Raises:
        UsageError: They are no dict of numbers and scalars.
    """
    if not isinstance(logs, Mapping):
        raise UsageError(f"{what} has logs that are {kind_of(logs)}: keep a dict {{name: scalar}}")
    for name, value in logs.items():
        if isinstance(value, Tensor) and value.ndim:
            raise UsageError(f"{what} has logs[{name!r}] of shape {tuple(value.shape)}: keep a scalar, such as .mean()")
        if not isinstance(value, Tensor) and not fits(value, float):
            raise UsageError(f"{what} has logs[{name!r}] that is {kind_of(value)}: keep a scalar")
