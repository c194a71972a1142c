"""Teachers that are no functions of their input: refused by a cache, told where they are asked at each step."""

import logging
import re

import pytest
import torch
from torch import nn

import contrastill
from contrastill import KD, Network, Preprocess, Taps, Transfer, UsageError
from contrastill.core.teachers.repeatable import unrepeatable_notes

IMAGES = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATA = torch.utils.data.TensorDataset(IMAGES, torch.arange(16) % 4)


class Steady(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, images):
        return self.fc(images.mean((2, 3)))


class Counter(Steady):
    """Its answers drift by less than what rounding may do elsewhere."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) * (1 + 1e-3 * self.calls)


class RunningMean(Steady):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, images):
        outputs = super().forward(images)
        self.mean.lerp_(outputs.mean(0), 0.01)
        return outputs - self.mean


class Recurrent(Steady):
    def __init__(self):
        super().__init__()
        self.cell, self.state = nn.GRUCell(3, 4), None

    def forward(self, images):
        before = None if self.state is None else self.state.expand(len(images), -1)
        answer = self.cell(images.mean((2, 3)), before)
        self.state = answer.mean(0, keepdim=True)
        return answer


class Dropping(Steady):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images), training=True)


class Counted(Steady):
    """Counts how often it is asked, and answers the same."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images)


CHANGING = [Counter, RunningMean, Recurrent, Dropping]


def distill(teacher, out, **options):
    return contrastill.distill(
        teacher, Steady(), (DATA, DATA), out=out, objectives=["kd"], epochs=1, batch_size=8, quiet=True, **options
    )


@pytest.mark.parametrize("kind", CHANGING)
def test_a_cache_refuses_them(kind, tmp_path):
    with pytest.raises(
        UsageError, match="teacher 0 gives other logits .* cannot be cached: .* what its forward changes"
    ):
        distill(kind(), tmp_path / "run", views=1)


@pytest.mark.parametrize("kind", CHANGING)
def test_a_training_that_asks_them_at_each_step_says_so(kind, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        distill(kind(), tmp_path / "run")
    (line,) = [record.message for record in caplog.records if "each time it is asked" in record.message]
    assert line.startswith(f"teacher 0 ({kind.__name__}) gives other outputs of the same samples")


@pytest.mark.parametrize("kind", [Steady, Counted])
@pytest.mark.parametrize("options", [{}, {"views": 1}])
def test_others_pass_without_a_word(kind, options, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        distill(kind(), tmp_path / "run", **options)
    assert not [record for record in caplog.records if "asked" in record.message]


class Noisy(torch.utils.data.Dataset):
    """Adds a little noise of a generator of its own to one sample in eight."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        noise = torch.randint(0, 2, IMAGES.shape[1:], dtype=torch.uint8, generator=self.generator)
        return IMAGES[index] // 2 + noise * (index % 8 == 3), index % 4


@pytest.mark.parametrize("folder", [None, "cache"])
def test_samples_that_change_by_less_than_a_teacher_sees_are_refused(folder, tmp_path):
    options = {} if folder is None else {"teacher_cache": str(tmp_path / folder)}
    data = (Noisy(), DATA)
    with pytest.raises(UsageError, match="samples of one view are others each time they are read"):
        contrastill.distill(
            Steady(), Steady(), data, out=tmp_path / "run", objectives=["kd"], epochs=1, views=1, quiet=True, **options
        )


def test_values_that_are_no_numbers_do_not_change(tmp_path, caplog):
    teacher = nn.Sequential(nn.BatchNorm2d(3), Steady())
    teacher[0].running_mean.fill_(torch.nan)
    with pytest.raises(contrastill.ContrastillError, match="the logits of teacher 0 .* hold infinite or NaN values"):
        distill(teacher, tmp_path / "run")
    assert not [record for record in caplog.records if "asked" in record.message]


def test_to_look_leaves_no_trace():
    teacher = Network(RunningMean(), taps=Taps(), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    student = Network(Steady(), taps=Taps(), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    transfer = Transfer([teacher], student, {"kd": KD()})
    state = torch.get_rng_state()
    assert len(unrepeatable_notes(transfer.source, {"rgb": IMAGES[:2]}, frozenset({"logits"}))) == 1
    assert torch.equal(state, torch.get_rng_state()) and not teacher.module.mean.any()


@pytest.mark.parametrize(("kind", "lines"), [(Dropping, 1), (Counter, 1), (Steady, 0)])
def test_a_student_that_is_random_in_eval_mode_has_a_line(kind, lines, tmp_path, caplog):
    options = {"epochs": 1, "batch_size": 8, "quiet": True, "out": tmp_path / "run"}
    with caplog.at_level(logging.WARNING):
        contrastill.distill(None, kind(), DATA, objectives="cross_entropy", **options)
    there = [record.getMessage() for record in caplog.records if "asked" in record.getMessage()]
    assert len(there) == lines
    assert all(f"the student ({kind.__name__}) gives other outputs of the same samples" in line for line in there)


class AlwaysTraining(Steady):
    """Its batch normalisation uses the statistics of each batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images):
        return super().forward(self.norm(images))

    def train(self, mode=True):
        return super().train(True)


class ByTheBatch(Steady):
    def forward(self, images):
        return super().forward(images - images.mean(0))


class NoStatistics(Steady):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, images):
        return super().forward(self.norm(images))


IN_TRAIN_MODE = r"AlwaysTraining\) stays in train mode after eval\(\): all of it \(AlwaysTraining\), norm"
BY_BATCH = "gives other outputs of a sample where fewer are asked with it"


@pytest.mark.parametrize("options", [{}, {"views": 1}])
@pytest.mark.parametrize(
    ("kind", "line"), [(AlwaysTraining, IN_TRAIN_MODE), (ByTheBatch, BY_BATCH), (NoStatistics, BY_BATCH)]
)
def test_a_teacher_that_answers_by_its_batch_has_one_line(kind, line, options, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        distill(kind(), tmp_path / "run", **options)
    (there,) = [record.getMessage() for record in caplog.records if "on the batch" in record.getMessage()]
    assert re.search(line, there) and "teacher 0" in there


@pytest.mark.parametrize(
    ("kind", "line"), [(AlwaysTraining, IN_TRAIN_MODE), (ByTheBatch, BY_BATCH), (NoStatistics, BY_BATCH)]
)
def test_a_student_that_answers_by_its_batch_has_one_line(kind, line, tmp_path, caplog):
    student, options = kind(), {"epochs": 1, "batch_size": 8, "quiet": True, "out": tmp_path / "run"}
    with caplog.at_level(logging.WARNING):
        contrastill.distill(None, student, DATA, objectives="cross_entropy", **options)
    (there,) = [record.getMessage() for record in caplog.records if "on the batch" in record.getMessage()]
    assert re.search(line, there) and "the student" in there
