"""Which rows are drawn, how often, and that every rule expects the same sum."""

import pytest
import torch

from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.negatives import Groups, SampledRows
from contrastill.core.hashing import hash64, mix, shifted

# Classes of very different sizes: 24, 10, 5 and 1 rows.
UNBALANCED = torch.cat((torch.zeros(24), torch.ones(10), torch.full((5,), 2), torch.full((1,), 3))).long()
UNBALANCED = UNBALANCED[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
KINDS = {
    "balanced": torch.arange(40) % 4,
    "unbalanced": UNBALANCED,
    "nearly balanced": torch.arange(1010) % 101 % 100,
    "unlabelled": None,
}


def rule_of(kind, count):
    targets = KINDS[kind]
    groups = Groups(targets, 40 if targets is None else len(targets))
    rule = SampledRows(groups, count, seed=5)
    return rule, SampledRows.order(groups, 5)


def places_of(order, index):
    return index if order is None else order[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 16])
def test_draws_are_distinct_and_uniform_over_the_eligible_rows(kind, count):
    """Each eligible row's inclusions are binomial with probability K/n; the own group never appears."""
    count = count * len(KINDS[kind]) // 40 if KINDS[kind] is not None else count
    rule, order = rule_of(kind, count)
    index = torch.tensor([0, 1, 2, 3, 39])
    anchors = rule.anchors(index, places_of(order, index))
    draws = 800
    times = torch.zeros(len(index), rule.num_samples)
    for draw in range(draws):
        drawn = rule.draw(anchors, draw)
        ordered = drawn.sort(1).values
        assert drawn.shape == (5, count) and (ordered[:, 1:] != ordered[:, :-1]).all()
        times.scatter_add_(1, drawn, torch.ones(drawn.shape))
    at = torch.arange(rule.num_samples)
    sample_at = at if order is None else torch.argsort(order)
    for anchor, sample in enumerate(index.tolist()):
        own = sample_at == sample if KINDS[kind] is None else KINDS[kind][sample_at] == KINDS[kind][sample]
        assert times[anchor][own].sum() == 0
        share = count / int((~own).sum())
        spread = (draws * share * (1 - share)) ** 0.5
        score = (times[anchor][~own] - draws * share) / max(spread, 1e-9)
        assert score.abs().max() < 5 and score.square().mean() < 1 + 5 * (2 / len(score)) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_strips_of_memory_hold_the_same_rows_as_arithmetic(kind):
    rule, order = rule_of(kind, 13)
    index = torch.arange(40)
    anchors = rule.anchors(index, places_of(order, index))
    for draw in range(20):
        expected = torch.zeros(40, rule.num_samples, dtype=torch.uint8).scatter_(1, rule.draw(anchors, draw), 1)
        mask = torch.zeros_like(expected)
        rule._copy_strips(mask, anchors, rule._picks(draw, torch.device("cpu")), rule._turns(anchors, draw))
        assert torch.equal(mask, expected)


def test_a_draw_depends_on_seed_draw_and_sample_alone():
    rule, order = rule_of("balanced", 9)
    index = torch.tensor([5, 17, 30])
    anchors, alone = (
        rule.anchors(index, places_of(order, index)),
        rule.anchors(index[1:2], places_of(order, index[1:2])),
    )
    assert torch.equal(rule.draw(anchors, 3)[1:2], rule.draw(alone, 3))
    assert not torch.equal(rule.draw(anchors, 3), rule.draw(anchors, 4))
    other = SampledRows(Groups(KINDS["balanced"], 40), 9, seed=6)
    assert not torch.equal(rule.draw(anchors, 3), other.draw(anchors, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["shared", "sampled"])
def test_draws_expect_what_all_computes(kind, mode):
    """Mean over many draws of loss and gradient, against the exact expectation, in standard errors."""
    targets = KINDS[kind]
    options = {
        "targets": targets,
        "num_samples": None if targets is not None else 40,
        "embed_dim": 8,
        "num_negatives": 7,
        "bias": 1.0,
    }
    torch.manual_seed(0)
    exact = CRDLoss(3, 3, negatives="all", **options).double().eval()
    drawn = CRDLoss(3, 3, negatives=mode, **options).double().eval()
    drawn.load_state_dict(exact.state_dict())
    student, teacher = torch.randn(4, 3, dtype=torch.float64).requires_grad_(), torch.randn(4, 3, dtype=torch.float64)
    index = torch.tensor([0, 1, 2, 39])

    def numbers(crd):
        loss = crd(student, teacher, index)
        (slope,) = torch.autograd.grad(loss, student)
        return torch.cat((loss.detach()[None], slope.flatten()))

    values = []
    for draws in range(200):
        drawn.draws = draws
        values.append(numbers(drawn))
    values = torch.stack(values)
    score = (values.mean(0) - numbers(exact)) / (values.std(0) / len(values) ** 0.5)
    assert score.abs().max() < 4.5


@pytest.mark.filterwarnings("ignore:with temperature")
def test_num_negatives_is_the_smallest_number_of_eligible_rows():
    assert CRDLoss(3, 3, targets=UNBALANCED, negatives="sampled").num_negatives == 16
    assert CRDLoss(3, 3, num_samples=40).num_negatives == 39
    assert CRDLoss(3, 3, num_samples=20_000, embed_dim=8).num_negatives == 16_384


@pytest.mark.filterwarnings("ignore:with temperature")
def test_auto_says_in_one_line_what_it_took_and_why(caplog):
    with caplog.at_level("INFO", logger="contrastill.core.crd.loss"):
        small = CRDLoss(3, 3, num_samples=2000, embed_dim=4)
        large = CRDLoss(3, 3, num_samples=3_000_000, embed_dim=1, bias=1.0)
    assert small.negatives == "all" and large.negatives == "shared"
    assert [record.getMessage() for record in caplog.records] == [
        f"CRD negatives {crd.negatives_reason}" for crd in (small, large)
    ]
    assert "\n" not in small.negatives_reason and small.negatives_reason.startswith("all:")
    assert CRDLoss(3, 3, num_samples=2000, negatives="sampled").negatives_reason == "sampled: asked for"


def test_hashes_are_uniform_and_wrap_alike():
    values = torch.stack([shifted(hash64(torch.arange(4096), 1, key), 1) for key in range(4)])
    assert (values >= 0).all() and len(values.unique()) == values.numel()
    assert (values % 97).double().mean() == pytest.approx(48, abs=1)
    assert 0 <= mix(3, 4) < 2**63 and mix(3, 4) != mix(4, 3)
