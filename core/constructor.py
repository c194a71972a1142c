"""The constructor of an objective, called in Python: its arguments are checked as those of a config are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from pydantic import BaseModel, ValidationError

from .arguments import check_arguments, plain_number
from .entry_checks import check_initialised
from .errors import UsageError, device_hint, nearest
from .user_code import is_own, origin


def checked_constructor(build: Callable[..., None]) -> Callable[..., None]:
    """``__init__`` of an objective, with its values checked as those of a config are."""
    signature = inspect.signature(build)

    @wraps(build)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        kind = type(self)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            known = signature.parameters
            hints = (device_hint(name) or nearest(name, known, "") for name in kwargs if name not in known)
            hint = next(filter(None, hints), "")
            raise TypeError(f"{kind.__name__}: {error}{hint and f': {hint}'}") from None
        # A user's own objective may be annotated loosely; what it makes of text is its Options' to say.
        if own := is_own(kind):
            bound = check_arguments(build, bound.args, bound.kwargs)
        check_options(kind.__name__, kind.Options, bound.arguments, texts=not own)
        try:
            build(*bound.args, **bound.kwargs)
        except AttributeError:  # torch's, of a parameter or a module that is set
            check_initialised(origin(kind), self, "logs")
            raise
        check_initialised(origin(kind), self, "logs")
        if kind.__init__ is checked:
            self.note_built()

    return checked


def check_options(
    name: str, options: type[BaseModel], values: Mapping[str, Any], *, texts: bool = False, strict: bool = False
) -> None:
    """Refuse values that the schema of the options refuses in a config.

    Args:
        name: The objective's class, for the message.
        options: The schema; values without a field in it are not checked.
        values: Arguments by name; those that are no numbers and no lists of numbers are not checked.
        texts: Whether texts and lists of them are checked as well.
        strict: Whether a text of digits is no number.

    Raises:
        UsageError: A number is out of range, infinite or not a number; a text is none of those that the schema has.
    """
    kinds = (int, float, str) if texts else (int, float)
    known = {key: _plain(value, kinds) for key, value in values.items() if key in options.model_fields}
    checked = {key: value for key, value in known.items() if isinstance(value, (*kinds, tuple))}
    try:
        options.model_validate(checked, strict=strict)
    except ValidationError as error:
        for problem in error.errors():
            key = problem["loc"][0] if problem["loc"] else None
            if key in checked:
                raise UsageError(f"{name}({key}={checked[key]!r}): {problem['msg'].lower()}") from None


def _plain(value: Any, kinds: tuple[type, ...]) -> Any:
    """A number of numpy or of a tensor as Python's own, a list of such ``kinds`` as a tuple; None for another list."""
    if isinstance(value, (list, tuple)):
        each = tuple(map(plain_number, value))
        return each if all(isinstance(one, kinds) for one in each) else None
    return plain_number(value)
