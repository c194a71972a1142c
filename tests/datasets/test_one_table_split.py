"""Hugging Face data whose training split is their test split."""

import numpy as np
import pytest

from contrastill.core.registry import DATASETS
from contrastill.core.value_scale import note_once
from contrastill.datasets.huggingface import LoadedHuggingFace

hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
hf.disable_progress_bars()
LINE = "the samples of {} are both trained and tested on"


@pytest.fixture
def tables():
    pictures = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    table = hf.Dataset.from_dict({"image": [*pictures], "label": [0, 1] * 4}, features=features)
    return hf.DatasetDict({"train": table, "test": table.select(range(4))})


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("train", "test", "same"), [("train", "train", True), ("test", "test", True), ("train", "test", False)]
)
def test_a_line_says_that_both_are_one(tmp_path, tables, caplog, stored, train, test, same):
    note_once.cache_clear()
    options = {"train": train, "test": test, "workers": 0}
    if stored:
        tables.save_to_disk(tmp_path / "data")
        data = DATASETS["huggingface"]
        opened = data(data.Options(path=str(tmp_path / "data"), **options))
    else:
        opened = LoadedHuggingFace(tables, holds_out=True)(LoadedHuggingFace.Options(**options))
    for split in ("train", "test"):
        opened.open(split)
    assert caplog.text.count(LINE.format(train)) == same
    assert "test samples are training samples" not in caplog.text
