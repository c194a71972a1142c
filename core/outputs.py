"""The tensors in what a module returns: a dataclass, a dict, a named or plain tuple, and paths such as ``logits``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from .errors import UsageError

LOGITS = ("logits", "out", "output", "outputs", "prediction", "predictions", "pred", "scores", "y_hat")
"""Keys of logits, the likeliest first."""

_DEPTH = 3


def items(output: object) -> list[tuple[str, Any]]:
    """Keys and values of a dict, a dataclass, a tuple or an object with attributes; nothing of anything else."""
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if is_dataclass(output) and not isinstance(output, type):
        return [(each.name, getattr(output, each.name)) for each in fields(output)]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return [*zip(output._fields, output, strict=True)]
    if isinstance(output, (list, tuple)):
        return [(str(place), value) for place, value in enumerate(output)]
    return [] if isinstance(output, Tensor) else [*getattr(output, "__dict__", {}).items()]


def tensors(output: object, before: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Paths and tensors of what a module returns."""
    for key, value in items(output):
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        elif depth > 1:
            yield from tensors(value, f"{before}{key}.", depth - 1)


def part_of(output: object, path: str, network: str) -> Tensor:
    """The tensor at a path: keys, attributes and places with dots between them.

    A number after tokens (B, N, C) is one of them. A tensor stands for its own logits, as of a module that returns
    more in training only.

    Args:
        output: What a module returned.
        path: ``"logits"``, ``"hidden_states.3"``, ``"0"``, ``"last_hidden_state.0"``.
        network: Its name, for the error message.

    Raises:
        UsageError: There is none.
    """
    if isinstance(output, Tensor) and path in (*LOGITS, "0"):
        return output
    value: Any = output
    for step in path.split("."):
        if isinstance(value, Tensor) and value.ndim == 3 and step.isdigit() and int(step) < value.shape[1]:
            value = value[:, int(step)]
        else:
            value = next((inner for key, inner in items(value) if key == step), None)
    if not isinstance(value, Tensor):
        raise UsageError(f"{network} returns {described(output)}, and nothing at {path}: tap a part that is there")
    return value


def described(output: object) -> str:
    """Kind, keys and shapes of what a module returns, for an error message."""
    kind = type(output).__name__
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    shown = [
        f"{key} {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in items(output)
    ]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    listed = f" ({', '.join(shown[:6])}{more})" if shown else ""
    return f"a {kind}{listed}"
