"""Weights of a run for other data: its classifier for classes in another order, its first convolution for other
channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..core.value_scale import note_once


def classifier_order(own: Sequence[str] | None, classes: Sequence[str] | None) -> list[int] | None:
    """The places of the data's classes among a run's own; empty where they are other classes or two share a name and
    cannot be told apart, None where both are in one order or either has no names.
    """
    if not own or not classes or [*own] == [*classes]:
        return None
    if sorted(own) != sorted(classes):
        return []
    if twice := [name for name in classes if [*classes].count(name) > 1]:
        note_once(
            f"two classes are called {twice[0]}, so those of the student's weights cannot be matched by their names: "
            "its classifier is new; rename them to reuse it"
        )
        return []
    return [[*own].index(name) for name in classes]


def reordered(state: dict[str, Tensor], classifiers: Sequence[str], order: list[int]) -> dict[str, Tensor]:
    """A state dict whose classifiers' rows are in another order, or that has none of them where there is no order."""
    head = [key for key in state if key.rpartition(".")[0] in classifiers]
    if not order:
        return {key: value for key, value in state.items() if key not in head}
    return {key: value[order] if key in head else value for key, value in state.items()}


def with_channels(weight: Tensor, own: Tensor) -> Tensor:
    """A convolution's weights for another number of input channels: their sum, spread evenly, so that a grey image gets
    the same answer.
    """
    if (
        weight.ndim != 4
        or weight.shape[1] == own.shape[1]
        or weight.shape[:1] + weight.shape[2:] != own.shape[:1] + own.shape[2:]
    ):
        return weight
    return weight.sum(1, keepdim=True).expand_as(own) / own.shape[1]
