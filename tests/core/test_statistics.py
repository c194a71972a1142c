"""Means, spreads and paired differences, recomputed by numpy and by loops."""

import math

import numpy as np
import pytest

from contrastill.core.statistics import gap_closed, mean_std, paired_difference


def test_mean_and_sample_deviation_are_numpys():
    values = np.random.default_rng(0).normal(70, 3, 5)
    result = mean_std([*values])
    assert (result.mean, result.std) == pytest.approx((values.mean(), values.std(ddof=1)), abs=1e-12)
    assert result.count == 5 and str(result) == f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
    for values in ([1.0, math.nan], [math.inf, 2.0]):
        assert math.isnan(mean_std(values).mean) and math.isnan(mean_std(values).std) and mean_std(values).count == 2
    assert mean_std([3.0]).std is None and f"{mean_std([3.0]):.1f}" == "3.0"
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])


@pytest.mark.parametrize(("seeds", "samples"), [(3, 7), (1, 7), (3, 1), (1, 1)])
def test_the_standard_error_of_a_difference_is_the_larger_of_samples_and_seeds(seeds, samples):
    generator = np.random.default_rng(0)
    scores, others = generator.random((2, seeds, samples))
    each = [[scores[s, i] - others[s, i] for i in range(samples)] for s in range(seeds)]
    means = {"samples": [sum(column) / seeds for column in zip(*each, strict=True)]}
    means["seeds"] = [sum(row) / samples for row in each]

    def error(values):
        mean, count = sum(values) / len(values), len(values)
        return (sum((value - mean) ** 2 for value in values) / (count - 1) / count) ** 0.5 if count > 1 else 0.0

    result = paired_difference(scores, others)
    assert result.mean == pytest.approx(sum(means["seeds"]) / seeds) and result.seeds == seeds
    assert result.error == pytest.approx(max(map(error, means.values())))


def test_share_of_the_gap_closed():
    assert gap_closed(73.0, 70.0, 80.0) == pytest.approx(0.3) and gap_closed(69.0, 70.0, 80.0) == pytest.approx(-0.1)
    assert gap_closed(73.0, 70.0, 70.0) is None
