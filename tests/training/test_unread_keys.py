"""Keys that change nothing, where there are no teachers, no cached outputs or another schedule."""

import pytest
import torch
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.evaluation.train import resolve_config
from contrastill.training.unread_keys import unread_keys, unread_teacher_keys

DATA = ["data.path=.", "data.name=packed"]


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
    teacher = ["teachers.0.model=resnet8", "train.views=2"]
    assert unread_teacher_keys(load_config("teachers/cifar100", [*DATA, *teacher, f"{key}={value}"])) == []


def test_keys_of_a_cache_that_is_not_made_are_named():
    config = load_config("compression/cifar100_crd", [*DATA, "teachers.0.weights=x.pth", "cache.precision=fp16"])
    assert unread_teacher_keys(config) == [
        "cache.precision=fp16 changes nothing, as train.views is not set: leave it out, or set both"
    ]


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
