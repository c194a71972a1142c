"""cross_entropy and kd against naive versions in float64, gradients included; crd as an objective."""

import math

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD


def naive_cross_entropy(logits, targets, smoothing):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_norm = torch.log(sum(torch.exp(value) for value in row))
        for c, value in enumerate(row):
            target_probability = smoothing / len(row) + (1 - smoothing) * (c == int(target))
            total = total - target_probability * (value - log_norm)
    return total / len(logits)


def naive_kd(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        es, et = [torch.exp(v / temperature) for v in s], [torch.exp(v / temperature) for v in t]
        for a, b in zip(es, et, strict=True):
            p, q = b / sum(et), a / sum(es)
            total = total + p * (torch.log(p) - torch.log(q))
    return total / len(student) * temperature**2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_naive_one(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])
    ours = CrossEntropy(label_smoothing=smoothing)(Representation(logits=logits), None, {"target": targets})
    reference = naive_cross_entropy(logits, targets, smoothing)
    assert math.isclose(ours.item(), reference.item(), rel_tol=1e-12)
    ours_gradient, reference_gradient = (
        torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, reference)
    )
    torch.testing.assert_close(ours_gradient, reference_gradient, rtol=1e-10, atol=1e-13)


def test_cross_entropy_without_labels_is_refused():
    with pytest.raises(UsageError, match="needs labels"):
        CrossEntropy()(Representation(logits=torch.zeros(2, 3)), None, {"index": torch.arange(2)})


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_naive_one(temperature):
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = 3 * torch.randn(4, 6, dtype=torch.float64, generator=generator)
    ours = KD(temperature=temperature)(Representation(logits=student), Representation(logits=teacher), {})
    reference = naive_kd(student, teacher, temperature)
    assert math.isclose(ours.item(), reference.item(), rel_tol=1e-12)
    ours_gradient, reference_gradient = (
        torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, reference)
    )
    torch.testing.assert_close(ours_gradient, reference_gradient, rtol=1e-10, atol=1e-13)


def test_kd_refuses_other_classes():
    setting = Setting(RepresentationSpec(10, 64, ()), RepresentationSpec(100, 64, ()), 100, None, 0)
    with pytest.raises(UsageError, match="teacher has 100 classes and the student 10"):
        KD.build(KD.Options(), setting)


def test_crd_infers_its_dimensions():
    targets = torch.arange(40) % 4
    setting = Setting(RepresentationSpec(4, 6, ()), RepresentationSpec(4, 9, ()), 40, targets, seed=3)
    crd_class = OBJECTIVES["crd"]
    objective = crd_class.build(crd_class.Options(embed_dim=8, num_negatives=10, bias=2.0), setting)
    batch = {"index": torch.tensor([3, 9, 11])}
    student = torch.randn(3, 6, requires_grad=True)
    objective(Representation(embedding=student), Representation(embedding=torch.randn(3, 9)), batch).backward()
    assert student.grad.abs().sum() > 0
    assert objective.loss.bank.teacher.shape == (40, 8)
    assert objective.logs and all(not value.requires_grad for value in objective.logs.values())


def test_an_unknown_objective_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean crd"):
        OBJECTIVES["crdd"]
