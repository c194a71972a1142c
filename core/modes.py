"""Training and eval mode of modules, as they were before a look."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def modes_of(module: nn.Module) -> list[tuple[nn.Module, bool]]:
    """A module and all its parts with their training flags."""
    return [(part, part.training) for part in module.modules()]


def restore_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Put back what :func:`modes_of` gave, by ``train()`` first: a part of a user's own may do more in it than to note
    the mode, as one that adds a low-rank weight to its own in eval mode.
    """
    module, training = modes[0]
    module.train(training)
    for part, flag in modes:
        part.training = flag
