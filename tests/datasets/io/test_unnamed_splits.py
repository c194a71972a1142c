"""Folders that seem to be splits under other names are no classes, unless it is stated that they are."""

import re

import numpy as np
import pytest
from PIL import Image

from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS

ANIMALS = ("ant", "bee", "cat")


def opened(root, folders, count=20, **options):
    """The training split of a folder with images in each of these folders."""
    for name in folders:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(root / name / f"{number}.png")
    dataset = DATASETS["image_folder"]
    return dataset(dataset.Options(path=str(root), size=4, workers=0, **options)).open("train")


def below(outer, inner):
    return [f"{first}/{second}" for first in outer for second in inner]


@pytest.mark.parametrize(
    "splits",
    [
        ("trainset", "testset"),
        ("traindata", "testdata"),
        ("TrainDataset", "TestDataset"),
        ("TRAINSET", "VALSET"),
        ("0_train", "1_test"),
        ("train2017", "val2018"),
        ("train_data", "testing"),
        ("trainA", "testA"),
        ("trn", "tst"),
        ("tr", "te"),
        ("learn", "evaluate"),
        ("MyTrainSet", "MyDevSet", "unlabelled"),
    ],
)
def test_words_of_splits_with_what_is_written_around_them(tmp_path, splits):
    message = f"has folders {splits[0]} and {splits[1]}, which are splits rather than classes: call them train and test"
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, below(splits, ANIMALS), 1)


@pytest.mark.parametrize(
    ("outer", "inner", "named"),
    [
        (("fold1", "fold2"), ANIMALS, "fold1, fold2"),
        (("one", "other", "third"), ("ant", "bee"), "one, other, third"),
        ([f"fold{number}" for number in range(5)], ("ant", "bee"), "fold0, fold1, fold2, …"),
        (("amazon", "caltech", "dslr", "webcam"), [*ANIMALS, "dog"], "amazon, caltech, dslr, …"),
    ],
)
def test_folders_that_all_hold_the_same_folders(tmp_path, outer, inner, named):
    with pytest.raises(UsageError) as refused:
        opened(tmp_path, below(outer, inner), 1)
    assert f"has folders {named}, which hold no images but the same folders (ant, bee" in str(refused.value)
    assert f"data.path={tmp_path / outer[0]}; where they are classes, set data.folders_are" in str(refused.value)


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (below(("ant", "bee", "cat", "dog"), ("2019", "2020")), 4),
        (["ant/2019", "ant/2020", "bee/2020", "bee/2021"], 2),
        ([*below(("ant", "bee"), ("2019", "2020")), "cat"], 3),
        (["te", "tr", "de"], 3),
        (["learn/first", "evaluate/second"], 2),
    ],
)
def test_classes_with_folders_or_short_names_are_classes(tmp_path, folders, classes):
    assert opened(tmp_path, folders).num_classes == classes


@pytest.mark.parametrize(("outer", "inner"), [(("good", "bad"), ("left", "right")), (("train_1", "test_1"), ANIMALS)])
def test_what_is_stated_to_be_classes_is(tmp_path, outer, inner):
    assert opened(tmp_path, below(outer, inner), folders_are_classes=True).classes == sorted(outer)


def test_images_beside_the_shared_folders_are_those_of_a_class(tmp_path):
    shared = below(("good", "bad"), ("left", "right"))
    assert opened(tmp_path, ["good", "bad"]).classes == ["bad", "good"]
    for folder in shared:
        (tmp_path / folder).mkdir()
    assert opened(tmp_path, ()).classes == ["bad", "good"]
    with pytest.raises(UsageError, match="which hold no images"):
        opened(tmp_path / "other", shared)


def test_splits_in_each_class_say_how_to_move_them(tmp_path):
    folders = below(("ant", "bee"), ("train", "test"))
    message = "has splits in each class (ant/train, ant/test), and the layout is train/CLASS beside test/CLASS: move "
    with pytest.raises(UsageError, match=re.escape(f"{message}ant/train to train/ant and ant/test to test/ant")):
        opened(tmp_path, folders)
    stated = opened(tmp_path, (), folders_are_classes=True)
    assert stated.classes == ["ant", "bee"]


def test_a_data_set_beside_its_label_maps_is_named(tmp_path):
    with pytest.raises(UsageError, match=f"holds splits, so it is no class: set data.path={tmp_path / 'pictures'}"):
        opened(tmp_path, [*below(("pictures/train", "pictures/val"), ANIMALS), "texts/train", "texts/val"])
