"""The default recipe of distill: dotted keys of networks say the same as arguments and dicts."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.training import distill as call

TEACHER = {"model": "resnet8", "num_classes": 4}


class Pairs(Dataset):
    def __init__(self, labelled=False, maps=False):
        self.labelled, self.maps = labelled, maps

    def __len__(self):
        return 32

    def __getitem__(self, place):
        generator = torch.Generator().manual_seed(place)
        sample = {
            "rgb": torch.rand(3, 16, 16, generator=generator),
            "depth": torch.rand(16, 16, generator=generator) + 1 + place % 4,
        }
        if self.maps:
            sample["semantics"] = torch.full((16, 16), 1 + place % 2, dtype=torch.uint8)
        return sample | ({"target": place % 4} if self.labelled else {})


def module(channels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


@pytest.fixture
def config_of(tmp_path, monkeypatch):
    """The config that a call comes to, without its training."""
    monkeypatch.setattr(call, "train_run", lambda config, **options: None)
    monkeypatch.setattr(call, "_result", lambda config: config)

    def config_of(teacher, student, data=None, **options):
        return contrastill.distill(teacher, student, data or Pairs(True), out=tmp_path / "run", **options)

    return config_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    contrastill.distill(None, "resnet8", Pairs(True), out=out, epochs=1, objectives="cross_entropy", quiet=True)
    return str(out)


def test_the_modality_of_a_student_by_name_and_of_a_module(config_of):
    for student in ("resnet8", module(1)):
        argument = config_of(TEACHER, student, Pairs(), student_modality="depth")
        dotted = config_of(TEACHER, student, Pairs(), **{"student.modality": "depth"})
        assert dotted == argument and dotted.student.modality == "depth"
    assert "dense_crd" in config_of(TEACHER, "resnet8", Pairs(), **{"student.modality": "depth"}).objectives


def test_the_modality_of_a_teacher(config_of):
    argument = config_of(TEACHER, "resnet8", Pairs(), teacher_modality="depth")
    dotted = config_of(TEACHER, "resnet8", Pairs(), **{"teachers.0.modality": "depth"})
    assert dotted == argument and "dense_crd" in dotted.objectives


def test_the_weights_that_a_student_starts_from(config_of, run):
    entry = config_of(None, {"model": "resnet8", "weights": run})
    dotted = config_of(None, "resnet8", **{"student.weights": run})
    assert dotted == entry and dotted.train.lr == pytest.approx(0.1 * config_of(None, "resnet8").train.lr)


def test_a_second_teacher_and_the_classes_of_the_first(config_of, run):
    listed = config_of([run, {"model": "resnet8", "weights": run}], "resnet8")
    dotted = config_of(run, "resnet8", **{"teachers.1.model": "resnet8", "teachers.1.weights": run})
    assert dotted.objectives == listed.objectives and len(dotted.teachers) == 2
    assert dotted.objectives["fresh_crd"].weight == 0.4
    large = {"model": "resnet8", "num_classes": 9}
    entry = config_of(large | {"class_map": [7, 3, 5, 0]}, "resnet8")
    dotted = config_of(large, "resnet8", **{"teachers.0.class_map": [7, 3, 5, 0]})
    assert dotted == entry and "wttm" in dotted.objectives
    assert "wttm" not in config_of(large, "resnet8").objectives


def test_the_number_of_classes_of_a_segmenter(config_of):
    entry = config_of(None, {"model": "unet/resnet8", "num_classes": 1}, Pairs(maps=True))
    dotted = config_of(None, "unet/resnet8", Pairs(maps=True), **{"student.num_classes": 1})
    assert dotted == entry and [*dotted.objectives] == ["scale_invariant"]


def test_the_name_of_the_student(config_of):
    assert config_of(None, "resnet8", **{"student.model": "resnet14"}) == config_of(None, "resnet14")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"student.modallity": "depth"}, "student.modallity"),
        ({"student.num_classes": "four"}, "student.num_classes"),
        ({"teachers.0.mean": "grey"}, "teachers.0.mean"),
        ({"teachers.1.weights": "somewhere"}, "teachers.1.model"),
    ],
)
def test_wrong_keys_are_one_sentence(config_of, keys, message):
    with pytest.raises(UsageError, match=message):
        config_of(module(3), module(3), **keys)


def test_samples_for_validation_are_not_counted(config_of, monkeypatch):
    """As the length of a training of the command, which counts those that it trains on."""
    counts = []
    monkeypatch.setattr(call, "default_epochs", lambda count: counts.append(count) or 3)
    config_of(None, "resnet8", (Pairs(True), Pairs(True)), objectives="cross_entropy", validation=0.5)
    assert counts == [16]
    monkeypatch.setattr("contrastill.training.recipe.default_epochs", lambda count: counts.append(count) or 3)
    config_of(TEACHER, "resnet8", (Pairs(True), Pairs(True)), train={"validation": 0.25})
    assert {*counts[1:]} == {24}
