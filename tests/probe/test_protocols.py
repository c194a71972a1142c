"""How a linear probe is fitted: against scikit-learn, against torch's own SGD one head at a time, and what it
refuses.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.statistics import wilson_interval
from contrastill.probe import linear
from contrastill.probe.features import Features
from contrastill.probe.linear import GRID, WEIGHT_DECAYS, fit_probe
from contrastill.probe.sgd_heads import shuffled, train_heads


def clusters(count, seed, classes=7, dim=12, spread=1.5, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    return Features((centres[targets] + spread * torch.randn(count, dim, generator=generator)) * scale, targets)


def trained_alone(x, y, classes, rate, decay, *, epochs, batch_size, share, seed=0):
    """One nn.Linear by torch.optim.SGD, from zero; ``share(step, epoch)`` of the rate."""
    head = nn.Linear(x.shape[1], classes, dtype=x.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    step = 0
    for epoch in range(epochs):
        for rows in shuffled(len(y), epoch, seed).split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = rate * share(step, epoch)
            optimizer.zero_grad()
            F.cross_entropy(head(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
    return torch.cat((head.weight.detach().T, head.bias.detach()[None]))


@pytest.mark.parametrize("milestones", [(), (1, 2)])
def test_heads_trained_at_once_are_those_trained_one_by_one(milestones):
    known = clusters(53, 0)
    x, y, heads = known.values.double(), known.targets, [(0.3, 0.0), (0.01, 1e-2), (0.1, 1e-1)]
    weights = train_heads(x, y, 7, heads, epochs=3, batch_size=16, milestones=milestones, seed=5)
    assert weights.shape == (3, 13, 7) and weights.dtype == torch.float64

    def share(step, epoch):
        return (
            0.1 ** len([m for m in milestones if epoch >= m])
            if milestones
            else 0.5 * (1 + math.cos(math.pi * step / 12))
        )

    for head, (rate, decay) in zip(weights, heads, strict=True):
        expected = trained_alone(x, y, 7, rate, decay, epochs=3, batch_size=16, share=share, seed=5)
        torch.testing.assert_close(head, expected, rtol=1e-9, atol=1e-11)
    assert not torch.equal(weights, train_heads(x, y, 7, heads, epochs=3, batch_size=16, milestones=milestones, seed=6))


def test_crd_is_its_recipe():
    train, test = clusters(90, 0, spread=1.0), clusters(70, 1, spread=1.0)
    result = fit_probe(train, test, "embedding", protocol="crd", seed=3)
    x = train.values.double()
    weight = trained_alone(
        x,
        train.targets,
        7,
        0.1,
        0.0,
        epochs=100,
        batch_size=64,
        share=lambda step, epoch: 0.1 ** (min(epoch, 90) // 30),
        seed=3,
    )
    logits = test.values.double() @ weight[:-1] + weight[-1]
    assert (result.protocol, result.learning_rate, result.weight_decay) == ("crd", 0.1, 0.0)
    assert torch.equal(result.correct, logits.argmax(1) == test.targets) and 50 < result.top1 < 100
    assert result.loss == pytest.approx(F.cross_entropy(x @ weight[:-1] + weight[-1], train.targets).item(), abs=1e-5)
    assert (result.low, result.high) == wilson_interval(int(result.correct.sum()), 70)


def test_the_grid_is_chosen_without_the_test_split_and_refitted_to_all():
    known = clusters(105, 0)
    first, second = (fit_probe(known, clusters(70, seed), "embedding", protocol="grid") for seed in (1, 2))
    assert (first.learning_rate, first.weight_decay) == (second.learning_rate, second.weight_decay) and (
        first.learning_rate,
        first.weight_decay,
    ) in GRID
    assert first.protocol == "grid" and first.loss == second.loss and not torch.equal(first.correct, second.correct)
    exact = fit_probe(known, clusters(70, 1), "embedding")
    assert (
        abs(first.top1 - exact.top1) < 15
        and first.low < first.top1 < first.high
        and exact.learning_rate is None
        and exact.protocol == "exact"
    )
    x = known.values
    x = (x - x.mean(0)) / x.std(0, correction=0)
    steps = linear.GRID_EPOCHS
    weight = trained_alone(
        x.double(), known.targets, 7, first.learning_rate, first.weight_decay, epochs=linear.GRID_EPOCHS,
        batch_size=linear.GRID_BATCH,
        share=lambda step, epoch: 0.5 * (1 + math.cos(math.pi * step / steps)),
    )  # fmt: skip
    assert first.loss == pytest.approx(
        F.cross_entropy(x.double() @ weight[:-1] + weight[-1], known.targets).item(), abs=1e-5
    )


def test_a_rate_that_diverges_is_not_chosen(monkeypatch):
    monkeypatch.setattr(linear, "GRID", ((1e38, 0.0), (0.1, 0.0)))
    result = fit_probe(clusters(105, 0), clusters(70, 1), "embedding", protocol="grid")
    assert result.learning_rate == 0.1 and math.isfinite(result.loss)
    with pytest.raises(ContrastillError, match="the probe of maps.1 diverged at learning rate 0.1"):
        fit_probe(clusters(105, 0, scale=1e30), clusters(70, 1, scale=1e30), "maps.1", protocol="crd")


@pytest.mark.parametrize("weight_decay", [1e-1, 1e-3])
def test_exact_is_scikit_learns(weight_decay):
    sklearn = pytest.importorskip("sklearn.linear_model")
    train, test = clusters(300, 0, dim=20), clusters(1001, 1, dim=20)
    result = fit_probe(train, test, "embedding", weight_decays=(weight_decay,))
    mean, std = train.values.double().mean(0), train.values.double().std(0, correction=0)
    x, x_asked = ((part.values.double() - mean) / std for part in (train, test))
    # Its C is of the sum over samples, beside half the squared weights.
    theirs = sklearn.LogisticRegression(C=1 / (len(x) * weight_decay), tol=1e-8, max_iter=5000).fit(
        x.numpy(), train.targets.numpy()
    )
    chance = torch.from_numpy(theirs.predict_proba(x.numpy()))
    assert result.loss == pytest.approx(-chance[torch.arange(len(x)), train.targets].log().mean().item(), abs=1e-3)
    assert (
        result.top1 == pytest.approx(100 * theirs.score(x_asked.numpy(), test.targets.numpy()), abs=0.1)
        and result.top1 < 95
    )


def changed(features, **changes):
    return Features(**{**vars(features), **changes})


def test_what_no_probe_can_be_fitted_to():
    train, test = clusters(140, 0), clusters(70, 1)
    spoilt = train.values.clone()
    spoilt[3, 0], spoilt[8, 1] = math.nan, math.inf
    for bad, message in (
        ((train, clusters(70, 1, classes=9)), "no training sample has: 7, 8; take"),
        ((clusters(70, 1, classes=2), clusters(90, 1, classes=30)), "2, 3, 4, 5, 6 and 23 more"),
        ((train, changed(test, targets=None)), "have none: give labelled splits"),
        ((changed(train, values=spoilt), test), "of 2 of 140 training samples are not finite"),
        ((train, changed(test, values=test.values[:, :5])), "have 12 and 5 values"),
    ):
        with pytest.raises(UsageError, match=message):
            fit_probe(*bad, "embedding")
    for options, message in (
        ({"num_classes": 9}, "of 9 classes 7, 8 has no training sample"),
        ({"protocol": "newton"}, "protocol 'newton' does not exist: there are crd, exact, grid"),
        ({"protocol": "crd", "weight_decays": (1e-2,)}, "protocol crd has weight decays of its own"),
    ):
        with pytest.raises(UsageError, match=message):
            fit_probe(train, test, "embedding", **options)
    assert fit_probe(train, test, "embedding", num_classes=7, weight_decays=WEIGHT_DECAYS[:1]).num_test == 70


@pytest.mark.parametrize(("right", "count"), [(50, 100), (3, 10), (999, 1000), (1, 7)])
def test_the_interval_is_where_the_score_test_accepts(right, count):
    low, high = wilson_interval(right, count)
    assert low < 100 * right / count < high
    for bound in (low / 100, high / 100):
        assert abs(right / count - bound) == pytest.approx(
            1.959963985 * math.sqrt(bound * (1 - bound) / count), rel=1e-8
        )
    assert (
        wilson_interval(0, count)[0] == 0 < wilson_interval(0, count)[1]
        and wilson_interval(count, count)[0] < wilson_interval(count, count)[1] == 100
    )
