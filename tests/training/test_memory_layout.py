"""Networks that do not work with channels last in memory are trained, and teach, all the same."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.memory_layout import channels_last

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, torch.arange(16) % 4)


class Viewed(nn.Module):
    """Flattens its maps by a view, as LeNet does."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().view(-1, 4 * 36))


class Standardised(nn.Conv2d):
    """Views its own weight."""

    def forward(self, x):
        weight = self.weight.view(len(self.weight), -1)
        return self._conv_forward(x, (weight - weight.mean(1, keepdim=True)).view_as(self.weight), self.bias)


class Deep(nn.Module):
    """Has weights of five dimensions."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv3d(1, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.conv(x[:, None]).relu().mean((2, 3, 4)))


def plain(convolution=nn.Conv2d):
    return nn.Sequential(convolution(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


@pytest.mark.parametrize("made", [Viewed, Deep, lambda: plain(Standardised)])
@pytest.mark.parametrize("teaches", [False, True])
def test_networks_that_take_one_order_alone(made, teaches, tmp_path):
    torch.manual_seed(0)
    teacher, student = (made(), plain()) if teaches else (plain(), made())
    call = {"objectives": "kd", "epochs": 1, "batch_size": 8, "quiet": True}
    result = contrastill.distill(teacher, student, (DATA, DATA), out=tmp_path / "run", **call)
    assert 0 <= result.metrics["top1"] <= 100


def test_weights_of_four_dimensions_alone_have_their_channels_last():
    module = channels_last(nn.ModuleList([Deep(), plain()]))
    assert module[0].conv.weight.is_contiguous()
    assert module[1][0].weight.is_contiguous(memory_format=torch.channels_last)
