"""The moving average of the student's weights."""

import torch
from torch import nn

from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.training.moving_average import MovingAverage, averaged, without_average


def student():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    return Network(module, taps=Taps("input:4"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))


def test_average_is_the_naive_one_with_its_warmup():
    torch.manual_seed(0)
    network = student()
    average = MovingAverage(network, 0.5)
    expected = {name: value.double().clone() for name, value in network.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.rand(4, 3, 8, 8))
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = (
                decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value.double()
            )
        average.update(step)
    state = average.network.state_dict()
    assert all(torch.allclose(state[name].double(), value, atol=1e-5) for name, value in expected.items())
    assert state["module.1.num_batches_tracked"] == 12 and not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_mask_of_infinite_values_stays_as_it_is():
    network = student()
    mask = torch.triu(torch.full((3, 3), -torch.inf), 1)
    network.module.register_buffer("mask", mask.clone())
    average = MovingAverage(network, 0.9)
    average.update(0)
    assert torch.equal(average.network.module.mask, mask)


def test_state_goes_through_a_checkpoint():
    network = student()
    average = MovingAverage(network, 0.9)
    with torch.no_grad():
        network.module[4].weight.zero_()
    average.update(0)
    state = {**{f"student.{name}": value for name, value in network.state_dict().items()}, **average.state()}
    other = MovingAverage(student(), 0.9)
    other.load(state)
    assert torch.equal(other.network.module[4].weight, average.network.module[4].weight)
    assert averaged(state).keys() == network.state_dict().keys()
    assert without_average(state).keys() == {f"student.{name}" for name in network.state_dict()}


def test_a_module_under_two_names_is_averaged_once():
    network = student()
    network.module.again = network.module[4]
    average = MovingAverage(network, 0.9)
    before = network.module[4].weight.detach().clone()
    with torch.no_grad():
        network.module[4].weight.add_(1.0)
    average.update(8)
    assert torch.allclose(average.network.module[4].weight, before + 0.5, atol=1e-6)
    assert average.state().keys() == {f"ema.{name}" for name in network.state_dict()}


def test_buffers_of_no_state_dict_are_the_latest():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    module.register_buffer("mask", torch.zeros(2), persistent=False)
    student = Network(module, taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.5,) * 3))
    average = MovingAverage(student, 0.9)
    module.mask = torch.tensor([0.0, -torch.inf])
    average.update(0)
    assert torch.equal(average.network.module.mask, module.mask)
    other = MovingAverage(student, 0.9)
    other.network.module.mask.zero_()
    other.load(average.state())
    assert torch.equal(other.network.module.mask, module.mask)


class Fading(nn.Module):
    """Counts in an attribute, keeps a tensor in another, and has complex weights."""

    def __init__(self):
        super().__init__()
        self.alpha, self.mean = 0.0, torch.zeros(3)
        self.phases = nn.Parameter(torch.ones(3, 1, 1, dtype=torch.complex64))

    def forward(self, x):
        if self.training:
            self.alpha, self.mean = self.alpha + 0.5, x.detach().mean((0, 2, 3))
        return self.alpha * (x * self.phases).real


def test_complex_weights_are_averaged_and_attributes_are_the_latest():
    module = nn.Sequential(Fading(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    network = Network(module, taps=Taps("input:3"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    average = MovingAverage(network, 0.9)
    network(torch.rand(4, 3, 8, 8))
    with torch.no_grad():
        module[0].phases.add_(1j)
    average.update(100)
    own = average.network.module[0]
    torch.testing.assert_close(own.phases.detach(), torch.full((3, 1, 1), 1 + 0.1j))
    assert own.alpha == 0.5 and torch.equal(own.mean, module[0].mean) and own.mean is not module[0].mean
    assert not own.training and module[0].training
    other = MovingAverage(network, 0.9)
    module[0].alpha = 2.0
    other.load(average.state())
    assert other.network.module[0].alpha == 2.0
