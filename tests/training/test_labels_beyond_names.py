"""Labels of label maps that are higher than the names of classes go, beside void labels of 255."""

import logging

import pytest
import torch

import contrastill


class Maps(torch.utils.data.Dataset):
    semantic_classes = ("unlabelled", "a", "b")

    def __init__(self, count, beyond=()):
        self.count, self.beyond = count, beyond

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        draw = torch.Generator().manual_seed(row)
        labels = torch.randint(1, 3, (16, 16), generator=draw)
        labels[0] = 255
        if row in self.beyond:
            labels[3, :4] = 7
        return {"rgb": torch.rand(3, 16, 16, generator=draw), "semantics": labels}


def train(train, test, out):
    options = {"objectives": "pixel_cross_entropy", "epochs": 1, "batch_size": 8, "quiet": True, "data.workers": 0}
    return contrastill.distill(None, "unet/resnet8", (train, test), out=str(out), **options)


def test_void_hides_none_of_them(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(Maps(16, range(16)), Maps(8, range(8)), tmp_path / "run")
    assert "names 2 classes, and label maps go to 7" in caplog.text


def test_void_alone_leaves_the_names(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(Maps(16), Maps(8), tmp_path / "run")
    assert "names here" not in caplog.text


@pytest.mark.parametrize(("rows", "message"), [(range(40), "no names in the test"), ([33], "go to 7, and 2 classes")])
def test_in_test_samples_alone_they_are_refused(tmp_path, rows, message):
    with pytest.raises(contrastill.UsageError, match=message):
        train(Maps(16), Maps(40, rows), tmp_path / "run")
