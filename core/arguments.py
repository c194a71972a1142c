"""Arguments of public functions as the kinds that the functions work with."""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cache, wraps
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import UsageError, device_hint, unknown_name
from .home import expanded

Entry = TypeVar("Entry", bound=Callable[..., Any])

Positive = Annotated[int, "from 1 on"]
"""A whole number from 1 on: a dimension, a count."""

Paths = str | os.PathLike | Sequence[str | os.PathLike]
"""A path or several."""


def path_list(value: Any, argument: str, kind: str, example: str) -> list[str]:
    """One path or several as a list of text.

    Args:
        value: A path, or several.
        argument: The argument's name, for the message.
        kind: What the paths are, ``"run folder"``.
        example: A path for the message.

    Raises:
        UsageError: There is none, or something else than paths.
    """
    single = isinstance(value, (str, os.PathLike))
    values = [value] if single else list(value) if _several(value) else None
    if values is None or not all(isinstance(path, (str, os.PathLike)) for path in values):
        raise UsageError(f"{argument} is {value!r}: pass a path or a list of paths, such as {example}")
    if not values:
        raise UsageError(f"{argument} is empty: name at least one {kind}, such as {example}")
    return [os.fspath(expanded(path)) for path in values]


def listed(value: Any, argument: str, example: str) -> list[Any]:
    """One thing or several as a list.

    Args:
        value: A list, or one thing: text, or what cannot be iterated.
        argument: The argument's name, for the message.
        example: For the message.

    Raises:
        UsageError: The list is empty.
    """
    values = list(value) if _several(value) and not isinstance(value, str) and not _is_network(value) else [value]
    if not values:
        raise UsageError(f"{argument} is empty: name one at least, such as {example}")
    return values


def plain_number(value: Any) -> Any:
    """A number of numpy or a tensor of one number as Python's own; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def checked(entry: Entry) -> Entry:
    """A function or a class that refuses arguments of another kind than its annotations name."""
    if isinstance(entry, type):
        entry.__init__ = _checked(entry.__init__)  # type: ignore[misc]
        return entry
    return cast(Entry, _checked(entry))


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = check_arguments(function, args, kwargs)
        return function(*bound.args, **bound.kwargs)

    return call


def check_arguments(
    function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Refuse arguments of another kind than the annotations name; a kind that cannot be read off them is not checked.

    Numbers of numpy are numbers, its arrays are tensors, and anything that can be iterated is a list, but for text and
    dicts; a set is none where the order counts. Of what may be a path a ``~`` is the home folder.

    Args:
        function: With annotations.
        args: Of the call.
        kwargs: Of the call.

    Returns:
        The arguments, numbers among them as Python's own, and arrays as tensors where a tensor is named.

    Raises:
        UsageError: An argument is of another kind.
        TypeError: An argument is missing, or there is no such argument.
    """
    signature, hints = _kinds(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        hint = next((hint for name in kwargs if name not in signature.parameters and (hint := device_hint(name))), "")
        text = f"{error}: {hint}" if hint and "unexpected" in str(error) else str(error)
        raise TypeError(f"{function.__qualname__.removesuffix('.__init__')}(): {text}") from None
    for argument, value in bound.arguments.items():
        parameter = signature.parameters[argument]
        if argument not in hints or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint = hints[argument]
        default = value is parameter.default
        bound.arguments[argument] = plain(value, hint) if default else _fitting(argument, value, hint)
    return bound


def check_argument(function: Callable[..., Any], argument: str, value: Any) -> Any:
    """One argument as :func:`check_arguments` has it, for a value that is set later."""
    hints = _kinds(inspect.unwrap(function))[1]
    return _fitting(argument, value, hints[argument]) if argument in hints else value


def _fitting(argument: str, value: Any, hint: Any) -> Any:
    if fits(value, hint):
        return plain(value, hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if isinstance(value, str) and choices:
        raise unknown_name(argument, value, choices)
    raise UsageError(f"{argument} is {_short(value)}: pass {described(hint)}")


def plain(value: Any, hint: Any) -> Any:
    """A value that fits a kind, with numbers of numpy and of tensors as Python's own where the kind has numbers, and
    the home folder for the ``~`` of a path.

    Example:
        >>> import numpy as np
        >>> plain((np.int64(1), 2), tuple[int, ...]), plain(np.array([0.5]), list[float] | None)
        ((1, 2), [0.5])
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        value = expanded(value) if os.PathLike in inner else value
        # A tensor where both a tensor and a list are taken stays one.
        return plain(
            value, min((kind for kind in inner if fits(value, kind)), key=lambda kind: get_origin(kind) is not None)
        )
    if origin is Annotated:
        return plain(value, inner[0])
    if hint in (int, float, bool):
        return plain_number(value)
    if _is_tensor(hint) and _is_array(value):
        return sys.modules["torch"].from_numpy(value.astype(value.dtype.newbyteorder("=")).copy())  # of any strides
    if isinstance(origin, type) and issubclass(origin, Mapping) and type(value) is dict:
        return {key: plain(each, inner[1]) for key, each in value.items()}
    if isinstance(origin, type) and issubclass(origin, Iterable) and inner[0] is not Any and _holds_numbers(value):
        each_kind = inner if origin is tuple and inner[-1] is not ... else [inner[0]] * len(value)
        values = [plain(each, kind) for each, kind in zip(value, each_kind, strict=True)]
        return tuple(values) if origin is tuple or isinstance(value, tuple) else values
    return value


def _is_network(value: Any) -> bool:
    """Whether it is a module that can be called, as ``nn.Sequential`` is, which can be iterated too."""
    forward = getattr(type(value), "forward", None)
    return forward is not None and forward.__name__ != "_forward_unimplemented"


def _is_tensor(hint: Any) -> bool:
    """Whether a kind is torch's tensors; torch is not loaded for it."""
    return getattr(hint, "__module__", None) == "torch" and getattr(hint, "__name__", None) == "Tensor"


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _holds_numbers(value: Any) -> bool:
    """Whether it is a list, a tuple, an array or a tensor, rather than a class of its own or what is read once."""
    return type(value) in (list, tuple) or (hasattr(value, "ndim") and hasattr(value, "tolist"))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a kind.

    Example:
        >>> fits([(0, -1)], tuple[tuple[int, int], ...]), fits("abc", list[str]), fits(None, int | None)
        (True, False, True)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, kind) for kind in inner)
    if origin is Annotated:
        return fits(value, inner[0]) and plain_number(value) >= 1
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if hint in (int, float):
        # True is a 1 for Python, and never meant as one.
        return not isinstance(plain_number(value), bool) and isinstance(
            plain_number(value), Integral if hint is int else Real
        )
    if hint is bool:
        return isinstance(plain_number(value), bool)
    if _is_tensor(hint) and _is_array(value):
        return value.dtype.kind in "biuf"
    if hint is Any or hint is object:
        return True
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(each, inner[1]) for each in value.values())
    if isinstance(origin, type) and issubclass(origin, os.PathLike):
        return isinstance(value, os.PathLike)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _fits_list(value, origin, inner)
    if getattr(hint, "_is_protocol", False):
        return value is not None
    return isinstance(value, hint) if isinstance(hint, type) else True


def _fits_list(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    if not _several(value) or isinstance(value, str) or getattr(value, "ndim", None) == 0:
        return False
    if isinstance(value, Set) and issubclass(origin, Sequence):  # in another order in each process
        return False
    if not hasattr(value, "__len__"):  # read once
        return True
    if origin is tuple and inner[-1] is not ...:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return inner[0] is Any or all(fits(each, inner[0]) for each in value)


def described(hint: Any) -> str:
    """A kind in words.

    Example:
        >>> described(tuple[int, int] | None)
        '(a whole number, a whole number) or None'
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(described(kind) for kind in inner))
    if origin is Annotated:
        return f"{described(inner[0])} {inner[1]}"
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple and inner[-1] is not ...:
        return f"({', '.join(map(described, inner))})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a dict" if inner[1] is Any else f"a dict {{name: {described(inner[1])}, …}}"
    if isinstance(origin, type) and issubclass(origin, os.PathLike):
        return "a path"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list [{described(inner[0])}, …]"
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "True or False",
        type(None): "None",
        os.PathLike: "a path",
    }
    return words.get(hint, f"an object of the class {getattr(hint, '__name__', hint)}")


@cache
def _kinds(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature and the annotations that can be read."""
    signature = inspect.signature(function)
    space = vars(sys.modules[function.__module__])
    hints: dict[str, Any] = {}
    for argument, parameter in signature.parameters.items():
        holder = types.SimpleNamespace(__annotations__={argument: parameter.annotation})
        try:
            hints |= get_type_hints(holder, space, include_extras=True)
        except (NameError, TypeError, AttributeError):  # a name for the type checker alone
            continue
    hints.pop("self", None)
    return signature, {name: hint for name, hint in hints.items() if hint is not inspect.Parameter.empty}


def _short(value: Any) -> str:
    """A value for a message: numbers, text and small lists as they are, of anything else the class."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text and " at 0x" not in text else type(value).__name__


def _several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping))
