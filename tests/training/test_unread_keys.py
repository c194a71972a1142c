"""Keys that change nothing, where there are no teachers, no cached outputs or another schedule."""

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.value_scale import note_once
from contrastill.evaluation.train import resolve_config
from contrastill.training.unread_keys import unread_data_keys, unread_keys, unread_teacher_keys

DATA = ["data.path=.", "data.name=packed"]


@pytest.fixture
def other_precisions():
    """Accelerate keeps one precision for the life of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ensemble.rule", "entropy"),
        ("ensemble.batched", "true"),
        ("objectives.cross_entropy.rule", "sum"),
        ("train.fold_teachers", "true"),
        ("train.teacher_precision", "bf16"),
        ("cache.logits", "3"),
    ],
)
def test_keys_of_teachers_where_there_are_none_are_named(key, value):
    (line,) = unread_teacher_keys(load_config("teachers/cifar100", [*DATA, f"{key}={value}"]))
    assert line.startswith(f"{key}={value.capitalize() if value == 'true' else value} changes nothing, as teachers is")
    teacher = ["teachers.0.model=resnet8", "train.views=2", "objectives.kd.weight=1", f"{key}={value}"]
    alone = unread_teacher_keys(load_config("teachers/cifar100", [*DATA, *teacher]))
    assert len(alone) == ("batched" in key or "rule" in key)
    assert all("changes nothing, as there is one teacher alone: leave it out, or" in line for line in alone)
    two = unread_teacher_keys(load_config("teachers/cifar100", [*DATA, *teacher, "teachers.1.model=resnet8"]))
    reads_none = ["objectives.cross_entropy.rule=sum changes nothing, as cross_entropy reads no teacher: leave it out"]
    assert two == (reads_none if key.startswith("objectives") else [])


def test_teachers_that_no_objective_reads_are_named():
    teacher = ["teachers.0.model=resnet8", "train.views=2"]
    assert unread_teacher_keys(load_config("teachers/cifar100", [*DATA, *teacher])) == [
        "teachers=resnet8 changes nothing, as none of cross_entropy reads one: leave them out, or add objectives.kd={}"
    ]
    teacher += ["objectives.kd.weight=1", "cache.prediction=3"]
    assert unread_teacher_keys(load_config("teachers/cifar100", [*DATA, *teacher])) == [
        "cache.prediction=3 changes nothing, as no objective reads a prediction: leave it out"
    ]


@pytest.mark.parametrize(
    ("key", "value", "modality"),
    [
        ("void", "3", "semantics"),
        ("semantic_names", "names", "semantics"),
        ("depth_unit", "mm", "depth"),
        ("intrinsics", "[1.0, 1.0, 1.0, 1.0]", "depth"),
    ],
)
def test_keys_of_a_modality_that_the_data_have_not_are_named(key, value, modality):
    config = load_config("teachers/cifar100", [*DATA, f"data.{key}={value}"])
    (line,) = unread_data_keys(config, ["rgb"])
    assert line.startswith(f"data.{key}={value} changes nothing, as it is of {modality}, and the data that are read ")
    assert unread_data_keys(config, ["rgb", modality]) == []
    assert unread_data_keys(load_config("teachers/cifar100", DATA), ["rgb"]) == []


def test_blocks_are_named_where_train_and_test_are_groups_of_their_own():
    config = load_config("teachers/cifar100", [*DATA, "data.blocks=5"])
    (line,) = unread_data_keys(config, ["rgb"])
    assert line.startswith("data.blocks=5 changes nothing, as train and test are different groups of the file")
    for splits, lines in (("{train: all, test: all}", 0), ("{train: [a, b], test: b}", 0), ("{train: a, test: b}", 1)):
        config = load_config("teachers/cifar100", [*DATA, "data.blocks=5", f"data.splits={splits}"])
        assert len(unread_data_keys(config, ["rgb"])) == lines


def test_keys_of_a_cache_that_is_not_made_are_named():
    config = load_config("compression/cifar100_crd", [*DATA, "teachers.0.weights=x.pth", "cache.precision=fp16"])
    assert unread_teacher_keys(config) == [
        "cache.precision=fp16 changes nothing, as train.views is not set: leave it out, or set both"
    ]


@pytest.mark.parametrize("key", ["initial_lr", "initial_epochs"])
def test_settings_of_an_initial_stage_that_no_objective_has_are_refused(tmp_path, key):
    data = TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    with pytest.raises(contrastill.UsageError, match=f"train.{key}=3.*, but none of cross_entropy has an initial"):
        contrastill.distill(None, "resnet8", data, out=tmp_path, quiet=True, objectives="cross_entropy", **{key: 3})


def test_a_precision_that_a_cpu_does_not_compute_in_is_named(tmp_path, caplog, other_precisions):
    data = TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    options = {"objectives": "cross_entropy", "quiet": True, "epochs": 1}
    note_once.cache_clear()
    for precision, lines in (("fp16", 1), ("fp16", 0), ("bf16", 0)):  # once, as for each of several seeds
        caplog.clear()
        contrastill.distill(
            None, "resnet8", data, out=tmp_path / f"{precision}-{lines}", precision=precision, **options
        )
        there = [record.getMessage() for record in caplog.records if "precision" in record.getMessage()]
        assert len(there) == lines and all("train.precision=fp16 changes nothing on a CPU" in line for line in there)
        AcceleratorState._reset_state()


def test_another_schedule_takes_the_configs_milestones_along():
    data = ["data.path=.", "data.name=image_folder"]
    cosine = load_config("compression/imagenet_crd", [*data, "train.schedule=cosine"])
    assert unread_keys(cosine.train, 100) == []
    step = load_config("compression/imagenet_crd", [*data, "train.schedule=step"])
    assert step.train.milestones == (0.3, 0.6, 0.9)
    assert unread_keys(resolve_config(step, {"train.schedule": "constant"}).train, 100) == []
    both = load_config("compression/imagenet_crd", [*data, "train.schedule=cosine", "train.gamma=0.5"])
    assert len(unread_keys(both.train, 100)) == 1


def test_a_modality_of_teachers_without_teachers_is_refused(tmp_path):
    data = TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    with pytest.raises(
        contrastill.UsageError, match="teacher_modality='depth' is of the teachers, and teacher is None"
    ):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "run", teacher_modality="depth", quiet=True)
