"""Classes of objectives of a user's own, checked as they are registered: their loss, their options, their names."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

from pydantic import BaseModel, ValidationError

from .arguments import plain_number
from .errors import UsageError
from .objective import Objective


def check_loss_is_there(what: str, entry: type[Objective]) -> None:
    """Refuse a class without a loss; a method that may be meant as one is named.

    Raises:
        UsageError: It defines none.
    """
    losses = ("per_sample", "forward", *(("initial",) if entry.only_initial else ()))
    if any(getattr(entry, name) is not getattr(Objective, name) for name in losses):
        return
    defined = _defined(entry)
    near = sorted(name for name in defined if get_close_matches(name, losses, n=1, cutoff=0.75))
    other = next((name for name in ("__call__", "loss", "compute_loss", "compute") if name in defined), None)
    typo = f"; is {near[0]} meant to be one?" if near else f"; rename {other} to one of them" if other else ""
    raise UsageError(
        f"{what} has no loss: define per_sample(self, student, teacher, batch), the loss of each sample, or forward, "
        f"that of the batch{typo}"
    )


def check_spelling(what: str, entry: type[Objective], attributes: Collection[str]) -> None:
    """Refuse attributes of a class that are none of an objective's, and nearly one that the class does not set.

    Raises:
        UsageError: There is one, as ``default_weigth``.
    """
    defined = _defined(entry)
    for name, value in defined.items():
        if name.startswith("_") or callable(value) or isinstance(value, (classmethod, staticmethod)):
            continue
        near = get_close_matches(name, attributes, n=1, cutoff=0.85)
        if near and near[0] not in defined and not hasattr(Objective, name):
            raise UsageError(
                f"{what} has an attribute {name}, which is none of an objective's: is {near[0]} meant? Else rename it"
            )


def check_options_fit(what: str, entry: type[Objective]) -> None:
    """Refuse Options whose defaults they refuse themselves, or that say otherwise than ``__init__``.

    Raises:
        UsageError: A default is not allowed, is another than that of the argument of its name, or no argument has the
            name where the class is built from its options as they are.
    """
    fields = entry.Options.model_fields
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields.items()
        if not field.is_required() and field.validation_alias is None and _takes_nothing(field.default_factory)
    }
    _check_defaults(what, entry.Options, defaults)
    arguments = dict(list(inspect.signature(entry.__init__).parameters.items())[1:])
    several = {each.name for each in arguments.values() if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
    named = {name: each for name, each in arguments.items() if name not in several}
    plainly = _function(entry, "build") is _function(Objective, "build")
    unknown = [] if several else sorted(set(fields) - set(named))
    if unknown and plainly and _function(entry, "build_each") is _function(Objective, "build_each"):
        taken = ", ".join(named) or "nothing"
        raise UsageError(
            f"{what}: Options has {', '.join(unknown)}, and __init__ takes {taken}: give both the same names, or "
            "define the classmethod build(options, setting)"
        )
    for name, argument in named.items():
        default, own = _plain(defaults.get(name)), _plain(argument.default)
        if name in defaults and None not in (default, own) and default != own:
            raise UsageError(
                f"{what}: {name} is {default!r} by default in Options and {own!r} in __init__, so a config and a call "
                "in Python would differ: give both the same"
            )


def _check_defaults(what: str, options: type[BaseModel], defaults: Mapping[str, Any]) -> None:
    """Refuse defaults that a field refuses: pydantic does not look at them by itself."""
    try:
        options.model_validate(dict(defaults))
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            if name in defaults and problem["type"] != "missing":
                raise UsageError(
                    f"{what}: the default {defaults[name]!r} of its option {name} is not allowed by its own field: "
                    f"{problem['msg'].lower()}"
                ) from None


def _takes_nothing(factory: Any) -> bool:
    """Whether a default needs no other values, as that of ``default_factory=lambda data: …`` does."""
    try:
        return factory is None or not inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of list and dict
        return True


def _plain(value: Any) -> Any:
    """A default that can be compared: a number, a text, a list of them as a tuple; None for anything else."""
    value = plain_number(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value if isinstance(value, (int, float, str)) and value == value else None


def _function(entry: type, name: str) -> Any:
    """A class method's function."""
    return getattr(getattr(entry, name), "__func__", None)


def _defined(entry: type) -> dict[str, Any]:
    """What a class and its bases define, up to Objective."""
    kinds = [*takewhile(lambda kind: kind is not Objective, entry.__mro__)]
    return {name: value for kind in reversed(kinds) for name, value in vars(kind).items()}
