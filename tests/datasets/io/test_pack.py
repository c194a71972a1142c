"""What pack_data refuses before it writes anything."""

import unicodedata

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import contrastill
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.camera import Camera
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.pack import source_of, write_packed
from contrastill.datasets.io.pack_checks import check_one_file
from contrastill.datasets.io.views import PaddedImages

FIELDS = (("rgb", 3, torch.uint8), ("depth", 1, torch.float32))


def _picture(path, value=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)


def _listed(file, split):
    """Classes and (class, the first value of the picture) of each sample in a packed file."""
    with h5py.File(file) as packed:
        targets, values = packed[split]["target"][()].tolist(), packed[split]["rgb"][:, 0, 0, 0].tolist()
        return packed.attrs["classes"].tolist(), [*zip(targets, values, strict=True)]


def test_a_folder_is_packed_as_image_folder_reads_it(tmp_path, caplog):
    root, accented = tmp_path / "data", unicodedata.normalize("NFD", "é")
    for split in ("train", "test"):
        for value, name in enumerate(
            (f"{accented}/0.png", "cat/0.png", ".ipynb_checkpoints/x.png", ".git/x.png", "@eaDir/x.png")
        ):
            _picture(root / split / name, 10 + value)
    for value, name in enumerate((".hidden.png", "@eaDir/thumbnail.png", "__MACOSX/x.png")):
        _picture(root / "train" / "cat" / name, 90 + value)
    (root / "train" / "cat" / "notes.txt").write_text("")
    _picture(root / "train" / "loose.png", 70)
    _picture(root / "more" / "0.png", 50)
    _picture(tmp_path / "elsewhere" / "0.png", 60)
    (root / "train" / "cat" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "test" / accented).rename(root / "test" / "é")
    contrastill.pack_data(root, tmp_path / "out.h5")
    lines = {record.getMessage() for record in caplog.records}
    assert _listed(tmp_path / "out.h5", "train") == (["cat", "é"], [(0, 11), (0, 60), (1, 10)])
    assert _listed(tmp_path / "out.h5", "test") == (["cat", "é"], [(0, 11), (1, 10)])
    assert any("images in no folder of a class are passed over, 1 such as" in line for line in lines)
    assert any("what is beside train and test is not read: more" in line for line in lines)
    assert any("passed over: 1 .txt" in line for line in lines)
    write_packed(source_of(f"image_folder:{root}", options=["size=8", "workers=0"]), tmp_path / "named.h5")
    for split in ("train", "test"):
        assert _listed(tmp_path / "named.h5", split) == _listed(tmp_path / "out.h5", split)


def test_what_image_folder_refuses_is_not_packed(tmp_path):
    for name in ("train/a/0.png", "test/a/0.png"):
        _picture(tmp_path / "data" / name)
    (tmp_path / "data" / "train" / "b").mkdir()
    with pytest.raises(UsageError, match="class .*train/b has no images"):
        source_of(str(tmp_path / "data"))
    (tmp_path / "data" / "train" / "b").rmdir()
    (tmp_path / "data" / "train" / "b").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="train/b is a link to .*nowhere, which is not there"):
        source_of(str(tmp_path / "data"))


def _frames(root, split, depth):
    for k in range(2):
        _picture(root / split / "rgb" / f"{k}.png", k)
        (root / split / "depth").mkdir(exist_ok=True)
        if depth.dtype.kind == "f":
            np.save(root / split / "depth" / f"{k}.npy", depth)
        else:
            Image.fromarray(depth).save(root / split / "depth" / f"{k}.png")


@pytest.mark.parametrize(
    "train,test,message",
    [
        (np.uint16, np.uint8, "depth of the training split is in mm, that of the test split in relative"),
        (np.float32, np.uint16, "depth of the training split is in m, that of the test split in mm"),
    ],
)
def test_splits_of_two_units_are_not_packed_as_one(tmp_path, train, test, message):
    _frames(tmp_path / "data", "train", np.full((8, 8), 2, train))
    _frames(tmp_path / "data", "test", np.full((8, 8), 200, test))
    with pytest.raises(UsageError, match=message):
        source_of(f"paired_folder:{tmp_path / 'data'}", options=["workers=0"])


def test_depth_in_steps_of_other_lengths_is_packed_with_its_unit(tmp_path):
    for split in ("train", "test"):
        _frames(tmp_path / "data", split, np.full((8, 8), 5000, np.uint16))
    options = ["depth_unit=0.0002", "workers=0"]
    write_packed(source_of(f"paired_folder:{tmp_path / 'data'}", options=options), tmp_path / "out.h5")
    packed = DATASETS["packed"]
    fields = {"rgb": "rgb", "depth": "depth"}
    split = packed(packed.Options(path=str(tmp_path / "out.h5"), fields=fields, crop_padding=0)).open("test")
    assert split.camera.unit == 0.0002 and contrastill.describe_data(tmp_path / "out.h5").depth_unit == 0.0002


def _split(**attributes):
    """Four samples in memory."""
    images = {name: PaddedImages.zeros(4, 8, 8, channels, dtype=dtype, padding=0) for name, channels, dtype in FIELDS}
    return TensorSplit(images, **attributes)


def test_splits_of_two_cameras_are_not_packed_as_one():
    cameras = [Camera("m", (20.0, 20.0, 4.0, 4.0)), Camera("m", (30.0, 30.0, 4.0, 4.0)), Camera("m")]
    splits = [_split(camera=camera) for camera in cameras]
    check_one_file("mine", {"train": splits[0], "test": splits[0]})
    for other in splits[1:]:
        with pytest.raises(UsageError, match="the splits of mine have cameras of different intrinsics"):
            check_one_file("mine", {"train": splits[0], "test": other})


def test_a_number_of_classes_that_a_packed_file_does_not_say_has_a_line(caplog):
    targets = torch.tensor([0, 2, 1, 2])
    for attributes in ({"num_classes": 3}, {"classes": [*"abcde"]}):
        check_one_file("shards", {"train": _split(targets=targets, **attributes)})
    assert not caplog.text
    check_one_file("shards", {"train": _split(targets=targets, num_classes=10)})
    assert "shards has 10 classes without names, and the samples to be packed are of the first 3" in caplog.text


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_without_pixels_is_refused(tmp_path, size):
    for name in ("train/a/0.png", "test/a/0.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / name)
    with pytest.raises(UsageError, match=f"size is {size}: pass a whole number from 1 on"):
        contrastill.pack_data(tmp_path / "data", tmp_path / "out.h5", size=size)
    assert not (tmp_path / "out.h5").exists()


def test_a_file_is_packed_by_its_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "A.h5").write_bytes(b"x")
    (tmp_path / "d" / "A.txt").write_bytes(b"x")
    with pytest.raises(ContrastillError, match="d/A.h5 cannot be read: .* no HDF5 file"):
        contrastill.pack_data("d/A.h5", "out.h5")
    with pytest.raises(UsageError, match="d/A.txt is neither a folder nor NAME:PATH: did you mean d/A.h5"):
        contrastill.pack_data("d/A.txt", "out.h5")
