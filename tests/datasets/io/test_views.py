"""Views: what is drawn, and that what is cut are the pixels PIL would give."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare
from torchvision.transforms import functional as F

from contrastill.core.hashing import hash64
from contrastill.datasets.io.views import PaddedImages, draw_views, epoch_order

M64 = (1 << 64) - 1


def _splitmix(value: int) -> int:
    """SplitMix64's finaliser in Python's own integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & M64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & M64
    return value ^ (value >> 31)


def test_hash_is_splitmix64():
    state = 0
    for part in (7, 123456789012345678901, 3):
        state = _splitmix(((state ^ (part & M64)) + 0x9E3779B97F4A7C15) & M64)
    counters = [0, 1, 2, 50_000, 2**40 + 17]
    expected = [_splitmix((counter * 0x9E3779B97F4A7C15 + state) & M64) for counter in counters]
    got = hash64(torch.tensor(counters), 7, 123456789012345678901, 3)
    assert [value & M64 for value in got.tolist()] == expected


def _images(count=40, height=32, width=32, channels=3, padding=4, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = PaddedImages.zeros(count, height, width, channels, dtype=dtype, padding=padding)
    images.interior[:] = torch.randint(1, 256, (count, height, width, channels), generator=generator).to(dtype)
    return images


@pytest.mark.parametrize("height,width,padding", [(32, 32, 4), (24, 40, 3), (8, 8, 0)])
def test_same_pixels_as_pil(height, width, padding):
    images = _images(64, height, width, padding=padding)
    index = epoch_order(1, 0, 64)
    draws = draw_views(5, 2, index, padding=padding, flip=True)
    assert 0 < draws.flip.sum() < 64
    views = images.views(index, draws)
    for place, row in enumerate(index.tolist()):
        picture = F.pad(Image.fromarray(images.interior[row].numpy()), padding)
        picture = F.crop(picture, draws.dy[place].item(), draws.dx[place].item(), height, width)
        picture = F.hflip(picture) if draws.flip[place] else picture
        assert np.array_equal(views[place].permute(1, 2, 0).numpy(), np.asarray(picture))


@pytest.mark.parametrize("channels,dtype", [(3, torch.uint8), (1, torch.uint8), (1, torch.float32), (4, torch.uint8)])
def test_both_ways_of_cutting_agree(channels, dtype):
    images = _images(20, 9, 13, channels, padding=2, dtype=dtype)
    index = torch.tensor([0, 19, 19, 3, 7])
    for view in range(20):
        draws = draw_views(0, view, index, padding=2, flip=True)
        rows, pixels = images._cut_by_rows(images._rows, index, draws), images._cut_by_pixels(index, draws)
        assert rows.dtype == dtype and torch.equal(rows, pixels)


def test_last_pixel_can_be_reached():
    images = _images(3, 6, 6, padding=1)
    draws = draw_views(0, 0, torch.tensor([2]), padding=1, flip=False)
    draws.dy[:], draws.dx[:] = 2, 2
    assert torch.equal(images.views(torch.tensor([2]), draws)[0].permute(1, 2, 0), images.storage[2, 2:, 2:])


def test_views_are_channels_last_and_own_their_memory():
    images = _images()
    index = torch.arange(8)
    before = images.storage.clone()
    for batch in (
        images.views(index, draw_views(0, 0, index, padding=4, flip=True)),
        images.plain(slice(0, 8)),
        images.plain(index),
    ):
        assert batch.shape == (8, 3, 32, 32) and batch.is_contiguous(memory_format=torch.channels_last)
        batch.zero_()
    assert torch.equal(images.storage, before)


def test_an_empty_batch():
    images, none = _images(), torch.zeros(0, dtype=torch.int64)
    assert images.views(none, draw_views(0, 0, none, padding=4, flip=True)).shape == (0, 3, 32, 32)


def test_a_view_does_not_depend_on_its_batch():
    draws = draw_views(3, 9, torch.arange(1000), padding=4, flip=True)
    for rows in (torch.tensor([999, 0, 5, 5]), torch.arange(500, 510)):
        part = draw_views(3, 9, rows, padding=4, flip=True)
        assert (
            torch.equal(part.dy, draws.dy[rows])
            and torch.equal(part.dx, draws.dx[rows])
            and torch.equal(part.flip, draws.flip[rows])
        )


@pytest.mark.parametrize("changed", [{"seed": 4}, {"view": 10}])
def test_other_seeds_and_views_are_independent(changed):
    index = torch.arange(20_000)
    first = draw_views(3, 9, index, padding=4, flip=True)
    other = draw_views(changed.get("seed", 3), changed.get("view", 9), index, padding=4, flip=True)
    for a, b, n in ((first.dy, other.dy, 9), (first.dx, other.dx, 9), (first.flip, other.flip, 2)):
        table = torch.bincount(a.long() * n + b.long(), minlength=n * n).view(n, n)
        assert chi2_contingency(table.numpy()).pvalue > 1e-4


def test_all_162_views_are_equally_likely():
    index = torch.arange(1000)
    counts = torch.zeros(162, dtype=torch.int64)
    for view in range(100):
        draws = draw_views(11, view, index, padding=4, flip=True)
        assert draws.dy.min() >= 0 and draws.dx.min() >= 0 and draws.dy.max() <= 8 and draws.dx.max() <= 8
        counts += torch.bincount((draws.dy * 9 + draws.dx) * 2 + draws.flip, minlength=162)
    assert chisquare(counts.numpy()).pvalue > 1e-4


def test_each_sample_is_seen_in_all_views_over_the_epochs():
    # The views of one sample over time, not only of many samples at one time.
    draws = [draw_views(0, view, torch.tensor([17]), padding=4, flip=True) for view in range(3000)]
    counts = np.bincount([(d.dy.item() * 9 + d.dx.item()) * 2 + d.flip.item() for d in draws], minlength=162)
    assert chisquare(counts).pvalue > 1e-4


def test_no_augmentation_draws_nothing():
    draws = draw_views(0, 0, torch.arange(100), padding=0, flip=False)
    assert not draws.dy.any() and not draws.dx.any() and not draws.flip.any()


def test_order_is_a_permutation_of_seed_and_epoch():
    order = epoch_order(0, 4, 5000)
    assert torch.equal(order.sort().values, torch.arange(5000))
    assert torch.equal(order, epoch_order(0, 4, 5000))
    for other in (epoch_order(0, 5, 5000), epoch_order(1, 4, 5000), torch.arange(5000)):
        assert (order == other).sum() < 20
    # Neighbours do not stay neighbours, and the place says nothing of the row.
    assert abs(np.corrcoef(order.numpy(), np.arange(5000))[0, 1]) < 0.06
    assert ((order[1:] - order[:-1]).abs() == 1).sum() < 20


def test_draws_are_the_same_for_good():
    """A cache of teachers' outputs and a resumed run rely on it: these numbers may never change."""
    draws = draw_views(0, 0, torch.arange(6), padding=4, flip=True)
    assert (draws.dy.tolist(), draws.dx.tolist(), draws.flip.int().tolist()) == (
        [8, 7, 3, 7, 5, 5],
        [4, 7, 1, 5, 7, 6],
        [0, 0, 1, 1, 0, 1],
    )
    assert epoch_order(0, 0, 8).tolist() == [1, 5, 4, 7, 2, 0, 6, 3]
