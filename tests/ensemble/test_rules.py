"""Rules that combine several teachers: equality with naive versions, what they refuse, what they log."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from contrastill.core.aggregation import Sum
from contrastill.core.errors import UsageError
from contrastill.core.objective import Objective, Setting
from contrastill.core.registry import TEACHER_AGGREGATIONS
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.core.term import Term
from contrastill.ensemble.min_norm import min_norm_weights, project
from contrastill.ensemble.rules import Average, Confidence, Entropy, Gradient, Random
from contrastill.objectives.attention import Attention
from contrastill.objectives.crd import CRD
from contrastill.objectives.fitnet import FitNet
from contrastill.objectives.kd import KD

B, C, D = 6, 5, 4
TARGETS = torch.arange(30) % C


def drawn(*shape, seed=0, grad=False):
    return (2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).requires_grad_(
        grad
    )


def outputs_of(seed, grad=False):
    return Representation(logits=drawn(B, C, seed=seed, grad=grad), embedding=drawn(B, D, seed=seed + 50, grad=grad))


def batch():
    return {"index": torch.arange(B) * 3, "target": TARGETS[torch.arange(B) * 3]}


def setting(teacher_dim=D, classes=C, targets=TARGETS):
    return Setting(RepresentationSpec(C, D, ()), RepresentationSpec(classes, teacher_dim, ()), 30, targets, 7)


def crds(count, **options):
    torch.manual_seed(3)
    return [
        objective.double()
        for objective in CRD.build_each(
            CRD.Options(negatives="all", embed_dim=8, bias=0.0, **options), [setting()] * count
        )
    ]


def of(rule, objective=KD, count=3, **options):
    chosen = TEACHER_AGGREGATIONS[rule]
    return chosen.build(chosen.Options(**options), "it", objective, [setting()] * count)


def test_sum_is_the_naive_sum_of_losses_and_gradients():
    student, teachers = outputs_of(0, grad=True), [outputs_of(number) for number in (1, 2, 3)]
    objectives = crds(3)
    alone = crds(3)  # the same weights and banks
    loss = Term(objectives, 1.0, Sum())(student, teachers, batch())
    naive = sum(objective(student, teacher, batch()) for objective, teacher in zip(alone, teachers, strict=True))
    torch.testing.assert_close(loss, naive, rtol=1e-12, atol=0)
    ours = torch.autograd.grad(loss, [student.embedding, *(one.loss.embed_teacher.weight for one in objectives)])
    theirs = torch.autograd.grad(naive, [student.embedding, *(one.loss.embed_teacher.weight for one in alone)])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)
    for one, other in zip(objectives, alone, strict=True):
        assert torch.equal(one.loss.bank.rows, other.loss.bank.rows)


def test_average_of_identical_teachers_is_one_and_of_unlike_ones_the_mean_of_softened_probabilities():
    student, teachers = outputs_of(0, grad=True), [outputs_of(number) for number in (1, 2, 3)]
    rule = of("average")
    same = rule([KD()] * 3, student, [teachers[0]] * 3, batch())
    torch.testing.assert_close(same, KD()(student, teachers[0], batch()), rtol=1e-6, atol=1e-9)
    loss = rule([KD(temperature=2.0)] * 3, student, teachers, batch())
    naive = 0.0
    for row in range(B):
        mean = sum(torch.softmax(teacher.logits[row] / 2, 0) for teacher in teachers) / 3
        log_student = torch.log_softmax(student.logits[row] / 2, 0)
        naive = naive + 4 * sum(mean[c] * (mean[c].log() - log_student[c]) for c in range(C)) / B
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-7)
    ours, theirs = (torch.autograd.grad(value, student.logits)[0] for value in (loss, naive))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert rule.weights.tolist() == pytest.approx([1 / 3] * 3)


def naive_weights(rule, teachers, row):
    if rule == "entropy":
        scores = [-sum(-p * np.log(p) for p in torch.softmax(teacher.logits[row], 0).tolist()) for teacher in teachers]
        return np.exp(scores) / np.exp(scores).sum()
    wrong = np.exp([F.cross_entropy(teacher.logits[row], batch()["target"][row]).item() for teacher in teachers])
    return (1 - wrong / wrong.sum()) / (len(teachers) - 1)


@pytest.mark.parametrize("rule", ["entropy", "confidence"])
@pytest.mark.parametrize("objective", [KD, CRD])
def test_rules_that_weigh_samples_are_the_naive_ones(rule, objective):
    student, teachers = outputs_of(0, grad=True), [outputs_of(number) for number in (1, 2, 3)]
    objectives, alone = ([KD()] * 3, [KD()] * 3) if objective is KD else (crds(3), crds(3))
    ours = of(rule, objective)
    loss = ours(objectives, student, teachers, batch())
    weights = np.array([naive_weights(rule, teachers, row) for row in range(B)])
    values = [one.per_sample(student, teacher, batch()) for one, teacher in zip(alone, teachers, strict=True)]
    naive = sum(weights[row, number] * values[number][row] for row in range(B) for number in range(3)) / B
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-7)
    read = student.logits if objective is KD else student.embedding
    one, other = torch.autograd.grad(loss, read)[0], torch.autograd.grad(naive, read)[0]
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(ours.weights.numpy(), weights.mean(0), rtol=1e-5)
    assert ours.weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rule", ["average", "entropy", "confidence"])
def test_classes_that_teachers_mask_have_probability_0(rule):
    masks = [torch.zeros(B, C, dtype=torch.bool) for _ in range(3)]
    masks[0][:, 1] = masks[1][2, 3] = True
    masks[2][0, batch()["target"][0]] = True
    losses = []
    for value in (-torch.inf, -1e6):
        teachers = [outputs_of(number) for number in (1, 2, 3)]
        for teacher, mask in zip(teachers, masks, strict=True):
            teacher.logits = teacher.logits.masked_fill(mask, value)
        losses.append(of(rule)([KD()] * 3, outputs_of(0), teachers, batch()))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    "objective", [KD(), FitNet(D, D), Attention(((0, 0), (1, 1))), crds(1)[0]], ids=lambda one: type(one).__name__
)
def test_the_mean_of_per_sample_is_the_loss(objective):
    maps = tuple(drawn(B, 3, 4, 4, seed=seed) for seed in (8, 9))
    student, teacher = (Representation(one.logits, one.embedding, maps) for one in (outputs_of(0), outputs_of(1)))
    objective = objective.double().eval()
    each = objective.per_sample(student, teacher, batch())
    assert each.shape == (B,)
    torch.testing.assert_close(each.mean(), objective(student, teacher, batch()), rtol=1e-10, atol=0)


@pytest.mark.parametrize("rule", [Average, Entropy, Confidence, Gradient, Random, Sum])
def test_one_teacher_means_the_loss_towards_it(rule):
    student, teacher = outputs_of(0, grad=True), outputs_of(1)
    torch.testing.assert_close(
        rule()([KD()], student, [teacher], batch()), KD()(student, teacher, batch()), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("rule", ["sum", "average", "entropy", "confidence", "gradient"])
def test_a_permutation_of_the_teachers_changes_nothing_but_order(rule):
    student, teachers = outputs_of(0, grad=True), [outputs_of(number) for number in (1, 2, 3)]
    order = [2, 0, 1]
    results = []
    for places in ([0, 1, 2], order):
        ours = of(rule)
        loss = ours([KD()] * 3, student, [teachers[place] for place in places], batch())
        results.append((loss, torch.autograd.grad(loss, student.logits)[0], ours.weights))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(results[0][2][order], results[1][2], rtol=1e-5, atol=1e-6)


# The gradient rule


def reference_weights(gram, cap):
    """By SciPy's quadratic programming, from several starts."""
    count = len(gram)
    best = None
    for start in [np.full(count, 1 / count), *np.eye(count)]:
        answer = minimize(
            lambda w: w @ gram @ w, start, jac=lambda w: 2 * gram @ w, bounds=[(0, cap)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)}, method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        if best is None or answer.fun < best.fun:
            best = answer
    return best.x


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "cap"), [(2, 1.0), (4, 1.0), (4, 0.35), (8, 1.0), (8, 0.2)])
def test_min_norm_weights_against_quadratic_programming(seed, count, cap):
    vectors = np.random.default_rng(seed).normal(size=(count, 12)) + 0.5
    gram = vectors @ vectors.T
    ours = min_norm_weights(torch.from_numpy(gram), cap).numpy()
    expected = reference_weights(gram, cap)
    assert ours.sum() == pytest.approx(1, abs=1e-9) and ours.min() >= 0 and ours.max() <= cap + 1e-12
    assert ours @ gram @ ours <= expected @ gram @ expected + 1e-6 * np.trace(gram)
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_min_norm_weights_of_parallel_and_of_no_gradients():
    parallel = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])).double()
    assert min_norm_weights(parallel).tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert min_norm_weights(torch.zeros(3, 3, dtype=torch.float64)).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("cap", [1.0, 0.4])
def test_the_projection_is_the_nearest_allowed_point(cap):
    for seed in range(20):
        values = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        near = project(values, cap)
        assert near.sum().item() == pytest.approx(1) and near.min() >= 0 and near.max() <= cap + 1e-12
        grid = [
            point for point in itertools.product(np.linspace(0, cap, 9), repeat=3) if 0 <= 1 - sum(point) <= cap + 1e-12
        ]
        assert all(
            ((np.array([*point, 1 - sum(point)]) - values.numpy()) ** 2).sum()
            >= ((near - values) ** 2).sum().item() - 1e-9
            for point in grid
        )


@pytest.mark.parametrize("objective", ["kd", "crd"])
def test_gradients_are_taken_at_the_output_that_the_objective_reads(objective):
    student, teachers = outputs_of(0, grad=True), [outputs_of(number) for number in (1, 2, 3)]
    objectives, alone = (crds(3), crds(3)) if objective == "crd" else ([KD()] * 3, [KD()] * 3)
    read = student.embedding if objective == "crd" else student.logits
    rule = of("gradient", cap=0.8)
    loss = rule(objectives, student, teachers, batch())
    losses = [one(student, teacher, batch()) for one, teacher in zip(alone, teachers, strict=True)]
    flat = torch.stack([torch.autograd.grad(value, read, retain_graph=True)[0].flatten() for value in losses])
    weights = reference_weights((flat @ flat.T).numpy(), 0.8)
    np.testing.assert_allclose(rule.weights.numpy(), weights, atol=1e-3)
    # Its gradient is the shortest there is.
    ours = torch.autograd.grad(loss, read)[0]
    assert ours.norm().item() <= np.linalg.norm(weights @ flat.numpy()) * (1 + 1e-4)


# One teacher a step


def test_random_draws_every_teacher_evenly_goes_on_where_it_was_and_trains_no_other():
    student, teachers = outputs_of(0, grad=True), [outputs_of(number) for number in (1, 2, 3)]
    rule, objectives = of("random").train(), [FitNet(D, D).double() for _ in range(3)]
    seen = []
    for _ in range(60):
        (number,) = rule.chosen(3)
        heard = [teacher if place == number else None for place, teacher in enumerate(teachers)]
        loss = rule(objectives, student, heard, batch())
        torch.testing.assert_close(loss, objectives[number](student, teachers[number], batch()))
        seen.append(number)
    assert min(seen.count(number) for number in range(3)) >= 10
    loss.backward()
    silent = [place for place in range(3) if place != seen[-1]]
    assert all(
        parameter.grad is not None and not parameter.grad.any()
        for place in silent
        for parameter in objectives[place].parameters()
    )
    again = of("random")
    again.load_state_dict(rule.state_dict())
    assert [again.steps, again.chosen(3)] == [60, rule.chosen(3)]
    before = rule.eval().chosen(3)
    rule(objectives, student, teachers, batch())
    assert rule.chosen(3) == before


# What they refuse


class Whole(Objective):
    """An objective that is no mean over samples."""

    def forward(self, student, teacher, batch):
        return (student.logits.T @ student.logits - teacher.logits.T @ teacher.logits).square().mean()


def test_rules_refuse_what_they_cannot_do():
    with pytest.raises(
        UsageError,
        match=r"objective it is no mean over samples.*|loss of objective it is no mean over samples: add "
        r"objectives\.it\.rule=sum",
    ):
        of("entropy", Whole)
    with pytest.raises(UsageError, match=r"reads embedding.*objectives\.it\.rule=sum"):
        of("average", CRD)
    outputs = [outputs_of(number) for number in range(3)]
    with pytest.raises(UsageError, match=r"would be standardised again: set standardize=false, or rule=sum"):
        of("average", count=2)([KD(standardize=True)] * 2, outputs[0], outputs[1:], batch())
    with pytest.raises(UsageError, match="this data has none: take entropy, or sum"):
        Confidence.build(Confidence.Options(), "it", KD, [setting(targets=None)] * 2)
    with pytest.raises(
        UsageError, match=r"teacher 1 tells 3 classes apart and the data has 5: say with teachers\.1\.class_map"
    ):
        Confidence.build(Confidence.Options(), "it", KD, [setting(), setting(classes=3)])
    for rule in (Confidence, Entropy):
        # Of labels or none: that of logits is the cause in both.
        dense = setting(classes=None, targets=None)
        with pytest.raises(UsageError, match=f"rule={rule.name} weighs each sample .* teacher 1 has none.* take sum"):
            rule.build(rule.Options(), "it", KD, [setting(targets=None), dense])
    with pytest.raises(UsageError, match="did you mean .*average"):
        TEACHER_AGGREGATIONS["averge"]
