"""LogME: what features are worth for labels, estimated from the training samples alone, with nothing trained or
tested.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.arguments import Positive, checked
from ..core.errors import UsageError
from ..core.loss_labels import whole_numbers
from ..core.tensor_values import check_readable

# The evidence grows without bound where features give the labels exactly, and a class that they say nothing of wants
# weights of 0.
_LEAST = 1e-12


@checked
def logme(values: Tensor, targets: Tensor, *, iterations: Positive = 500, tolerance: float = 1e-9) -> float:
    """The logarithm of maximum evidence (You et al., ICML 2021), in nats a sample; higher is better.

    The indicator of each class is a linear function of the features, with weights from N(0, 1/α) and noise from N(0,
    1/β). The evidence, in which the weights are integrated out, is maximised over α and β by MacKay's fixed point (α =
    γ/‖m‖², β = (N − γ)/‖fm − y‖², m the mean of the weights given the labels, γ their effective number). The mean over
    classes is returned. Features are taken as they are: there is no bias and nothing is standardised, as in the paper.
        Compare networks on one data set by it, not data sets.

    Args:
        values: Features.
        targets: Classes.
        iterations: Steps of the fixed point at most.
        tolerance: It ends when no class's evidence changes by more, nats a sample.

    Shape:
        - values: (N, D) - targets: (N,) int64.

    Raises:
        UsageError: Shapes that do not fit, fewer than two samples or classes, features that are not finite, or are all
            0, classes that are not counted from 0, a tolerance that is negative.

    Example:
        >>> targets = torch.arange(3).repeat(20)
        >>> informative = torch.nn.functional.one_hot(targets).float() + 0.1 * torch.randn(60, 3)
        >>> logme(informative, targets) > logme(torch.randn(60, 3), targets)
        True
    """
    _check(values, targets)
    if not tolerance >= 0:
        raise UsageError(f"tolerance={tolerance} is no difference: give a number from 0 on, such as 1e-9")
    f = values.detach().double()
    labels = F.one_hot(targets.long()).double()
    labels = labels[:, labels.any(0)]  # a class without samples has nothing to be explained
    spectrum, explained, left = _projected(f, labels)
    count = len(f)
    alpha = beta = torch.ones(labels.shape[1], dtype=torch.float64, device=f.device)
    before = torch.full_like(alpha, -math.inf)
    for _ in range(iterations):
        shares = spectrum[:, None] / (alpha / beta + spectrum[:, None])  # (k, C)
        weights = (shares.square() * explained / spectrum[:, None]).sum(0)  # ‖m‖²
        residual = (((1 - shares).square() * explained).sum(0) + left).clamp_min(_LEAST)
        effective = shares.sum(0)
        evidence = _evidence(count, alpha, beta, spectrum, weights, residual)
        if bool(((evidence - before).abs() <= tolerance).all()):
            break
        before = evidence
        alpha = effective / weights.clamp_min(_LEAST)
        beta = (count - effective).clamp_min(_LEAST) / residual
    return evidence.mean().item()


def _projected(f: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared singular values (k,) of the features, the squared parts (k, C) of the labels along their directions, and
    what is left of the labels (C,).
    """
    wide = f.shape[1] > len(f)
    # Of the smaller of both Gram matrices; float64, so that directions down to 1e-6 of the longest one are kept.
    spectrum, vectors = torch.linalg.eigh(f @ f.T if wide else f.T @ f)
    nonzero = spectrum > 1e-12 * spectrum[-1]
    spectrum, vectors = spectrum[nonzero], vectors[:, nonzero]
    explained = (vectors.T @ labels).square() if wide else (vectors.T @ (f.T @ labels)).square() / spectrum[:, None]
    return spectrum, explained, (labels.square().sum(0) - explained.sum(0)).clamp_min(0)


def _evidence(count: int, alpha: Tensor, beta: Tensor, spectrum: Tensor, weights: Tensor, residual: Tensor) -> Tensor:
    """Log evidence of each class, (C,), divided by the number of samples.

    D/2 log α − 1/2 log|αI + βfᵀf| is summed as −1/2 Σ log(1 + βσ/α), which stays finite when α grows.
    """
    spread = torch.log1p(spectrum[:, None] * (beta / alpha)).sum(0)
    return 0.5 * (beta.log() - math.log(2 * math.pi) - (beta * residual + alpha * weights + spread) / count)


def _check(values: Tensor, targets: Tensor) -> None:
    check_readable(values=values, targets=targets)
    if values.ndim != 2 or targets.shape != (len(values),):
        raise UsageError(
            f"features of shape {tuple(values.shape)} and classes of shape {tuple(targets.shape)} do not fit: "
            "give (N, D) and (N,)"
        )
    if not whole_numbers(targets) or (len(targets) and int(targets.min()) < 0):
        raise UsageError("LogME needs classes as whole numbers from 0 on: leave out samples without a label")
    if len(values) < 2 or len(targets.unique()) < 2:
        raise UsageError("LogME needs samples of at least two classes")
    if not bool(values.isfinite().all()):
        raise UsageError("LogME needs finite features: a layer gave NaN or infinity")
    if not bool(values.any()):
        raise UsageError("LogME needs features that are not all 0")
