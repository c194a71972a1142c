"""Pictures with data.decoded_cache are the data that they are without it."""

import logging

import numpy as np
import pytest
from PIL import Image

import contrastill
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.fingerprint import fingerprint
from contrastill.datasets.io.shared_samples import warn_of_shared_images


@pytest.fixture
def pictures(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(12):
        image = Image.fromarray(draw.integers(0, 256, (96, 120, 3), dtype=np.uint8))
        for split in ("train", "test"):
            path = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return tmp_path / "images"


def opened(pictures, split, **options):
    data = DATASETS["image_folder"]
    return data(data.Options(path=str(pictures), size=16, workers=0, **options)).open(split)


def test_they_have_one_fingerprint(pictures, tmp_path):
    plain, cached = (
        fingerprint(opened(pictures, "test", **more)) for more in ({}, {"decoded_cache": str(tmp_path / "cache")})
    )
    assert plain == cached


@pytest.mark.parametrize("first", [True, False])
def test_a_run_goes_on_with_a_cache_or_without(pictures, tmp_path, first):
    options = {"data.size": 16, "data.workers": 0, "objectives": "cross_entropy", "epochs": 1, "quiet": True}
    cache = {"data.decoded_cache": str(tmp_path / "cache")}
    ways = [{**options, **cache}, options] if first else [options, {**options, **cache}]
    for way in ways:
        contrastill.distill(None, "resnet8", str(pictures), out=str(tmp_path / "run"), **way)


def test_test_images_that_are_trained_on_have_a_line(pictures, tmp_path, caplog):
    splits = [opened(pictures, split, decoded_cache=str(tmp_path / "cache")) for split in ("train", "test")]
    with caplog.at_level(logging.WARNING):
        warn_of_shared_images(*splits)
    assert "12 of the 12 test images are in the training split too" in caplog.text
