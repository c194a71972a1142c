"""Transforms that write to the picture that they are given: what is kept, by a cache or by the user, stays."""

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.core.registry import DATASETS
from contrastill.datasets.io.file_views import FileViews
from contrastill.datasets.io.images import DecodedPicture

ERASING = {"name": "torchvision/RandomErasing", "p": 1.0, "inplace": True}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", ["none", "padded", "random_resized"])
def test_pixels_that_are_kept_are_not_written_to(crop, flip):
    stored = torch.full((16, 16, 3), 200, dtype=torch.uint8)
    views = FileViews(16, crop, (1.0, 1.0), flip=flip, transforms=[ERASING])
    index = torch.arange(8)
    seen = [
        views.view(DecodedPicture("stored", 16, 16, stored), draws, row)[4:12, 4:12]
        for row, draws in enumerate(views.draws(0, 0, index))
    ]
    assert any((view != 200).any() for view in seen)
    assert (stored == 200).all()


def test_later_epochs_of_a_cache_are_those_without_one(tmp_path):
    for split in ("train", "test"):
        for number in range(8):
            path = tmp_path / "images" / split / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(path)
    data, epochs = DATASETS["image_folder"], {}
    for cache in (None, str(tmp_path / "cache")):
        options = {"size": 16, "workers": 0, "crop": "none", "flip": False, "transforms": [ERASING]}
        split = data(data.Options(path=str(tmp_path / "images"), decoded_cache=cache, **options)).open("train")
        loader = split.loader(batch_size=8, device="cpu", train=True)
        epochs[cache] = [batch["rgb"] for k in range(4) for batch in loader.epoch(k)]
    without, cached = epochs.values()
    assert all(torch.equal(one, other) for one, other in zip(without, cached, strict=True))
