"""A key that is given by two spellings, and a mapping after keys that are in it."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.evaluation.train import resolve_config

CONFIG = "teachers/rooms"
BASE = ("data.path=.", "teachers.0.weights=x")
DATA = TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def distill(out, student=None, **options):
    options = {"quiet": True, "objectives": "cross_entropy"} | options
    if "epochs" not in options and not any("epochs" in str(item) for item in options.items()):
        options["epochs"] = 1
    return contrastill.distill(None, net() if student is None else student, (DATA, DATA), out=out, **options).config


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("train.lr", {"lr": 0.1, "train.lr": 0.2}),
        ("train.lr", {"lr": 0.1, "train": {"lr": 0.2}}),
        ("train.lr", {"train.lr": 0.1, "train": {"lr": 0.2}}),
        ("train.epochs", {"epochs": 2, "train.epochs": 3}),
        ("train.epochs", {"train": {"epochs": 3}, "epochs": 2}),
        ("ensemble.rule", {"ensemble": {"rule": "mean"}, "ensemble.rule": "entropy"}),
        (
            "objectives.cross_entropy.weight",
            {"objectives": {"cross_entropy": 1.0}, "objectives.cross_entropy.weight": 2.0},
        ),
        ("student.modality", {"student_modality": "rgb", "student.modality": "grey"}),
        ("student.modality", {"student_modality": "rgb", "student": {"model": "resnet8", "modality": "grey"}}),
    ],
)
def test_two_values_of_a_key_are_refused(tmp_path, key, options):
    with pytest.raises(UsageError, match=f"^{key} is given twice, as .* leave one of them out$"):
        distill(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_equal_values_pass(tmp_path):
    config = distill(tmp_path / "x", epochs=2, lr=0.1, train={"lr": 0.1, "ema": 0.5}, **{"train.epochs": 2})
    assert (config.train.epochs, config.train.lr, config.train.ema) == (2, 0.1, 0.5)


def test_overrides_in_a_dict_have_no_order(tmp_path):
    with pytest.raises(UsageError, match=r"train.lr is given twice"):
        resolve_config(CONFIG, {"train.lr": 0.1, "train": {"lr": 0.2}})
    with pytest.raises(UsageError, match=r"train.lr is given twice"):
        resolve_config(resolve_config(CONFIG, ()), {"train.lr": 0.1, "train": {"lr": 0.2}})
    for config in (CONFIG, resolve_config(CONFIG, ())):
        chosen = resolve_config(config, {"train.epochs": 3, "train": {"lr": 0.2}}).train
        assert (chosen.epochs, chosen.lr) == (3, 0.2)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.epochs=3", "train.batch_size=16", "train={lr: 0.2}"], (3, 16, 0.2)),
        (["train={lr: 0.2}", "train.epochs=3", "train.batch_size=16"], (3, 16, 0.2)),
        (["train.lr=0.3", "train.epochs=3", "train={lr: 0.2, batch_size: 16}"], (3, 16, 0.2)),
        (["train={lr: 0.3, epochs: 3}", "train={lr: 0.2, epochs: 4, batch_size: 16}"], (4, 16, 0.2)),
    ],
)
def test_a_mapping_leaves_what_was_typed_before(overrides, expected):
    train = load_config(CONFIG, overrides).train
    assert (train.epochs, train.batch_size, train.lr) == expected


def test_a_mapping_still_replaces_what_the_config_has():
    names = ("data={name: cifar100, path: .}", "student={model: resnet14}", "objectives={kd: {temperature: 2}}")
    config = load_config("compression/cifar100_crd", [*BASE, "objectives.crd.weight=2", *names])
    assert {*config.objectives} == {"kd", "crd"} and config.objectives["kd"].options()["temperature"] == 2
    assert config.objectives["crd"].weight == 2
    alone = load_config("compression/cifar100_crd", [*BASE, *names])
    assert {*alone.objectives} == {"kd"} and alone.student.model == "resnet14"
    again = [*names, "objectives.kd={weight: 3}"]
    assert load_config("compression/cifar100_crd", [*BASE, *again]).objectives["kd"].options()["temperature"] == 4


def test_a_list_is_refused_after_what_it_would_leave_out(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    base = [f"data={{name: image_folder, path: {tmp_path}}}"]
    listed = "teachers=[{model: resnet14, weights: y}]"
    config = load_config("compression/cifar100_crd", [*base, listed, "teachers.0.weights=x"])
    assert [teacher.weights for teacher in config.teachers] == ["x"]
    with pytest.raises(UsageError, match=r"teachers=\[…\] comes after teachers.0.weights, .* give the list before it"):
        load_config("compression/cifar100_crd", [*base, "teachers.0.weights=x", listed])
