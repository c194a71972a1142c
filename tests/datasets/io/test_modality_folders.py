"""Folders of modalities and folders of classes: which is which, and which samples are in which split."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.core.config.loading import make_data_config
from contrastill.core.errors import UsageError
from contrastill.core.recognition import recognised
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.modality_folders import usual_modality
from contrastill.training.data import open_splits

SIDE = 6


def write(root, folder, names, values=None):
    """Pictures whose brightness is their place, colour where no values are given."""
    for place, name in enumerate(names):
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = np.full((SIDE, SIDE, 3), 10 * place, np.uint8)
        Image.fromarray(colour if values is None else values(place)).save(path)


def depth(place):
    """Millimetres; the first pixel was not measured."""
    values = np.full((SIDE, SIDE), 1000 + place, np.uint16)
    values[0, 0] = 0
    return values


def labels(place):
    return np.full((SIDE, SIDE), 1 + place % 3, np.uint8)


def mask(place):
    return np.repeat(np.array([[0], [255]], np.uint8), SIDE // 2, 0).repeat(SIDE, 1)


def opened(root, **options):
    """The splits of a folder whose kind is recognised."""
    return open_splits(make_data_config({"path": str(root), "workers": 0, **options}, {}))


def dataset(name, root, **options):
    entry = DATASETS[name]
    return entry(entry.Options(path=str(root), workers=0, **options))


def files_of(split):
    return {name: [file.decode() for file in files] for name, files in split.samples.files.items()}


NAMES = [f"{place:03}" for place in range(20)]


@pytest.mark.parametrize(
    ("first", "second", "values", "modalities"),
    [
        ("RGB", "Depth", depth, ["rgb", "depth"]),
        ("rgb", "Depth", depth, ["rgb", "depth"]),
        ("Color", "depth_map", depth, ["rgb", "depth"]),
        ("colour", "DEPTH", depth, ["rgb", "depth"]),
        ("image", "depth", depth, ["rgb", "depth"]),
        ("visible", "infrared", labels, ["rgb", "infrared"]),
        ("RGB", "Thermal", labels, ["rgb", "thermal"]),
        ("rgb", "IR", labels, ["rgb", "ir"]),
        ("rgb", "NIR", labels, ["rgb", "nir"]),
        ("rgb", "Normals", None, ["rgb", "normals"]),
        ("rgb", "Heat", labels, ["rgb", "Heat"]),
        ("images", "labels", labels, ["rgb", "semantics"]),
        ("images", "Masks", labels, ["rgb", "semantics"]),
        ("Images", "annotations", labels, ["rgb", "semantics"]),
        ("JPEGImages", "SegmentationClass", labels, ["rgb", "semantics"]),
        ("images", "masks", mask, ["rgb", "masks"]),
        ("images", "Masks", None, ["rgb", "masks"]),
    ],
)
def test_folders_with_usual_names_are_modalities(tmp_path, first, second, values, modalities):
    write(tmp_path, first, NAMES)
    write(tmp_path, second, NAMES, values)
    assert recognised(str(tmp_path)) == ["paired_folder"]
    splits = opened(tmp_path)
    assert list(splits["train"].modalities) == list(splits["test"].modalities) == modalities
    train, test = (set(files_of(splits[name])["rgb"]) for name in ("train", "test"))
    assert train | test == {f"{first}/{name}.png" for name in NAMES} and not train & test


def test_what_is_known_of_a_modality_counts_in_whatever_case_its_folder_is_called(tmp_path):
    for place, (first, second) in enumerate((("rgb", "depth"), ("RGB", "Depth"))):
        write(tmp_path / str(place), first, NAMES)
        write(tmp_path / str(place), second, NAMES, depth)
    batches = []
    for place in ("0", "1"):
        train = opened(tmp_path / place)["train"]
        assert train.camera.unit == "mm"
        batches.append(next(iter(train.loader(batch_size=4, device="cpu", train=False).epoch(0))))
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in ("rgb", "depth"))


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "Val"), ("training", "validation"), ("TRAINING", "testing")]
)
def test_splits_in_the_folders_of_modalities_are_splits(tmp_path, train, test):
    for split, count in ((train, 12), (test, 5)):
        write(tmp_path, f"rgb/{split}", NAMES[:count])
        write(tmp_path, f"Depth/{split}", NAMES[:count], depth)
    splits = opened(tmp_path)
    for split, folder, count in (("train", train, 12), ("test", test, 5)):
        assert files_of(splits[split]) == {
            "rgb": [f"rgb/{folder}/{name}.png" for name in NAMES[:count]],
            "depth": [f"Depth/{folder}/{name}.png" for name in NAMES[:count]],
        }
        batch = next(iter(splits[split].loader(batch_size=count, device="cpu", train=False).epoch(0)))
        assert batch["depth"][:, 0, 1, 1].tolist() == [1000 + place for place in range(count)]


def test_of_test_and_val_in_modalities_the_first_counts(tmp_path):
    for place, split in enumerate(("train", "val", "test")):
        for modality, values in (("rgb", None), ("depth", depth)):
            write(tmp_path, f"{modality}/{split}", NAMES[: 3 + place], values)
    assert {name: split.num_samples for name, split in opened(tmp_path).items()} == {"train": 3, "test": 5}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["rgb/train", "rgb/test", "depth/a"], "{root}/rgb holds splits and {root}/depth does not: give all"),
        (["rgb/train", "depth/train"], "{root}/rgb has no folder test or val: the layout is rgb/train/"),
        (["rgb/train", "rgb/test", "depth/train", "depth/val"],
            "{root}/rgb/test and {root}/depth/val could be other samples: call the folders to test on alike"),
        (["rgb", "image", "depth"], "{root} has image and rgb, and either could be rgb: name the folder of each "
            "modality with data.folders={rgb: image, …}"),
    ],
)  # fmt: skip
def test_modalities_that_do_not_fit_are_refused_with_the_way_out(tmp_path, folders, message):
    for folder in folders:
        write(tmp_path, folder, NAMES[:4], depth if folder.startswith("depth") else None)
    with pytest.raises(UsageError, match=re.escape(message.replace("{root}", str(tmp_path)))):
        opened(tmp_path)


def test_one_split_of_several_is_read_where_the_folders_are_named(tmp_path):
    for modality, values in (("rgb", None), ("depth", depth)):
        write(tmp_path, f"{modality}/train", NAMES, values)
    splits = opened(tmp_path, folders={"rgb": "rgb/train", "depth": "depth/train"})
    assert sum(split.num_samples for split in splits.values()) == 20


def test_scenes_called_as_a_split_is_are_scenes(tmp_path):
    for scene in ("bus", "train"):
        write(tmp_path, f"rgb/{scene}", NAMES)
        write(tmp_path, f"depth/{scene}", NAMES, depth)
    assert sum(split.num_samples for split in opened(tmp_path).values()) == 40


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize(
    "classes",
    [
        ["cat", "dog"],
        ["NORMAL", "PNEUMONIA"],
        ["mask", "no_mask"],
        ["thermal", "other"],
        ["Depth", "height", "width"],
    ],
)
def test_classes_whose_files_are_numbered_alike_are_classes(tmp_path, classes, split):
    for part in {split, split.replace("train", "test")}:
        for name in classes:
            write(tmp_path, part + name, NAMES)
    assert recognised(str(tmp_path)) == ["image_folder"]
    splits = opened(tmp_path, size=SIDE)
    assert splits["train"].classes == splits["test"].classes == sorted(classes)


@pytest.mark.parametrize("classes", [["rgb", "cat"], ["depth", "cat"], ["image", "cat"]])
def test_a_class_called_as_a_modality_beside_others_with_files_of_their_own_is_a_class(tmp_path, classes):
    for place, name in enumerate(classes):
        write(tmp_path, name, [f"{place}{each}" for each in NAMES], depth if name == "depth" else None)
    assert opened(tmp_path, size=SIDE)["train"].classes == sorted(classes)


@pytest.mark.parametrize(
    ("folders", "values"), [(("depth", "heat"), depth), (("image", "sketch"), None), (("thermal", "infrared"), labels)]
)
def test_what_may_be_either_is_refused_until_it_is_named(tmp_path, folders, values):
    for name in folders:
        write(tmp_path, name, NAMES, values)
    with pytest.raises(
        UsageError,
        match="could be image_folder or paired_folder: say which with data.name=, one of image_folder, paired_folder$",
    ):
        opened(tmp_path)
    assert dataset("image_folder", tmp_path, size=SIDE).open("train").classes == sorted(folders)
    modalities = dataset("paired_folder", tmp_path).open("train").modalities
    assert {*modalities} == {usual_modality(name) or name for name in folders}


@pytest.mark.parametrize("folders", [("RGB", "Depth"), ("visible", "infrared"), ("images", "masks")])
def test_modalities_are_no_classes_of_a_folder_of_images(tmp_path, folders):
    for name in folders:
        write(tmp_path, name, NAMES, labels)
    with pytest.raises(UsageError, match="which are modalities of aligned files rather than classes: read it with"):
        dataset("image_folder", tmp_path).open("train")


def test_named_folders_are_called_as_modalities_are(tmp_path):
    write(tmp_path, "a", NAMES)
    write(tmp_path, "b", NAMES, depth)
    with pytest.raises(UsageError, match="data.folders names Depth, and the modality is called depth: write it so"):
        dataset("paired_folder", tmp_path, folders={"rgb": "a", "Depth": "b"}).open("train")


def test_a_folder_of_masks_is_in_the_test_split_what_it_is_in_training(tmp_path, caplog):
    for split, values in (("train", labels), ("test", mask)):
        write(tmp_path, f"{split}/images", NAMES[:4])
        write(tmp_path, f"{split}/masks", NAMES[:4], values)
    splits = opened(tmp_path)
    assert list(splits["train"].modalities) == list(splits["test"].modalities) == ["rgb", "semantics"]
    assert "masks is read as label maps (modality semantics), in which 0 is unlabelled" in caplog.text
