"""CKA, correlations between classes and LogME against naive versions in float64; their pictures with numbers made
up.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.core.errors import UsageError
from contrastill.plots.chart import Chart, series_at_places
from contrastill.plots.heatmaps import Heat, draw_cka, draw_correlation
from contrastill.plots.png import draw_charts
from contrastill.probe.cka import MinibatchCKA, linear_cka
from contrastill.probe.class_correlation import class_correlation, correlation_difference
from contrastill.probe.logme import logme


def pair(samples=9, first=3, second=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, first, generator=generator, dtype=torch.float64)
    mixing = torch.randn(first, second, generator=generator, dtype=torch.float64)
    return x, x @ mixing + 0.7 * torch.randn(samples, second, generator=generator, dtype=torch.float64) + 4


# CKA


def naive_hsic1(x, y):
    """HSIC₁ as a U-statistic (Song et al., 2012, theorem 2): the mean of its kernel over all ordered four different
    samples.
    """
    k, kl = (x @ x.T).tolist(), (y @ y.T).tolist()
    places = list(itertools.permutations(range(len(x)), 4))
    total = 0.0
    for i, j, q, r in places:
        total += k[i][j] * (kl[i][j] + kl[q][r] - 2 * kl[i][q])
    return total / len(places)


def naive_cka(x, y, hsic):
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize(("samples", "first", "second"), [(8, 3, 5), (7, 20, 11)])  # both ways of multiplying
def test_unbiased_cka_is_that_of_loops(samples, first, second):
    x, y = pair(samples, first, second)
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y, naive_hsic1), rel=1e-9)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-12)


def test_biased_cka_is_that_of_centred_kernels():
    x, y = pair()

    def hsic0(a, b):
        centre = torch.eye(len(a), dtype=torch.float64) - 1 / len(a)
        return torch.trace(a @ a.T @ centre @ b @ b.T @ centre).item()

    assert linear_cka(x, y, unbiased=False) == pytest.approx(naive_cka(x, y, hsic0), rel=1e-9)


def test_cka_knows_no_rotation_scale_or_shift_and_sees_that_noise_is_noise():
    x, y = pair(60, 6, 6)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 1e3 - 0.01 * x @ turn) == pytest.approx(1, abs=1e-9)
    assert linear_cka(3 * x @ turn + 5, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    wide, other = (torch.randn(40, 2000, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    assert abs(linear_cka(wide, other)) < 0.05 and linear_cka(wide, other, unbiased=False) > 0.9


def test_minibatches_average_each_hsic():
    x, y = pair(21)
    cka = MinibatchCKA()
    parts = [slice(0, 7), slice(7, 14), slice(14, 21)]
    for part in parts:
        cka.update(x[part].float(), y[part].float())
    both, first, second = (sum(naive_hsic1(a[part], b[part]) for part in parts) for a, b in ((x, y), (x, x), (y, y)))
    assert cka.compute() == pytest.approx(both / math.sqrt(first * second), rel=1e-5) and cka.batches == 3
    single = MinibatchCKA()
    single.update(x, y)
    assert single.compute() == pytest.approx(linear_cka(x, y), rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.randn(5, 2), torch.randn(6, 2), "same N samples"),
        (torch.randn(3, 2), torch.randn(3, 2), "at least 4 samples, and there are 3"),
        (torch.full((9, 2), 0.1), torch.randn(9, 2), "the same output for every sample"),
        (torch.full((9, 2), float("nan")), torch.randn(9, 2), "finite"),
    ],
)
def test_cka_of_what_has_none(x, y, message):
    with pytest.raises(UsageError, match=message):
        linear_cka(x, y)


def test_cka_before_the_first_batch():
    with pytest.raises(UsageError, match="no batch yet"):
        MinibatchCKA().compute()


# Correlations between classes


def test_class_correlations_are_numpys():
    x, y = pair(50, 4, 4)
    correlation = class_correlation(x.float())
    assert correlation.numpy() == pytest.approx(np.corrcoef(x.numpy(), rowvar=False), abs=1e-6)
    assert torch.equal(correlation.diagonal(), torch.ones(4, dtype=torch.float64))
    difference = correlation_difference(x, y)
    expected = np.corrcoef(x.numpy(), rowvar=False) - np.corrcoef(y.numpy(), rowvar=False)
    assert difference.difference.numpy() == pytest.approx(expected, abs=1e-12)
    assert difference.mean_absolute == pytest.approx(
        sum(abs(expected[i, j]) for i in range(4) for j in range(4) if i != j) / 12
    )
    assert correlation_difference(x, 5 * x - 3).mean_absolute == pytest.approx(0, abs=1e-12)


def test_correlations_that_are_none():
    with pytest.raises(UsageError, match="logit of class 1 is the same"):
        class_correlation(torch.stack([torch.arange(5.0), torch.full((5,), 0.1)], 1))
    with pytest.raises(UsageError, match="of 3 and of 4 classes"):
        correlation_difference(torch.randn(9, 3), torch.randn(9, 4))
    with pytest.raises(UsageError, match="at least two samples"):
        class_correlation(torch.randn(1, 3))
    with pytest.raises(UsageError, match="not finite"):
        class_correlation(torch.full((3, 3), float("inf")))
    masked = torch.randn(9, 3).masked_fill(torch.arange(3) == 1, -torch.inf)
    for pair_, who in (((masked, torch.randn(9, 3)), "the teacher"), ((torch.randn(9, 3), masked), "the student")):
        with pytest.raises(UsageError, match=rf"not finite have no correlations \({who} gave NaN or infinity\)"):
            correlation_difference(*pair_)


# LogME


def naive_evidence(f, label, log_alpha, log_beta):
    """Log evidence of a sample by the marginal's own density: the label is N(0, I/β + ffᵀ/α)."""
    count = len(f)
    covariance = np.eye(count) / math.exp(log_beta) + f @ f.T / math.exp(log_alpha)
    _, determinant = np.linalg.slogdet(covariance)
    return -0.5 * (count * math.log(2 * math.pi) + determinant + label @ np.linalg.solve(covariance, label)) / count


@pytest.mark.parametrize(("samples", "dims"), [(30, 4), (12, 20)])
def test_logme_is_the_greatest_evidence(samples, dims):
    from scipy.optimize import minimize

    generator = torch.Generator().manual_seed(samples)
    targets = torch.arange(samples) % 3
    f = torch.randn(samples, dims, generator=generator, dtype=torch.float64)
    f[:, :3] += 3 * torch.nn.functional.one_hot(targets)
    best = []
    for c in range(3):
        label = (targets == c).double().numpy()
        tried = [
            minimize(
                lambda logs, label=label: -naive_evidence(f.numpy(), label, *logs),
                start,
                method="Nelder-Mead",
                tol=1e-9,
                bounds=[(-9, 9)] * 2,
            )
            for start in itertools.product((0.0, 3.0), (0.0, 3.0))
        ]
        best.append(max(-result.fun for result in tried))
    assert logme(f, targets) == pytest.approx(sum(best) / 3, abs=1e-5)


def test_logme_prefers_features_that_tell_the_classes_apart():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 3
    hint, noise = torch.nn.functional.one_hot(targets).float(), torch.randn(90, 3, generator=generator)
    worth = [logme(hint + scale * noise, targets) for scale in (0.1, 0.5, 2.0)]
    assert worth == sorted(worth, reverse=True)
    assert math.isfinite(logme(hint, targets)) and math.isfinite(logme(torch.ones(90, 1), targets))
    gap = 7 * targets  # classes that have no samples change nothing
    assert logme(hint + noise, gap) == pytest.approx(logme(hint + noise, targets), rel=1e-9)


@pytest.mark.parametrize(
    ("values", "targets", "message"),
    [
        (torch.randn(4, 2), torch.zeros(3), "do not fit"),
        (torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), "at least two classes"),
        (torch.full((4, 2), float("nan")), torch.arange(4), "finite"),
        (torch.zeros(4, 2), torch.arange(4), "features that are not all 0"),
    ],
)
def test_logme_of_what_has_none(values, targets, message):
    with pytest.raises(UsageError, match=message):
        logme(values, targets)


# Pictures


def lines(places, networks):
    rng = np.random.default_rng(0)
    for number in range(networks):
        values = [
            None if number == 1 and place == 1 else float(40 + 8 * place + rng.normal()) for place in range(places)
        ]
        ends = [[None if value is None else value + sign for value in values] for sign in (-1.5, 1.5)]
        yield series_at_places(f"wrn_16_2 distilled, {number}", values, *ends, number)


def test_pictures_of_few_and_of_many(tmp_path):
    rng = np.random.default_rng(0)
    layers = ["maps.0", "maps.1", "maps.2", "embedding"]
    names = [f"class {number}" for number in range(12)]
    for count in (1, 4):
        charts = [
            Chart(f"data {n}", "layer", "top-1, %", list(lines(4, 2 * count)), layers, (0, 100)) for n in range(count)
        ]
        draw_charts(charts, tmp_path / f"lines{count}.png", title="t", legend="shared")
        cka = [
            Heat(
                f"net {n} and other",
                rng.uniform(-0.02, 1, (4, 3 + n)),
                layers,
                [*layers, "logits", "x", "y"][: 3 + n],
                "net",
                "other",
            )
            for n in range(count)
        ]
        draw_cka(cka, tmp_path / f"cka{count}.png")
        heats = [
            Heat(f"teacher − {n}\nmean", rng.normal(0, 0.2, (12, 12)), names, names, "class", "class")
            for n in range(count)
        ]
        draw_correlation(heats, tmp_path / f"correlation{count}.png")
        for name in ("lines", "cka", "correlation"):
            with Image.open(tmp_path / f"{name}{count}.png") as picture:
                assert (
                    picture.width > 500
                    and len(set(picture.convert("RGB").resize((200, 150)).get_flattened_data())) > 60
                )
