"""Segmentation heads of data of which some frames have no labelled pixel."""

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.probe.maps import batches_of
from contrastill.probe.segmentation import segment

LABELLED = [3, 7, 12, 20, 28, 33, 41, 44]


def split(labelled, count=48, *, alone=False):
    """Random frames of which some have labels, or these alone."""
    draw = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (count, 16, 16, 3), generator=draw).to(torch.uint8)
    maps = torch.zeros(count, 16, 16, 1, dtype=torch.uint8)
    maps[labelled] = torch.randint(1, 3, (len(labelled), 16, 16, 1), generator=draw).to(torch.uint8)
    rows = labelled if alone else list(range(count))
    images = {"rgb": PaddedImages(rgb[rows], 0), "semantics": PaddedImages(maps[rows], 0)}
    return TensorSplit(images, targets=torch.arange(count)[rows] % 2, num_classes=2)


@pytest.fixture(scope="module")
def network():
    return build_network("resnet8", num_classes=2)


@pytest.mark.parametrize("mode", ["frozen", "fine_tuned"])
def test_a_share_of_the_labels_is_one_of_the_labelled_frames(network, mode):
    train, test = split(LABELLED), split([0, 1], 4)
    options = {"num_classes": 2, "epochs": 1, "batch_size": 4, "mode": mode}
    for fraction, seed, expected in ((1.0, 0, 8), (0.5, 0, 4), (0.5, 1, 4), (0.25, 2, 2)):
        result, _ = segment(network, train, test, label_fraction=fraction, seed=seed, **options)
        assert result.num_train == expected
    with pytest.raises(UsageError, match="leaves 1 of 8 labelled training frames"):
        segment(network, train, test, label_fraction=0.1, **options)
    with pytest.raises(UsageError, match="none of the 48 training frames has a labelled pixel"):
        segment(network, split([]), test, **options)


def test_frames_without_a_label_change_nothing(network):
    """A head on all frames is that on the labelled ones alone."""
    whole, few = split(LABELLED), split(LABELLED, alone=True)
    options = {"num_classes": 2, "epochs": 2, "batch_size": 4}
    results = [segment(network, data, split([0, 1], 4), **options)[0] for data in (whole, few)]
    assert results[0].per_class_iou == pytest.approx(results[1].per_class_iou, abs=1e-4)
    # Where maps take too much memory each epoch streams, and hands out full batches of labelled frames.
    loader = whole.loader(batch_size=5, device="cpu", seed=0, train=True)
    rows = torch.tensor(LABELLED)
    batches = [*batches_of(loader, 1, rows, ("rgb", "index"), 3, 2, 0, part=False)]
    seen = torch.cat([batch["index"] for batch in batches]).tolist()
    assert [len(batch["rgb"]) for batch in batches] == [3, 3] and len({*seen}) == 6 and {*seen} <= {*LABELLED}
