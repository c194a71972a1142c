"""The linear probe: how well classes are told apart by a linear classifier on features that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.representation import Network
from .features import Features, features_of
from .labels import labelled_part

WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_HELD_OUT = 0.2


@dataclass(frozen=True)
class ProbeResult:
    """What a linear classifier on one layer came to.

    Attributes:
        top1: Accuracy on the test split, per cent.
        top5: The same with five guesses; None for fewer than six classes.
        layer: Which layer.
        weight_decay: The strength that was chosen on a held-out part of the training samples.
        num_train: Training samples whose labels were used.
        num_test: Test samples.
        correct: (N,) bool, which test samples got their class, in the order of their index.
    """

    top1: float
    top5: float | None
    layer: str
    weight_decay: float
    num_train: int
    num_test: int
    correct: Tensor


def linear_probe(network: Network, train: Any, test: Any, *, layer: str = "embedding", **options: Any) -> ProbeResult:
    """Fit a linear classifier on one layer of a network that is left exactly as it is, and test it once.

    Features are standardised by the training samples. The classifier is multinomial logistic regression by full-batch L-BFGS; how
    strongly its weights are held down is chosen on a fifth of the training samples, then it is fitted to all of them.

    Args:
        network: Computes on the device it is on.
        train: A split, which has ``loader(batch_size=, device=, seed=, train=)``, or a loader, which has ``epoch(k)``; labelled.
        test: The same.
        layer: ``"embedding"``, ``"logits"``, ``"maps.0"``, ``"maps.1"`` …
        **options: Those of :func:`linear_probes`.

    Raises:
        UsageError: No such layer, samples without classes, a share of labels that is none.

    Example:
        >>> from contrastill.datasets.rooms import Rooms
        >>> from contrastill.models.build import build_network
        >>> rooms = Rooms(Rooms.Options(size=16, train_samples=48, test_samples=24))
        >>> result = linear_probe(build_network("resnet8", num_classes=12), rooms.open("train"), rooms.open("test"))
        >>> result.num_train, result.num_test, result.layer
        (48, 24, 'embedding')
    """
    return linear_probes(network, train, test, layers=(layer,), **options)[layer]


def linear_probes(
    network: Network,
    train: Any,
    test: Any,
    *,
    layers: Sequence[str] = ("embedding",),
    spatial: int = 1,
    label_fraction: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
) -> dict[str, ProbeResult]:
    """A :func:`linear_probe` for each of several layers, with one look at every sample.

    Args:
        network, train, test: As there.
        layers: Names of layers.
        spatial: Maps are averaged to ``spatial`` × ``spatial`` positions.
        label_fraction: Share of the training samples that are used, stratified by class; a smaller part lies within a larger one.
        seed: Of the part and of what is held out.
        batch_size: Samples that are looked at together.
        weight_decays: Strengths to choose from: factors of half the squared weights, beside the mean cross-entropy.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    known, asked = (features_of(network, _loader(split, batch_size, device), layers, spatial) for split in (train, test))
    return {layer: fit_probe(known[layer], asked[layer], layer, label_fraction, seed, weight_decays, device) for layer in layers}


def fit_probe(
    train: Features,
    test: Features,
    layer: str,
    label_fraction: float = 1.0,
    seed: int = 0,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    device: torch.device | str = "cpu",
) -> ProbeResult:
    """The probe itself, on features that are there already."""
    if train.targets is None or test.targets is None:
        raise UsageError("a linear probe needs classes, and the samples have none: give labelled splits")
    rows = labelled_part(len(train.targets), train.targets, label_fraction, seed)
    classes = int(max(train.targets.max(), test.targets.max())) + 1
    x, y = train.values[rows].to(device), train.targets[rows].to(device)
    chosen = _choose(x, y, classes, weight_decays, seed)
    weight, mean, scale = _fitted(x, y, classes, [chosen])[0]
    logits = _logits((test.values.to(device) - mean) * scale, weight)
    asked = test.targets.to(device)
    right = logits.topk(min(5, classes), 1).indices == asked[:, None]
    top1, top5 = (100 * right[:, :k].any(1).double().mean().item() for k in (1, 5))
    return ProbeResult(top1, top5 if classes > 5 else None, layer, chosen, len(rows), len(asked), right[:, 0].cpu())


def _choose(x: Tensor, y: Tensor, classes: int, weight_decays: Sequence[float], seed: int) -> float:
    """The strength that does best on a held-out fifth; the stronger of equals."""
    strengths = sorted(weight_decays, reverse=True)
    if len(strengths) == 1 or len(y) < 5:
        return strengths[0]
    part = labelled_part(len(y), y, 1 - _HELD_OUT, seed).to(y.device)
    held = torch.ones(len(y), dtype=torch.bool, device=y.device)
    held[part] = False
    rights = []
    for weight, mean, scale in _fitted(x[part], y[part], classes, strengths):
        rights.append(int((_logits((x[held] - mean) * scale, weight).argmax(1) == y[held]).sum()))
    return strengths[rights.index(max(rights))]


def _fitted(x: Tensor, y: Tensor, classes: int, weight_decays: Sequence[float]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Weights (D + 1, classes), bias last, for each strength, with the mean and scale (D,) of the features they are for."""
    # float64 sums, but float32 products: these are nearly all of the time.
    mean = x.double().mean(0)
    deviation = x.double().var(0, correction=0).sqrt()
    constant = deviation <= 1e-6 * mean.abs() + 1e-12
    mean, scale = mean.float(), torch.where(constant, 0, 1 / deviation.masked_fill(constant, 1)).float()
    x = (x - mean) * scale
    weight = torch.zeros(x.shape[1] + 1, classes, device=x.device)
    found = []
    for weight_decay in weight_decays:  # each begins where the stronger one ended
        weight = fit_logistic(x, y, weight, weight_decay)
        found.append((weight, mean, scale))
    return found


def fit_logistic(x: Tensor, y: Tensor, start: Tensor, weight_decay: float, iterations: int = 200) -> Tensor:
    """Minimise the mean cross-entropy plus ``weight_decay``/2 times the squared weights; the bias is free.

    Shape:
        - x: (N, D) - y: (N,) - start: (D + 1, C), the bias last
        - returns (D + 1, C).
    """
    weight = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS([weight], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-9, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(_logits(x, weight), y) + 0.5 * weight_decay * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach()


def _logits(x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(weight[-1], x, weight[:-1])


def _loader(source: Any, batch_size: int, device: torch.device) -> Any:
    """A split's loader in order, not augmented; a loader as it is."""
    return source if hasattr(source, "epoch") else source.loader(batch_size=batch_size, device=device, seed=0, train=False)
