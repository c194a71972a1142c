"""Objectives of a user's own, checked as they are registered, as they are built and in their first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .arguments import fits, plain_number
from .config.schema import ObjectiveConfig
from .entry_checks import check_initialised, check_methods, check_options_class, is_module_with, kind_of
from .errors import UsageError
from .objective import Objective, Setting
from .objective_class import check_loss_is_there, check_options_fit, check_spelling
from .representation import PARTS
from .user_code import error_text, explained, is_own, origin
from .value_scale import note_once

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
    if "." in name:
        raise UsageError(f"{what} has a dot in its name, which parts config keys: name it {_without_dots(name)}")
    if not is_module_with(entry, _INTERFACE):
        derived = isinstance(entry, type) and issubclass(entry, nn.Module)
        way_out = ", which does not derive from contrastill.Objective" if derived else ""
        raise UsageError(
            f"{what} is {kind_of(entry)}{way_out}: register a class, class NAME(contrastill.Objective), with "
            "per_sample or forward"
        )
    if issubclass(entry, Objective):
        check_loss_is_there(what, entry)
        check_spelling(what, entry, (*_FLAGS, *_NUMBERS, "needs"))
    check_options_class(what, entry, ObjectiveConfig.model_fields)
    check_methods(what, entry, _METHODS, on_class=("build", "build_each"))
    check_attributes(what, entry)
    if issubclass(entry, Objective):
        check_options_fit(what, entry)


def _without_dots(name: str) -> str:
    return name.strip(".").replace(".", "_") or "my_loss"


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


def way_out_of(error: Exception, objective: Any, values: Any = None) -> str:
    """The end of a sentence about an error in an objective's method: what it may read, as far as the error is about it.

    Args:
        error: What the method raised.
        objective: Whose it is.
        values: What it was called with: the batch, or the teachers of ``prepare``.
    """
    text, needs = str(error), ", ".join(sorted(objective.needs)) or "nothing"
    if "NoneType" in text:
        return f", and only what its needs name is computed: {needs}"
    if isinstance(error, KeyError) and isinstance(values, Mapping) and error.args and error.args[0] not in values:
        return f"; the batch has {', '.join(map(str, values))}"
    if isinstance(error, AttributeError) and isinstance(values, Sequence) and "'list'" in text:
        return "; teachers is a list, also of one: teachers[0]"
    if isinstance(error, AttributeError) and error.obj is objective and error.name in ("log", "metrics", "log_dict"):
        return "; values for metrics.jsonl are kept in self.logs"
    if "maps" in objective.needs and (isinstance(error, IndexError) or "tuple" in text):
        return "; maps are a tuple of tensors, one of each layer: maps[-1] is the deepest"
    return ""


def note_forward_is_ignored(what: str, objective: type[Objective], rule: Any) -> None:
    """A line where a rule weighs the loss of each sample, and the class computes that of the batch in a way of its own.

    Args:
        what: Names the objective.
        objective: Its class.
        rule: What combines its teachers.
    """
    if rule.weighs_samples and objective.forward is not Objective.forward and objective.decomposes():
        note_once(
            f"{what} defines forward and per_sample, and the rule {type(rule).__name__} weighs samples, so it calls "
            "per_sample alone: both have to be the same loss"
        )


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
