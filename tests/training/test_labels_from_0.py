"""Label maps whose classes start at 0, which counts as unlabelled, and a student with a channel for it."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.core.errors import UsageError


class Frames(Dataset):
    def __init__(self, lowest=0):
        self.lowest = lowest

    def __len__(self):
        return 8

    def __getitem__(self, place):
        generator = torch.Generator().manual_seed(place)
        labels = torch.randint(self.lowest, 3, (1, 8, 8), generator=generator)
        return {"rgb": torch.rand(3, 8, 8, generator=generator), "semantics": labels}


def train(data, out, channels, **options):
    options = {"epochs": 1, "batch_size": 4, "quiet": True, "objectives": "pixel_cross_entropy"} | options
    contrastill.distill(None, nn.Conv2d(3, channels, 1), (data, data), out=out, **options)


@pytest.mark.parametrize(("lowest", "channels", "hinted"), [(0, 3, True), (1, 3, False), (0, 4, False)])
def test_a_class_more_says_that_0_is_none(tmp_path, caplog, lowest, channels, hinted):
    train(Frames(lowest), tmp_path / "x", channels)
    (line,) = (line for line in caplog.messages if "no mIoU is measured" in line)
    assert f"the student answers with {channels} classes and the label maps have 2" in line
    assert ("0 counts as unlabelled" in line and "add 1 to all" in line) == hinted
    with pytest.raises(UsageError, match="and the label maps 2: ") as caught:
        train(Frames(lowest), tmp_path / "y", channels, validation=0.5)
    assert ("add 1 to all" in str(caught.value)) == hinted
