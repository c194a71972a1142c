"""What a label says: label maps of more than 8 bits, labels that stand for none, and datasets whose samples and lists
disagree.
"""

import json
import logging

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.representation import Representation
from contrastill.datasets.io import pack
from contrastill.datasets.io.split_agreement import check_splits
from contrastill.datasets.user_dataset import UserDataset
from contrastill.probe.segmentation import Segmenter, count_confusion, measures_of, pixel_loss
from contrastill.training.data import open_splits

N, H, W = 12, 6, 8


class Maps(Dataset):
    """Images with a label map each."""

    def __init__(self, semantics):
        self.semantics = semantics

    def __len__(self):
        return len(self.semantics)

    def __getitem__(self, row):
        return {"rgb": np.full((H, W, 3), row, np.uint8), "semantics": self.semantics[row]}


class Listed(Dataset):
    """Images with classes, and a list of classes that may be another."""

    def __init__(self, labels, targets, classes=None):
        self.labels, self.targets, self.read = labels, targets, 0
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        self.read += 1
        label = self.labels[row]
        return np.full((8, 8, 3), row % 256, np.uint8), label() if callable(label) else int(label)


def batches(opened, split="train"):
    there = opened.open(split)
    return next(iter(there.loader(batch_size=there.num_samples, device="cpu", train=False).epoch(0)))


def label_maps(source, folder, maps, names=None, **options):
    """A data set whose training samples have these label maps, with the names of their values from 0."""
    if source == "own":
        return UserDataset(Maps(maps))(UserDataset.Options(**options))
    dataset = DATASETS[source]
    if source == "packed":
        path = folder / "set.h5"
        with h5py.File(path, "w") as file:
            file["train/rgb"], file["train/semantics"] = np.zeros((len(maps), H, W, 3), np.uint8), maps
            if names:
                file.attrs["semantic_classes"] = names
        return dataset(dataset.Options(path=str(path), fields={"rgb": "rgb", "semantics": "semantics"}, **options))
    for row, values in enumerate(maps):
        for name, image in (("rgb", np.zeros((H, W, 3), np.uint8)), ("semantics", values)):
            (folder / "train" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / "train" / name / f"{row:02}.png")
    if names:
        (folder / "classes.txt").write_text("\n".join(names[1:]))
    return dataset(dataset.Options(path=str(folder), workers=0, **options))


def drawn(highest, marks=(), dtype=np.uint8):
    """Label maps 0 … highest and marks, and what they mean: each value occurs."""
    generator = np.random.default_rng(0)
    maps = generator.integers(0, highest + 1, (N, H, W))
    maps[0, 0, 0], maps[1, 0, 0] = highest, 0
    means = maps.copy()
    for place, mark in enumerate(marks):
        where = generator.random((N, H, W)) < 0.1
        where[2, place, 1] = True
        maps[where], means[where] = mark, 0
    return maps.astype(dtype), means


# More than 255 classes


class _Answers(nn.Module):
    """Logits that say each pixel's class, which the batch's image holds."""

    def __init__(self, classes):
        super().__init__()
        self.classes, self.modality = classes, "image"

    def forward(self, student, *rest):
        if isinstance(student, dict):
            return Representation(maps=[student["image"]])
        return nn.functional.one_hot(student[0][:, 0].long() - 1, self.classes).permute(0, 3, 1, 2).float()


class _Once:
    def __init__(self, batch):
        self.batch = batch

    def epoch(self, number):
        yield self.batch


@pytest.mark.parametrize("classes", [40, 255, 256, 300, 894])
def test_all_right_is_all_right_for_any_number_of_classes(classes):
    labels = torch.arange(1, classes + 1).repeat(2)[: 2 * classes].reshape(2, 1, 1, -1)
    model = Segmenter(_Answers(classes), _Answers(classes))
    confusion = count_confusion(model, _Once({"image": labels.float(), "semantics": labels}), classes)
    assert torch.equal(confusion, 2 * torch.eye(classes, dtype=torch.int64))
    assert measures_of(confusion)["pixel_accuracy"] == measures_of(confusion)["miou"] == 100
    assert torch.equal(model.predict({"image": labels.float()}, (1, classes)), labels)


@pytest.mark.parametrize("source", ["packed", "own"])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64", "float32"])
def test_wide_labels_stay_what_they_are(tmp_path, source, dtype):
    maps, means = drawn(894, dtype=dtype)
    maps[3, 1, 1] = means[3, 1, 1] = 255
    seen = batches(label_maps(source, tmp_path, maps))["semantics"]
    assert not seen.is_floating_point() and np.array_equal(seen[:, 0].numpy(), means)


@pytest.mark.parametrize("source", ["packed", "own"])
def test_marks_below_zero_are_unlabelled_and_others_are_refused(tmp_path, source, caplog):
    maps, means = drawn(261, (-1, -100), np.int64)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(batches(label_maps(source, tmp_path, maps))["semantics"][:, 0].numpy(), means)
    assert len([1 for record in caplog.records if "stands for no label" in record.getMessage()]) == 1
    maps[5, 1, 1] = -7
    with pytest.raises(ContrastillError, match="holds the label -7: labels are 0 for unlabelled"):
        batches(label_maps(source, tmp_path, maps))
    with pytest.raises(ContrastillError, match="labels that are no whole numbers"):
        batches(label_maps(source, tmp_path, means + 0.25 * (means == 3)))


def test_sixteen_bits_in_files_are_refused(tmp_path):
    maps, _ = drawn(300, dtype=np.uint16)
    with pytest.raises(ContrastillError, match="labels are whole numbers, 0"):
        batches(label_maps("paired_folder", tmp_path, maps))


# Void


@pytest.mark.parametrize("source", ["packed", "paired_folder", "own"])
@pytest.mark.parametrize("named", [False, True])
def test_255_is_void_by_default(tmp_path, source, named, caplog):
    maps, means = drawn(5, (255,))
    names = ["unlabelled", *"abcde"] if named and source != "own" else None
    with caplog.at_level(logging.WARNING):
        opened = label_maps(source, tmp_path, maps, names)
        seen = batches(opened)["semantics"]
        opened.open("train")
    assert seen.dtype == torch.uint8 and np.array_equal(seen[:, 0].numpy(), means)
    warnings = [record.getMessage() for record in caplog.records if "stands for no label" in record.getMessage()]
    assert len(warnings) == 1 and "the label 255 in semantics stands for no label, as 0 does" in warnings[0]


@pytest.mark.parametrize("source", ["packed", "paired_folder", "own"])
def test_the_key_names_another_void(tmp_path, source):
    maps, _ = drawn(5)
    seen = batches(label_maps(source, tmp_path, maps, void=2))["semantics"]
    assert np.array_equal(seen[:, 0].numpy(), np.where(maps == 2, 0, maps))


@pytest.mark.parametrize("source", ["packed", "paired_folder", "own"])
def test_null_makes_255_a_class(tmp_path, source):
    maps, _ = drawn(255)
    assert np.array_equal(batches(label_maps(source, tmp_path, maps, void=None))["semantics"][:, 0].numpy(), maps)


@pytest.mark.parametrize("source", ["packed", "paired_folder"])
def test_names_decide_what_is_void(tmp_path, source):
    maps, means = drawn(255)
    names = ["unlabelled", *(f"c{number}" for number in range(1, 256))]
    (tmp_path / "a").mkdir()
    assert np.array_equal(batches(label_maps(source, tmp_path / "a", maps, names))["semantics"][:, 0].numpy(), means)
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="data.void=7 is the class c7"):
        label_maps(source, tmp_path / "b", maps, names, void=7).open("train")
    (tmp_path / "c").mkdir()
    with pytest.raises(
        ContrastillError, match="holds the label 9, and 5 are named: add the missing names, or set data.void=9"
    ):
        batches(label_maps(source, tmp_path / "c", drawn(5, (9,))[0], names[:6]))
    (tmp_path / "d").mkdir()
    assert np.array_equal(
        batches(label_maps(source, tmp_path / "d", drawn(5, (9,))[0], names[:6], void=9))["semantics"][:, 0].numpy(),
        drawn(5, (9,))[1],
    )


def test_a_class_beyond_255_that_is_seen_late_is_refused():
    maps = np.zeros((40, H, W), np.int64)
    maps[0, 0, 0], maps[33, 0, 0] = 255, 300
    with pytest.raises(
        ContrastillError, match=r"sample 33 of Maps holds the label 300, so that 255 may be a class: set data.void=null"
    ):
        batches(label_maps("own", None, maps))
    assert batches(label_maps("own", None, maps, void=None))["semantics"].max() == 300


def test_a_packed_copy_does_not_lose_the_class_255(tmp_path):
    maps, _ = drawn(255)
    label_maps("packed", tmp_path, maps)
    options = ["fields={rgb: rgb, semantics: semantics}", "void=null"]
    pack.write_packed(
        pack.source_of(f"packed:{tmp_path / 'set.h5'}", options=options, splits=["train"]), tmp_path / "copy.h5"
    )
    dataset = DATASETS["packed"]
    copy = dataset(dataset.Options(path=str(tmp_path / "copy.h5"), fields={"rgb": "rgb", "semantics": "semantics"}))
    assert np.array_equal(batches(copy)["semantics"][:, 0].numpy(), maps)


@pytest.mark.parametrize(
    ("highest", "void", "stays"), [(300, None, True), (254, None, False), (300, "255", False), (254, "null", True)]
)
def test_a_run_reads_255_as_a_split_that_is_opened_alone_does(highest, void, stays, tmp_path):
    """A run's section holds every default, so that whether somebody set a key is not to be seen there."""
    maps = np.random.default_rng(0).integers(1, highest + 1, (N, H, W)).astype(np.uint16)
    maps[:, 0, :2] = 255, highest
    label_maps("packed", tmp_path, maps)
    lines = [] if void is None else [f"data.void={void}"]
    lines += ["data.name=packed", f"data.path={tmp_path / 'set.h5'}", "data.splits={train: train, test: null}"]
    lines += ["data.fields={rgb: rgb, semantics: semantics}"]
    config = load_config("teachers/cifar100", lines)
    again = load_config("teachers/cifar100", ["data=" + json.dumps(config.data.model_dump(mode="json"))])
    for data in (config.data, again.data):
        split = open_splits(data)["train"]
        seen = next(iter(split.loader(batch_size=N, device="cpu", train=False).epoch(0)))["semantics"][:, 0]
        assert np.array_equal(seen.numpy(), maps if stays else np.where(maps == 255, 0, maps))


def test_the_loss_leaves_out_what_is_no_label():
    logits = torch.randn(2, 300, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(1, 301, (2, 1, 3, 4), generator=torch.Generator().manual_seed(1))
    labels[0, 0, 0] = torch.tensor([0, -1, -100, 0])
    each = [
        -logits[b, :, y, x].log_softmax(0)[labels[b, 0, y, x] - 1]
        for b in range(2)
        for y in range(3)
        for x in range(4)
        if labels[b, 0, y, x] > 0
    ]
    assert pixel_loss(logits, labels).item() == pytest.approx((sum(each) / len(each)).item(), rel=1e-12)
    for wrong, message in (
        (301, "hold class 301, and num_classes is 300"),
        (-2, "hold class -2"),
        (0.5, "no whole numbers"),
    ):
        with pytest.raises(UsageError, match=message):
            pixel_loss(logits, torch.where(labels == labels[1, 0, 2, 3], wrong, labels))


# Lists


def test_a_list_that_differs_from_the_samples_is_refused_where_it_does():
    labels = np.arange(200) % 4
    listed = labels.copy()
    listed[2:200:10] = (listed[2:200:10] + 1) % 4
    opened = UserDataset(Listed(labels, listed.tolist()))(UserDataset.Options())
    split = opened.open("train")
    seen = []
    with pytest.raises(
        ContrastillError, match=r"sample (\d+) of Listed is of class \d, and \d is what Listed.targets says"
    ):
        seen.extend(split.loader(batch_size=8, device="cpu", train=True).epoch(0))
    assert len(seen) < 10
    # Where the few places that are read differ already, the samples are asked.
    assert (
        UserDataset(Listed(labels, ((labels + 1) % 4).tolist()))(UserDataset.Options()).open("train").targets.tolist()
        == labels.tolist()
    )


def test_a_training_stops_at_the_first_difference(tmp_path):
    labels = np.arange(40) % 4
    listed = labels.copy()
    listed[7::10] = (listed[7::10] + 1) % 4
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(ContrastillError, match=r"of Listed is of class \d, and \d is what Listed.targets says"):
        contrastill.distill(
            None,
            net,
            Listed(labels, torch.from_numpy(listed)),
            out=tmp_path,
            epochs=1,
            quiet=True,
            **{"data.workers": 1},
            batch_size=8,
        )


def test_labels_that_change_from_one_reading_to_the_next_are_refused():
    turns = iter(range(1000))
    opened = UserDataset(Listed([0, 1, lambda: int(next(turns) >= 8), 1] * 4, None))(UserDataset.Options()).open(
        "train"
    )
    loader = opened.loader(batch_size=16, device="cpu", train=False)
    with pytest.raises(
        ContrastillError, match="its samples had when they were read for their labels: return one label"
    ):
        for _ in range(2):
            list(loader.epoch(0))


def test_classes_numbered_otherwise_for_testing_are_matched_and_other_kinds_of_labels_refused():
    labels = np.arange(8) % 2
    opened = UserDataset(Listed(labels, labels, ["cat", "dog"]), Listed(labels, labels, ["dog", "cat"]))(
        UserDataset.Options()
    )
    train, test = opened.open("train"), opened.open("test")
    check_splits(train, test)
    assert (
        train.classes == test.classes == ["cat", "dog"]
        and train.targets.tolist() == (1 - test.targets).tolist() == labels.tolist()
    )
    for wrong in (1.5, ["cat", "dog"], True, -1):
        with pytest.raises(UsageError, match=r"the label of sample \d of Listed is .*classes are whole numbers from 0"):
            UserDataset(
                type(
                    "Listed",
                    (Listed,),
                    {"__getitem__": lambda self, row, wrong=wrong: (np.zeros((8, 8, 3), np.uint8), wrong)},
                )(labels, None)
            )
