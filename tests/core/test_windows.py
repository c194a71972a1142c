"""Windows over large images: what each counts, against loops; what fits one window; what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastill.core.dense_prediction import class_maps, resize_prediction
from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.windows import predict_in_windows


class Seeing(nn.Module):
    """Two channels at half the resolution; BatchNorm, and a mean over all it sees, so that a window tells."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.sizes = nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2), []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        return self.norm(self.conv(images)) + images.mean((1, 2, 3), keepdim=True)


def network_of(module=None, resolution=None, **options):
    preprocess = Preprocess((0.5,) * 3, (0.25,) * 3, resolution)
    return Network(module or Seeing(), taps=Taps(prediction="output:"), preprocess=preprocess, **options)


def images_of(*size, frames=2):
    return {"rgb": torch.rand(frames, 3, *size, generator=torch.Generator().manual_seed(1))}


def plain(network, images):
    with torch.no_grad():
        values = network({"rgb": images}, ("prediction",)).prediction
    return F.interpolate(values, size=images.shape[2:], mode="bilinear", align_corners=False)


def naive(network, images, window, stride):
    """Sum of weight times prediction and sum of weights, window by window and image by image, in float64."""
    _, _, height, width = images.shape
    starts = []
    for length, side, step in zip((height, width), window, stride, strict=True):
        places = [0]
        while places[-1] + side < length:
            places.append(min(places[-1] + step, length - side))
        starts.append(places)
    weights = np.zeros(window)
    for y in range(window[0]):
        for x in range(window[1]):
            away = [((at - (side - 1) / 2) / (side / 8)) ** 2 for at, side in zip((y, x), window, strict=True)]
            weights[y, x] = math.exp(-sum(away) / 2)
    totals = []
    for image in images:
        total, weight = np.zeros((2, height, width)), np.zeros((height, width))
        for top in starts[0]:
            for left in starts[1]:
                place = (slice(top, top + window[0]), slice(left, left + window[1]))
                total[:, *place] += weights * plain(network, image[None, :, *place])[0].double().numpy()
                weight[place] += weights
        assert weight.min() > 0
        totals.append(total / weight)
    return torch.from_numpy(np.stack(totals)).float()


@pytest.mark.parametrize(
    ("size", "window", "stride", "batch_size"),
    [
        ((23, 37), (16, 16), (9, 12), 4),
        ((16, 37), (16, 12), (16, 5), 1),
        ((30, 30), (10, 10), (10, 10), 7),
        ((33, 20), (16, 16), (16, 1), 64),
    ],
)
def test_the_average_is_that_of_a_loop(size, window, stride, batch_size):
    network, batch = network_of().eval(), images_of(*size)
    expected = naive(network, batch["rgb"], window, stride)
    result = predict_in_windows(network, batch, window, stride, batch_size=batch_size)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    network.module.sizes.clear()
    predict_in_windows(network, batch, window, stride, batch_size=batch_size)
    assert {shape[2:] for shape in network.module.sizes} == {window}
    assert max(shape[0] for shape in network.module.sizes) <= batch_size


def test_of_a_network_without_surroundings_nothing_is_changed_by_windows():
    # Each pixel is predicted by itself, so that the weights have to add up to 1 and to be in place.
    network, batch = network_of(nn.Conv2d(3, 4, 1)), images_of(41, 53)
    result = predict_in_windows(network, batch, 16, 11)
    torch.testing.assert_close(result, plain(network, batch["rgb"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 20), (9, 20), (7, 5)])
def test_an_image_that_fits_one_window_is_predicted_as_it_is(size):
    network, batch = network_of().eval(), images_of(*size)
    assert torch.equal(predict_in_windows(network, batch, (16, 20), 8), plain(network, batch["rgb"]))
    # Also by a network that brings its images to a size of its own.
    network = network_of(resolution=(16, 20)).eval()
    assert torch.equal(predict_in_windows(network, batch, (16, 20), 8), plain(network, batch["rgb"]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_low_image_is_continued_by_its_last_row(dtype):
    network, images = network_of(resolution=16).eval(), images_of(10, 40)["rgb"]
    images = (255 * images).to(torch.uint8) if dtype == torch.uint8 else images
    continued = torch.cat([images, images[:, :, -1:].expand(-1, -1, 6, -1)], 2)
    expected = naive(network, continued, (16, 16), (12, 12))[:, :, :10]
    result = predict_in_windows(network, {"rgb": images}, 16, 12)
    assert result.shape == (2, 2, 10, 40)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_training_flags_statistics_and_gradients_are_as_before():
    network = network_of().train()
    network.module.conv.eval()
    before = network.module.norm.running_mean.clone()
    assert not predict_in_windows(network, images_of(20, 20), 8, 8).requires_grad
    assert torch.equal(network.module.norm.running_mean, before)
    assert network.training and network.module.norm.training and not network.module.conv.training


def test_a_share_without_samples():
    assert predict_in_windows(network_of(), images_of(40, 40, frames=0), 16, 8).shape == (0, 2, 40, 40)


def test_refusals():
    batch = images_of(40, 40)
    with pytest.raises(UsageError, match="a stride of 16×20 leaves gaps between windows of 16×16"):
        predict_in_windows(network_of(), batch, 16, (16, 20))
    with pytest.raises(UsageError, match="stride is 0: give a number of pixels from 1 on"):
        predict_in_windows(network_of(), batch, 16, 0)
    with pytest.raises(UsageError, match="resizes its images to 8×8.*take windows of 8×8"):
        predict_in_windows(network_of(resolution=8), batch, 16, 8)
    with pytest.raises(UsageError, match="the batch has no rgb"):
        predict_in_windows(network_of(), {"depth": batch["rgb"]}, 16, 8)
    with pytest.raises(UsageError, match="batch_size is 0"):
        predict_in_windows(network_of(), batch, 16, 8, batch_size=0)


def test_infinite_logits_do_not_become_nan_and_half_precision_is_enlarged_in_single():
    # A class that is masked by −∞ beside one that is certain.
    logits = torch.tensor([[[[0.0, 1.0]], [[-math.inf, 2.0]], [[-math.inf, -math.inf]]]])
    assert class_maps(logits, (1, 4)).tolist() == [[[[1, 1, 1, 2]]]]
    fine = torch.linspace(0, 1, 7).reshape(1, 1, 1, 7).half()
    assert torch.equal(resize_prediction(fine, (1, 21)), resize_prediction(fine.float(), (1, 21)))


def test_frames_are_enlarged_in_parts_to_the_same_maps(monkeypatch):
    logits = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, size=(9, 11), mode="bilinear").argmax(1, keepdim=True) + 1
    assert torch.equal(class_maps(logits, (9, 11)), expected)
    monkeypatch.setattr("contrastill.core.dense_prediction._MOST_VALUES", 2 * 3 * 9 * 11)
    assert torch.equal(class_maps(logits, (9, 11)), expected)
    assert class_maps(logits[:0], (9, 11)).shape == (0, 1, 9, 11)
