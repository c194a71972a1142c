"""Shapes of what a network puts out, measured by one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .logit_kind import are_probabilities, ends_in_sigmoid
from .modes import modes_of, restore_modes
from .representation import Network
from .user_code import explained, origin


@dataclass(frozen=True)
class RepresentationSpec:
    """Shapes of a representation, without the batch: C, D, (C_i, H_i, W_i) and (C, h, w); None for what is not there.

    Attributes:
        probabilities: Whether the logits, or the prediction of each position, are probabilities: a softmax has been
            applied to them already.
        sigmoid: Whether a sigmoid has been applied to them already.
        headless: Whether the logits are the embedding itself, as of a network without a classifier.
    """

    num_classes: int | None
    embedding_dim: int | None
    map_shapes: tuple[tuple[int, ...], ...]
    probabilities: bool = field(default=False, compare=False)
    sigmoid: bool = field(default=False, compare=False)
    headless: bool = field(default=False, compare=False)
    prediction_shape: tuple[int, int, int] | None = None

    @property
    def outputs(self) -> int | None:
        """C: how many logits a sample has, or a position of the prediction."""
        return self.num_classes if self.prediction_shape is None else self.prediction_shape[0]


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Eval mode without gradients; neither a module's training flag nor torch's generators are other afterwards."""
    modes = modes_of(network)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            network.eval()
            yield
    finally:
        restore_modes(modes)


def describe(network: Network, batch: Mapping[str, Tensor]) -> RepresentationSpec:
    """Measure the shapes of everything that is tapped, by one forward that changes no statistics, flags or generators.

    Args:
        network: The network to measure.
        batch: A batch of any size, as ``network`` takes it.
    """
    sizes = {name: tuple(value.shape) for name, value in batch.items() if name == network.modality}
    with evaluating(network), explained(f"network {origin(network.module)}, called with {sizes},", network.module):
        outputs = network(batch)
        of_classes = outputs.logits
        if outputs.prediction is not None and outputs.prediction.shape[1] > 1:
            of_classes = outputs.prediction
        dense = of_classes is not None and of_classes is outputs.prediction
        sigmoid = ends_in_sigmoid(of_classes, lambda: network(batch).prediction if dense else network(batch).logits)
    prediction = None if outputs.prediction is None else outputs.prediction.shape
    return RepresentationSpec(
        num_classes=None if outputs.logits is None else outputs.logits.shape[1],
        embedding_dim=None if outputs.embedding is None else outputs.embedding.shape[1],
        map_shapes=tuple(tuple(value.shape[1:]) for value in outputs.maps),
        probabilities=of_classes is not None and are_probabilities(of_classes),
        sigmoid=sigmoid,
        headless=_same(outputs.logits, outputs.embedding),
        prediction_shape=None if prediction is None else (prediction[1], prediction[2], prediction[3]),
    )


def _same(logits: Tensor | None, embedding: Tensor | None) -> bool:
    """Whether the embedding is what a network returns."""
    return logits is not None and embedding is not None and torch.equal(logits, embedding)
