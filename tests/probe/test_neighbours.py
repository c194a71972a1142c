"""Neighbours and few shots: against loops over samples, and what is drawn."""

import math

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.statistics import wilson_interval
from contrastill.probe import neighbours
from contrastill.probe.features import Features
from contrastill.probe.few_shot import FewShot, _drawn, few_shot
from contrastill.probe.linear import fit_probe
from contrastill.probe.neighbours import knn


def clusters(count, seed, classes=5, dim=6, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (count,), generator=generator)
    targets[:classes] = torch.arange(classes)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    return Features(centres[targets] + spread * torch.randn(count, dim, generator=generator), targets)


def voted(train, test, k, temperature, classes):
    """What each test sample gets, one pair of samples at a time."""
    predicted = []
    for value in test.values.double():
        near = []
        for other, target in zip(train.values.double(), train.targets.tolist(), strict=True):
            near.append(
                (
                    (value * other).sum().item()
                    / math.sqrt((value * value).sum().item() * (other * other).sum().item()),
                    target,
                )
            )
        votes = [0.0] * classes
        for similarity, target in sorted(near, reverse=True)[:k]:
            votes[target] += math.exp(similarity / temperature)
        predicted.append(votes.index(max(votes)))
    return torch.tensor(predicted)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (90, 0.07)])
def test_neighbours_vote_as_in_a_loop(k, temperature, monkeypatch):
    monkeypatch.setattr(neighbours, "_CELLS", 1000)  # chunks of 12
    train, test = clusters(80, 0), clusters(50, 1)
    result, expected = knn(train, test, k, temperature), voted(train, test, k, temperature, 5) == test.targets
    assert torch.equal(result.correct, expected) and 30 < result.top1 < 100
    assert result.top1 == pytest.approx(100 * expected.double().mean().item()) and (
        result.low,
        result.high,
    ) == wilson_interval(int(expected.sum()), 50)
    assert result.k == min(k, 80)


def test_neighbours_of_a_small_temperature_are_the_nearest_one():
    train, test = clusters(80, 0), clusters(50, 1)
    assert torch.equal(knn(train, test, 20, 1e-5).correct, knn(train, test, 1).correct)
    scaled = Features(test.values * 1e4, test.targets)
    assert knn(train, scaled).top1 == knn(train, test).top1


def test_neighbours_need():
    train, test = clusters(30, 0), clusters(30, 1)
    for options, message in (
        ({"k": 0}, "k=0 neighbours cannot vote"),
        ({"temperature": 0.0}, "temperature=0.0 is not positive"),
    ):
        with pytest.raises(UsageError, match=message):
            knn(train, test, **options)
    with pytest.raises(UsageError, match="no training sample has: 5"):
        knn(train, clusters(30, 1, classes=6))


def test_draws_have_n_of_each_class_and_lie_in_each_other():
    targets = clusters(100, 0).targets
    parts = {count: _drawn(targets, count, 3, 0) for count in (1, 4, 9)}
    for count, part in parts.items():
        assert torch.bincount(targets[part]).tolist() == [count] * 5 and part.unique().tolist() == part.tolist()
    assert {*parts[1].tolist()} < {*parts[4].tolist()} < {*parts[9].tolist()}
    assert len({tuple(_drawn(targets, 4, seed, draw).tolist()) for seed in (0, 1) for draw in (0, 1, 2)}) == 6


def test_few_shots_are_probes_of_the_drawn_samples():
    train, test = clusters(150, 0, spread=0.7), clusters(100, 1, spread=0.7)
    results = few_shot(train, test, shots=(1, 10), draws=3, seed=4)
    for result, count in zip(results, (1, 10), strict=True):
        rows = [_drawn(train.targets, count, 4, draw) for draw in range(3)]
        tops = [
            fit_probe(Features(train.values[part], train.targets[part]), test, "", weight_decays=(1e-2,)).top1
            for part in rows
        ]
        mean = sum(tops) / 3
        assert (
            result
            == FewShot(
                count, pytest.approx(mean), pytest.approx(math.sqrt(sum((top - mean) ** 2 for top in tops) / 2)), 3
            )
            and result.std > 0
        )
    assert results[1].mean > results[0].mean + 5
    assert few_shot(train, test, shots=(1, 10), draws=3, seed=4) == results
    (single,) = few_shot(train, test, shots=(2,), draws=1)
    assert single.std == 0


def test_few_shots_need_samples_of_each_class():
    train, test = clusters(60, 0), clusters(30, 1)
    scarce = int((train.targets == 3).nonzero()[2])
    keep = torch.tensor([target != 3 or place <= scarce for place, target in enumerate(train.targets.tolist())])
    train = Features(train.values[keep], train.targets[keep])
    with pytest.raises(UsageError, match="5 shots cannot be drawn: class 3 has 3 training samples, so take 1 to 3"):
        few_shot(train, test, shots=(1, 5), draws=1)
    keep = (train.targets != 3) | (torch.arange(len(train.targets)) == int((train.targets == 3).nonzero()[0]))
    single = Features(train.values[keep], train.targets[keep])
    with pytest.raises(UsageError, match="2 shots cannot be drawn: class 3 has 1 training sample, so take 1$"):
        few_shot(single, test, shots=(2,), draws=1)
    with pytest.raises(UsageError, match="draws=0"):
        few_shot(train, test, draws=0)
