"""``contrastill data pack`` and ``data info``, as a user runs them."""

import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from contrastill.cli.main import main
from contrastill.core.registry import DATASETS


@pytest.fixture
def folder(tmp_path):
    """train/<class>/*.png with two classes, and val beside it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for name in ("cat", "dog"):
            where = tmp_path / "pets" / split / name
            where.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(where / f"{number}.png")
    return tmp_path / "pets"


def _info(path, capsys):
    capsys.readouterr()
    assert main(["data", "info", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_folder_to_packed_and_back(folder, tmp_path, capsys):
    out = tmp_path / "new" / "pets.h5"
    assert main(["data", "pack", str(folder), str(out)]) == 0
    assert [entry.name for entry in out.parent.iterdir()] == ["pets.h5"]
    dataset = DATASETS["packed"]
    split = dataset(dataset.Options(path=str(out), crop_padding=0)).open("train")
    assert split.classes == ["cat", "dog"] and split.targets.tolist() == [0] * 5 + [1] * 5
    first = np.asarray(Image.open(folder / "train" / "cat" / "0.png"))
    assert np.array_equal(split.images["rgb"].interior[0], first)
    output = _info(out, capsys)
    assert output["classes"] == ["cat", "dog"] and output["bytes"] == out.stat().st_size
    assert set(output["splits"]) == {"train", "test"} and output["splits"]["test"]["samples"] == 4
    target, rgb = output["splits"]["train"]["fields"]["target"], output["splits"]["train"]["fields"]["rgb"]
    assert target["per_class"] == {"min": 5, "max": 5} and target["classes"] == 2 and target["shape"] == [10]
    assert rgb["shape"] == [10, 12, 16, 3] and rgb["dtype"] == "uint8" and 0 <= rgb["min"] < rgb["max"] <= 255


def test_size_and_other_modes(folder, tmp_path, capsys):
    Image.new("L", (30, 9), 7).save(folder / "train" / "cat" / "grey.png")
    out = tmp_path / "pets.h5"
    assert main(["data", "pack", str(folder), str(out)]) == 2
    assert "grey.png is 30×9 pixels, the first image 16×12: give --size" in capsys.readouterr().err and not out.exists()
    assert main(["data", "pack", str(folder), str(out), "--size", "8", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    with h5py.File(out) as file:
        assert file["train/rgb"].shape == (11, 8, 8, 3) and (file["train/rgb"][5] == 7).all()


def test_a_registered_set_packs_as_it_is(folder, tmp_path, capsys):
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    assert (
        main(["data", "pack", str(folder), str(first)]) == main(["data", "pack", f"packed:{first}", str(second)]) == 0
    )
    with h5py.File(first) as first_file, h5py.File(second) as other:
        for split in ("train", "test"):
            for field in ("rgb", "target"):
                assert (
                    np.array_equal(first_file[split][field], other[split][field])
                    and first_file[split][field].dtype == other[split][field].dtype
                )
    assert main(["data", "pack", f"packed:{first}", str(tmp_path / "third.h5"), "--size", "8"]) == 2
    assert main(["data", "pack", f"cifar100:{tmp_path}", str(tmp_path / "third.h5")]) == 2
    assert "--download" in capsys.readouterr().err


def test_nothing_is_overwritten_without_force(folder, tmp_path, capsys):
    out = tmp_path / "pets.h5"
    out.write_bytes(b"precious")
    assert main(["data", "pack", str(folder), str(out)]) == 2
    assert "give --force to replace it" in capsys.readouterr().err and out.read_bytes() == b"precious"
    assert main(["data", "pack", str(folder), str(out), "--force"]) == 0
    assert _info(out, capsys)["splits"]["train"]["samples"] == 10


def test_a_failed_pack_leaves_nothing_and_keeps_the_old(folder, tmp_path, capsys):
    out = tmp_path / "out" / "pets.h5"
    out.parent.mkdir()
    out.write_bytes(b"precious")
    (folder / "val" / "dog" / "1.png").write_bytes(b"no image")
    assert main(["data", "pack", str(folder), str(out), "--force"]) == 1
    assert "1.png cannot be read as an image" in capsys.readouterr().err
    assert [entry.name for entry in out.parent.iterdir()] == ["pets.h5"] and out.read_bytes() == b"precious"


def test_a_killed_pack_leaves_no_file_of_that_name(folder, tmp_path, forked):
    """SIGKILL in the middle of the writing: the name stays free, and the next pack of it works."""
    out = tmp_path / "pets.h5"
    killed = (
        "import os, signal, sys; from contrastill.datasets.io import pack\n"
        "pack.write_packed(pack.source_of(sys.argv[1]), sys.argv[2], "
        "advance=lambda _: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert forked(folder, out, script=killed).wait() == -signal.SIGKILL
    assert not out.exists()
    assert main(["data", "pack", str(folder), str(out), "--quiet"]) == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pets", "pets.h5"]


@pytest.fixture
def pairs(tmp_path):
    """rgb/ and depth/ of 16 bits in train and test, without labels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for modality in ("rgb", "depth"):
            (tmp_path / "pairs" / split / modality).mkdir(parents=True)
        for number in range(count):
            where = tmp_path / "pairs" / split
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(where / "rgb" / f"{number}.png")
            Image.fromarray(rng.integers(500, 5000, (12, 16)).astype(np.uint16)).save(where / "depth" / f"{number}.png")
    return tmp_path / "pairs"


def test_pairs_pack_with_their_camera_and_come_back_the_same(pairs, tmp_path, capsys):
    out, fields = tmp_path / "pairs.h5", {"rgb": "rgb", "depth": "depth"}
    options_given = ["size=[6,8]", "intrinsics=[20,20,8,6]", "depth_unit=mm", "workers=0"]
    assert main(["data", "pack", f"paired_folder:{pairs}", str(out), *options_given, "--quiet"]) == 0
    folder, packed = DATASETS["paired_folder"], DATASETS["packed"]
    options = folder.Options(path=str(pairs), size=(6, 8), intrinsics=(20, 20, 8, 6), depth_unit="mm", workers=0)
    for name in ("train", "test"):
        read = packed(packed.Options(path=str(out), fields=fields, crop_padding=0)).open(name)
        [first_file], [other] = (
            list(split.loader(batch_size=9, device="cpu", train=False).epoch(0))
            for split in (folder(options).open(name), read)
        )
        assert first_file.keys() == other.keys() == {"rgb", "depth", "camera", "index"}
        assert all(
            first_file[field].dtype == other[field].dtype
            and np.allclose(first_file[field], other[field], rtol=0, atol=1e-4)
            for field in first_file
        )
        assert read.camera.unit == "mm" and read.camera.intrinsics == (10.0, 10.0, 3.75, 2.75) and read.targets is None
    output = _info(out, capsys)
    assert (
        output["depth_unit"] == "mm"
        and output["intrinsics"] == [10.0, 10.0, 3.75, 2.75]
        and output["classes"] is None
        and output["semantic_classes"] is None
    )
    again = tmp_path / "again.h5"
    assert (
        main(
            [
                "data",
                "pack",
                f"packed:{out}",
                str(again),
                "fields={rgb: rgb, depth: depth}",
                "limit=3",
                "--split",
                "train",
            ]
        )
        == 0
    )
    assert "(train 3, " in capsys.readouterr().err
    output = _info(again, capsys)
    assert (
        output["depth_unit"] == "mm"
        and output["intrinsics"] == [10.0, 10.0, 3.75, 2.75]
        and list(output["splits"]) == ["train"]
    )


def test_a_set_without_files_packs_from_its_options(tmp_path, capsys):
    out = tmp_path / "rooms.h5"
    options = ["modalities=[rgb,depth,semantics]", "size=16", "train_samples=6", "test_samples=3"]
    assert main(["data", "pack", "rooms:", str(out), *options, "--quiet"]) == 0
    output = _info(out, capsys)
    assert output["splits"]["train"]["fields"]["depth"]["shape"] == [6, 16, 16] and output["splits"]["test"]["fields"][
        "target"
    ]["shape"] == [3]
    assert output["depth_unit"] == "m" and len(output["intrinsics"]) == 4 and "floor" in output["semantic_classes"]


@pytest.mark.parametrize("source", ["rooms", "rooms:"])
def test_a_set_without_files_packs_by_its_name(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    options = ["train_samples=3", "data.test_samples=2", "size=8"]
    assert main(["data", "pack", source, "rooms.h5", *options]) == 0
    with h5py.File("rooms.h5") as file:
        assert file["train/rgb"].shape == (3, 8, 8, 3) and file["test/rgb"].shape == (2, 8, 8, 3)


def test_a_split_alone(folder, tmp_path, capsys):
    out = tmp_path / "pets.h5"
    assert main(["data", "pack", str(folder), str(out), "--split", "test", "--quiet"]) == 0
    assert list(_info(out, capsys)["splits"]) == ["test"]
    assert main(["data", "pack", str(folder), str(out), "--split", "val", "--force"]) == 2
    assert "--split 'val' does not exist: there are test, train" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source,options,expected",
    [
        ("packed:pets", ["limt=3"], "limt is not a key of the config: did you mean limit"),
        ("packed:pets", ["limit=0"], "limit=0 is not allowed"),
        ("packed:pets", ["limit"], "'limit' is no override: write key=value"),
        ("stl10:", [], "stl10: stl10 is read from a file or folder; write stl10:PATH"),
        ("stl10", [], "stl10: stl10 is read from a file or folder; write stl10:PATH"),
        ("rooms:x", [], "rooms:x: rooms is not read from a file or folder; write rooms"),
        ("rooms", ["data.path=x"], "rooms data.path=x: rooms is not read from a file or folder; write rooms"),
        ("room", [], "room is neither a folder nor NAME:PATH: did you mean rooms?"),
        ("nyu_depth_v2:nowhere", ["--size", "8"], "give size=8 or size=[8,8] after OUT instead"),
        ("pets", ["limit=3"], "limit=3 is an option of a data set: give it with NAME:PATH"),
    ],
)
def test_wrong_options(folder, tmp_path, capsys, monkeypatch, source, options, expected):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "pack", source, "x.h5", *options]) == 2
    output = capsys.readouterr().err
    assert expected in output and len(output.strip().splitlines()) == 1 and not os.path.exists("x.h5")


@pytest.mark.parametrize(
    "source,out,expected",
    [
        ("nowhere", "x.h5", "nowhere is neither a folder nor NAME:PATH: NAME is one of cifar100"),
        ("cifar10:data", "x.h5", "dataset 'cifar10' does not exist: did you mean cifar100"),
        ("pets/val", "x.h5", "has no folder train"),
        ("pets", "x.txt", "should be called .h5"),
    ],
)
def test_wrong_use(folder, tmp_path, capsys, monkeypatch, source, out, expected):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "pack", source, out]) == 2
    output = capsys.readouterr().err
    assert expected in output and len(output.strip().splitlines()) == 1 and not os.path.exists(out)


def test_test_images_outside_trains_classes_are_refused(folder, tmp_path, capsys):
    (folder / "val" / "dog").rename(folder / "val" / "images")
    assert main(["data", "pack", str(folder), str(tmp_path / "x.h5")]) == 2
    assert "is not a class of train" in capsys.readouterr().err


def test_info_of_missing_and_truncated_files(folder, tmp_path, capsys):
    out, half = tmp_path / "pets.h5", tmp_path / "half.h5"
    assert main(["data", "pack", str(folder), str(out), "--quiet"]) == 0
    half.write_bytes(out.read_bytes()[:-100])
    assert main(["data", "info", str(half)]) == 1
    output = capsys.readouterr().err
    assert "half.h5 cannot be read: it is truncated" in output and len(output.strip().splitlines()) == 1
    assert main(["data", "info", str(tmp_path / "nowhere.h5")]) == 2
    assert main(["data", "info"]) == 2


def test_info_shows_a_table_of_any_fields(tmp_path, capsys):
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        depth = np.linspace(0, 3, 40, dtype=np.float32).reshape(10, 2, 2)
        depth[0] = np.nan
        file["train/depth"], file["train/label"] = depth, np.repeat([0, 1], [3, 7])
        file["train/scene"], file["train/short"], file["note"] = ["room"] * 10, np.zeros(3), 1.5
    assert main(["data", "info", str(path), "--target", "label"]) == 0
    shown = capsys.readouterr().out
    assert "10 × 2 × 2" in shown and "3 to 7 in 2 classes" in shown and "differ in length" in shown and "text" in shown
    output = _info(path, capsys)["splits"]["train"]
    assert (
        output["samples"] is None and output["fields"]["depth"]["max"] == 3.0 and output["fields"]["depth"]["min"] > 0
    )


def test_help_shows_examples_and_loads_no_torch():
    code = (
        "import sys; from contrastill.cli.main import main; main(['data', 'pack', '--help']); print('torch' "
        "in sys.modules, 'h5py' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "contrastill data pack cifar100:data cifar100.h5" in shown and shown.strip().endswith("False False")


@pytest.mark.parametrize(
    ("attribute", "field", "line"),
    [
        ("classes", "label", "2 classes of the label maps: bed, sofa; 0 is unlabelled"),
        ("semantic_classes", "label", "2 classes of the label maps: bed, sofa; 0 is unlabelled"),
        ("classes", "target", "3 classes: unlabelled, bed, sofa"),
    ],
)
def test_the_value_of_no_label_is_not_counted_as_a_class(tmp_path, capsys, attribute, field, line):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("train")
        group["rgb"] = np.zeros((6, 4, 4, 3), np.uint8)
        group[field] = np.arange(6) % 3 if field == "target" else np.zeros((6, 4, 4), np.uint8)
        file.attrs[attribute] = ["unlabelled", "bed", "sofa"]
    assert main(["data", "info", str(tmp_path / "a.h5")]) == 0
    assert line in capsys.readouterr().out.splitlines()
