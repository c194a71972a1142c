"""``nyu_depth_v2`` on files of the official layout: a MATLAB 7.3 header, pictures on their side, texts by reference,
splits counted from 1.
"""

import hashlib
import json
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from contrastill.cli.main import main
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets import nyu_classes
from contrastill.datasets.io.nyu_mat import FILE, SPLITS, NyuReader

TRAIN, TEST = [2, 4, 5, 7], [1, 3, 6]
SCENES = ["kitchen", "bedroom", "bathroom", "bedroom", "office", "kitchen", "bedroom"]


def write_nyu(folder, *, size=(24, 32), train=TRAIN, test=TEST, scenes=SCENES, seed=0):
    """Both files in ``folder``, and what is in them, upright: images (N, H, W, 3), depths, rawDepths, labels (N, H,
    W).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, count, (height, width) = np.random.default_rng(seed), len(scenes), size
    fields = {
        "images": rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8),
        "depths": rng.uniform(0.7, 9.9, (count, height, width)).astype(np.float32),
        "labels": rng.integers(0, 895, (count, height, width)).astype(np.uint16),
        "instances": rng.integers(0, 9, (count, height, width), dtype=np.uint8),
    }
    fields["rawDepths"] = np.where(rng.random(fields["depths"].shape) < 0.2, 0, fields["depths"]).astype(np.float32)
    with h5py.File(folder / FILE, "w", userblock_size=512) as file:
        for name, values in fields.items():
            sideways = values.transpose(0, 3, 2, 1) if name == "images" else values.transpose(0, 2, 1)
            file.create_dataset(
                name, data=sideways, chunks=(1, *sideways.shape[1:]), compression="gzip", compression_opts=1
            )
        for name, texts in {
            "sceneTypes": scenes,
            "scenes": [f"{scene}_0001" for scene in scenes],
            "names": ["wall", "floor"],
        }.items():
            references = file.create_dataset(name, (1, len(texts)), dtype=h5py.ref_dtype)
            for place, text in enumerate(texts):
                codes = file.create_dataset(
                    f"#refs#/{name}{place}", data=np.array([[ord(letter)] for letter in text], np.uint16)
                )
                references[0, place] = codes.ref
    with open(folder / FILE, "r+b") as file:
        file.write(
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Sep 10 2012 HDF5 schema 1.00 .".ljust(124)
            + b"\x00\x02IM"
        )
    savemat(
        folder / SPLITS,
        {"trainNdxs": np.array(train, np.uint16)[:, None], "testNdxs": np.array(test, np.uint16)[:, None]},
    )
    return fields


def opened(path, split="train", **options):
    dataset = DATASETS["nyu_depth_v2"]
    return dataset(dataset.Options(path=str(path), **{"workers": 0, "crop": "none", "flip": False, **options})).open(
        split
    )


def batches(split, *, train=False, seed=0, epoch=0):
    return list(split.loader(batch_size=3, device="cpu", seed=seed, train=train).epoch(epoch))


def test_frames_of_the_true_size_are_read_upright_and_in_the_order_of_the_splits(tmp_path):
    fields = write_nyu(tmp_path, size=(480, 640), train=[3], test=[1, 2], scenes=SCENES[:3])
    split = opened(tmp_path, modalities=["rgb", "depth", "semantics"], scene_classes=True)
    assert split.num_samples == 1 and split.modalities == {
        "rgb": (3, 480, 640),
        "depth": (1, 480, 640),
        "semantics": (1, 480, 640),
    }
    [batch] = batches(split)
    assert np.array_equal(batch["rgb"][0].permute(1, 2, 0), fields["images"][2]) and batch["rgb"].dtype == torch.uint8
    assert np.array_equal(batch["depth"][0, 0], fields["depths"][2]) and batch["depth"].dtype == torch.float32
    assert (
        np.array_equal(batch["semantics"][0, 0], nyu_classes.lookup(40)[fields["labels"][2]])
        and batch["semantics"].dtype == torch.uint8
    )
    assert split.camera.unit == "m" and torch.allclose(
        batch["camera"][0], torch.tensor([518.86, 519.47, 325.58, 253.74])
    )
    assert split.classes == ["bathroom", "bedroom", "kitchen"] and batch["target"].tolist() == [0]
    # At half the size, edges of pixels scale.
    [half] = batches(opened(tmp_path, size=(240, 320)))
    assert torch.allclose(half["camera"][0], torch.tensor([259.43, 259.735, 162.54, 126.62]), atol=1e-3)


def test_default_modalities_need_no_labels_and_no_third_file(tmp_path):
    fields = write_nyu(tmp_path)
    with h5py.File(tmp_path / FILE, "r+") as file:
        del file["labels"], file["sceneTypes"]
    for path in (tmp_path, tmp_path / FILE):
        train, test = opened(path), opened(path, "test")
        assert train.targets is None and train.num_classes is None and train.semantic_classes is None
        assert np.array_equal(
            torch.cat([batch["rgb"] for batch in batches(train)]).permute(0, 2, 3, 1),
            fields["images"][np.array(TRAIN) - 1],
        )
        assert np.array_equal(
            torch.cat([batch["depth"] for batch in batches(test)])[:, 0], fields["depths"][np.array(TEST) - 1]
        )
        assert torch.cat([batch["index"] for batch in batches(train)]).tolist() == [0, 1, 2, 3]
    # Intrinsics are those of 480×640.
    assert train.camera.intrinsics is None and "camera" not in batches(train)[0]
    assert DATASETS["nyu_depth_v2"].recognises(str(tmp_path)) and not DATASETS["image_folder"].recognises(str(tmp_path))


def test_raw_depth_limit_and_scene_types(tmp_path):
    fields = write_nyu(tmp_path)
    raw = opened(tmp_path, modalities=["depth"], raw_depth=True, limit=2, scene_classes=True)
    assert (
        np.array_equal(batches(raw)[0]["depth"][:, 0], fields["rawDepths"][[1, 4]])
        and (batches(raw)[0]["depth"] == 0).any()
    )
    assert (
        raw.classes == ["bathroom", "bedroom", "kitchen", "office"]
        and raw.targets.tolist() == [1, 3]
        and raw.num_classes == 4
    )


def test_the_mappings_are_the_published_ones():
    to_40, to_13 = nyu_classes.lookup(40), nyu_classes.lookup(13)
    # Of mapClass of classMapping40.mat, 894 bytes.
    assert (
        hashlib.sha256(to_40[1:].tobytes()).hexdigest()
        == "9c75cdc1ff39748751966fe8d8493b1d2ca3acda9ec861b2f70f52221d65a7bd"
    )
    assert np.bincount(to_40)[[0, 1, 37, 38, 39, 40]].tolist() == [1, 1, 1, 68, 82, 707] and to_13[0] == 0
    named = dict(zip(range(1, 6), ("book", "bottle", "cabinet", "ceiling", "chair"), strict=True)) | {
        11: "floor",
        21: "wall",
        83: "sofa",
        157: "bed",
    }
    mapped = {label: nyu_classes.names(40)[to_40[label]] for label in named}
    assert {label: name for label, name in mapped.items() if name != "other prop"} == {
        label: name for label, name in named.items() if label > 2
    }
    assert [nyu_classes.names(13)[to_13[label]] for label in (21, 11, 157, 83, 3, 88, 172)] == [
        "wall",
        "floor",
        "bed",
        "sofa",
        "furniture",
        "furniture",
        "tv",
    ]
    assert len(nyu_classes.names(40)) == 41 and len(nyu_classes.names(13)) == 14 and set(to_13) == set(range(14))


def test_semantics_of_13_classes(tmp_path):
    fields = write_nyu(tmp_path)
    split = opened(tmp_path, "test", modalities=["semantics"], classes=13)
    assert np.array_equal(
        batches(split)[0]["semantics"][:, 0], nyu_classes.lookup(13)[fields["labels"][np.array(TEST) - 1]]
    )
    assert split.semantic_classes[:3] == ["unlabelled", "bed", "books"] and split.camera is None
    assert opened(tmp_path, modalities=["semantics"]).semantic_classes[40] == "other prop"


def test_workers_read_the_same_bytes(tmp_path):
    write_nyu(tmp_path)
    shared = {"modalities": ["rgb", "depth", "semantics"], "crop": "random_resized", "flip": True, "size": (16, 20)}
    alone, helped = (opened(tmp_path, workers=workers, **shared) for workers in (0, 2))
    for train in (False, True):
        for first, second in zip(
            batches(alone, train=train, epoch=3), batches(helped, train=train, epoch=3), strict=True
        ):
            assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_reader_is_pickled_into_other_processes(tmp_path, method):
    fields = write_nyu(tmp_path)
    reader = NyuReader(tmp_path / FILE, np.array([6, 0]), {"rgb": "images"})
    assert np.array_equal(reader.read(0)["rgb"], fields["images"][6])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert np.array_equal(pool.submit(reader.read, 1).result()["rgb"], fields["images"][0])
    assert np.array_equal(reader.read(1)["rgb"], fields["images"][0])
    reader.close()


def _damage(path, field, frame):
    """Write over the stored bytes of one frame."""
    with h5py.File(path, "r") as file:
        dataset = file[field]
        stored = dataset.id.read_direct_chunk((frame, *[0] * (dataset.ndim - 1)))[1]
    everything = path.read_bytes()
    begin = everything.index(bytes(stored))
    path.write_bytes(everything[:begin] + b"\xff" * len(stored) + everything[begin + len(stored) :])


def test_a_subset_reads_no_other_frame_and_no_other_field(tmp_path, capsys):
    fields = write_nyu(tmp_path)
    _damage(tmp_path / FILE, "images", 0)  # a test frame
    _damage(tmp_path / FILE, "images", 6)  # the last for training
    _damage(tmp_path / FILE, "labels", 1)
    [batch] = batches(opened(tmp_path, limit=3))
    assert np.array_equal(batch["rgb"].permute(0, 2, 3, 1), fields["images"][[1, 3, 4]])
    assert sum(len(batch["depth"]) for batch in batches(opened(tmp_path, "test", modalities=["depth"]))) == 3
    for workers in (0, 1):
        with pytest.raises(
            ContrastillError,
            match=f"frame 6 of .*{FILE} cannot be read: it is truncated or damaged; fetch it again from https",
        ):
            batches(opened(tmp_path, workers=workers))


def test_packed_it_is_the_same(tmp_path, capsys):
    write_nyu(tmp_path / "nyu", size=(480, 640), train=[3], test=[1, 2], scenes=SCENES[:3])
    out, fields = tmp_path / "nyu.h5", ["rgb", "depth", "semantics"]
    options = ["size=[24,32]", "modalities=[rgb,depth,semantics]", "data.classes=13", "scene_classes=true", "workers=0"]
    assert main(["data", "pack", f"nyu_depth_v2:{tmp_path / 'nyu'}", str(out), *options, "--quiet"]) == 0
    packed = DATASETS["packed"]
    for name in ("train", "test"):
        read = packed(
            packed.Options(path=str(out), crop_padding=0, flip=False, fields={field: field for field in fields})
        ).open(name)
        split = opened(tmp_path / "nyu", name, size=(24, 32), modalities=fields, classes=13, scene_classes=True)
        for first, second in zip(batches(split), batches(read), strict=True):
            assert first.keys() == second.keys()
            for field in first:
                assert first[field].dtype == second[field].dtype and torch.allclose(
                    first[field], second[field], rtol=0, atol=1e-3 if field == "camera" else 0
                ), field
        assert (
            read.camera.unit == "m"
            and read.semantic_classes == split.semantic_classes
            and read.classes == split.classes
        )
    capsys.readouterr()
    assert main(["data", "info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert (
        "13 classes of the label maps: bed, books" in shown
        and "; 0 is unlabelled" in shown
        and "depth is in m" in shown
        and "fx 25.943, fy 25.9735, cx 15.804" in shown
    )


@pytest.mark.parametrize(
    "spoil,code,message",
    [
        (lambda root: (root / FILE).unlink(), 2, f"does not hold {FILE}: put it (2.8 GB) and {SPLITS} there, both "
            "from https://cs.nyu.edu"),
        (lambda root: (root / SPLITS).unlink(), 2, f"{SPLITS} does not exist: put {SPLITS} beside {FILE}"),
        (lambda root: (root / FILE).write_bytes((root / FILE).read_bytes()[:-1000]), 1,
            "it is truncated or damaged; fetch it again"),
        (lambda root: (root / FILE).write_bytes((root / FILE).read_bytes()[:300]), 1,
            "it is truncated or damaged; fetch it again"),
        (lambda root: (root / FILE).write_bytes(b""), 1, "it is truncated or damaged; fetch it again"),
        (lambda root: savemat(root / FILE, {"images": np.zeros(3)}), 2, "is a MATLAB 5 file, not the labelled set"),
        (lambda root: (root / FILE).write_bytes(b"PK" * 1000), 2, "is no MATLAB 7.3 (HDF5) file"),
        (lambda root: h5py.File(root / FILE, "w").create_dataset("x", data=[1]).file.close(), 2,
            "has no field 'images', it has x"),
        (lambda root: _rewrite(root, "depths", np.zeros((7, 24, 32), np.float32)), 2,
            "depths is float32 (7, 24, 32), the labelled set has (N, W, H)"),
        (lambda root: _rewrite(root, "images", np.zeros((7, 24, 32, 3), np.uint8)), 2,
            "the labelled set has uint8 (N, 3, W, H)"),
        (lambda root: _splits(root, TRAIN, [1, 8]), 2, f"testNdxs names frame 8, and {FILE} has frames 1 to 7"),
        (lambda root: _splits(root, [0, 2], TEST), 2, "trainNdxs names frame 0"),
        (lambda root: _splits(root, TRAIN, [1, 4]), 2,
            "names frame 4 twice: training and test frames are to be disjoint"),
        (lambda root: savemat(root / SPLITS, {"trainNdxs": [1]}), 2, "has no testNdxs, it has trainNdxs"),
        (lambda root: (root / SPLITS).write_bytes(b"nothing" * 50), 1,
            f"cannot be read as a MATLAB 5 file: fetch {SPLITS} again"),
        (lambda root: _rewrite(root, "labels", np.full((7, 32, 24), 895, np.uint16)), 1,
            "has a label 895, labels are 0 to 894"),
        (lambda root: _rewrite(root, "sceneTypes", np.zeros((1, 7))), 2,
            "does not say the scene type of each frame: set data.scene_classes=false"),
    ],
)  # fmt: skip
def test_bad_files_end_in_one_sentence(tmp_path, capsys, spoil, code, message):
    root = tmp_path / "nyu"
    write_nyu(root)
    spoil(root)
    options = ["modalities=[rgb,depth,semantics]", "scene_classes=true", "workers=0"]
    assert main(["data", "pack", f"nyu_depth_v2:{root}", str(tmp_path / "x.h5"), *options, "--quiet"]) == code
    stderr = capsys.readouterr().err
    assert message in stderr and len(stderr.strip().splitlines()) == 1 and not (tmp_path / "x.h5").exists()


def _rewrite(root, field, values):
    with h5py.File(root / FILE, "r+") as file:
        del file[field]
        file[field] = values


def _splits(root, train, test):
    savemat(root / SPLITS, {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]})


def test_wrong_options_and_paths(tmp_path, caplog):
    write_nyu(tmp_path)
    with pytest.raises(UsageError, match="does not exist: set data.path to the folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="nyu_depth_v2 has no split 'val'"):
        opened(tmp_path, "val")
    for wrong in (
        {"classes": 894},
        {"scale": (0.5, 0.1)},
        {"size": (0, 3)},
        {"modalities": []},
        {"modalities": ["normals"]},
    ):
        with pytest.raises(ValueError):
            opened(tmp_path, **wrong)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_from_the_two_official_files_to_segmentation_of_13_and_40_classes(tmp_path, capsys):
    write_nyu(tmp_path / "nyu")
    out = tmp_path / "run"
    data = [f"data.path={tmp_path / 'nyu'}", "data.size=[24,32]", "data.workers=0"]
    teacher = [
        "teachers.0.model=resnet8",
        "teachers.0.weights=null",
        "teachers.0.num_classes=5",
        "teachers.0.resolution=null",
    ]
    short = ["train.epochs=2", "train.batch_size=4", "train.warmup_epochs=0", "train.views=2"]
    assert main(["train", "xmodal/nyu_rgb_to_depth_crd", *data, *teacher, *short, f"out={out}", "--quiet"]) == 0
    for classes in (13, 40):
        changes = [
            f"evaluation.data.classes={classes}",
            "evaluation.data.workers=0",
            "evaluation.epochs=1",
            "evaluation.batch_size=4",
        ]
        assert main(["evaluate", str(out), *changes, "--json"]) == 0
        rows = {row["task"]: row for row in json.loads(capsys.readouterr().out)}
        assert len(rows["segmentation"]["per_class_iou"]) == classes and "embedding" in rows["classification"]["layers"]


def with_labels(folder, highest, names=0):
    write_nyu(folder)
    with h5py.File(folder / FILE, "r+") as file:
        labels = file["labels"]
        labels[()] = np.random.default_rng(0).integers(0, highest + 1, labels.shape)
        del file["names"]
        if names:
            file.create_dataset("names", (1, names), dtype=h5py.ref_dtype)
    return folder


@pytest.mark.parametrize(
    ("highest", "names", "lines"), [(40, 894, True), (13, 0, True), (64, 0, False), (0, 40, False)]
)
def test_labels_that_may_be_mapped_already_have_a_line(tmp_path, caplog, highest, names, lines):
    with caplog.at_level(logging.WARNING):
        opened(with_labels(tmp_path, highest, names), modalities=["rgb", "semantics"])
        opened(tmp_path, "test", modalities=["rgb", "semantics"])
        opened(tmp_path)
    assert (
        caplog.text.count(f"labels go to {highest} in ") <= 2 * lines and ("if they are mapped" in caplog.text) == lines
    )


def test_labels_that_are_mapped_already_are_refused(tmp_path):
    with pytest.raises(UsageError, match="the file names 40, so that they are mapped already: write them to a packed"):
        opened(with_labels(tmp_path, 40, 40), modalities=["rgb", "semantics"])
