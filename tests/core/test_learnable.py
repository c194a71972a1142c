"""Students whose weights torch does not find, or whose state no checkpoint holds."""

import pytest
import torch
from torch import nn

import contrastill
from contrastill import UsageError

IMAGES = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATA = torch.utils.data.TensorDataset(IMAGES, torch.arange(8) % 4)


def layer():
    return nn.Conv2d(3, 3, 1)


class Plain(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.fc(self.before(images).mean((2, 3)))

    def before(self, images):
        return images


class InList(Plain):
    def before(self, images):
        return self.extra[0](images)


class InDict(Plain):
    def before(self, images):
        return self.extra["a"](images)


class Scaled(Plain):
    def before(self, images):
        return images * self.extra


def distill(student, out):
    options = {"objectives": "cross_entropy", "epochs": 1, "batch_size": 8, "quiet": True, "out": out}
    return contrastill.distill(None, student, (DATA, DATA), **options)


@pytest.mark.parametrize(
    ("student", "name", "way_out"),
    [
        (InList(extra=[layer()]), "extra", "use nn.ModuleList, ModuleDict or ParameterDict"),
        (InDict(extra={"a": layer()}), "extra", "use nn.ModuleList"),
        (nn.Sequential(InList(extra=[layer()])), "0.extra", "use nn.ModuleList"),
        (Scaled(extra=torch.ones(3, 1, 1, requires_grad=True)), "extra", "make it an nn.Parameter"),
    ],
)
def test_weights_of_a_student_that_torch_does_not_find_are_refused(student, name, way_out, tmp_path):
    with pytest.raises(UsageError, match=f"the student has weights in {name} that are not saved.*: {way_out}"):
        distill(student, tmp_path / "run")


@pytest.mark.parametrize(
    "student",
    [
        InList(extra=[layer().requires_grad_(False)]),
        Scaled(extra=torch.ones(3, 1, 1)),
        InList(extra=nn.ModuleList([layer()])),
    ],
)
def test_what_is_frozen_on_purpose_or_found_passes(student, tmp_path):
    assert distill(student, tmp_path / "run").metrics["epoch"] == 0


class Stateful(Plain):
    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def test_extra_state_that_is_no_tensor_is_refused_before_the_training(tmp_path):
    student = nn.Sequential(Stateful(state={"seen": 3}))
    with pytest.raises(UsageError, match=r"get_extra_state of the student's 0 \(Stateful\) returns a dict, .*a tensor"):
        distill(student, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists() or not any((tmp_path / "run" / "checkpoints").iterdir())


def test_extra_state_that_is_a_tensor_is_saved(tmp_path):
    student = nn.Sequential(Stateful(state=torch.tensor([3.0])))
    assert distill(student, tmp_path / "run").metrics["epoch"] == 0


def test_extra_state_of_an_objective_is_refused():
    class Counting(contrastill.Objective):
        needs = frozenset({"logits"})

        def per_sample(self, student, teacher, batch):
            return student.logits.mean(1)

        def get_extra_state(self):
            return [1]

    network = contrastill.Network(
        Plain(), taps=contrastill.Taps(), preprocess=contrastill.Preprocess((0,) * 3, (1,) * 3)
    )
    with pytest.raises(UsageError, match=r"get_extra_state of objective mine \(Counting\) returns a list"):
        contrastill.Transfer(
            [network],
            contrastill.Network(Plain(), taps=contrastill.Taps(), preprocess=network.preprocess),
            {"mine": Counting()},
        )
