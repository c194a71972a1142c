"""Accelerate's own accumulation and compiler, of its environment or a loop before, beside a training."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.transfer import Transfer
from contrastill.core.value_scale import note_once
from contrastill.datasets.user_dataset import UserDataset
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.training.engine import fit

LABELS = torch.arange(16) % 4
IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PLAIN = {"epochs": 1, "batch_size": 8, "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(autouse=True)
def _fresh_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    note_once.cache_clear()


def module():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def distilled(folder):
    data = (TensorDataset(IMAGES, LABELS), None)
    result = contrastill.distill(None, module(), data, out=folder, objectives="cross_entropy", quiet=True, **PLAIN)
    return torch.cat([value.flatten() for value in result.student.state_dict().values()])


def fitted(accelerator=None, **options):
    split = UserDataset(TensorDataset(IMAGES, LABELS), None)(UserDataset.Options()).open("train")
    loader = split.loader(batch_size=8, device="cpu", seed=0, train=True)
    network = Network(module(), taps=Taps(embedding="input:4"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    transfer = Transfer([], network, {"cross_entropy": CrossEntropy()})
    result = fit(transfer, loader, None, TrainConfig(**PLAIN, **options), accelerator=accelerator, progress=False)
    return torch.cat([value.flatten() for value in result.student.module.state_dict().values()])


@pytest.mark.parametrize(
    ("variable", "value", "way"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "train.accumulation_steps=4"),
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER", "train.compile=true"),
    ],
)
def test_what_the_environment_sets_changes_nothing_and_a_line_names_the_key(
    variable, value, way, tmp_path, monkeypatch, caplog
):
    expected = distilled(tmp_path / "plain"), fitted()
    monkeypatch.setenv(variable, value)
    assert distilled(tmp_path / "launched").equal(expected[0]) and fitted().equal(expected[1])
    (line,) = [record.getMessage() for record in caplog.records if variable in record.getMessage()]
    assert "is not applied" in line and way in line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gradient_accumulation_steps": 4}, "set train.accumulation_steps=4"),
        ({"dynamo_backend": "eager"}, "set train.compile=true"),
    ],
)
def test_an_accelerator_that_accumulates_or_compiles_is_refused(options, named):
    with pytest.raises(UsageError, match=named):
        fitted(Accelerator(cpu=True, **options))


def test_a_compiler_of_an_accelerator_of_the_callers_is_refused_by_distill_too(tmp_path):
    Accelerator(cpu=True, dynamo_backend="eager")
    with pytest.raises(UsageError, match="this process has an Accelerator that compiles"):
        distilled(tmp_path / "run")


def test_a_loop_of_ones_own_that_ended_between_two_steps_stops_no_training_and_goes_on_after_it(tmp_path):
    expected = distilled(tmp_path / "before")
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model, optimizer = accelerator.prepare(module(), torch.optim.SGD(module().parameters(), lr=0.1))
    for _ in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(IMAGES).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    assert not accelerator.sync_gradients
    assert distilled(tmp_path / "after").equal(expected) and fitted().equal(fitted())
    assert not accelerator.sync_gradients and accelerator.gradient_accumulation_steps == 4


def test_trainings_of_different_precision_follow_each_other_in_one_process():
    expected = fitted()
    assert not fitted(precision="bf16").equal(expected) and fitted().equal(expected)
    Accelerator(cpu=True, mixed_precision="bf16")
    with pytest.raises(UsageError, match="train.precision=fp32, but this process has an Accelerator .*'bf16'"):
        fitted()
