"""Data sets of a user's own with a mistake: one sentence as they are registered or opened."""

import types

import pytest
import torch

from contrastill import Options
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.split_checks import check_entry, check_split, dataset_of


class Loader:
    num_samples = 4

    def __init__(self, **fields):
        index = torch.arange(2)
        self.batch = {"rgb": torch.zeros(2, 3, 8, 8), "index": index, "target": index % 2, **fields}

    def __len__(self):
        return 2

    def epoch(self, k, start=0):
        yield {name: value for name, value in self.batch.items() if value is not None}


def split(batch=None, **changes):
    """A split that does its work without a base, with changes; None leaves an attribute out."""
    values = {
        "num_samples": 4, "modalities": {"rgb": (3, 8, 8)}, "targets": torch.arange(4) % 2, "num_classes": 2,
        "classes": ["a", "b"], "camera": "none", "loader": lambda **options: Loader(**(batch or {})), **changes,
    }  # fmt: skip
    return types.SimpleNamespace(**{name: value for name, value in values.items() if value != "absent"})


class Mine:
    """A data set in memory."""

    Options = Options
    splits = {"train": split()}

    def __init__(self, options):
        self.options = options

    def open(self, split):
        return self.splits.get(split)


def dataset(**body):
    return type("Mine", (Mine,), body)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "is an int: register a class with Options, __init__"),
        (torch.utils.data.Dataset, "has no open: register a class with Options"),
        (type("Mine", (), {"open": lambda self, split: None}), "has no Options: define in it class Options"),
        (dataset(Options={}), "has Options that are no pydantic model"),
        (dataset(open=lambda self: None), "open takes .., and is called with .split."),
        (dataset(__init__=lambda self: None), "called with its options, takes .., and is called with .options."),
    ],
)
def test_what_cannot_be_a_data_set_is_refused_as_it_is_registered(entry, message):
    with pytest.raises(ContrastillError, match=rf"dataset mine \(.*\).*{message}"):
        check_entry("mine", entry)


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (None, "is None: let open return a contrastill.Split"),
        ([1], "is a list, which has no num_samples and no modalities"),
        (split(targets="absent"), "which has no targets: let open"),
        (split(num_samples=0), "num_samples=0: give the number of its samples"),
        (split(modalities={"rgb": (8, 8)}), "modalities .*: give shapes .C, H, W."),
        (split(targets=[0, 1, 0, 1]), "targets that are a list: give a tensor"),
        (split(targets=torch.arange(3)), r"targets of shape \(3,\) .*: give the number of each sample's class, \(4,\)"),
        (split(num_classes=1), "has the class 1 and num_classes=1"),
        (split(classes="ab"), "classes 'ab': give a list of names"),
        (split(classes=["a"]), "has 1 names of classes and num_classes=2"),
        (split(loader=lambda batch_size: 0), "loader takes .batch_size., and is called with .batch_size, device, seed"),
        (split(loader=lambda **options: None), "loader returns None, which has no epoch"),
        (split({"index": None}), "first batch has no index: it has rgb, target"),
        (split({"index": torch.tensor([0, 4])}), r"index \[0, 4\]: give each sample's place .* from 0 to 3"),
        (split({"rgb": torch.zeros(2, 8, 8, 3)}), r"rgb of shape \(2, 8, 8, 3\), .* channels first"),
        (split({"target": torch.tensor([1, 1])}), r"target \[1, 1\] and the split's targets .* are \[0, 1\]"),
        (split({"rgb": [1]}), "rgb that is a list: yield tensors"),
    ],
)  # fmt: skip
def test_what_is_no_split_is_refused_as_it_is_opened(opened, message):
    with pytest.raises(ContrastillError, match=message):
        check_split("dataset mine: the split train", opened)


def test_what_does_the_work_of_a_split_passes():
    check_entry("mine", Mine)
    check_split("it", split())
    check_split("it", split({"target": None}, targets=None, num_classes=None, classes=None, camera=None))
    # Labels with a number for each class: the targets are the most probable ones.
    check_split("it", split({"target": torch.eye(2)}, label_vectors=torch.eye(2).repeat(2, 1)))


def test_a_data_set_that_fails_names_its_class_and_line():
    with DATASETS.temporarily("python:mine", Mine):
        data = dataset_of("python:mine", Mine.Options())
        assert data.open("train").num_samples == 4 and data.open("test") is None and data.options == Mine.Options()
    with DATASETS.temporarily("python:mine", dataset(open=lambda self, split: {}[split])):
        with pytest.raises(ContrastillError, match="Mine., opened as train, fails: KeyError: 'train' .test_split"):
            dataset_of("python:mine", Mine.Options()).open("train")


def test_two_classes_of_one_name_and_bytes_in_floats_have_a_line(caplog):
    check_split("the split of twins", split(classes=["apple", "apple"]))
    assert "the split of twins: classes: the classes 0 and 1 are both called apple" in caplog.text
    check_split("the split of bytes", split({"rgb": torch.full((2, 3, 8, 8), 250.0)}))
    assert "the split of bytes: its first batch has rgb in floats up to 250, and networks take uint8" in caplog.text
    caplog.clear()
    check_split("a split in range", split({"rgb": torch.rand(2, 3, 8, 8)}))
    check_split("a normalised split", split({"rgb": torch.randn(2, 3, 8, 8) * 30}))
    assert not caplog.records


def test_what_open_refuses_names_its_data_set():
    def refuse(self, split):
        raise UsageError("folder has no .npz files")

    with DATASETS.temporarily("python:mine", dataset(open=refuse)):
        with pytest.raises(UsageError, match=r"dataset python:mine \(.*Mine\), opened as train: folder has no .npz"):
            dataset_of("python:mine", Mine.Options()).open("train")
