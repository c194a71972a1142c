"""One student that is trained twice, and terms whose objectives have an initial stage or whose rule is no subclass."""

import torch
from torch import nn

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.objective import Objective
from contrastill.core.representation import Network, Preprocess, Representation, Taps
from contrastill.core.term import Term
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.objectives.cross_entropy import CrossEntropy


def network():
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return Network(nn.Sequential(*layers), taps=Taps("input:4"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))


def test_a_classifier_that_rested_in_a_training_trains_in_the_next():
    images = PaddedImages.zeros(16, 8, 8, 3, dtype=torch.uint8, padding=0)
    images.interior[:] = torch.randint(0, 256, (16, 8, 8, 3))
    loader = TensorSplit({"rgb": images}, targets=torch.arange(16) % 4, num_classes=4).loader(
        batch_size=8, device="cpu", seed=0, train=True
    )
    student = network()
    weight = student.module[4].weight
    start = weight.detach().clone()
    config = TrainConfig(epochs=1, batch_size=8, lr=0.1)
    contrastill.fit(contrastill.Transfer([network()], student, {"rkd": contrastill.RKD()}), loader, None, config)
    assert torch.equal(weight, start) and weight.requires_grad
    contrastill.fit(contrastill.Transfer([], student, {"labels": CrossEntropy()}), loader, None, config)
    assert not torch.equal(weight, start)


class Jointly(Objective):
    needs, joint, initial_epochs = frozenset({"logits"}), True, 1

    def forward(self, student, teacher, batch):
        return sum((student.logits - each.logits).square().mean() for each in teacher)


class Plainly(Objective):
    needs, needs_teacher, initial_epochs = frozenset({"logits"}), False, 1

    def forward(self, student, teacher, batch):
        assert teacher is None
        return student.logits.square().mean()


def test_initial_stages_beside_several_teachers():
    student, *teachers = (Representation(logits=torch.randn(2, 3, requires_grad=True)) for _ in range(3))
    for objective in (Jointly(), Plainly()):
        term = Term(objective)
        assert torch.equal(term.initial(student, teachers, {}), term(student, teachers, {}))


class Halves(nn.Module):
    """A rule with all that one has, but not by inheritance."""

    teacher_needs, compares_classes, takes_mixed, weights = frozenset(), False, True, None

    def chosen(self, count):
        return range(count)

    def forward(self, objectives, student, teachers, batch):
        return sum(each(student, teacher, batch) for each, teacher in zip(objectives, teachers, strict=True)) / 2


def test_a_rule_that_is_no_subclass_shows_each_objective_its_teacher():
    shown = []

    class Shown(Objective):
        needs = frozenset({"logits"})

        def prepare(self, teachers):
            shown.append([*teachers])

    Term([Shown(), Shown()], rule=Halves()).prepare(["a", "b"])
    assert shown == [["a"], ["b"]]
