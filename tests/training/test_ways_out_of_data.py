"""Data that do not fit: one sentence each, which names what is wrong and the way out, and that way works."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

import contrastill
from contrastill import UsageError
from contrastill.cli.main import main

SHORT = {"epochs": 1, "batch_size": 8, "quiet": True}
DRAW = np.random.default_rng(0)


def pack(path, sizes=(16, 16), labelled=("train", "test"), first=0):
    with h5py.File(path, "w") as file:
        for split, count, size in zip(("train", "test"), (16, 8), sizes, strict=True):
            file[f"{split}/rgb"] = DRAW.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
            if split in labelled:
                file[f"{split}/target"] = np.arange(count) % 4 + first
    return path


def images(folder, count, kind="rgb"):
    folder.mkdir(parents=True)
    for number in range(count):
        shape, high, dtype = ((16, 16, 3), 256, np.uint8) if kind == "rgb" else ((16, 16), 3000, np.uint16)
        Image.fromarray(DRAW.integers(0, high, shape).astype(dtype)).save(folder / f"{number}.png")


def trained(path, out, **options):
    options = {"objectives": "cross_entropy"} | SHORT | options
    return contrastill.distill(None, "resnet8", str(path) if not isinstance(path, tuple) else path, out=out, **options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"first": 1}, "the classes of the training samples are 1 … 4, .*: subtract 1 from the labels"),
        ({"sizes": (16, 24)}, "rgb is 16×16 in the training split and 24×24 in the test split, .*: bring both to one"),
        ({"labelled": ["train"]}, "the test split has no labels, and the training split has: no accuracy is measured"),
        ({}, None),
    ],
)
def test_splits_that_differ_have_a_line(tmp_path, options, line, caplog):
    trained(pack(tmp_path / "data.h5", **options), tmp_path / "run")
    lines = [record.getMessage() for record in caplog.records]
    assert [text for text in lines if "split" in text or "classes" in text] == [] if line is None else True
    assert line is None or caplog.text.count(line.partition(",")[0]) == 1


def test_labels_of_the_test_split_alone_are_none_to_train_on(tmp_path):
    path = pack(tmp_path / "data.h5", labelled=["test"])
    with pytest.raises(UsageError, match="the training data has no classes for whole samples: say how long"):
        trained(path, tmp_path / "run")
    with pytest.raises(UsageError, match="needs labels, and this data has none to train on"):
        trained(path, tmp_path / "run", **{"student.num_classes": 4})


@pytest.mark.parametrize("name", ["evaluation", "eval", "dev"])
def test_a_test_split_of_another_name_is_named(tmp_path, name):
    for label in ("cat", "dog"):
        images(tmp_path / "train" / label, 4)
        images(tmp_path / name / label, 2)
    with pytest.raises(UsageError, match=f"none called test or val: rename {name} to test where it is that, or hold"):
        trained(tmp_path, tmp_path / "run", **{"data.size": 16})
    (tmp_path / name).rename(tmp_path / "test")
    assert trained(tmp_path, tmp_path / "run", **{"data.size": 16, "data.workers": 0}).metrics["top1"] >= 0


def test_a_test_fraction_of_one_is_for_evaluations(tmp_path):
    for label in ("cat", "dog"):
        images(tmp_path / "data" / label, 12)
    with pytest.raises(UsageError, match="test_fraction=1 is for evaluations, .* set a share below 1, such as 0.1"):
        trained(tmp_path / "data", tmp_path / "run", **{"data.size": 16, "data.test_fraction": 1})


def test_a_missing_partner_is_named_by_its_path(tmp_path, capsys):
    for split, count in (("train", 6), ("test", 2)):
        for kind in ("rgb", "depth"):
            images(tmp_path / split / kind, count, kind)
    lacking = tmp_path / "train" / "depth" / "3.png"
    lacking.unlink()
    command = ["train", "xmodal/paired_folder_crd", "teachers.0.model=resnet8", "teachers.0.weights=null"]
    command += ["student.model=resnet8", "student.weights=null", f"out={tmp_path / 'run'}", "-q"]
    assert main([*command, f"data.path={tmp_path}"]) == 2
    assert f"rgb/3.png has no partner of depth, {lacking.with_suffix('')}.*: add it" in capsys.readouterr().err
    for label in ("cat", "dog"):
        images(tmp_path / "classes" / "train" / label, 2)
        images(tmp_path / "classes" / "test" / label, 2)
    assert main([*command, f"data.path={tmp_path / 'classes'}"]) == 2
    assert "where these are classes, set data.name=image_folder" in capsys.readouterr().err


def test_a_path_with_a_misspelt_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained" / "best").mkdir(parents=True)
    (tmp_path / "trained" / "best" / "student.safetensors").touch()
    for path in ("traind/best/student.safetensors", str(tmp_path / "traind" / "best" / "student.safetensors")):
        with pytest.raises(UsageError, match=f"did you mean {path.replace('traind', 'trained')}[?]"):
            contrastill.load_student(path)
    with pytest.raises(UsageError, match="name a run folder"):
        contrastill.load_student("other/thing/student.safetensors")


def test_what_two_datasets_of_a_class_have_in_common_is_one_line(tmp_path, caplog):
    values = torch.randint(0, 65535, (24, 3, 16, 16), dtype=torch.int32).to(torch.uint16)
    labels = torch.arange(24) % 4
    trained((TensorDataset(values[:16], labels[:16]), TensorDataset(values[16:], labels[16:])), tmp_path / "run")
    assert caplog.text.count("returns rgb of 16 bits") == 1


class Maps(Dataset):
    """Images with label maps of three classes."""

    def __len__(self):
        return 8

    def __getitem__(self, row):
        draw = torch.Generator().manual_seed(row)
        return {
            "rgb": torch.rand(3, 16, 16, generator=draw),
            "semantics": torch.randint(1, 4, (16, 16), generator=draw),
        }


def test_a_segmenter_with_a_background_beside_the_classes(tmp_path):
    teacher = torch.nn.Conv2d(3, 4, 3, padding=1)
    options = {"objectives": ["pixel_cross_entropy", "dense_kd"], "out": tmp_path / "run"} | SHORT
    with pytest.raises(UsageError, match=r"4 channels and the student 3: .*is the background, class_map=\[1, 2, 3\]"):
        contrastill.distill(teacher, "unet/resnet8", (Maps(), Maps()), **options)
    mapped = {"model": teacher, "class_map": [1, 2, 3]}
    assert contrastill.distill(mapped, "unet/resnet8", (Maps(), Maps()), **options).metrics["loss"] > 0
    with pytest.raises(UsageError, match="of label maps take a network that answers for each position, such as unet/"):
        contrastill.distill(None, "resnet8", (Maps(), Maps()), **{**options, "objectives": "cross_entropy"})
