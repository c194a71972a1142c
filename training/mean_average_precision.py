"""Mean average precision of labels that mark any number of classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat


class MeanAveragePrecision(Metric):
    """Mean over the classes that occur of the average precision of their logits; NaN where none occurs.

    Logits are compared by their order alone: a sigmoid would make those of sure networks equal in float32. Over all
    processes together.

    Example:
        >>> metric = MeanAveragePrecision()
        >>> metric.update(torch.tensor([[3.0, 0.0], [1.0, 5.0], [2.0, 1.0]]), torch.tensor([[1, 0], [1, 0], [0, 0]]))
        >>> round(metric.compute().item(), 4)
        0.8333
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits (B, C) and labels (B, C) of 0 and 1."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """In [0, 1]."""
        logits, labels = dim_zero_cat(self.logits), dim_zero_cat(self.labels).long()
        scores = []
        for number in labels.any(0).nonzero().flatten().tolist():
            values, places = logits[:, number].unique(return_inverse=True)
            ranks = places.double() / len(values)  # within [0, 1), where they are taken as they are
            scores.append(binary_average_precision(ranks, labels[:, number]))
        return torch.stack(scores).mean() if scores else torch.tensor(torch.nan)
