"""Names of classes are dropped, with a line, where samples have other labels than those that they name."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from contrastill.core.value_scale import note_once
from contrastill.datasets.io.user_samples import UserSamples
from contrastill.datasets.user_dataset import UserDataset

NAMES, COUNT = ["ant", "bee", "cat", "dog"], 24
LISTED = "lists other labels than its samples have, so its names of classes are not used: give the names of the labels"
CHANGED = "the target_transform of Unlisted gives other labels than those that it names, so its names of classes are"


class Folder(Dataset):
    """As torchvision's: names and labels of the files, and a function that changes a sample's label."""

    def __init__(self, target_transform=None):
        self.classes, self.targets, self.target_transform = NAMES, [row % 4 for row in range(COUNT)], target_transform

    def __len__(self):
        return COUNT

    def __getitem__(self, row):
        label = row % 4
        return np.full((8, 8, 3), row, np.uint8), self.target_transform(label) if self.target_transform else label


class Unlisted(Folder):
    def __init__(self, target_transform=None):
        super().__init__(target_transform)
        del self.targets


class HandsOn(Dataset):
    """A wrapper that hands on what it does not know."""

    def __init__(self, inner, change=int, **attributes):
        self.inner, self.change = inner, change
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, row):
        image, label = self.inner[row]
        return image, self.change(label)

    def __getattr__(self, name):
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


class Copies(Dataset):
    """A wrapper with the names of what it wraps."""

    def __init__(self, inner, classes):
        self.inner, self.classes = inner, classes

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, row):
        return self.inner[row]


def reverse(label):
    return 3 - label


def one_hot(label):
    return np.eye(4, dtype=np.float32)[label]


def is_dog(label):
    return int(label == 3)


def but_one(label):
    return {1: 2, 2: 1}.get(label, label)


ROWS = [*range(0, COUNT, 2), 1, 3]


@pytest.fixture(autouse=True)
def _lines_are_logged_anew():
    note_once.cache_clear()


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (Folder(reverse), f"Folder {LISTED}"),
        (Folder(but_one), f"Folder {LISTED}"),  # classes take turns, and rows at one distance are all ants
        (Folder(lambda label: one_hot(3 - label)), f"Folder {LISTED}"),
        (Subset(Folder(reverse), ROWS), f"Folder {LISTED}"),
        (Subset(Subset(Folder(is_dog), ROWS), [1, 3, 12, 13]), f"Folder {LISTED}"),
        (ConcatDataset([Folder(reverse), Folder(reverse)]), f"Folder {LISTED}"),
        (ConcatDataset([Folder(), Subset(Folder(reverse), ROWS)]), f"Folder {LISTED}"),
        (Unlisted(reverse), CHANGED),
        (Unlisted(lambda label: one_hot(3 - label)), CHANGED),
        (Subset(Unlisted(is_dog), ROWS), CHANGED),
        (ConcatDataset([Unlisted(), Unlisted(reverse)]), CHANGED),
        (HandsOn(Folder(), is_dog), f"HandsOn {LISTED}"),
        (HandsOn(Folder(), is_dog, targets=[is_dog(row % 4) for row in range(COUNT)]), f"HandsOn {LISTED}"),
        (Subset(HandsOn(Folder(), reverse), ROWS), f"HandsOn {LISTED}"),
        (HandsOn(Subset(Folder(), ROWS), reverse, classes=NAMES, targets=[row % 4 for row in ROWS]), LISTED),
        (Copies(Unlisted(reverse), NAMES), CHANGED),
        (Copies(Subset(Unlisted(reverse), ROWS), [*NAMES]), CHANGED),
    ],
)
def test_names_of_other_labels_are_dropped_with_a_line(dataset, line):
    samples = UserSamples(dataset)
    assert samples.classes is None and any(line in note for note in samples.notes)


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        (Folder(int), NAMES),
        (Folder(one_hot), NAMES),
        (Folder(lambda label: one_hot(label) * 0.9 + 0.025), NAMES),
        (Subset(Folder(torch.tensor), ROWS), NAMES),
        (Unlisted(int), NAMES),
        (ConcatDataset([Folder(), Subset(Folder(), ROWS)]), NAMES),
        (HandsOn(Folder()), NAMES),
        (HandsOn(Folder(), is_dog, classes=["other", "dog"]), ["other", "dog"]),
        (Copies(Folder(is_dog), ["other", "dog"]), ["other", "dog"]),
        (Copies(Folder(), NAMES), NAMES),
        (Copies(Subset(Folder(), ROWS), NAMES), NAMES),
    ],
)
def test_names_of_the_labels_that_are_handed_out_are_kept(dataset, names):
    samples = UserSamples(dataset)
    assert samples.classes == names and not samples.notes


def test_a_function_that_reads_names_leaves_them():
    class Texts(Unlisted):
        def __getitem__(self, row):
            return np.full((8, 8, 3), row, np.uint8), self.target_transform(NAMES[row % 4])

    assert UserSamples(Texts(NAMES.index)).classes == NAMES


def test_a_subset_is_given_names_of_its_own_by_which_splits_are_matched(caplog):
    train, test = Folder(), Subset(Folder(reverse), ROWS)
    test.classes = NAMES[::-1]
    with caplog.at_level(logging.WARNING):
        split = UserDataset(train, test)(UserDataset.Options()).open("test")
    assert split.classes == NAMES and split.targets.tolist() == [row % 4 for row in ROWS]
    assert "names of classes" not in caplog.text
    both = ConcatDataset([Folder(is_dog)] * 2)
    both.classes = ["other", "dog"]
    assert UserSamples(both).classes == ["other", "dog"]
