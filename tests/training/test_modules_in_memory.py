"""A module of load_student is what its run trained it for: its modality, and how its answers are read."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.models.module_facts import module_training
from contrastill.training.student import Student

OPTIONS = {"epochs": 1, "batch_size": 8, "quiet": True}


class Samples(Dataset):
    """Images and what belongs to them."""

    def __init__(self, **fields):
        self.fields = fields

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.fields.items()}


RGB = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DEPTH = 1 + torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(1))
TARGET = torch.arange(16) % 4
LABELLED = Samples(rgb=RGB, depth=DEPTH, target=TARGET)


def classifier(out, modality):
    options = {"objectives": "cross_entropy", "student_modality": modality, "out": out / modality}
    contrastill.distill(None, "resnet8", (LABELLED, LABELLED), **options, **OPTIONS)
    return out / modality


@pytest.mark.parametrize("load", [contrastill.load_student, Student.from_run])
def test_a_teacher_reads_what_it_was_trained_on(tmp_path, load, caplog):
    teacher = load(classifier(tmp_path, "depth"))
    options = {"objectives": "kd", "out": tmp_path / "student", **OPTIONS}
    with pytest.raises(contrastill.UsageError, match="was trained on depth, and reads rgb here: leave the modality"):
        contrastill.distill(teacher, "resnet8", (LABELLED, LABELLED), teacher_modality="rgb", **options)
    assert not (tmp_path / "student").exists()
    # A student that starts from depth is what weights of another modality are for; it is named.
    grey = contrastill.distill(
        None, {"model": teacher, "modality": "inverse_depth"}, (LABELLED, LABELLED), out=tmp_path / "grey",
        objectives="cross_entropy", **{"data.depth_unit": "m"}, **OPTIONS,
    )  # fmt: skip
    assert "were trained on depth, and this training starts from them on inverse_depth" in caplog.text
    assert grey.config.student.modality == "inverse_depth"


class Depths(nn.Module):
    """Answers with one number for each position."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, images):
        return self.body(images)


def test_a_teacher_in_memory_passes_on_that_it_predicts_log_depth(tmp_path):
    data, options = Samples(rgb=RGB, depth=DEPTH), {"data.depth_unit": "m", **OPTIONS}
    in_logs = {"scale_invariant": {"predicts": "log_depth"}}
    contrastill.distill(None, Depths(), (data, data), out=tmp_path / "teacher", objectives=in_logs, **options)
    teacher = contrastill.load_student(tmp_path / "teacher", module=Depths())
    assert module_training(teacher)["predicts"] == "log_depth"
    contrastill.distill(
        teacher, Depths(), (data, data), out=tmp_path / "student", objectives="dense_regression", **options
    )
    assert module_training(contrastill.load_student(tmp_path / "student", module=Depths()))["predicts"] == "log_depth"
    with pytest.raises(contrastill.UsageError, match="would have to predict depth for objective .* and log depth for"):
        contrastill.distill(
            teacher, Depths(), (data, data), out=tmp_path / "both", objectives=["dense_regression", "scale_invariant"],
            **options,
        )  # fmt: skip


def test_a_teacher_in_memory_of_several_classes_is_not_read_as_one_of_one(tmp_path):
    several = Samples(rgb=RGB, target=(torch.eye(4) + torch.eye(4).roll(1, 0))[TARGET])
    contrastill.distill(
        None, "resnet8", (several, several), out=tmp_path / "teacher", objectives="binary_cross_entropy", **OPTIONS
    )
    teacher = contrastill.load_student(tmp_path / "teacher")
    with pytest.raises(contrastill.UsageError, match="trained for each class on its own of a sample, and objective kd"):
        contrastill.distill(
            teacher, "resnet8", (LABELLED, LABELLED), out=tmp_path / "student", objectives="kd", **OPTIONS
        )


def test_an_attribute_of_a_users_class_stays():
    module = nn.Linear(2, 2)
    module.trained_for = "a demonstration"
    assert module_training(module) == {}
