"""A fitted linear classifier, and what it comes to on test samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.statistics import wilson_interval
from .features import Features


@dataclass(frozen=True)
class ProbeResult:
    """What a linear classifier on one layer came to.

    Attributes:
        top1: Accuracy on the test split, per cent.
        top5: The same with five guesses; None for fewer than six classes.
        layer: Which layer.
        weight_decay: The strength that was chosen on a held-out part of the training samples; 0 for ``crd``, which has
            none.
        num_train: Training samples whose labels were used.
        num_test: Test samples.
        correct: (N,) bool, which test samples got their class, in the order of their index.
        low, high: 95 % interval of ``top1`` over test samples (Wilson), per cent.
        loss: Mean cross-entropy on the training samples at the end, in nats, without the penalty.
        protocol: How the classifier was fitted.
        learning_rate: What was chosen there too, or ``crd``'s; None for ``exact``, which has none.
    """

    top1: float
    top5: float | None
    layer: str
    weight_decay: float
    num_train: int
    num_test: int
    correct: Tensor
    low: float
    high: float
    loss: float
    protocol: str = "exact"
    learning_rate: float | None = None


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier on features of one layer; a probe is one, measured once.

    Attributes:
        weight: (D + 1, C), the bias last, of standardised features.
        mean, scale: (D,), a feature x is standardised as (x − mean) · scale.
        layer, weight_decay, num_train, loss, protocol, learning_rate: As of a :class:`ProbeResult`.

    Shape:
        - values: (N, D) - returns logits (N, C).
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor
    layer: str
    weight_decay: float
    num_train: int
    loss: float
    protocol: str
    learning_rate: float | None

    def __call__(self, values: Tensor) -> Tensor:
        return linear_logits((values.to(self.weight.device).float() - self.mean) * self.scale, self.weight)

    def measure(self, test: Features) -> ProbeResult:
        """Its accuracy on test samples; a class that it was not fitted to is wrong.

        Raises:
            UsageError: They have no classes, or are of another length.
        """
        if test.targets is None:
            raise UsageError("the test samples have no classes to compare with: give labelled ones")
        targets = test.targets.to(self.weight.device)
        if test.values.shape[1] != len(self.mean):
            raise UsageError(
                f"the classifier reads {len(self.mean)} values, and the test features have {test.values.shape[1]}: "
                "take features of the space that it was fitted in"
            )
        classes = self.weight.shape[1]
        right = self(test.values).topk(min(5, classes), 1).indices == targets[:, None]
        top1, top5 = (100 * right[:, :k].any(1).double().mean().item() for k in (1, 5))
        low, high = wilson_interval(int(right[:, 0].sum()), len(targets))
        return ProbeResult(
            top1,
            top5 if classes > 5 else None,
            self.layer,
            self.weight_decay,
            self.num_train,
            len(targets),
            right[:, 0].cpu(),
            low,
            high,
            self.loss,
            self.protocol,
            self.learning_rate,
        )


def linear_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Logits (N, C) of features (N, D) by weights (D + 1, C), the bias last."""
    return torch.addmm(weight[-1], x, weight[:-1])
