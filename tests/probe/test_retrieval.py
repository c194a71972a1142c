"""Retrieval across two networks against loops in float64, and what it refuses."""

import math

import pytest
import torch

import contrastill
from contrastill import UsageError
from contrastill.probe import retrieval as module
from contrastill.probe.retrieval import retrieval


def naive(queries, gallery, k):
    """Per cent of rows whose partner has fewer than k others that are as similar or more."""
    hits = 0
    for i, query in enumerate(queries.tolist()):
        cosines = []
        for row in gallery.tolist():
            dot, a, b = (
                sum(x * y for x, y in zip(one, other, strict=True))
                for one, other in ((query, row), (query, query), (row, row))
            )
            cosines.append(dot / math.sqrt(a * b))
        rank = 1 + sum(cosine >= cosines[i] for j, cosine in enumerate(cosines) if j != i)
        hits += rank <= k
    return 100 * hits / len(queries)


@pytest.mark.parametrize("cells", [2**22, 40])
def test_it_is_the_naive_one_in_both_directions_and_in_parts(cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", cells)
    generator = torch.Generator().manual_seed(3)
    gallery = torch.randn(23, 4, dtype=torch.float64, generator=generator)
    queries = gallery + torch.randn(23, 4, dtype=torch.float64, generator=generator)
    result = contrastill.retrieval(queries, 7 * gallery, ks=(1, 3, 10))
    assert result.recall == pytest.approx({k: naive(queries, gallery, k) for k in (1, 3, 10)})
    assert result.reverse == pytest.approx({k: naive(gallery, queries, k) for k in (1, 3, 10)})
    assert result.recall != result.reverse and 0 < result.recall[1] < result.recall[10] < 100
    assert result.chance == pytest.approx({1: 100 / 23, 3: 300 / 23, 10: 1000 / 23}) and result.num_samples == 23


def test_ties_count_against_whatever_the_order_of_the_sums():
    same = torch.rand(1, 300).repeat(9, 1)
    result = retrieval(same, same, ks=(1, 8, 9, 50))
    assert result.recall == result.reverse == {1: 0.0, 8: 0.0, 9: 100.0, 50: 100.0}
    assert result.chance[50] == 100.0
    # Two that are the same, and one that is not.
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, -1.0]])
    assert retrieval(rows, rows, ks=(1, 2)).recall == pytest.approx({1: 100 / 3, 2: 100.0})
    assert retrieval(torch.zeros(3, 2), rows, ks=(1,)).recall == {1: 0.0}


def test_a_partner_is_found_whatever_the_scale_and_by_arrays_of_numpy():
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert retrieval(1e-3 * rows, 1e3 * rows, ks=[1]).recall == {1: 100.0}
    assert retrieval(1e-30 * rows, 1e30 * rows, ks=[1]).recall == {1: 100.0}
    assert retrieval(rows.detach().numpy(), -rows.detach().numpy(), ks=(1,)).recall == {1: 0.0}


@pytest.mark.parametrize(
    ("queries", "gallery", "ks", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 2), (1,), r"queries is \(3,\): give embeddings \(N, D\)"),
        (torch.zeros(3, 2), torch.zeros(0, 2), (1,), "one sample or more"),
        (torch.ones(3, 2), torch.ones(3, 4), (1,), "the same samples in the same order, in one space"),
        (
            torch.ones(2, 2),
            torch.tensor([[1.0, math.nan], [1, 1]]),
            (1,),
            "1 of 2 embeddings of gallery are not finite",
        ),
        (torch.ones(3, 2), torch.ones(3, 2), (), "ks is empty"),
        (torch.ones(3, 2), torch.ones(3, 2), (0,), r"ks is \(0,\): pass a list"),
    ],
)
def test_refusals(queries, gallery, ks, message):
    with pytest.raises(UsageError, match=message):
        retrieval(queries, gallery, ks)
