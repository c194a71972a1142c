"""CRDLoss against a version of nested loops in float64, gradients included; its numerics, its precision, its
refusals.
"""

import copy
import math
import warnings

import pytest
import torch
from torch.nn.functional import linear, normalize, softplus

from contrastill.core.crd.loss import CRDLoss

M, B, K, D = 41, 7, 12, 16
TARGETS = torch.cat((torch.zeros(20), torch.ones(9), torch.full((7,), 2), torch.full((5,), 3))).long()[
    torch.randperm(M, generator=torch.Generator().manual_seed(3))
]


def build(mode="all", origin="other_class", *, dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"num_negatives": K, "embed_dim": D} | options
    known = {"targets": TARGETS} if origin == "other_class" else {"num_samples": M}
    return CRDLoss(5, 6, negatives=mode, negatives_from=origin, **known, **options).to(dtype)


def inputs(seed=1, batch=B, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, 5, generator=generator, dtype=dtype).requires_grad_()
    teacher = torch.randn(batch, 6, generator=generator, dtype=dtype).requires_grad_()
    return student, teacher, torch.randperm(M, generator=generator)[:batch]


def eligible(sample, origin):
    return [j for j in range(M) if (TARGETS[j] != TARGETS[sample] if origin == "other_class" else j != sample)]


def naive(crd, student, teacher, index, negatives, weights):
    """(2,) losses of the student's and the teacher's side; negatives[i] are samples, weights[i] multiplies their
    sum.
    """
    maps = {"student": crd.embed_student, "teacher": crd.embed_teacher}
    anchors = {
        side: normalize(linear(x, maps[side].weight, maps[side].bias))
        for side, x in (("student", student), ("teacher", teacher))
    }
    banks = {"student": crd.bank.teacher, "teacher": crd.bank.student}
    losses = []
    for side in ("student", "teacher"):
        total = 0.0
        for i, sample in enumerate(index.tolist()):
            score = [(anchors[side][i] * banks[side][j]).sum() for j in range(M)]
            loss = softplus(crd.bias - score[sample] / crd.temperature, threshold=60)
            for j in negatives[i]:
                loss = loss + weights[i] * softplus(score[j] / crd.temperature - crd.bias, threshold=60)
            total = total + loss
        losses.append(total / len(index))
    return torch.stack(losses)


def assert_same(crd, arguments, expected, rows=None):
    student, teacher, index = arguments
    leaves = [student, teacher, *crd.parameters()]
    slopes = torch.autograd.grad(expected.sum(), leaves)
    loss = crd(student, teacher, index, rows=rows)
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-9, atol=0)
    for slope, right in zip(torch.autograd.grad(loss, leaves), slopes, strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", ["released", "paper", 2.5])
@pytest.mark.parametrize("temperature", [0.07, 0.004])
@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
@pytest.mark.filterwarnings("ignore:with temperature")
def test_all_is_the_expectation_over_every_eligible_row(origin, temperature, bias):
    crd, arguments = build("all", origin, temperature=temperature, bias=bias), inputs()
    rows = [eligible(sample, origin) for sample in arguments[2].tolist()]
    expected = naive(crd, *arguments, rows, [K / len(r) for r in rows])
    assert_same(crd, arguments, expected)


@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
def test_sampled_scores_the_rows_it_drew(origin):
    crd, arguments = build("sampled", origin), inputs()
    index = arguments[2]
    drawn = crd.rule.draw(crd.rule.anchors(index, crd.bank.places(index)), crd.draws)
    sample_at = torch.arange(M) if crd.bank.place is None else torch.argsort(crd.bank.place)
    rows = sample_at[drawn].tolist()
    for sample, row in zip(index.tolist(), rows, strict=True):
        assert len(set(row)) == K and set(row) <= set(eligible(sample, origin))
    assert_same(crd, arguments, naive(crd, *arguments, rows, [1.0] * B))


@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
def test_shared_scores_one_window_for_the_batch(origin):
    crd, arguments = build("shared", origin), inputs()
    at = torch.argsort(crd.bank.place).tolist()
    repeated_seen = False
    student, teacher, index = arguments
    for offset in range(M):  # the window is one of the M windows of the order
        window = {at[(offset + k) % M] for k in range(K)}
        rows = [sorted(window & set(eligible(sample, origin))) for sample in index.tolist()]
        expected = naive(crd, *arguments, rows, [M / len(eligible(sample, origin)) for sample in index.tolist()])
        crd.eval()
        if abs(crd(student, teacher, index) - expected.sum()) < 1e-9:
            repeated_seen = True
            assert_same(crd, arguments, expected)
    assert repeated_seen


@pytest.mark.parametrize("mode", ["all", "shared", "sampled"])
@pytest.mark.parametrize("repeated", [False, True])
def test_rows_given_by_hand_are_scored_as_given(mode, repeated):
    crd, arguments = build(mode), inputs()
    generator = torch.Generator().manual_seed(5)
    rows = torch.stack([torch.randperm(M, generator=generator)[:K] for _ in range(B)])
    if repeated:
        rows[2, 3] = rows[2, 1]
    assert_same(crd, arguments, naive(crd, *arguments, rows.tolist(), [1.0] * B), rows)


@pytest.mark.parametrize("given_rows", [False, True])
def test_a_bank_much_larger_than_k_gives_the_same_by_gathering(monkeypatch, given_rows):
    student, teacher, index = inputs()
    rows = (
        torch.stack([torch.randperm(M, generator=torch.Generator().manual_seed(i))[:K] for i in range(B)])
        if given_rows
        else None
    )
    values = []
    for limit in (24, 0):
        monkeypatch.setattr("contrastill.core.crd.negative_sums.DENSE_ROWS_PER_NEGATIVE", limit)
        monkeypatch.setattr("contrastill.core.crd.negative_sums.GATHERED_FLOATS", 2**9)
        crd = build("sampled")
        loss = crd(student, teacher, index, rows=rows)
        values.append((loss, *torch.autograd.grad(loss, [student, teacher, *crd.parameters()])))
    for dense, gathered in zip(*values, strict=True):
        torch.testing.assert_close(gathered, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["all", "shared", "sampled"])
def test_many_chunks_add_up(monkeypatch, mode):
    student, teacher, index = inputs()
    whole = build(mode)(student, teacher, index)
    monkeypatch.setattr(
        "contrastill.core.crd.criterion.NegativeSums.spans",
        lambda self, start, stop: [(i, min(i + 5, stop)) for i in range(start, stop, 5)],
    )
    torch.testing.assert_close(build(mode)(student, teacher, index), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("origin, name", [("other_sample", "mi_bound"), ("other_class", "score")])
def test_the_bound_on_mutual_information(origin, name):
    crd, arguments = build("all", origin), inputs()
    rows = [eligible(sample, origin) for sample in arguments[2].tolist()]
    sides = naive(crd, *arguments, rows, [K / len(r) for r in rows])
    crd(*arguments)
    for side, loss in zip(("student", "teacher"), sides, strict=True):
        bound = crd.logs[f"{name}_{side}"]
        torch.testing.assert_close(bound, math.log(K) - loss.detach())
        assert not bound.requires_grad
    assert len(crd.logs) == 2


def test_the_biases_are_the_published_ones():
    assert build(bias="released").bias == pytest.approx(math.log(K) + 1 / (2 * D * 0.07**2))
    assert build(bias="paper").bias == pytest.approx(math.log(K / M))
    assert build(bias=3).bias == 3.0


@pytest.mark.parametrize("mode", ["all", "shared", "sampled"])
def test_float32_is_accurate_late_in_training(mode):
    """Rows close to their anchors: scores up to 1/τ, few large terms among many tiny ones."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(10, (6000,), generator=generator)
    centres = normalize(torch.randn(10, 128, generator=generator, dtype=torch.float64))
    bank = normalize(centres[targets] + 0.03 * torch.randn(6000, 128, generator=generator, dtype=torch.float64))
    exact = CRDLoss(128, 128, targets=targets, num_negatives=2048, negatives=mode).double()
    with torch.no_grad():
        exact.load_state_dict({**exact.state_dict(), "bank.student": bank, "bank.teacher": bank.flip(1)})
    short = copy.deepcopy(exact).float()
    student = torch.randn(64, 128, generator=generator, dtype=torch.float64)
    slopes = []
    for crd in (exact, short):
        features = student.to(crd.bank.rows.dtype).requires_grad_()
        loss = crd(features, features, torch.arange(64))
        slopes.append((loss.double(), *(g.double() for g in torch.autograd.grad(loss, [features, *crd.parameters()]))))
    assert float((slopes[1][0] / slopes[0][0]).detach() - 1) == pytest.approx(0, abs=1e-5)
    for right, got in zip(slopes[0][1:], slopes[1][1:], strict=True):
        assert (got - right).norm() < 2e-5 * right.norm()


@pytest.mark.filterwarnings("ignore:with temperature")
@pytest.mark.parametrize("temperature", [0.07, 1e-3, 1e-5])
def test_wide_scores_do_not_overflow(temperature):
    crd = build(dtype=torch.float32, temperature=temperature, bias="paper")
    student, teacher, index = inputs(dtype=torch.float32)
    loss = crd(student, teacher, index)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in crd.parameters())


def test_loaded_rows_may_be_long():
    crd = build(dtype=torch.float32)
    state = crd.state_dict()
    crd.load_state_dict(
        {**state, "bank.student": 500 * state["bank.student"], "bank.teacher": 500 * state["bank.teacher"]}
    )
    student, teacher, index = inputs(dtype=torch.float32)
    assert torch.isfinite(crd(student, teacher, index))


def test_zero_embeddings_make_no_nan():
    crd = build()
    for layer in (crd.embed_student, crd.embed_teacher):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    student, teacher, index = inputs()
    loss = crd(student, teacher, index)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(crd.bank.rows).all()
    assert all(torch.isfinite(p.grad).all() for p in crd.parameters())


@pytest.mark.parametrize("mode", ["all", "shared", "sampled"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_criterion_in_float32(mode, half):
    crd = build(mode, dtype=torch.float32)
    reference = copy.deepcopy(crd)
    student, teacher, index = inputs(dtype=torch.float32)
    exact = reference(student, teacher, index)
    with torch.autocast("cpu", dtype=half):
        loss = crd(student.to(half), teacher.to(half), index)
    loss.backward()
    assert loss.dtype == torch.float32 and crd.bank.rows.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=2e-2)


def test_a_half_bank_works():
    crd = build(dtype=torch.bfloat16)
    student, teacher, index = inputs(dtype=torch.bfloat16)
    exact = build(dtype=torch.float32)(student.float(), teacher.float(), index)
    loss = crd(student, teacher, index)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=3e-2)


def test_a_temperature_with_a_low_ceiling_warns():
    with pytest.warns(UserWarning, match="cannot pass"):
        CRDLoss(4, 4, num_samples=50_000, temperature=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CRDLoss(4, 4, num_samples=50_000, temperature=0.07)
        CRDLoss(4, 4, num_samples=50_000, temperature=0.1, bias="paper")


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({}, "num_samples"),
        ({"num_samples": 9, "negatives_from": "other_class"}, "targets"),
        ({"targets": torch.arange(9), "num_samples": 8}, "contradicts"),
        ({"targets": torch.zeros(9, dtype=torch.int64)}, "one class"),
        ({"num_samples": 1}, "only one sample"),
        ({"targets": torch.rand(9)}, "targets"),
        ({"num_samples": 9, "negatives": "shard"}, "did you mean shared"),
        ({"num_samples": 9, "negatives_from": "others"}, "other_sample"),
        ({"num_samples": 9, "bias": "papers"}, "did you mean paper"),
        ({"num_samples": 9, "num_negatives": 9, "negatives": "sampled"}, "8 eligible"),
        ({"num_samples": 9, "num_negatives": 9, "negatives": "shared"}, "8 eligible"),
        ({"num_samples": 9, "num_negatives": 0}, "from 1 on"),
        ({"num_samples": 9, "temperature": 0.0}, "temperature"),
        ({"num_samples": 9, "bank_momentum": 1.0}, "bank_momentum"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CRDLoss(4, 4, **options)


def test_wrong_inputs_are_refused():
    crd = build()
    student, teacher, index = inputs()
    for wrong in (index + M, index - M):
        with pytest.raises(ValueError, match="out of range"):
            crd(student, teacher, wrong)
    with pytest.raises(ValueError, match="out of range"):
        crd(student, teacher, index, rows=torch.full((B, K), M))
    with pytest.raises(ValueError, match="rows must be"):
        crd(student, teacher, index, rows=torch.zeros(B, K + 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="int64"):
        crd(student, teacher, index.double())
    with pytest.raises(ValueError, match="student's embedding"):
        crd(teacher, teacher, index)
    with pytest.raises(ValueError, match="agree"):
        crd(student, teacher, index[:-1])
    with pytest.raises(ValueError, match="agree"):
        crd(student[:0], teacher[:0], index[:0])
    assert CRDLoss(4, 4, num_samples=9, num_negatives=1000, negatives="all").num_negatives == 1000
