"""Files as people bring them: what other tools mean by them is understood, or refused with the way out."""

import unicodedata

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import contrastill
from contrastill.cli.main import main
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.recognition import recognised
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.array_files import read_array
from contrastill.datasets.io.folders import folders_in, walk
from contrastill.datasets.packed import Packed


@pytest.fixture
def packed(tmp_path):
    """Makes a packed file of colours, depth and thermal values; ``change`` edits it."""

    def make(change, target=None):
        draw = np.random.default_rng(0)
        with h5py.File(tmp_path / "data.h5", "w") as file:
            for split in ("train", "test"):
                file[f"{split}/rgb"] = draw.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
                file[f"{split}/depth"] = draw.integers(500, 4000, (8, 8, 8), dtype=np.uint16)
                file[f"{split}/thermal"] = draw.normal(300, 5, (8, 8, 8)).astype(np.float32)
                file[f"{split}/target"] = np.arange(8) % 4 if target is None else target[split]
            change(file)
        options = {"path": str(tmp_path / "data.h5"), "fields": {name: name for name in ("rgb", "depth", "thermal")}}
        return Packed(Packed.Options(**options))

    return make


@pytest.mark.parametrize(
    ("field", "attribute", "value", "message"),
    [
        ("depth", "scale_factor", 0.1, "has the attribute scale_factor = 0.1, which is not applied here"),
        ("thermal", "add_offset", -273.15, "has the attribute add_offset = -273.15, which is not applied here"),
        ("thermal", "_FillValue", np.float32(-9999), "has the attribute _FillValue = -9999, which would be read"),
        ("depth", "missing_value", np.uint16(7), "has the attribute missing_value = 7, which would be read as a value"),
    ],
)
def test_values_that_are_coded_by_attributes_are_refused(packed, field, attribute, value, message):
    data = packed(lambda file: file[f"train/{field}"].attrs.create(attribute, value))
    with pytest.raises(UsageError, match=f"data.h5:train/{field} {message}"):
        data.open("train")
    data.open("test")


@pytest.mark.parametrize(
    ("field", "attribute", "value"),
    [("depth", "scale_factor", 1.0), ("thermal", "_FillValue", np.nan), ("depth", "_FillValue", 0)],
)
def test_attributes_that_change_nothing_are_none_of_our_business(packed, field, attribute, value):
    packed(lambda file: file[f"train/{field}"].attrs.create(attribute, value)).open("train")


def test_classes_without_samples_are_named(packed, caplog):
    packed(lambda file: None, {split: np.arange(8) % 4 + 1 for split in ("train", "test")}).open("train")
    assert "the classes of the training samples are 1 … 4, and the network has an output for class 0 too" in caplog.text
    caplog.clear()
    packed(lambda file: None).open("train")
    assert "training sample" not in caplog.text
    packed(lambda file: None, {split: np.arange(8) % 2 * 3 for split in ("train", "test")}).open("train")
    assert "no training sample is of class 1, 2: their outputs are not trained" in caplog.text
    packed(lambda file: None, {split: np.arange(8) % 2 * 2 for split in ("train", "test")}).open("train")
    assert "no training sample is of class 1: its output is not trained; number classes" in caplog.text


def test_a_class_of_the_test_split_alone_is_refused(packed):
    names = {"train": np.array(["a", "b"] * 4, dtype=object), "test": np.array(["a", "z"] * 4, dtype=object)}
    with pytest.raises(UsageError, match="the split test has the class z, which the split train lacks"):
        packed(lambda file: None, names).open("train")


def test_folders_that_systems_leave_behind_are_no_classes(tmp_path):
    for name in ("cat", "dog", "__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    (tmp_path / "cat" / "@eaDir").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "@eaDir" / "thumb.jpg")
    assert folders_in(tmp_path) == ["cat", "dog"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in walk(tmp_path)) == ["cat/1.png", "dog/1.png"]


def test_a_tiff_of_doubles_is_sound_and_says_what_to_save(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes what Pillow does not read")
    tifffile.imwrite(tmp_path / "d.tif", np.ones((4, 4)))
    with pytest.raises(ContrastillError, match="TIFF with 1 channel of 64-bit floats is not read: save float32"):
        read_array(tmp_path / "d.tif", "depth")


def test_negative_labels_of_an_array_are_unlabelled(tmp_path):
    np.save(tmp_path / "l.npy", np.array([[1, -1], [-100, 2]]))
    assert read_array(tmp_path / "l.npy", "semantics").tolist() == [[1, 0], [0, 2]]
    np.save(tmp_path / "l.npy", np.array([[1, -2]]))
    with pytest.raises(ContrastillError, match="labels are whole numbers"):
        read_array(tmp_path / "l.npy", "semantics")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (("train", "test"), "data is a pair, and train in it a path: a path stands alone"),
        (np.zeros((4, 8, 8, 3)), "data is a ndarray of shape .4, 8, 8, 3.: make each split a dataset"),
        ({"rgb": np.zeros((4, 8, 8, 3)), "target": np.zeros(4)}, "data is a dict of arrays: make each split a dataset"),
        ((np.zeros((4, 8, 8, 3)), np.zeros(4)), "data is a pair, and one of it a ndarray of shape .4, 8, 8, 3.: make"),
    ],
)
def test_a_pair_is_of_datasets(tmp_path, data, message):
    with pytest.raises(UsageError, match=message):
        contrastill.distill(None, "resnet8", data, out=str(tmp_path / "out"), epochs=1)


def test_a_table_of_pandas_is_no_dataset(tmp_path):
    pandas = pytest.importorskip("pandas")
    for table in (pandas.DataFrame({"image": [0, 1], "label": [0, 1]}), pandas.Series([0, 1])):
        with pytest.raises(
            UsageError, match=f"data is a {type(table).__name__} of shape .*: make each split a dataset"
        ):
            contrastill.distill(None, "resnet8", table, out=str(tmp_path / "out"), epochs=1)


def test_a_relative_path_says_where_it_was_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "teachers/cifar100", "data.path=none.h5", "student.model=resnet8"]) == 2
    assert f"none.h5 does not exist (in {tmp_path}): name" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["/absent/folder", "./absent", "absent"])
def test_an_absent_student_is_no_repository(name):
    with pytest.raises(UsageError, match=f"{name} is no folder.*, and no repository of the Hub, which is USER/NAME"):
        contrastill.Student.from_pretrained(name)


def test_a_student_that_the_hub_does_not_give_is_named():
    with pytest.raises(ContrastillError, match="absent/student is no folder .*, and .* Hub did not give it"):
        contrastill.Student.from_pretrained("absent/student", local_files_only=True)


def test_nothing_is_no_file_of_weights():
    with pytest.raises(UsageError, match="run is None: pass text or a path"):
        contrastill.load_student(None)


def _accents(root, count=12):
    """rgb named in NFC, depth in NFD, as two systems write them."""
    for modality, form, values in (("rgb", "NFC", np.ones((4, 4, 3))), ("depth", "NFD", np.ones((4, 4)))):
        (root / modality).mkdir(parents=True)
        for k in range(count):
            name = unicodedata.normalize(form, f"é{k}.png")
            Image.fromarray((values * k).astype(np.uint8)).save(root / modality / name)


def test_partners_whose_accents_are_coded_otherwise(tmp_path):
    _accents(tmp_path)
    assert recognised(str(tmp_path)) == ["paired_folder"]
    dataset = DATASETS["paired_folder"]
    count = 0
    for split in ("train", "test"):
        opened = dataset(dataset.Options(path=str(tmp_path), workers=0, test_fraction=0.4)).open(split)
        [batch] = opened.loader(batch_size=16, device="cpu", train=False).epoch(0)
        assert torch.equal(batch["rgb"][:, 0].float(), batch["depth"][:, 0])
        count += len(batch["rgb"])
    assert count == 12
    twin = tmp_path / "depth" / "é0.png"
    Image.new("L", (4, 4)).save(twin)
    with pytest.raises(UsageError, match="whose accents are coded in different ways, and which would both"):
        dataset(dataset.Options(path=str(tmp_path), workers=0)).open("train")
