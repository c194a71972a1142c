"""Labels of a dataset of one's own: one form for all samples, read from any kind of number that can hold it."""

import logging
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.user_samples import UserSamples
from contrastill.datasets.user_dataset import UserDataset
from contrastill.training.arguments import ArgumentResolver

N = 12
NUMBERS = [row % 3 for row in range(N)]
ONE_HOT = torch.eye(3)[NUMBERS]
IMAGES = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Labelled(Dataset):
    def __init__(self, values, /, **attributes):
        self.values = values
        self.__dict__.update(attributes)

    def __len__(self):
        return N

    def __getitem__(self, row):
        return IMAGES[row], self.values[row]


def opened(train, test=None):
    data = UserDataset(train, test)(UserDataset.Options())
    return data.open("train"), data.open("test")


@pytest.mark.parametrize(
    "labels",
    [
        NUMBERS,
        np.array(NUMBERS, ">i2"),
        torch.tensor(NUMBERS, dtype=torch.uint16),
        [[number] for number in NUMBERS],
        torch.tensor(NUMBERS)[:, None],
        np.array(NUMBERS)[:, None],
    ],
)
def test_numbers_of_classes_in_any_form(labels):
    assert opened(Labelled(labels))[0].targets.tolist() == NUMBERS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int64])
def test_label_vectors_of_any_dtype(dtype):
    labels = ONE_HOT.to(dtype)
    assert opened(Labelled(labels.requires_grad_(labels.is_floating_point())))[0].targets.tolist() == NUMBERS


def test_smoothed_labels_of_half_precision_are_probabilities():
    split = opened(Labelled((ONE_HOT * 0.9 + 0.1 / 3).bfloat16()))[0]
    assert split.targets.tolist() == NUMBERS
    assert torch.allclose(split.label_vectors, ONE_HOT * 0.9 + 0.1 / 3, atol=0.01)


@pytest.mark.parametrize(
    ("label", "way"),
    [
        (1.0, ": return int(label) if it numbers a class; for"),
        (torch.tensor([1.0]), ": return int(label) if it numbers a class; for"),
        (True, ": return int(label) if it numbers a class; for"),
        ("cat", ": return its place in a list of names, and give the dataset that list as classes; for"),
        (-1, "; for other modalities return a dict"),
        ([[1], [1, 2]], "; for other modalities return a dict"),
        ({"boxes": []}, "; for other modalities return a dict"),
        (torch.zeros(3, 8, 8), ": return (image, label), the image first, or a dict with other modalities"),
        (np.zeros((8, 8, 3), np.uint8), ": return (image, label), the image first, or a dict with other modalities"),
    ],
)
def test_what_is_no_class_is_refused_with_the_way_out(label, way):
    with pytest.raises(UsageError, match="the label of sample 0 of Labelled is") as error:
        UserSamples(Labelled([label] * N))
    assert f"classes are whole numbers from 0{way}" in str(error.value)


@pytest.mark.parametrize("listed", [{}, {"targets": NUMBERS * 2}])
def test_two_forms_of_labels_in_one_dataset_are_refused(listed):
    numbers, vectors = Labelled(NUMBERS), Labelled(ONE_HOT)
    for parts, message in (
        ((numbers, vectors), r"sample 1\d of ConcatDataset is 3 numbers, and that of the first the class 0"),
        ((vectors, numbers), r"sample 1\d of ConcatDataset is the class 0, and that of the first 3 numbers"),
    ):
        both = ConcatDataset(parts)
        both.__dict__.update(listed)
        with pytest.raises(UsageError, match=f"the label of {message}: give each sample a number for each class, or"):
            UserSamples(both)
    samples = UserSamples(Labelled(labels := [*NUMBERS], targets=NUMBERS))
    labels[1] = ONE_HOT[1]
    with pytest.raises(ContrastillError, match="sample 1 of Labelled is of class .*Labelled.targets says"):
        samples.read(1)


def test_two_forms_of_labels_in_two_splits_name_both():
    with pytest.raises(
        UsageError,
        match="labels of the training dataset Labelled are a number for each class, and those of the test dataset "
        "Labelled are numbers of classes: give both one form, as torch.nn.functional.one_hot",
    ):
        opened(Labelled(ONE_HOT), Labelled(NUMBERS))


@pytest.mark.parametrize("listed", [[[1], [1, 2]], [["a"]] * N, torch.tensor(NUMBERS)[:, None], "abc", None])
def test_a_list_of_something_else_is_no_list_of_labels(listed):
    samples = UserSamples(Labelled(NUMBERS, labels=listed))
    assert samples.listed is None and samples.targets.tolist() == NUMBERS
    assert UserSamples(Labelled(NUMBERS, targets=np.array(NUMBERS, ">i8"))).listed == "targets"


def test_further_entries_of_a_tuple_are_named():
    (note,) = UserSamples(TensorDataset(IMAGES, torch.tensor(NUMBERS), torch.arange(N))).notes
    assert "samples of TensorDataset have 3 entries, and the first two are read" in note
    assert not UserSamples(TensorDataset(IMAGES, torch.tensor(NUMBERS))).notes
    assert not UserSamples(TensorDataset(IMAGES)).notes


def test_a_sample_without_an_image_shows_what_it_has():
    with pytest.raises(UsageError, match=r"a sample of Labelled has no image \(rgb a list, target a int\)"):
        UserSamples(type("Labelled", (Labelled,), {"__getitem__": lambda self, row: ([[1, 2]], 0)})(NUMBERS))


def test_test_samples_that_are_training_samples_are_counted(caplog):
    data = TensorDataset(IMAGES, torch.tensor(NUMBERS))
    parts = random_split(data, [8, 4])
    for train, test, shared in (
        (data, data, "12 of the 12"),
        (data, Subset(data, [1, 2]), "2 of the 2"),
        (Subset(data, [1, 2, 3]), Subset(Subset(data, [5, 3, 2]), [1, 2]), "2 of the 2"),
        (Subset(data, [1]), data, "1 of the 12"),
        (*parts, None),
        (data, TensorDataset(*data.tensors), None),
        (data, None, None),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            opened(train, test)
        lines = [record.getMessage() for record in caplog.records if "are training samples" in record.getMessage()]
        assert [line.partition(" test")[0] for line in lines] == ([] if shared is None else [shared])


def test_a_dict_of_two_datasets_is_a_pair():
    pair = Labelled(NUMBERS), Labelled(NUMBERS[::-1])
    for data in (pair, {"test": pair[1], "train": pair[0]}):
        with ExitStack() as stack:
            name = ArgumentResolver(stack).data(data)["name"]
            splits = DATASETS[name](UserDataset.Options())
            assert [splits.open(split).samples.dataset for split in ("train", "test")] == [*pair]
    with ExitStack() as stack, pytest.raises(UsageError, match="data is a dict with the keys train, val, and datasets"):
        ArgumentResolver(stack).data({"train": pair[0], "val": pair[1]})
    settings = {"name": "packed", "path": "data.h5", "intrinsics": np.ones(4)}
    assert ArgumentResolver(ExitStack()).data(settings) == settings


def test_a_label_after_none_and_a_length_that_fails_are_named():
    samples = UserSamples(Labelled([None, *NUMBERS[1:]]))
    with pytest.raises(ContrastillError, match="sample 1 of Labelled has a label, and the first has none: return"):
        samples.read(1)
    with pytest.raises(UsageError, match="the length of Endless cannot be read: TypeError: no length"):
        UserSamples(type("Endless", (Labelled,), {"__len__": _no_length})(NUMBERS))


def _no_length(self):
    raise TypeError("no length")


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda image: image.requires_grad_() * 1])
def test_images_are_plain_tensors(change):
    images = IMAGES / 255
    split = opened([(change(image.clone()), number) for image, number in zip(images, NUMBERS, strict=True)])[0]
    batch = next(iter(split.loader(batch_size=N, device="cpu", train=False).epoch(0)))
    assert torch.equal(batch["rgb"], images) and not batch["rgb"].requires_grad


@pytest.mark.parametrize(
    ("labels", "shown"), [(NUMBERS, "one number"), (torch.eye(4, dtype=torch.int64)[NUMBERS], "a row of 4 numbers")]
)
def test_labels_before_the_images_are_named(labels, shown):
    images = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UsageError, match=rf"rgb is {shown} \(int64\), and no image: the image of a sample comes first"):
        UserSamples(torch.utils.data.TensorDataset(torch.as_tensor(labels), images))


def test_arrays_and_lists_in_a_dict_of_splits():
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    for split in ((images, labels), [torch.from_numpy(images), torch.from_numpy(labels)]):
        with pytest.raises(UsageError, match="data is a dict of arrays: make each split a dataset, as torch"):
            ArgumentResolver(ExitStack()).data({"train": split, "test": split})
    listed = [(image, label) for image, label in zip(images, labels, strict=True)]
    with ExitStack() as stack:
        name = ArgumentResolver(stack).data({"train": listed, "test": listed[:2]})["name"]
        assert len(DATASETS[name](UserDataset.Options()).open("test").samples) == 2
