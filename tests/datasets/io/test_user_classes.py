"""Names of the classes of a dataset of one's own: read in the form they come in, or refused with the way out."""

import logging
from collections import namedtuple
from dataclasses import make_dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from contrastill.core.classes import read_names
from contrastill.core.errors import UsageError
from contrastill.core.value_scale import note_once
from contrastill.datasets.io.pixel_class_names import pixel_class_names
from contrastill.datasets.io.user_classes import class_names_of
from contrastill.datasets.io.user_samples import UserSamples

ABC = ["a", "b", "c"]
Record = namedtuple("Record", "name id color")
RECORDS = [Record(name, number, (0, number, 0)) for number, name in enumerate(ABC)]


class Named(Dataset):
    """Whose attributes are given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return 6

    def __getitem__(self, row):
        return np.full((8, 8, 3), row, np.uint8), row % 3


@pytest.fixture(autouse=True)
def _lines_are_logged_anew():
    note_once.cache_clear()


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({"classes": np.array(ABC)}, ABC),
        ({"classes": [b"a", b"b", b"c"]}, ABC),
        ({"classes": dict.fromkeys(ABC).keys()}, ABC),
        ({"classes": {0: "a", 1: "b", 2: "c"}.values()}, ABC),
        ({"classes": {2: "c", 0: "a", 1: "b"}}, ABC),
        ({"class_to_idx": {"c": 2, "a": np.int64(0), "b": "1"}}, ABC),
        ({"classes": ABC, "class_to_idx": {"a": 0, "b": 1, "c": 2}}, ABC),
        # The synonyms of torchvision's ImageNet, where one name may stand for two classes.
        (
            {"classes": [("tench", "Tinca"), ("crane",), ("crane",)], "class_to_idx": {"tench": 0, "crane": 2}},
            ["tench, Tinca", "crane", "crane"],
        ),
        # Records of classes, as torchvision's Cityscapes has; an id below 0 numbers none.
        ({"classes": [*RECORDS, Record("plate", -1, (0, 0, 142))]}, ABC),
        ({"classes": RECORDS[::-1]}, ABC),
        ({"classes": [record._asdict() for record in RECORDS]}, ABC),
        ({"classes": [{"name": name, "supercategory": "letter"} for name in ABC]}, ABC),
        ({"classes": [make_dataclass("Letter", ["colour", "name"])("red", name) for name in ABC]}, ABC),
        ({"classes": torch.tensor([10, 20, 30])}, ["10", "20", "30"]),
        ({"classes": [0, 1, 2]}, None),
        ({"classes": torch.arange(3)}, None),
        ({"classes": 3}, None),
        ({"classes": []}, None),
        ({"classes": lambda: ABC}, None),
        ({"class_to_idx": {"a": {"number": 0}}}, None),
    ],
)
def test_names_in_any_form_that_says_their_order(attributes, names):
    assert class_names_of(Named(**attributes)) == names
    assert class_names_of(Subset(Subset(Named(**attributes), [0, 2]), [1])) == names
    assert class_names_of(ConcatDataset([Named(**attributes)] * 2)) == names


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"classes": ["a", None, "b"]}, "Named.classes has no name for class 1: name every class, or none"),
        ({"classes": ["a", "b", " "]}, "Named.classes has no name for class 2"),
        ({"classes": ["a", float("nan"), "b"]}, "Named.classes has no name for class 1"),
        ({"classes": {0: "a", 1: None}}, "Named.classes has no name for class 1"),
        (
            {"classes": [tuple(record) for record in RECORDS]},
            r"has \('a', 0, \(0, 0, 0\)\) for class 0, which is no name",
        ),
        ({"classes": [{"title": name} for name in ABC]}, "has {'title': 'a'} for class 0, which is no name: give each"),
        ({"classes": "cat dog elk"}, "Named.classes is the text 'cat dog elk': give a list with the name of each"),
        ({"classes": (name for name in ABC)}, "Named.classes is a generator, which can be read once alone: give a"),
        ({"classes": map(str, ABC)}, "Named.classes is a map, which can be read once alone"),
        (
            {"classes": ABC, "class_to_idx": {"b": 0, "a": 1, "c": 2}},
            "Named.classes has a at 0, and class_to_idx says that it is class 1: correct one of them",
        ),
    ],
)
def test_names_that_could_be_of_other_classes_are_refused(attributes, message):
    with pytest.raises(UsageError, match=message):
        UserSamples(Named(**attributes))


@pytest.mark.parametrize(
    ("attributes", "line", "names"),
    [
        ({"classes": ["a", "b", "a"]}, "Named.classes: the classes 0 and 2 are both called a, so", ["a", "b", "a"]),
        ({"class_to_idx": {"a": 0, "b": 1, "c": 3}}, "3 names with the numbers 0 to 3, and none for class 2", None),
        ({"classes": [{"id": n + 1, "name": name} for n, name in enumerate(ABC)]}, "and none for class 0", None),
        ({"class_to_idx": {"a": 1, "b": 2, "c": 3}}, "3 names with the numbers 1 to 3, and none for class 0", None),
        ({"class_to_idx": {"a": 0, "b": 0, "c": 1}}, "class 0 is called both a and b, so its classes have no", None),
    ],
)
def test_what_names_do_not_say_is_logged(attributes, line, names, caplog):
    with caplog.at_level(logging.WARNING):
        assert UserSamples(Named(**attributes)).classes == names
    assert line in caplog.text


@pytest.mark.parametrize("attribute", ["classes", "class_to_idx", "targets"])
def test_an_attribute_that_fails_is_named(attribute):
    def fails(self):
        raise RuntimeError("call load()\nfirst")

    def abstract(self):
        raise NotImplementedError

    failing = type("Lazy", (Named,), {attribute: property(fails)})()
    with pytest.raises(UsageError, match=f"Lazy.{attribute} cannot be read: RuntimeError: call load\\(\\) first"):
        UserSamples(failing)
    assert UserSamples(type("Lazy", (Named,), {attribute: property(abstract)})()).classes is None


def test_names_of_many_classes_take_no_time():
    names = [f"n{number:05}" for number in range(22_000)]
    data = TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
    data.classes, data.class_to_idx = names, {name: number for number, name in enumerate(names)}
    assert class_names_of(data) == read_names(names, "they") == names


def test_label_maps_have_the_names_of_records_of_their_classes():
    classes = [Record("unlabeled", 0, (0, 0, 0)), *RECORDS[1:], Record("plate", -1, (0, 0, 142))]
    assert pixel_class_names(Named(classes=classes), labelled=False, highest=2) == ["unlabeled", "b", "c"]
