"""What the registries ask of any class of a user's own: methods that take what they are called with, options with a
schema, a constructor that calls its base's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from torch import nn

from .errors import UsageError, article


def kind_of(value: object) -> str:
    """What a value is, for a message: ``a function``, ``the class Tiny``, ``None``."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return article(type(value).__name__)


def is_module_with(entry: Any, interface: Collection[str]) -> bool:
    """Whether it is a class of modules that has all of these attributes, whatever it is derived from."""
    return isinstance(entry, type) and issubclass(entry, nn.Module) and all(hasattr(entry, name) for name in interface)


def check_call(
    what: str, function: Callable, arguments: Sequence[str], *, keywords: bool = False, way_out: str = ""
) -> None:
    """Refuse a function that cannot be called with these arguments; one whose signature is not known passes.

    Args:
        what: Names it in the message.
        function: What is called.
        arguments: Their names, for the message; with ``keywords`` those it is called with.
        keywords: Whether they are passed by name.
        way_out: The message's end.

    Raises:
        UsageError: It takes others.
    """
    if not callable(function):
        raise UsageError(f"{what} is {kind_of(function)}, and it is called with ({', '.join(arguments)})")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*(() if keywords else arguments), **(dict.fromkeys(arguments) if keywords else {}))
    except TypeError as error:
        by_name = ", by name" if keywords else ""
        plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        taken = signature.replace(parameters=plain, return_annotation=signature.empty)
        raise UsageError(
            f"{what} takes {taken}, and is called with ({', '.join(arguments)}){by_name}: {error}{way_out}"
        ) from None


def check_methods(what: str, entry: type, methods: Mapping[str, Sequence[str]], on_class: Collection[str] = ()) -> None:
    """Refuse a class with a method that cannot be called as it will be.

    Args:
        what: Names the class in the message.
        entry: The class.
        methods: Name -> arguments without ``self``; a method that is not there is not checked.
        on_class: Those that are called on the class itself.

    Raises:
        UsageError: A method takes other arguments.
    """
    for name, arguments in methods.items():
        static = inspect.getattr_static(entry, name, None)
        if static is None:
            continue
        method = getattr(entry, name)
        bound = isinstance(static, (staticmethod, classmethod))
        if name in on_class:
            if inspect.isfunction(static):
                raise UsageError(f"{what}: {name} is called on the class: write @classmethod above it")
        elif not bound and callable(method):
            method = functools.partial(method, None)
        first = "cls" if isinstance(static, classmethod) else "self"
        taken = arguments if isinstance(static, staticmethod) else (first, *arguments)
        check_call(f"{what}: {name}", method, arguments, way_out=f"; write {name}({', '.join(taken)})")


def check_options_class(what: str, entry: Any, reserved: Collection[str]) -> None:
    """Refuse a class whose options a config cannot check.

    Args:
        what: Names the class in the message.
        entry: The class, with ``Options``.
        reserved: Keys of its section of a config, which are no options.

    Raises:
        UsageError: There are no ``Options``, or they are no pydantic model, or have a reserved name.
    """
    options = getattr(entry, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        has = "has no Options" if options is None else "has Options that are no pydantic model"
        raise UsageError(
            f"{what} {has}: define in it class Options(contrastill.Options), with a field for each option; pass where "
            "there is none"
        )
    for name in sorted(set(reserved) & set(options.model_fields)):
        raise UsageError(f"{what} has an option {name}, which is a key of that section of every config: rename it")


def check_initialised(what: str, module: nn.Module, attribute: str) -> None:
    """Refuse a module whose ``__init__`` did not call that of its base, which sets ``attribute``.

    Raises:
        UsageError: It did not.
    """
    if "_modules" not in vars(module) or not hasattr(module, attribute):
        raise UsageError(f"{what}: its __init__ does not call super().__init__(): let that be its first line")
