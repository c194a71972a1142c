"""Linear classifiers on the frozen layers of a network, as an evaluation of runs has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..core.config.schema import EvaluationConfig
from ..core.representation import Network
from ..probe.features import features_of
from ..probe.linear import fit_probe
from .evaluation_result import ClassificationScores, LayerScores


def classification_scores(
    network: Network, train: Any, test: Any, options: EvaluationConfig, device: torch.device, seed: int
) -> Iterator[ClassificationScores]:
    """The scores for each share of the labels.

    Args:
        network: Frozen, on the device.
        train, test: Splits with classes.
        options: Layers, their size and the shares.
        device: Where to compute.
        seed: Of the shares.
    """
    features = [
        features_of(
            network,
            split.loader(batch_size=64, device=device, seed=0, train=False),
            options.layers,
            options.spatial,
        )
        for split in (train, test)
    ]
    for fraction in options.label_fractions:
        layers, train_images = {}, 0
        for layer in options.layers:
            result = fit_probe(
                features[0][layer], features[1][layer], layer, fraction, seed, device=device, unseen="wrong"
            )
            layers[layer] = LayerScores(result.top1, result.top5, result.weight_decay)
            train_images = result.num_train
        yield ClassificationScores(fraction, train_images, layers)
