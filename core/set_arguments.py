"""Arguments of a module's constructor that are set afterwards: refused where the module would not follow."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from .arguments import check_argument
from .constructor import check_options
from .errors import UsageError
from .user_code import is_own


class SetArguments(nn.Module):
    """Base of losses: an argument of the constructor can be set later where it is read at every step, such as a
    temperature that is annealed; where others were made from it, or nothing reads it again, setting it is an error.

    Attributes:
        fixed: Arguments that are stored and that others were made from.
    """

    fixed: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        kind: type = type(self)
        if self.__dict__.get("_built") and name in _arguments(kind):
            value = self._check_set(name, value)
        super().__setattr__(name, value)

    def _check_set(self, name: str, value: Any) -> Any:
        """The value that is set. An argument that the built module does not follow is refused, as is a value that its
        options or its constructor refuse.
        """
        kind, options = type(self).__name__, getattr(self, "Options", None)
        if hasattr(self, name) and name not in self.fixed:
            if options is not None:
                check_options(kind, options, {name: value}, texts=True, strict=isinstance(value, str))
                return value
            return check_argument(_constructor(type(self), name), name, value)
        losses = ((child, module) for child, module in self.named_children() if isinstance(module, SetArguments))
        within = next((child for child, module in losses if hasattr(module, name)), None)
        raise UsageError(
            f"{name} of a {kind} that is built cannot be set, as nothing would follow it: "
            + (f"set {within}.{name}" if within else f"build another with {name}={_short(value)}")
        )

    def note_built(self) -> None:
        """From now on arguments are checked when they are set; called by the constructor that ends last."""
        self.__dict__["_built"] = is_own(type(self))


@cache
def _arguments(kind: type) -> frozenset[str]:
    """Arguments of the constructors of a class and its bases, and its options of a config."""
    names = set(getattr(getattr(kind, "Options", None), "model_fields", ()))
    for base in kind.__mro__[: kind.__mro__.index(SetArguments)]:
        if "__init__" in vars(base):
            names |= inspect.signature(vars(base)["__init__"]).parameters.keys()
    return frozenset(names - {"self"})


def _constructor(kind: type, argument: str) -> Callable[..., Any]:
    """The constructor, of a class or its bases, that has an argument."""
    own = (vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base))
    return next(made for made in own if argument in inspect.signature(made).parameters)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else "…"
