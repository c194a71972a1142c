"""Hashes of networks whose state holds what is no plain tensor: quantised layers."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.fingerprint import network_fingerprint, weights_hash
from contrastill.core.representation import Network, Preprocess, Taps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 40))


def dynamic(plain):
    return torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)


def static(plain):
    parts = [torch.ao.quantization.QuantStub(), plain[0], torch.ao.quantization.DeQuantStub(), *plain[1:]]
    whole = nn.Sequential(*parts).eval()
    whole.qconfig, whole[-1].qconfig = torch.ao.quantization.get_default_qconfig("x86"), None
    prepared = torch.ao.quantization.prepare(whole)
    prepared(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    return torch.ao.quantization.convert(prepared)


@pytest.mark.parametrize(("quantised", "place"), [(dynamic, 4), (static, 0)])
def test_one_number_in_the_middle_of_a_quantised_layer_makes_another_hash(quantised, place):
    one, same, other = module(), module(), module()
    with torch.no_grad():
        # A tensor of more than 1000 numbers is shown without those in its middle.
        other[place].weight.flatten()[other[place].weight.numel() // 2] *= -1
    modules = [quantised(each) for each in (one, same, other)]
    networks = [Network(each, taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.5,) * 3)) for each in modules]
    for hashes in ([weights_hash(each) for each in modules], [network_fingerprint(each).hash([]) for each in networks]):
        assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("quantised", [dynamic, static])
def test_outputs_of_a_quantised_teacher_are_cached_in_a_folder(quantised, tmp_path):
    data = (TensorDataset(torch.rand(16, 3, 8, 8), torch.arange(16) % 4), None)
    options = {"objectives": "kd", "epochs": 1, "batch_size": 8, "quiet": True, "views": 1}
    teacher = quantised(module())
    losses = [
        contrastill.distill(
            teacher, module(1), data, out=tmp_path / name, teacher_cache=tmp_path / "cache", **options
        ).metrics["loss"]
        for name in ("filled", "read")
    ]
    assert losses[0] == losses[1] and [*(tmp_path / "cache").iterdir()]
