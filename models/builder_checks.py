"""Builders of networks of a user's own, checked as they are registered and as they build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

from torch import nn

from ..core.entry_checks import check_call, check_initialised, kind_of
from ..core.errors import UsageError
from ..core.representation import Network
from ..core.user_code import explained, is_own, origin

_built: WeakSet[nn.Module] = WeakSet()
_WAY_OUT = "define a function NAME(num_classes, in_chans) that returns a network"


def check_entry(name: str, entry: Any) -> None:
    """Refuse what is registered as a network and is no builder of one.

    Raises:
        UsageError: It cannot be called with ``num_classes`` and ``in_chans``.
    """
    what = f"model {name} ({origin(entry)})"
    if isinstance(entry, nn.Module):
        raise UsageError(f"{what} is a network, not its builder: {_WAY_OUT}, or pass the network itself to distill")
    if not callable(entry):
        raise UsageError(f"{what} is {kind_of(entry)}: {_WAY_OUT}")
    check_call(what, entry, ("num_classes", "in_chans"), keywords=True)


def built_by(name: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> nn.Module:
    """The module that a builder returns, of a :class:`~contrastill.Network` that within it, with ``taps`` and
    ``preprocess``.

    Args:
        name: Of the network.
        builder: Takes ``options``.
        options: ``num_classes``, ``in_chans``, …

    Raises:
        UsageError: It returns no module.
        ContrastillError: A builder of the user's own fails.
    """
    called = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "config")
    with explained(f"model {name} ({origin(builder)}), called with ({called}),", builder):
        module = builder(**options)
    if not isinstance(module, nn.Module):
        raise UsageError(f"model {name} ({origin(builder)}) returns {kind_of(module)}: let it return a network")
    if not is_own(builder):
        if module in _built:
            raise UsageError(f"model {name} ({origin(builder)}) returns one network twice: make a new one in each call")
        _built.add(module)
    check_initialised(f"model {name} ({origin(type(module))})", module, "_parameters")
    if not isinstance(module, Network):
        return module
    inner: Any = module.module
    inner.taps, inner.preprocess = module.taps, module.preprocess
    return inner
