"""kd with standardised logits, dkd, dist, mlkd and wttm against nested loops in float64, gradients included; and what
they refuse.
"""

from dataclasses import replace

import pytest
import torch

import contrastill
from contrastill import DIST, DKD, KD
from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec

NAMES = ("kd", "dkd", "dist", "mlkd", "wttm")
PER_SAMPLE = ("kd", "dkd", "wttm")
TARGETS = torch.tensor([0, 5, 2, 2, 4])


def setting(student=6, teacher=6):
    return Setting(
        RepresentationSpec(student, 8, ()),
        RepresentationSpec(teacher, 8, ()),
        20,
        torch.arange(20) % min(6, student),
        0,
    )


def built(name, **options):
    objective = OBJECTIVES[name]
    return objective.build(objective.Options(**options), setting())


def logits(size=5, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, 6, dtype=torch.float64, generator=generator)


def pair(size=5):
    return logits(size, seed=1).requires_grad_(), logits(size, seed=2, scale=3.0)


def outputs(values):
    return Representation(logits=values)


def assert_same(ours, reference, student):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-13)
    got, expected = (torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, reference))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13)


def softmax(row, temperature=1.0):
    powers = [torch.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values):
    return sum(values) / len(values)


def naive_kd(student, teacher, temperature=4.0):
    def standardised(row):
        deviation = mean([(value - mean(row)) ** 2 for value in row]) ** 0.5
        return [(value - mean(row)) / (deviation + 1e-7) for value in row]

    return mean(
        [
            kl(softmax(standardised(list(t)), temperature), softmax(standardised(list(s)), temperature))
            for s, t in zip(student, teacher, strict=True)
        ]
    ) * (temperature**2)


def naive_dkd(student, teacher, alpha=1.0, beta=8.0, temperature=4.0):
    losses = []
    for s, t, target in zip(student, teacher, TARGETS.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        binary = kl([p[target], sum(p) - p[target]], [q[target], sum(q) - q[target]])
        others = [[row[c] for c in range(6) if c != target] for row in (t, s)]
        losses.append(alpha * binary + beta * kl(*(softmax(row, temperature) for row in others)))
    return mean(losses) * temperature**2


def correlation(first, second):
    first, second = [a - mean(first) for a in first], [b - mean(second) for b in second]
    return (
        sum(a * b for a, b in zip(first, second, strict=True))
        / (sum(a * a for a in first) * sum(b * b for b in second)) ** 0.5
    )


def naive_dist(student, teacher, beta=2.0, gamma=2.0, temperature=4.0):
    q, p = ([softmax(row, temperature) for row in side] for side in (student, teacher))
    inter = 1 - mean([correlation(a, b) for a, b in zip(q, p, strict=True)])
    intra = 1 - mean([correlation([a[c] for a in q], [b[c] for b in p]) for c in range(6)])
    return (beta * inter + gamma * intra) * temperature**2


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def naive_mlkd(student, teacher, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0)):
    size = len(student)
    certain = [softmax(row) for row in teacher]
    confidence, of_class = (
        [float(max(row)) for row in certain],
        [float(sum(row[c] for row in certain)) for c in range(6)],
    )
    total = 0.0
    for temperature in temperatures:
        q, p = ([softmax(row, temperature) for row in side] for side in (student, teacher))
        total = total + mean([kl(b, a) for a, b in zip(q, p, strict=True)]) * temperature**2
        for i in range(size):
            for j in range(size):
                if confidence[i] >= median(confidence):
                    total = (
                        total
                        + (sum(q[i][c] * q[j][c] for c in range(6)) - sum(p[i][c] * p[j][c] for c in range(6))) ** 2
                        / size
                    )
        for c in range(6):
            for d in range(6):
                if of_class[c] >= median(of_class):
                    total = total + (sum(row[c] * row[d] for row in q) - sum(row[c] * row[d] for row in p)) ** 2 / 6
    return total


def naive_wttm(student, teacher, temperature=4.0, weighted=True):
    losses = []
    for s, t in zip(student, teacher, strict=True):
        powers = [p ** (1 / temperature) for p in softmax(t)]
        losses.append((sum(powers) if weighted else 1) * kl([power / sum(powers) for power in powers], softmax(s)))
    return mean(losses)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kd_with_standardised_logits_is_the_naive_one(temperature):
    student, teacher = pair()
    loss = built("kd", standardize=True, temperature=temperature)(outputs(student), outputs(teacher), {})
    assert_same(loss, naive_kd(student, teacher, temperature), student)


def test_kd_with_standardised_logits_does_not_see_scale_and_shift():
    student, teacher = pair()
    objective = built("kd", standardize=True)
    loss = objective(outputs(student), outputs(teacher), {})
    torch.testing.assert_close(
        objective(outputs(7 * student + 3), outputs(teacher / 5 - 2), {}), loss, rtol=1e-5, atol=0
    )
    assert (
        abs(
            built("kd")(outputs(7 * student + 3), outputs(teacher), {})
            - built("kd")(outputs(student), outputs(teacher), {})
        )
        > 0.1
    )


@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.5, "beta": 2.0, "temperature": 1.5}, {"alpha": 0.0}, {"beta": 0.0}]
)
def test_dkd_is_the_naive_one(options):
    student, teacher = pair()
    assert_same(
        built("dkd", **options)(outputs(student), outputs(teacher), {"target": TARGETS}),
        naive_dkd(student, teacher, **options),
        student,
    )


def test_dkd_weighed_by_the_teacher_is_kd():
    student, teacher = pair(1)
    batch = {"target": TARGETS[:1]}
    rest = 1 - torch.softmax(teacher / 4, 1)[0, TARGETS[0]].item()
    torch.testing.assert_close(
        built("dkd", beta=rest)(outputs(student), outputs(teacher), batch),
        built("kd")(outputs(student), outputs(teacher), {}),
        rtol=1e-10,
        atol=0,
    )


@pytest.mark.parametrize("options", [{}, {"beta": 0.5, "gamma": 3.0, "temperature": 1.0}])
def test_dist_is_the_naive_one(options):
    student, teacher = pair()
    assert_same(
        built("dist", **options)(outputs(student), outputs(teacher), {}),
        naive_dist(student, teacher, **options),
        student,
    )


def test_dist_correlates_rare_classes_too_and_nothing_that_is_constant():
    student, teacher = pair()
    rare = torch.full_like(student[:1], 0.0)
    rare[:, 0] = -14.0  # a probability of 1e-7 that varies from sample to sample
    ours, theirs = (side.detach() + rare for side in (student, teacher))
    options = {"temperature": 1.0}
    single = [side.float().requires_grad_() for side in (ours, theirs)]
    loss = built("dist", **options)(*map(outputs, single), {})
    assert loss.item() == pytest.approx(naive_dist(ours, theirs, **options).item(), rel=1e-4)
    assert built("dist", **options)(*map(outputs, (theirs, theirs)), {}).item() == pytest.approx(0, abs=1e-6)
    same = student.detach()[:1].float().repeat(len(student), 1).requires_grad_()  # each class is constant
    built("dist", beta=0.0, **options)(outputs(same), outputs(single[1].detach()), {}).backward()
    assert not same.grad.any()


def test_dist_of_a_last_batch_of_one_sample_has_no_part_over_the_batch():
    student, teacher = (side.detach()[:1] for side in pair())
    loss = built("dist", temperature=1.0)
    assert loss(outputs(student), outputs(student), {}).item() == pytest.approx(0, abs=1e-6)
    alone = built("dist", gamma=0.0, temperature=1.0)
    assert loss(outputs(student), outputs(teacher), {}).item() == pytest.approx(
        alone(outputs(student), outputs(teacher), {}).item()
    )


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("options", [{}, {"temperatures": (1.0, 4.0)}])
def test_mlkd_is_the_naive_one(size, options):
    student, teacher = pair(size)
    assert_same(
        built("mlkd", **options)(outputs(student), outputs(teacher), {}),
        naive_mlkd(student, teacher, **options),
        student,
    )


def test_mlkd_leaves_out_half_of_what_the_teacher_is_unsure_of():
    # Samples 0 and 1 are sure; where only the unsure ones disagree, their rows do not count.
    teacher = torch.tensor(
        [[9.0, 0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0], [0, 0, 0, 1.0, 0, 0]], dtype=torch.float64
    )
    objective = built("mlkd")
    objective(outputs(teacher[[0, 1, 3, 2]]), outputs(teacher), {})
    assert objective.logs["instance"] > 0.1 and set(objective.logs) == {"instance", "batch", "class"}
    swapped = objective.logs["batch"]
    objective(outputs(teacher[[2, 3, 0, 1]]), outputs(teacher), {})
    assert objective.logs["batch"] > 10 * swapped


@pytest.mark.parametrize("options", [{}, {"weighted": False}, {"temperature": 2.0}, {"temperature": 1.0}])
def test_wttm_is_the_naive_one(options):
    student, teacher = pair()
    assert_same(
        built("wttm", **options)(outputs(student), outputs(teacher), {}),
        naive_wttm(student, teacher, **options),
        student,
    )


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_samples_alone_have_the_losses_that_are_averaged(name):
    student, teacher = pair()
    objective = built(name)
    each = objective.per_sample(outputs(student), outputs(teacher), {"target": TARGETS})
    for place, loss in enumerate(each):
        sample = slice(place, place + 1)
        torch.testing.assert_close(
            loss,
            objective(outputs(student[sample]), outputs(teacher[sample]), {"target": TARGETS[sample]}),
            rtol=1e-12,
            atol=1e-15,
        )
    torch.testing.assert_close(each.mean(), objective(outputs(student), outputs(teacher), {"target": TARGETS}))
    assert [OBJECTIVES[other].decomposes() for other in NAMES] == [True, True, False, False, True]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), ("kd", {"standardize": True})])
def test_extreme_logits_give_finite_losses_and_gradients(name, options):
    corners = 1e4 * torch.tensor(
        [
            [1.0, -1, -1, -1, -1, -1],
            [-1, 1, 1, -1, -1, -1],
            [1, 1, 1, 1, 1, 1],
            [-1, -1, -1, -1, -1, 1],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    for student, teacher in (
        (corners, corners.flip(0)),
        (corners, logits().float()),
        (logits().float(), corners),
        (corners, corners),
    ):
        student = student.clone().requires_grad_()
        loss = built(name, **options)(outputs(student), outputs(teacher), {"target": TARGETS})
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all() and loss > -1e-3


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name):
    student, teacher = (side.detach().bfloat16() for side in pair())
    with torch.autocast("cpu", torch.bfloat16):
        loss = built(name)(outputs(student), outputs(teacher), {"target": TARGETS})
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, built(name)(outputs(student.float()), outputs(teacher.float()), {"target": TARGETS}), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_are_refused(name):
    objective = OBJECTIVES[name]
    with pytest.raises(
        UsageError, match=f"objective {name} compares logits, but the teacher has 100 classes and the student 10"
    ):
        objective.build(objective.Options(), setting(10, 100))


@pytest.mark.parametrize("name", NAMES)
def test_a_student_with_other_classes_than_teacher_and_data_is_told_theirs(name):
    objective = OBJECTIVES[name]
    with pytest.raises(UsageError, match="the student has 1000 classes and the teacher 4, as the data: give the stud"):
        objective.build(objective.Options(), replace(setting(1000, 4), targets=torch.arange(8) % 4))


def test_dkd_without_labels_is_refused():
    with pytest.raises(UsageError, match="objective dkd needs labels"):
        built("dkd")(outputs(logits()), outputs(logits(seed=1)), {"index": torch.arange(5)})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlkd", {"temperatures": ()}),
        ("mlkd", {"temperatures": (2.0, 0.0)}),
        ("dist", {"temperature": 0}),
        ("wttm", {"gamma": 1}),
    ],
)
def test_options_that_mean_nothing_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        OBJECTIVES[name].Options(**options)


def test_weights_and_warmup_are_the_published_ones():
    assert {name: OBJECTIVES[name].default_weight for name in NAMES} == {
        "kd": 0.9,
        "dkd": 1,
        "dist": 1,
        "mlkd": 1,
        "wttm": 1,
    }
    assert {name: round(240 * OBJECTIVES[name].default_warmup) for name in NAMES} == {
        "kd": 0,
        "dkd": 20,
        "dist": 0,
        "mlkd": 0,
        "wttm": 0,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_the_teacher_masks_has_probability_0(name):
    """A logit of −∞ is the limit of lower and lower ones, in loss and gradient; the student may mask it too."""
    student, teacher = pair()
    masked = torch.zeros(5, 6, dtype=torch.bool)
    masked[:, 1] = masked[3, 4] = True
    both = [teacher.masked_fill(masked, value) for value in (-torch.inf, -1e6)]
    objective, batch = built(name), {"target": torch.tensor([1, 5, 2, 2, 4])}
    assert_same(*(objective(outputs(student), outputs(values), batch) for values in both), student)
    ours = [student.masked_fill(masked, value) for value in (-torch.inf, -1e6)]
    losses = [objective(outputs(s), outputs(t), batch) for s, t in zip(ours, both, strict=True)]
    assert_same(*losses, student)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_teachers_logits_that_are_no_numbers_are_named(name, value):
    student, teacher = pair()
    teacher[2, 3] = value
    with pytest.raises(UsageError, match=r"is no finite number, as the teacher's logits hold infinite or NaN values"):
        built(name)(student, teacher, target=TARGETS)
    assert not built(name)(teacher, logits(), target=TARGETS).isfinite()  # the student's are the loop's own affair


def test_temperatures_at_which_the_loss_is_rounding_are_refused():
    """T² · KL tends to half the variance of the differences; in float32 it is off by 2 % at T = 1000."""
    ours, theirs = (torch.randn(64, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = KD(temperature=100)(ours.double(), theirs.double())
    assert torch.isclose(KD(temperature=100)(ours, theirs).double(), exact, rtol=2e-3)
    for loss in (KD, DKD, DIST):
        with pytest.raises(UsageError, match="temperature"):
            loss(temperature=1000.0)


@pytest.mark.parametrize("value", [float("nan"), -1.0, 1.5, float("inf")])
def test_labels_for_each_class_are_numbers_from_0_to_1(value):
    with pytest.raises(UsageError, match="binary_cross_entropy: labels are numbers from 0 to 1, and some are not"):
        contrastill.BinaryCrossEntropy()(torch.zeros(2, 3), target=torch.full((2, 3), value))


def test_a_single_question_is_one_for_binary_kd():
    """One tag: it takes no softmax, whose one value would always be 1."""
    ours, theirs = torch.tensor([[0.5], [-1.0]]), torch.tensor([[2.0], [0.0]])
    share, yes = theirs.sigmoid(), ours.sigmoid()
    expected = (share * (share / yes).log() + (1 - share) * ((1 - share) / (1 - yes)).log()).mean()
    assert torch.isclose(contrastill.BinaryKD()(ours, theirs), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [("kd", {"standardize": True}, "standardize"), ("dkd", {"alpha": 0}, "alpha=0"), ("dist", {"gamma": 0}, "gamma=0")],
)
def test_options_by_which_two_classes_teach_nothing_are_refused(name, options, option):
    objective, two = OBJECTIVES[name], outputs(torch.randn(4, 2))
    for call in (
        lambda: objective(**options)(two, two, {"target": torch.arange(4) % 2}),
        lambda: objective.build(objective.Options(**options), setting(2, 2)),
    ):
        with pytest.raises(UsageError, match=f"{name} with {option} has no gradient for two classes"):
            call()
    built(name, **options)
