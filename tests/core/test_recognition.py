"""Data sets of a user's own that are asked whether a path is theirs."""

import logging
import re

import pytest
import torch

import contrastill
from contrastill.core.config.schema import DataConfig
from contrastill.core.config.validation import validate_data
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.recognition import recognised
from contrastill.core.registry import DATASETS
from contrastill.core.split_checks import check_entry
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.pack import source_of
from contrastill.datasets.io.views import PaddedImages
from contrastill.evaluation.probe_inputs import data_named


class Mine:
    """Two black images in any folder that has a file of this layout's name."""

    class Options(contrastill.Options):
        path: str

    def __init__(self, options):
        self.options = options

    @staticmethod
    def recognises(path):
        with open(f"{path}/mine.txt"):
            return True

    def open(self, split):
        return TensorSplit({"rgb": PaddedImages.zeros(2, 8, 8, 3, dtype=torch.uint8, padding=0)})


def forgets(path):
    """A test without its return."""


@pytest.mark.parametrize(
    ("recognises", "message"),
    [
        (Mine.recognises, "recognises fails for .*, which is not taken for its data: NotADirectoryError: .*mine.txt"),
        (forgets, "recognises returns None for .*: return True or False"),
    ],
)
def test_one_that_fails_is_named_and_hinders_no_other(tmp_path, caplog, monkeypatch, recognises, message):
    packed = tmp_path / "a.h5"
    packed.touch()
    entry = type("Mine", (Mine,), {"recognises": staticmethod(recognises)})
    monkeypatch.setitem(DATASETS._entries, "mine", entry)
    with caplog.at_level(logging.WARNING):
        assert recognised(str(packed)) == ["packed"] and data_named(packed).name == "packed"
    assert "dataset mine (" in caplog.text
    assert re.search(message, caplog.text) and len(caplog.records) == 1


def test_a_method_without_its_decorator_is_refused_as_it_is_registered():
    wrong = type("Mine", (Mine,), {"recognises": lambda self, path: True})
    with pytest.raises(ContrastillError, match="recognises, which wants @staticmethod above it, takes .self, path."):
        check_entry("mine", wrong)
    check_entry("mine", type("Mine", (Mine,), {"recognises": lambda path: True}))


def test_its_data_are_packed_as_they_are_described(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(
        ContrastillError,
        match=r"its files have .txt; .*: write NAME:.* package of yours .--import MY",
    ):
        data_named(tmp_path)
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png"):
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True)
        (tmp_path / "unpacked" / name).touch()
    for ask in (data_named, lambda path: validate_data(DataConfig(path=str(path)))):
        with pytest.raises(UsageError, match=rf"no known layout, but {tmp_path / 'unpacked'} is \(name that folder\)"):
            ask(tmp_path)
    monkeypatch.setitem(DATASETS._entries, "mine", Mine)
    assert data_named(tmp_path).name == "mine"
    splits = source_of(str(tmp_path)).splits
    assert {name: split.num_samples for name, split in splits.items()} == {"train": 2, "test": 2}
