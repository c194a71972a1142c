"""A network that is exported or transformed before it is first called."""

import pytest
import torch
from torch import nn

from contrastill.core import preprocess
from contrastill.core.preprocess import Preprocess


class Seeing(nn.Module):
    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))

    def forward(self, images):
        return self.preprocess(images)


@pytest.mark.parametrize("way", ["export", "strict export", "vmap", "grad"])
def test_what_is_made_meanwhile_is_not_kept(way):
    network, images = Seeing(), torch.rand(2, 3, 4, 4)
    expected = network(images)
    preprocess._affine.cache_clear()
    if way == "vmap":
        torch.vmap(network)(images[None])
    elif way == "grad":
        torch.func.grad(lambda values: network(values).sum())(images)
    else:
        exported = torch.export.export(network, (images,), strict=way == "strict export")
        torch.testing.assert_close(exported.module()(images), expected)
    assert not preprocess._affine.cache_info().currsize
    again = network(images)
    assert type(again) is torch.Tensor and torch.equal(again, expected)
