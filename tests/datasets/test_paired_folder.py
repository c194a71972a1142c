"""Folders of aligned modalities: layouts, kinds of files, and what is said of files that do not fit."""

import logging
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from contrastill.core.config.loading import dataset_options
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.recognition import recognised
from contrastill.core.registry import DATASETS
from contrastill.datasets.io import file_loader
from contrastill.datasets.io.array_files import read_array

H, W = 18, 24


def _write(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values, allow_pickle=True)
    else:
        Image.fromarray(values).save(path, **options)


def _frame(k, height=H, width=W):
    """rgb, depth in mm and labels, each of which says where a pixel is."""
    y, x = np.mgrid[:height, :width]
    return {
        "rgb": np.stack([10 * y, 10 * x, 0 * x + k], -1).astype(np.uint8),
        "depth": (1000 + 50 * y + x + 7 * k).astype(np.uint16),
        "semantics": (x % 4).astype(np.uint8),
    }


def _pair(root, name="0", k=0, height=H, width=W, kinds=("rgb", "depth", "semantics")):
    for modality in kinds:
        _write(root / modality / f"{name}.png", _frame(k, height, width)[modality])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """12 training and 5 test samples, some in folders below."""
    root = tmp_path_factory.mktemp("sensors")
    for split, count in (("train", 12), ("val", 5)):
        for k in range(count):
            _pair(root / split, f"walk{k % 2}/{k:02}", k)
    (root / "classes.txt").write_text("wall\nfloor\ntable\n")
    return root


def _data(path, **options):
    dataset = DATASETS["paired_folder"]
    return dataset(dataset.Options(**{"path": str(path), "workers": 0, **options}))


def _loader(path, split="train", *, train=True, batch_size=5, seed=3, **options):
    return _data(path, **options).open(split).loader(batch_size=batch_size, device="cpu", seed=seed, train=train)


def _same(batches, others):
    batches, others = list(batches), list(others)
    return len(batches) == len(others) and all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in zip(batches, others, strict=True)
    )


def test_a_split_holds_what_the_files_hold(root):
    opened = _data(root, intrinsics=(20, 20, 11.5, 8.5)).open("train")
    assert (
        opened.modalities == {"rgb": (3, H, W), "depth": (1, H, W), "semantics": (1, H, W)} and opened.num_samples == 12
    )
    assert (
        opened.semantic_classes == ["unlabelled", "wall", "floor", "table"]
        and opened.targets is opened.num_classes is opened.classes is None
    )
    assert opened.camera.unit == "mm" and opened.camera.intrinsics == (20, 20, 11.5, 8.5)
    batch = next(opened.loader(batch_size=12, device="cpu", train=False).epoch(0))
    # Sorted by path: those of walk0 first.
    for row, k in enumerate([*range(0, 12, 2), *range(1, 12, 2)]):
        for name, values in _frame(k).items():
            assert torch.equal(
                batch[name][row].float(), torch.from_numpy(values.astype(np.float32).reshape(H, W, -1)).permute(2, 0, 1)
            )
    assert {name: batch[name].dtype for name in batch} == {
        "rgb": torch.uint8, "depth": torch.float32, "semantics": torch.uint8, "camera": torch.float32,
        "index": torch.int64,
    }  # fmt: skip
    assert torch.equal(batch["camera"], torch.tensor([[20, 20, 11.5, 8.5]]).expand(12, 4)) and torch.equal(
        batch["index"], torch.arange(12)
    )
    test = _data(root).open("test")
    assert test.num_samples == 5 and not test.augmented


@pytest.mark.parametrize(
    "options",
    [{}, {"crop": "padded", "color_jitter": 0.4, "size": [10, 20]}, {"transforms": [{"name": "Affine"}], "size": 12}],
)
def test_workers_and_resuming_change_no_byte(root, options):
    here = list(_loader(root, **options).epoch(2))
    workers = _loader(root, workers=2, **options)
    assert _same(workers.epoch(2), here) and _same(workers.epoch(2, start=1), here[1:])
    assert not _same(_loader(root, seed=4, **options).epoch(2), here) and not _same(workers.epoch(3), here)
    size = options.get("size", [H, W])
    assert (
        here[0]["rgb"].shape[2:]
        == here[0]["depth"].shape[2:]
        == tuple(size if isinstance(size, list) else [size, size])
    )


def test_transforms_that_would_move_one_modality_alone_are_refused(root):
    with pytest.raises(UsageError, match="would move rgb alone, and depth"):
        _loader(root, transforms=[{"name": "torchvision/TrivialAugmentWide"}])


def test_workers_can_be_spawned(root, monkeypatch):
    options = {"transforms": [{"name": "Affine"}]}
    here = list(_loader(root, **options).epoch(1))
    monkeypatch.setattr(
        file_loader,
        "DataLoader",
        lambda *args, **keywords: DataLoader(*args, multiprocessing_context="spawn", **keywords),
    )
    assert _same(_loader(root, workers=1, **options).epoch(1), here)


def test_modalities_of_other_sizes_are_brought_to_one_and_stay_on_each_other(tmp_path, caplog):
    for k in range(4):
        y, x = np.mgrid[:48, :64]
        _write(tmp_path / "rgb" / f"{k}.png", np.stack([5 * y, 3 * x, 0 * x + k], -1).astype(np.uint8))
        y, x = np.mgrid[:24, :32]
        _write(tmp_path / "thermal" / f"{k}.npy", np.stack([10 * y + 2.5, 6 * x + 1.5], -1).astype(np.float32))
    for options in ({"crop": "random_resized", "scale": (0.1, 1.0)}, {"crop": "padded"}, {"crop": "none"}):
        for batch in _loader(tmp_path, size=[12, 16], **options).epoch(1):
            there = batch["thermal"].isfinite().all(1)
            # Rows and columns that each pixel says it is from, in pixels of the larger frame.
            for channel, factor in ((0, 5), (1, 3)):
                places = [batch[name][:, channel].float()[there] / factor for name in ("rgb", "thermal")]
                assert (places[0] - places[1]).abs().mean() < 1.2 and (places[0] - places[1]).abs().max() < 4, options
    assert "differ in size (rgb 48×64, thermal 24×32)" in caplog.text
    with pytest.raises(ContrastillError, match="to one size, or, where both show the same picture"):
        _data(tmp_path).open("train")
    for k in range(4):
        np.save(tmp_path / "thermal" / f"{k}.npy", np.ones((24, 24), np.float32))
    with pytest.raises(ContrastillError, match="bring the files of a pair to one size$"):
        _data(tmp_path, size=12).open("train")


def test_layers_of_exr_by_their_names(tmp_path):
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    plane = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "frame.exr"
    exr.File(header, {"R": plane, "G": plane, "B": plane, "depth.V": plane + 20}).write(str(path))
    assert np.array_equal(read_array(path, "depth"), plane + 20)
    exr.File(header, {"Y": plane, "depth.V": plane + 20, "depth.W": plane + 30}).write(str(path))
    with pytest.raises(ContrastillError, match="which of them is depth is not clear: name it as data.channel=NAME"):
        read_array(path, "depth")
    for k in range(3):
        _write(tmp_path / "scene" / "rgb" / f"{k}.png", np.zeros((3, 4, 3), np.uint8))
        (tmp_path / "scene" / "depth").mkdir(exist_ok=True)
        (tmp_path / "scene" / "depth" / f"{k}.exr").write_bytes(path.read_bytes())
    loader = _data(tmp_path / "scene", channel="depth.W").open("train").loader(batch_size=1, device="cpu", train=False)
    assert torch.equal(next(loader.epoch(0))["depth"][0, 0], torch.from_numpy(plane + 30))
    with pytest.raises(ContrastillError, match="and not depth.X"):
        _data(tmp_path / "scene", channel="depth.X").open("train")


def test_any_two_folders_without_labels(tmp_path):
    for k in range(3):
        _write(tmp_path / "left" / f"{k}.jpg", _frame(k)["rgb"])
        _write(tmp_path / "heat" / f"{k}.npy", np.full((H, W), 20.5 + k, np.float32))
        _write(tmp_path / "normals" / f"{k}.npy", np.full((H, W, 3), 0.5, np.float64))
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "notes" / f"{k}.txt").write_text("nothing to read")
    options = {"folders": {"rgb": "left", "thermal": "heat"}, "test_fraction": 0.5}
    opened = [_data(tmp_path, **options).open(split) for split in ("train", "test")]
    assert (
        opened[0].modalities == {"rgb": (3, H, W), "thermal": (1, H, W)}
        and sum(opened_split.num_samples for opened_split in opened) == 3
    )
    assert opened[0].camera is opened[0].semantic_classes is None
    assert opened[0].loader(batch_size=1, device="cpu", train=False).epoch(0).__next__()["thermal"].max() > 20
    assert list(_data(tmp_path, test_fraction=0.5).open("train").modalities) == ["heat", "left", "normals"]


def test_holding_out_a_part(tmp_path):
    for k in range(40):
        _pair(tmp_path, f"{k:02}", k, 2, 3, kinds=("rgb", "depth"))
    parts = {
        split: _data(tmp_path, test_fraction=0.25).open(split).samples.files["depth"].tolist()
        for split in ("train", "test")
    }
    assert (
        sorted(parts["train"] + parts["test"]) == [f"depth/{k:02}.png".encode() for k in range(40)]
        and 4 <= len(parts["test"]) <= 16
    )
    assert set(parts["test"]) < set(_data(tmp_path, test_fraction=0.5).open("test").samples.files["depth"].tolist())
    assert _data(tmp_path, limit=7).open("train").num_samples == 7
    assert _data(tmp_path, test_fraction=1).open("test").num_samples == 40
    for split, share, message in (
        ("test", 1e-6, "no sample is held out for testing"),
        ("train", 0.999999, "no sample is left to train on"),
    ):
        with pytest.raises(UsageError, match=message):
            _data(tmp_path, test_fraction=share).open(split)


def test_the_unit_of_depth_is_that_of_the_files(tmp_path, caplog):
    for name, dtype, scale, unit in (
        ("mm", np.uint16, 1, "mm"),
        ("m", np.float32, 1e-3, "m"),
        ("relative", np.uint8, 0.1, "relative"),
    ):
        for k in range(3):
            _write(tmp_path / name / "rgb" / f"{k}.png", _frame(k)["rgb"])
            _write(
                tmp_path / name / "depth" / f"{k}{'.npy' if name == 'm' else '.png'}",
                (_frame(k)["depth"] * scale).astype(dtype),
            )
        with caplog.at_level(logging.WARNING):
            assert _data(tmp_path / name, test_fraction=0.01).open("train").camera.unit == unit
    assert not caplog.records
    for folder, wrong, right in (("mm", "m", "mm"), ("m", "mm", "m")):
        caplog.clear()
        opened = _data(tmp_path / folder, depth_unit=wrong, test_fraction=0.01).open("train")
        assert opened.camera.unit == wrong
        assert re.search(
            rf"{folder}: depth goes from \S+ to \S+ \(median .*\), .* set data.depth_unit={right}", caplog.text
        ), caplog.text


def test_kinds_of_files(tmp_path):
    y, x = np.mgrid[:H, :W]
    deep = (x * 2000).astype(np.uint16)
    for name in ("a.png", "b.tif"):
        _write(tmp_path / name, deep)
        read = read_array(tmp_path / name, "depth")
        assert read.dtype == np.uint16 and np.array_equal(read, deep)
    palette = Image.fromarray((x % 5).astype(np.uint8), "P")
    palette.putpalette([200, 100, 50] * 5)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_array(tmp_path / "p.png", "semantics"), x % 5) and read_array(
        tmp_path / "p.png", "other"
    ).shape == (H, W, 3)
    for dtype in (np.float64, np.float16, np.int32, bool):
        _write(tmp_path / "n.npy", (x % 2).astype(dtype)[:, :, None])
        assert read_array(tmp_path / "n.npy", "depth").shape == (H, W)
    _write(tmp_path / "labels.npy", x.astype(np.int64))
    assert read_array(tmp_path / "labels.npy", "semantics").dtype == np.uint8


def test_exr(tmp_path, monkeypatch):
    (tmp_path / "z.exr").write_bytes(b"v/1\x01")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "OpenEXR", None)
        with pytest.raises(
            ContrastillError,
            match=r"z.exr needs the library OpenEXR: pip install 'contrastill\[exr\]', or save it as .npy",
        ):
            read_array(tmp_path / "z.exr", "depth")
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    exr.File(header, {"Z": depth, "A": depth}).write(str(tmp_path / "z.exr"))
    assert np.array_equal(read_array(tmp_path / "z.exr", "depth"), depth)
    with pytest.raises(ContrastillError, match="z.exr has the channels A, Z, and which of them is thermal"):
        read_array(tmp_path / "z.exr", "thermal")
    exr.File(header, {"RGB": np.ones((3, 4, 3), np.float16)}).write(str(tmp_path / "c.exr"))
    assert read_array(tmp_path / "c.exr", "normals").shape == (3, 4, 3)
    (tmp_path / "c.exr").write_bytes((tmp_path / "c.exr").read_bytes()[:-9])
    with pytest.raises(ContrastillError, match="c.exr cannot be read as an image"):
        read_array(tmp_path / "c.exr", "normals")


class Stranger:
    """What an array of objects may hold."""


def _png16(path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(path), np.full((H, W, 3), 3000, np.uint16))


@pytest.mark.parametrize(
    "name,write,message",
    [
        (
            "depth/1.npy",
            lambda path: np.save(path, np.array([Stranger()] * 4), allow_pickle=True),
            "holds Python objects, which may run code",
        ),
        (
            "depth/1.npy",
            lambda path: path.write_bytes(b"no array at all"),
            "depth/1.npy holds Python objects|cannot be read as an array",
        ),
        (
            "depth/1.npy",
            lambda path: (np.save(path, np.ones((H, W))), path.write_bytes(path.read_bytes()[:500])),
            "1.npy cannot be read as an array",
        ),
        ("depth/1.npy", lambda path: path.write_bytes(b""), "1.npy cannot be read as an array"),
        (
            "depth/1.npy",
            lambda path: np.save(path, np.ones(5)),
            r"1.npy is float64 \(5,\): it should hold numbers \(height, width\)",
        ),
        (
            "depth/1.npy",
            lambda path: np.save(path, np.full((H, W), "x")),
            r"1.npy is <U1 \(18, 24\): it should hold numbers",
        ),
        ("depth/1.npy", lambda path: np.save(path, np.ones((H, W, 2))), "1.npy has 2 channels: depth has one"),
        ("depth/1.png", lambda path: _write(path, _frame(0)["rgb"]), "1.png has 3 channels: depth has one"),
        ("depth/1.png", _png16, "1.png has 3 channels: depth has one"),
        (
            "depth/1.png",
            lambda path: (_write(path, _frame(0)["depth"]), path.write_bytes(path.read_bytes()[:-60])),
            "1.png cannot be read as an image",
        ),
        ("rgb/1.png", lambda path: path.write_bytes(b"text"), "1.png cannot be read as an image"),
        ("rgb/1.npy", lambda path: np.save(path, np.ones((H, W, 3))), r"1.npy is float64 \(18, 24, 3\): rgb is uint8"),
        (
            "semantics/1.jpg",
            lambda path: _write(path, _frame(0)["semantics"]),
            "1.jpg is a JPEG, which blends the labels",
        ),
        (
            "semantics/1.npy",
            lambda path: np.save(path, np.full((H, W), 256)),
            "1.npy holds int64 from 256 to 256: labels are whole numbers",
        ),
        (
            "semantics/1.npy",
            lambda path: np.save(path, np.full((H, W), 4)),
            "1.npy holds the label 4, and 3 are named: add the missing names",
        ),
        (
            "depth/1.png",
            lambda path: _write(path, _frame(0, H, W - 1)["depth"]),
            r"depth/1.png is 18×23 \(height × width\), its partner \S*rgb/1.png 18×24",
        ),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_file_cannot_be(tmp_path, name, write, message, workers):
    for k in range(2):
        _pair(tmp_path / "train", str(k), k)
    (tmp_path / "classes.txt").write_text("wall\nfloor\ntable\n")
    opened = _data(tmp_path, workers=workers).open("train")
    # Found by a worker: the file goes bad after the split was opened.
    folder, file = name.split("/")
    (tmp_path / "train" / folder / "1.png").unlink()
    write(tmp_path / "train" / name)
    with pytest.raises(ContrastillError, match=message) as at_open:
        _data(tmp_path).open("train")
    opened.samples.files[folder] = np.array([f"{folder}/0.png".encode(), name.encode()])
    with pytest.raises(ContrastillError) as in_worker:
        list(opened.loader(batch_size=1, device="cpu", train=True).epoch(0))
    assert str(in_worker.value) == str(at_open.value) and "\n" not in str(at_open.value)


def _other_sizes(root):
    _pair(root, "0", 0)
    _pair(root, "1", 1, H + 2, W)


def test_samples_of_several_sizes_need_one(tmp_path):
    _other_sizes(tmp_path / "train")
    with pytest.raises(
        ContrastillError,
        match=r"rgb/1.png is 20×24 \(height × width\), other samples 18×24: set data.size=\[HEIGHT,WIDTH\]",
    ):
        _data(tmp_path).open("train")
    with pytest.raises(ContrastillError, match="data.intrinsics are of frames of one size"):
        _data(tmp_path, size=8, intrinsics=(1, 1, 1, 1)).open("train")
    batch = next(_loader(tmp_path, size=8).epoch(0))
    assert batch["depth"].shape == (2, 1, 8, 8)


def _make(root, names):
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        elif name.endswith((".png", ".npy")):
            _write(path, _frame(0)["rgb" if "rgb/" in name else "semantics" if "semantics/" in name else "depth"])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")


@pytest.mark.parametrize(
    "make,options,split,message",
    [
        (["rgb/0.png", "rgb/1.png", "depth/0.png"], {}, "train",
            "rgb/1.png has no partner of depth, {root}/depth/1.*: add it"),
        (["rgb/0.png", "depth/0.png", "depth/a/1.png", "depth/a/2.png"], {}, "train",
            "depth/a/1.png has no partner of rgb, {root}/rgb/a/1.* (2 files lack theirs)"),
        (["rgb/0.png", "rgb/1.png", "depth/0.png", "depth/1.png", "semantics/0.png"], {}, "train",
            "or move the former away, or leave semantics out, with data.folders={rgb: rgb, depth: depth}"),
        (["train/rgb/0.png", "train/depth/0.png", "test/rgb/0.png", "test/depth/1.png"], {}, "test",
            "{root}/test: no file of depth is called as one of rgb is (1.png, 0.png): give the files of a sample"),
        (["rgb/0.png"], {}, "train", "{root} has one folder of a modality (rgb): the layout is rgb/0001.png"),
        (["rgb/0.png", "depth/"], {}, "train", "has one folder of a modality (rgb), and no files (.png, .jpg, "
            ".jpeg, .bmp, .ppm, .pgm, .tif, .tiff, .webp, .npy, .exr) in depth"),
        (["rgb/0.png", "depth/0.dat"], {}, "train", "has one folder of a modality (rgb), and no files"),
        ([".hidden/0.png"], {}, "train", "{root} has no folders of modalities: the layout is"),
        (["rgb/0.png", "depth/0.png", "depth/1.dat"], {}, "train",
            "depth/1.dat is of a kind that is not read: convert it to one of .png"),
        (["rgb/0.png", "depth/0.png", "depth/0.npy"], {}, "train",
            "depth holds 0.npy and 0.png, which would both be the same sample's"),
        (["rgb/0.png", "depth/0.png", "camera/0.png"], {}, "train",
            "a modality cannot be called camera: give it another name with data.folders"),
        (["rgb/0.png", "depth/"], {"folders": {"rgb": "rgb", "depth": "depth"}}, "train", "depth has no files (.png"),
        (["rgb/0.png", "depth/0.png"], {"folders": {"rgb": "rgb", "depth": "dept"}}, "train",
            "dept does not exist: data.folders names it for depth; there are depth, rgb"),
        (["rgb/0.png", "depth/0.png"], {"folders": {"rgb": "rgb"}}, "train",
            "data.folders names one modality (rgb): two or more make a pair"),
        (["rgb/0.png", "heat/0.png"], {"intrinsics": (1, 1, 1, 1)}, "train", "has no modality depth: leave them out"),
        (["train/rgb/0.png", "train/depth/0.png"], {}, "test",
            "none called test or val: add one, or hold out a part of train"),
        (["val/rgb/0.png", "val/depth/0.png"], {}, "train", "{root} has no folder train: the layout is"),
        (["rgb/0.png", "depth/0.png"], {}, "val", "no split 'val': it has train, test"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_remedy(tmp_path, make, options, split, message):
    _make(tmp_path, make)
    with pytest.raises(UsageError, match=re.escape(message.replace("{root}", str(tmp_path)))) as caught:
        _data(tmp_path, test_fraction=1e-9, **options).open(split)
    assert caught.value.exit_code == 2


def test_missing_folder_and_wrong_options(tmp_path, root):
    with pytest.raises(UsageError, match="nowhere does not exist: set data.path"):
        _data(tmp_path / "nowhere").open("train")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder of modalities"):
        _data(tmp_path / "file").open("train")
    config = {"out": "x", "student": {"model": "resnet20"}, "objectives": {"cross_entropy": {}}}
    for options, message in (
        ({"scale": [0.5, 0.1]}, "least and a greatest share"),
        ({"size": 0}, "data.size"),
        ({"size": [3, 4, 5]}, "data.size"),
        ({"depth_unit": "cm"}, "data.depth_unit"),
        ({"intrinsics": [1, 2]}, "data.intrinsics"),
    ):
        with pytest.raises(UsageError, match=message):
            validate({**config, "data": {"name": "paired_folder", "path": str(root), **options}})


def test_recognises_its_own_and_no_other(tmp_path, root):
    mine, images = (DATASETS[name].recognises for name in ("paired_folder", "image_folder"))
    assert mine(str(root)) and mine(str(root / "train")) and not images(str(root)) and not images(str(root / "train"))
    for name in ("cat", "dog"):
        _write(tmp_path / "pets" / name / "1.png", _frame(0)["rgb"])
    assert not mine(str(tmp_path / "pets")) and images(str(tmp_path / "pets"))
    _make(tmp_path / "some", ["rgb/0.png", "rgb/1.png", "depth/1.npy"])
    assert mine(str(tmp_path / "some"))
    _make(tmp_path / "apart", ["heat/0.png", "depth/1.npy"])
    _make(tmp_path / "run", ["rgb/0.png", "depth/0.png", "config.yaml"])
    assert not any(mine(str(tmp_path / name)) for name in ("apart", "run", "none", "some/rgb"))


@pytest.mark.parametrize("folders", ["", "train/"])
def test_modalities_whose_files_have_unlike_names_are_no_classes(tmp_path, folders):
    _make(tmp_path, [f"{folders}rgb/0_rgb.png", f"{folders}depth/0_depth.png"])
    assert recognised(str(tmp_path)) == ["paired_folder"]
    with pytest.raises(UsageError, match=r"no file of depth is called as one of rgb is \(0_depth.png, 0_rgb"):
        _data(tmp_path).open("train")


@pytest.mark.parametrize(
    ("text", "names", "warning"),
    [
        ("wall\nfloor\ntable\n\n", ["unlabelled", "wall", "floor", "table"], ""),
        ("# of our rooms\nwall\nfloor\ntable", ["unlabelled", "wall", "floor", "table"], ""),
        (
            "Unlabeled\nwall\nfloor\ntable",
            ["Unlabeled", "wall", "floor", "table"],
            "begins with Unlabeled, which is taken for the name of the value 0",
        ),
        ("void\nwall\nfloor\ntable", ["void", "wall", "floor", "table"], "begins with void, which is taken"),
        (
            "background\nwall\nfloor\ntable",
            ["unlabelled", "background", "wall", "floor", "table"],
            "background is 1, and 0 is unlabelled; where your 0 is",
        ),
    ],
)
def test_names_of_label_maps_are_those_of_their_values(tmp_path, caplog, text, names, warning):
    for k in range(2):
        _pair(tmp_path / "train", str(k), k)
    (tmp_path / "classes.txt").write_text(text)
    assert _data(tmp_path).open("train").semantic_classes == names
    assert warning in caplog.text and (warning or "classes.txt" not in caplog.text)


def test_an_empty_line_among_names_is_refused(tmp_path):
    _pair(tmp_path / "train")
    (tmp_path / "classes.txt").write_text("wall\n\nfloor\ntable\n")
    with pytest.raises(
        ContrastillError, match=r"classes.txt: line 2 is empty, and which value has no name is not known"
    ):
        _data(tmp_path).open("train")


def test_directions_of_exr_by_their_axes(tmp_path):
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    axes = {name: np.full((3, 4), value, np.float32) for name, value in (("X", 0.6), ("Y", -0.8), ("Z", 0.1))}
    path = tmp_path / "frame.exr"
    for before in ("", "N.", "normals."):
        exr.File(header, {before + name.lower(): values for name, values in axes.items()}).write(str(path))
        assert read_array(path, "normals")[0, 0].tolist() == pytest.approx([0.6, -0.8, 0.1])
    exr.File(header, dict(axes)).write(str(path))
    assert read_array(path, "depth")[0, 0] == pytest.approx(0.1)
    layers = {f"{layer}.{name}": values for layer in ("View.N", "View.P") for name, values in axes.items()}
    exr.File(header, layers).write(str(path))
    with pytest.raises(ContrastillError, match="which of them is normals is not clear: name it as data.channel=NAME"):
        read_array(path, "normals")
    for k in range(3):
        _write(tmp_path / "scene" / "rgb" / f"{k}.png", np.zeros((3, 4, 3), np.uint8))
        (tmp_path / "scene" / "normals").mkdir(exist_ok=True)
        (tmp_path / "scene" / "normals" / f"{k}.exr").write_bytes(path.read_bytes())
    assert _data(tmp_path / "scene", channel="View.N").open("train").modalities["normals"] == (3, 3, 4)
    exr.File(header, {"X": axes["X"], "Z": axes["Z"]}).write(str(path))
    with pytest.raises(ContrastillError, match="which of them is normals is not clear"):
        read_array(path, "normals")


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_void_of_16_bits(tmp_path, suffix):
    for k in range(4):
        _write(tmp_path / "rgb" / f"{k}.png", np.zeros((3, 4, 3), np.uint8))
        _write(tmp_path / "semantics" / f"{k}.{suffix}", np.array([[65535, 0, 1, 2]] * 3, np.uint16))
    split = _data(tmp_path, void=65535).open("train")
    batch = next(iter(split.loader(batch_size=1, device="cpu", train=False).epoch(0)))
    assert batch["semantics"][0, 0, 0].tolist() == [0, 0, 1, 2]
    with pytest.raises(
        ContrastillError, match=r"0 \(unlabelled\) to 255; data.void=65535 if 65535 stands for no label"
    ):
        _data(tmp_path).open("train")


@pytest.mark.parametrize(
    ("unit", "way"),
    [
        ("cm", "0.01 for cm"),
        ("inch", "0.0254 for inch"),
        ("feet", "0.01 for cm"),
        ("0", "0.01 for cm"),
        ("[1]", "0.01"),
    ],
)
def test_another_unit_of_depth_is_the_metres_of_one_step(unit, way):
    with pytest.raises(
        UsageError, match=f"depth_unit=.*: it is one of m, mm, relative, or the metres of one step, as {way}"
    ):
        dataset_options("paired_folder", {"path": "scene"}, [f"depth_unit={unit}"])
    for value in ("0.01", "mm"):
        assert str(dataset_options("paired_folder", {"path": "scene"}, [f"depth_unit={value}"]).depth_unit) == value
