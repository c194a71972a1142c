"""The linear probe: how well classes are told apart by a linear classifier on features that stay as they are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import Positive, checked
from ..core.errors import ContrastillError, UsageError, unknown_name
from ..core.label_vectors import lacks_classes, several_classes
from ..core.loaded_network import as_network
from ..core.representation import Network
from ..core.torch_settings import own_settings
from ..datasets.io.scale import check_same_scale
from .features import Features, check_classes, features_of
from .inputs import as_splits, ordered_loader
from .labels import check_same_names, labelled_part
from .layers import warn_of_spatial
from .linear_classifier import LinearClassifier, ProbeResult, linear_logits
from .sgd_heads import train_heads

WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Strengths that ``exact`` chooses from."""
PROTOCOLS = ("exact", "grid", "crd")
GRID = tuple((rate, decay) for decay in (0.0, 1e-4, 1e-3) for rate in (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4))
"""(learning rate, weight decay) of each head that ``grid`` trains."""
GRID_EPOCHS, GRID_BATCH = 30, 128
CRD_RATE, CRD_EPOCHS, CRD_BATCH, CRD_MILESTONES = 0.1, 100, 64, (30, 60, 90)
_HELD_OUT = 0.2


@checked
def linear_probe(
    network: Network | nn.Module, train: Any, test: Any, *, layer: str = "embedding", **options: Any
) -> ProbeResult:
    """Fit a linear classifier on one layer of a network that is left exactly as it is, and test it once.

    ``protocol`` is how the classifier is fitted:

    - ``exact``: multinomial logistic regression on standardised features by full-batch L-BFGS; how strongly its weights
      are held down is chosen on a fifth of the training samples, then it is fitted to all of them.
    - ``grid``: heads of every learning rate and weight decay in ``GRID`` are trained at once by SGD on four fifths of
      the training samples, on standardised features (as DINOv2 evaluates: Oquab et al., TMLR 2024); with what did best
      on the other fifth a new one is trained on all.
    - ``crd``: one head on the features as they are, with what probes of networks at 32 × 32 are known to need (Tian et
      al., ICLR 2020, left their recipe out): SGD at 0.1 with Nesterov momentum 0.9 and no weight decay, batches of 64,
      100 epochs, ×0.1 after 30, 60 and 90.

    Args:
        network: Computes on the device it is on; a student of :func:`~contrastill.load_student` will do.
        train: A labelled ``Dataset``; or a split, which has ``loader(batch_size=, device=, seed=, train=)``; or a
            loader, which has ``epoch(k)``.
        test: The same.
        layer: ``"embedding"``, ``"logits"``, ``"maps.0"``, ``"maps.1"`` …
        **options: Those of :func:`linear_probes`.

    Raises:
        UsageError: No such layer or protocol, a weight decay that is none, samples without classes, a class without
            training samples, features that are not finite, a share of labels that is none; values of another
            range or unit than the network's training.

    Example:
        >>> from contrastill.datasets.rendered_rooms import Rooms
        >>> from contrastill.models.build import build_network
        >>> rooms = Rooms(Rooms.Options(size=16, train_samples=48, test_samples=24))
        >>> result = linear_probe(build_network("resnet8", num_classes=12), rooms.open("train"), rooms.open("test"))
        >>> result.num_train, result.num_test, result.layer
        (48, 24, 'embedding')
    """
    return linear_probes(network, train, test, layers=(layer,), **options)[layer]


@checked
@own_settings()
def linear_probes(
    network: Network | nn.Module,
    train: Any,
    test: Any,
    *,
    layers: Sequence[str] = ("embedding",),
    spatial: Positive = 1,
    label_fraction: float = 1.0,
    seed: int = 0,
    batch_size: Positive = 256,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    protocol: str = "exact",
    cache: str | os.PathLike | None = None,
) -> dict[str, ProbeResult]:
    """A :func:`linear_probe` for each of several layers, with one look at every sample.

    Args:
        network, train, test: As there.
        layers: Names of layers.
        spatial: Maps are averaged to ``spatial`` × ``spatial`` positions.
        label_fraction: Share of the training samples that are used, stratified by class; a smaller part lies within a
            larger one.
        seed: Of the part and of the validation samples.
        batch_size: Samples in a forward pass.
        weight_decays: Strengths that ``exact`` chooses from: factors of half the squared weights, beside the mean
            cross-entropy.
        protocol: ``"exact"``, ``"grid"`` or ``"crd"``.
        cache: A folder in which features are cached for further probes, see :func:`~.features.features_of`.
    """
    network, (train, test) = as_network(network), as_splits(train, test)
    warn_of_spatial(layers, spatial)
    check_same_names(getattr(train, "classes", None), getattr(test, "classes", None))
    for name, split in (("training", train), ("test", test)):
        if hasattr(split, "targets") and several_classes(split):
            raise UsageError(f"the {name} split {lacks_classes(split, 'a probe')}")
        if hasattr(split, "modalities") and network.modality in split.modalities:
            check_same_scale(network, type(network.module).__name__, split)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    train_features, test_features = (
        features_of(network, ordered_loader(split, batch_size, device), layers, spatial, cache=cache)
        for split in (train, test)
    )
    options: dict[str, Any] = {
        "weight_decays": weight_decays,
        "protocol": protocol,
        "num_classes": getattr(train, "num_classes", None),
    }
    return {
        layer: fit_probe(
            train_features[layer], test_features[layer], layer, label_fraction, seed, device=device, **options
        )
        for layer in layers
    }


def fit_probe(
    train: Features,
    test: Features,
    layer: str,
    label_fraction: float = 1.0,
    seed: int = 0,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    device: torch.device | str = "cpu",
    protocol: str = "exact",
    num_classes: int | None = None,
    unseen: str = "refused",
) -> ProbeResult:
    """The probe itself, on features that are there already.

    Args:
        num_classes: Of the training split; each has to occur in it.
        unseen: Test samples of a class that no training sample has: ``"refused"``, or ``"wrong"``, where a data set's
            own splits have some, as NYU-Depth's scenes do.
    """
    _check_options(protocol, weight_decays)
    check_classes(train, test, num_classes, unseen=unseen)
    return fit_classifier(train, layer, label_fraction, seed, weight_decays, device, protocol).measure(test)


def fit_classifier(
    train: Features,
    layer: str,
    label_fraction: float = 1.0,
    seed: int = 0,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    device: torch.device | str = "cpu",
    protocol: str = "exact",
) -> LinearClassifier:
    """The classifier of :func:`fit_probe`, for whoever applies it to other features of the same space.

    Args:
        train: With classes, as :func:`~.features.check_classes` lets them pass.
    """
    _check_options(protocol, weight_decays)
    train_targets = train.targets
    assert train_targets is not None, "check_classes refuses features without classes"
    rows = labelled_part(len(train_targets), train_targets, label_fraction, seed)
    if len(rows) < len(train_targets) and len(train_targets[rows].unique()) == 1:
        raise UsageError(
            f"label_fraction={label_fraction:g} leaves {len(rows)} of {len(train_targets)} training samples, all of "
            "one class: take a larger share"
        )
    classes = int(train_targets.max()) + 1
    x, y = train.values[rows].to(device).float(), train_targets[rows].to(device)
    rate = None
    if protocol == "exact":
        chosen = _choose(x, y, classes, weight_decays, seed)
        weight, mean, scale = _fitted(x, y, classes, [chosen])[0]
    elif protocol == "grid":
        rate, chosen = _best_of_grid(x, y, classes, seed)
        weight, mean, scale = _trained(x, y, classes, [(rate, chosen)], seed)[0]
    else:
        rate, chosen = CRD_RATE, 0.0
        mean, scale = torch.zeros_like(x[0]), torch.ones_like(x[0])
        weight = train_heads(
            x,
            y,
            classes,
            [(rate, chosen)],
            epochs=CRD_EPOCHS,
            batch_size=CRD_BATCH,
            milestones=CRD_MILESTONES,
            seed=seed,
        )[0]
    if not weight.isfinite().all():
        raise ContrastillError(
            f"the probe of {layer} diverged at learning rate {rate:g}: its features are too large; take protocol exact"
        )
    loss = F.cross_entropy(linear_logits((x - mean) * scale, weight), y).item()
    return LinearClassifier(weight, mean, scale, layer, chosen, len(rows), loss, protocol, rate)


def _check_options(protocol: str, weight_decays: Sequence[float]) -> None:
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if protocol != "exact" and tuple(weight_decays) != WEIGHT_DECAYS:
        raise UsageError(
            f"protocol {protocol} has weight decays of its own: leave weight_decays out, or take protocol exact"
        )
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise UsageError(
            f"weight_decays is {list(weight_decays)}: give one or more finite numbers from 0 on, such as "
            f"{WEIGHT_DECAYS}"
        )


def _best_of_grid(x: Tensor, y: Tensor, classes: int, seed: int) -> tuple[float, float]:
    """The (learning rate, weight decay) that gets most of a held-out fifth right; of equals that of the lowest
    cross-entropy there.
    """
    if len(y) < 5:
        return GRID[0]
    part, validation = _held_out(y, seed)
    scores = []
    for weight, mean, scale in _trained(x[part], y[part], classes, GRID, seed):
        logits = linear_logits((x[validation] - mean) * scale, weight)
        right, loss = int((logits.argmax(1) == y[validation]).sum()), F.cross_entropy(logits, y[validation]).item()
        # A rate that was too high leaves NaN, whose largest is class 0.
        scores.append((right, -loss) if math.isfinite(loss) else (-1, 0.0))
    return GRID[scores.index(max(scores))]


def _trained(
    x: Tensor, y: Tensor, classes: int, heads: Sequence[tuple[float, float]], seed: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """As :func:`_fitted`, for each (learning rate, weight decay), by SGD."""
    mean, scale = _standard(x)
    weights = train_heads((x - mean) * scale, y, classes, heads, epochs=GRID_EPOCHS, batch_size=GRID_BATCH, seed=seed)
    return [(weight, mean, scale) for weight in weights]


def _held_out(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of four fifths, and a mask of the other fifth."""
    part = labelled_part(len(y), y, 1 - _HELD_OUT, seed).to(y.device)
    validation = torch.ones(len(y), dtype=torch.bool, device=y.device)
    validation[part] = False
    return part, validation


def _choose(x: Tensor, y: Tensor, classes: int, weight_decays: Sequence[float], seed: int) -> float:
    """The strength that does best on a held-out fifth; the stronger of equals."""
    strengths = sorted(weight_decays, reverse=True)
    if len(strengths) == 1 or len(y) < 5:
        return strengths[0]
    part, validation = _held_out(y, seed)
    rights = []
    for weight, mean, scale in _fitted(x[part], y[part], classes, strengths):
        rights.append(int((linear_logits((x[validation] - mean) * scale, weight).argmax(1) == y[validation]).sum()))
    return strengths[rights.index(max(rights))]


def _fitted(x: Tensor, y: Tensor, classes: int, weight_decays: Sequence[float]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Weights (D + 1, classes), bias last, for each strength, with the mean and scale (D,) of the features they are
    for.
    """
    mean, scale = _standard(x)
    x = (x - mean) * scale
    weight = torch.zeros(x.shape[1] + 1, classes, device=x.device)
    solutions = []
    for weight_decay in weight_decays:  # each begins where the stronger one ended
        weight = fit_logistic(x, y, weight, weight_decay)
        solutions.append((weight, mean, scale))
    return solutions


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale (D,) after which features have mean 0 and deviation 1; a constant one becomes 0."""
    # float64 sums, but float32 products: these are nearly all of the time.
    mean = x.double().mean(0)
    deviation = x.double().var(0, correction=0).sqrt()
    constant = deviation <= 1e-6 * mean.abs() + 1e-12
    return mean.float(), torch.where(constant, 0, 1 / deviation.masked_fill(constant, 1)).float()


def fit_logistic(x: Tensor, y: Tensor, start: Tensor, weight_decay: float, iterations: int = 200) -> Tensor:
    """Minimise the mean cross-entropy plus ``weight_decay``/2 times the squared weights; the bias is free.

    Shape:
        - x: (N, D) - y: (N,) - start: (D + 1, C), the bias last
        - returns (D + 1, C).
    """
    weight = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [weight],
        max_iter=iterations,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(linear_logits(x, weight), y) + 0.5 * weight_decay * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach()
