"""A student that draws from Python's or NumPy's generator, or keeps a tensor in an attribute, ends as it does whole."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.training.checkpoint import random_state, set_random_state

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, torch.arange(24) % 4)


class Own(nn.Module):
    """Ends the training in a forward pass of the student, if it is to."""

    left = 10**9

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        self.kind, self.mean = kind, torch.zeros(3)

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            Own.left -= 1
            if Own.left < 0:
                raise KeyboardInterrupt
            if self.kind == "tensor":
                self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
            else:
                drawn = {"python": random.random, "normal": lambda: random.gauss(0, 1), "numpy": np.random.randn}
                x = x * (0.3 if drawn[self.kind]() < 0.5 else 1)
        return self.net(x - self.mean[:, None, None])


@pytest.mark.parametrize("kind", ["python", "normal", "numpy", "tensor"])
def test_a_stopped_training_goes_on_with_the_same_bits(tmp_path, kind, monkeypatch):
    def train(name):
        call = {"objectives": "cross_entropy", "epochs": 2, "batch_size": 8, "quiet": True, "checkpoint_every_steps": 1}
        return contrastill.distill(None, Own(kind), (DATA, None), out=tmp_path / name, lr=0.2, **call)

    whole = train("whole").student.state_dict()
    monkeypatch.setattr(Own, "left", 3)
    with pytest.raises(BaseException, match=r".*"):
        train("stopped")
    monkeypatch.setattr(Own, "left", 10**9)
    resumed = train("stopped").student.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_states_of_older_checkpoints_leave_the_other_generators_as_they_are():
    states = random_state()
    expected = random.random(), np.random.rand()
    set_random_state(states)
    assert (random.random(), np.random.rand()) == expected
    set_random_state({"cpu": states["cpu"]})
    assert (random.random(), np.random.rand()) != expected
