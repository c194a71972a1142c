"""The global generators of Python, NumPy and torch are after a call as its caller left them."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import contrastill


def images(count=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=generator)


def data():
    return torch.utils.data.TensorDataset(images(), torch.arange(16) % 4)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def draws():
    """Three numbers of each generator."""
    return [random.random() for _ in range(3)], np.random.rand(3).tolist(), torch.rand(3).tolist()


def seeded():
    random.seed(42)
    np.random.seed(42)
    torch.manual_seed(42)


ROOMS = ["data.size=16", "data.train_samples=16", "data.test_samples=8", "student.model=resnet8", "train.epochs=1"]
CALLS = {
    "distill": lambda run, out: contrastill.distill(None, network(), data(), out=out, epochs=1, quiet=True),
    "train": lambda run, out: contrastill.train("teachers/rooms", [*ROOMS, f"out={out}"], progress=False),
    "refused": lambda run, out: contrastill.distill("resnet8", network(), data(), out=out, objectives=["mlkd", "no"]),
    "evaluate_runs": lambda run, out: contrastill.evaluate_runs(run),
    "probe_networks": lambda run, out: contrastill.probe_networks(
        "resnet8", "rooms,size=16,train_samples=64,test_samples=16", progress=False
    ),
    "measure_cost": lambda run, out: contrastill.measure_cost("resnet8", size=16),
    "export_run": lambda run, out: contrastill.export_run(run, out.with_suffix(".pt2"), format="torch"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    contrastill.train("teachers/rooms", [*ROOMS, f"out={out}"], progress=False)
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_what_a_caller_seeded_goes_on_after_a_call(run, tmp_path, call):
    network()  # what modules draw as they are built is the caller's
    seeded()
    expected = draws()
    seeded()
    try:
        CALLS[call](run, tmp_path / "out")
    except contrastill.UsageError:
        assert call == "refused"
    if call in ("distill", "refused"):  # the module that was handed over drew from torch's
        random_after, numpy_after, _ = draws()
        assert (random_after, numpy_after) == expected[:2]
    else:
        assert draws() == expected
