"""fit() names the keys of its config that networks and loaders do not show; a whole run shows them all."""

import logging

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.transfer import Transfer
from contrastill.datasets.user_dataset import UserDataset
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit
from contrastill.training.folding import fold_batchnorm

IMAGES, LABELS = torch.rand(16, 3, 8, 8), torch.arange(16) % 4
FOLDED, BALANCED = {"fold_teachers": True, "teacher_precision": "bf16"}, {"class_balanced": True, "drop_last": True}


@pytest.fixture(autouse=True)
def _fresh_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def module():
    parts = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(*parts)


def network():
    return Network(module(), taps=Taps(embedding="input:5"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))


def lines(caplog):
    return [record.getMessage() for record in caplog.records if "does not apply train." in record.getMessage()]


def fitted(transfer=None, accelerator=None, loader_views=None, **keys):
    split = UserDataset(TensorDataset(IMAGES, LABELS), None)(UserDataset.Options()).open("train")
    loader = split.loader(batch_size=8, device="cpu", seed=0, train=True, views=loader_views)
    transfer = transfer or Transfer([network()], network(), {"kd": KD()})
    return fit(transfer, loader, None, TrainConfig(epochs=1, **keys), accelerator=accelerator, progress=False)


@pytest.mark.parametrize(
    "keys",
    [
        {"freeze": ("backbone",)},
        {"freeze": ("0",)},
        {"batch_size": 4},
        {"views": 2},
        {"views": 2, "teacher_cache": "outputs"},
        {"validation": 0.25},
        {"mixup": 0.4},
        {"cutmix": 0.4},
        *({key: value} for key, value in (FOLDED | BALANCED).items()),
    ],
)
def test_a_line_names_each_key_that_nothing_shows(keys, caplog):
    fitted(**keys)
    (line,) = lines(caplog)
    assert all(f"train.{key}=" in line for key in keys) and line.count("train.") == len(keys)


def test_the_precision_of_an_accelerator_of_the_callers_counts(caplog):
    fitted(accelerator=Accelerator(cpu=True, mixed_precision="bf16"), precision="fp32")
    assert "does not apply train.precision=fp32:" in lines(caplog)[0]
    caplog.clear()
    fitted(accelerator=Accelerator(cpu=True, mixed_precision="bf16"))
    assert not lines(caplog)


def test_what_is_built_so_is_not_named(caplog):
    teacher, student = network(), network()
    fold_batchnorm(teacher.freeze(), {"rgb": IMAGES[:2]})
    student.module[0].requires_grad_(False)
    transfer = Transfer([teacher.compute_in("bf16")], student, {"kd": KD()})
    fitted(transfer, loader_views=2, views=2, batch_size=8, freeze=("0",), **FOLDED)
    fitted()
    assert not lines(caplog)


@pytest.mark.parametrize(
    "keys",
    [
        {**FOLDED, **BALANCED, "views": 2, "mixup": 0.4, "validation": 0.25, "freeze": "backbone", "batch_size": 4},
        {"precision": "bf16", "cutmix": 0.4, "freeze": ["0"]},
    ],
)
def test_a_run_shows_all_its_keys(keys, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data, keys = (TensorDataset(IMAGES, LABELS), None), {f"train.{key}": value for key, value in keys.items()}
    cache = {"teacher_cache": tmp_path / "cache"} if "train.views" in keys else {}
    for name in ("one", "other"):  # of which the other reads the folder, and has no teacher
        contrastill.distill(
            module(), module(), data, out=tmp_path / name, objectives="kd", epochs=1, quiet=True, **keys, **cache
        )
    assert not lines(caplog)
