"""Packed files and CIFAR-100: what is read, what is refused, and the batches that come of it."""

import hashlib
import os
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from helpers.paths import DATA

REAL = DATA / "cifar100_subset.h5"


def _write(path, train=70, test=20, classes=("a", "b", "c"), **more):
    """A file in the true layout; ``more`` are further fields of the training split, or None to leave one out."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        if classes:
            file.attrs.create("classes", list(classes), dtype=h5py.string_dtype())
        for split, count in (("train", train), ("test", test)):
            fields = {
                "rgb": rng.integers(0, 256, (count, 8, 10, 3), dtype=np.uint8),
                "target": np.sort(rng.integers(0, 3, count)),
            }
            fields |= more if split == "train" else {}
            for name, values in fields.items():
                if values is not None:
                    chunks = {"chunks": (16, *values.shape[1:]), "compression": "gzip"} if values.ndim > 1 else {}
                    file.create_dataset(f"{split}/{name}", data=values, **chunks)
    return path


def _packed(path, **options):
    return DATASETS["packed"](DATASETS["packed"].Options(path=str(path), **options))


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def path(tmp_path):
    return _write(tmp_path / "set.h5")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rgb_of_floats_is_that_of_bytes_but_for_the_scale(tmp_path, dtype):
    with h5py.File(_write(tmp_path / "bytes.h5")) as file:
        colours = file["train/rgb"][()]
    floats = _packed(_write(tmp_path / "floats.h5", rgb=(colours / 255).astype(dtype))).open("train")
    whole = _packed(tmp_path / "bytes.h5").open("train")
    assert floats.images["rgb"].storage.dtype == torch.float32 and floats.modalities == whole.modalities
    values = [split.images["rgb"].interior for split in (whole, floats)]
    torch.testing.assert_close(values[0] / 255, values[1], atol=1e-3 if dtype == "float16" else 1e-6, rtol=0)


def test_a_modality_of_many_channels_is_read_as_it_is(tmp_path, caplog):
    bands = np.random.default_rng(0).uniform(size=(70, 8, 10, 7)).astype(np.float32)
    split = _packed(_write(tmp_path / "set.h5", bands=bands), fields={"bands": "bands"}).open("train")
    assert split.modalities == {"bands": (7, 8, 10)} and not caplog.text
    assert np.array_equal(split.images["bands"].interior.numpy(), bands)
    path = _write(tmp_path / "turned.h5", bands=bands.transpose(0, 3, 1, 2))  # which side is which, nothing says
    assert _packed(path, fields={"bands": "bands"}).open("train").modalities == {"bands": (10, 7, 8)}
    assert "bands is read as 10 channels of 7×8 pixels (height × width)" in caplog.text


def test_reads_what_was_written(path):
    data = _packed(path)
    with h5py.File(path) as file:
        for name, count in (("train", 70), ("test", 20)):
            split = data.open(name)
            assert (split.num_samples, split.num_classes, split.classes) == (count, 3, ["a", "b", "c"])
            assert split.modalities == {"rgb": (3, 8, 10)}
            assert split.targets.dtype == torch.int64 and np.array_equal(split.targets, file[name]["target"])
            batches = list(split.loader(batch_size=16, device="cpu", train=False).epoch(0))
            rgb = torch.cat([batch["rgb"] for batch in batches])
            assert rgb.dtype == torch.uint8 and np.array_equal(rgb.permute(0, 2, 3, 1), file[name]["rgb"])
            assert torch.equal(torch.cat([batch["index"] for batch in batches]), torch.arange(count))
            assert torch.equal(torch.cat([batch["target"] for batch in batches]), split.targets)
    assert DATASETS["packed"].recognises(str(path)) and not DATASETS["packed"].recognises(str(path.parent))


def test_training_epoch_covers_each_row_once(path):
    split = _packed(path).open("train")
    loader = split.loader(batch_size=16, device="cpu", train=True)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 5 and [len(batch["index"]) for batch in batches] == [16, 16, 16, 16, 6]
    index = torch.cat([batch["index"] for batch in batches])
    assert not torch.equal(index, torch.arange(70)) and torch.equal(index.sort().values, torch.arange(70))
    assert torch.equal(torch.cat([batch["target"] for batch in batches]), split.targets[index])


def test_a_view_depends_on_seed_epoch_and_row_alone(path):
    split = _packed(path).open("train")

    def views(epoch, **options):
        loader = split.loader(**{"batch_size": 16, "device": "cpu", "train": True, **options})
        return {
            row: image
            for batch in loader.epoch(epoch)
            for row, image in zip(batch["index"].tolist(), batch["rgb"], strict=True)
        }

    expected = views(3)
    for other in (views(3, batch_size=7), views(3, batch_size=70)):
        assert all(torch.equal(expected[row], other[row]) for row in range(70))
    for other in (views(4), views(3, seed=1)):
        assert sum(torch.equal(expected[row], other[row]) for row in range(70)) < 10


def test_start_resumes_in_the_middle(path):
    for train in (True, False):
        loader = _packed(path).open("train").loader(batch_size=16, device="cpu", train=train)
        expected, again = list(loader.epoch(2)), list(loader.epoch(2, start=3))
        assert len(again) == 2 and all(_same(first, second) for first, second in zip(expected[3:], again, strict=True))
        assert list(loader.epoch(2, start=5)) == []


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("batch_size", [16, 8])
def test_slices_of_three_ranks_make_one_batch(path, train, batch_size):
    split = _packed(path).open("train")
    single = split.loader(batch_size=batch_size, device="cpu", seed=4, train=train)
    ranks = [
        split.loader(batch_size=batch_size, device="cpu", seed=4, train=train, rank=rank, world=3) for rank in range(3)
    ]
    assert {len(loader) for loader in ranks} == {len(single)}
    for batch, *parts in zip(single.epoch(1), *(loader.epoch(1) for loader in ranks), strict=True):
        assert _same(batch, {name: torch.cat([rank_slice[name] for rank_slice in parts]) for name in batch})
        assert [rank_slice["index"].tolist() for rank_slice in parts] == [
            part.tolist() for part in batch["index"].tensor_split(3)
        ]


def test_augmentation_can_be_switched_off(path):
    plain = _packed(path, crop_padding=0, flip=False).open("train")
    stored = plain.images["rgb"].interior.permute(0, 3, 1, 2)
    assert all(
        torch.equal(batch["rgb"], stored[batch["index"]])
        for batch in plain.loader(batch_size=16, device="cpu", train=True).epoch(0)
    )
    flipped = _packed(path, crop_padding=0).open("train").loader(batch_size=70, device="cpu", train=True)
    batch = next(flipped.epoch(0))
    same = (batch["rgb"] == stored[batch["index"]]).flatten(1).all(1)
    mirrored = (batch["rgb"].flip(3) == stored[batch["index"]]).flatten(1).all(1)
    assert (same ^ mirrored).all() and 15 < mirrored.sum() < 55


def test_a_test_split_is_never_augmented(path):
    split = _packed(path).open("test")
    batch = next(split.loader(batch_size=20, device="cpu", train=True).epoch(0))
    assert torch.equal(batch["rgb"], split.images["rgb"].storage.permute(0, 3, 1, 2)[batch["index"]])


def test_modalities_are_cropped_jointly_and_keep_their_units(tmp_path):
    depth = np.arange(70 * 80, dtype=np.uint16).reshape(70, 8, 10) + 60_000 - 5_600
    path = _write(
        tmp_path / "set.h5", depth_mm=depth, height=depth.astype(np.float64) / 7, grey=(depth % 256).astype(np.uint8)
    )
    split = _packed(path, fields={"depth": "depth_mm", "height": "height", "grey": "grey"}).open("train")
    assert split.modalities == {"depth": (1, 8, 10), "height": (1, 8, 10), "grey": (1, 8, 10)}
    batch = next(split.loader(batch_size=70, device="cpu", train=True).epoch(0))
    assert (
        batch["depth"].dtype == batch["height"].dtype == torch.float32
        and split.images["depth"].interior.max() == depth.max()
    )
    # What a crop takes in from outside is no depth, and no value of the others, of which 0 would be one.
    border = batch["depth"] == 0
    assert border.any() and torch.equal(border, batch["grey"].isnan()) and torch.equal(border, batch["height"].isnan())
    assert torch.equal(batch["depth"][~border] % 256, batch["grey"][~border])
    assert torch.allclose(batch["height"][~border] * 7, batch["depth"][~border])


def test_stored_positions_are_never_the_row(tmp_path):
    path = _write(tmp_path / "set.h5", frame=np.arange(70) * 20 + 3, index=np.arange(70)[::-1].copy())
    index = torch.cat(
        [
            batch["index"]
            for batch in _packed(path).open("train").loader(batch_size=16, device="cpu", train=True).epoch(0)
        ]
    )
    assert torch.equal(index.sort().values, torch.arange(70))


def test_unlabelled_and_unnamed(tmp_path):
    split = _packed(_write(tmp_path / "a.h5", classes=None, target=None)).open("train")
    assert (split.targets, split.num_classes, split.classes) == (None, None, None)
    assert set(next(split.loader(batch_size=4, device="cpu", train=True).epoch(0))) == {"rgb", "index"}
    # The number of classes is the data set's: the training split alone lacks the last one.
    split = _packed(_write(tmp_path / "b.h5", classes=None, target=np.zeros(70, np.int32))).open("train")
    assert (split.num_classes, split.classes) == (3, None)


def test_a_split_that_is_not_named_has_its_usual_name(path):
    """As where data.splits.test=null says that there is no test split, and nothing of the other."""
    assert _packed(path, splits={"test": None}).open("train").num_samples == 70
    assert _packed(path, splits={"test": None}).open("test") is None
    assert _packed(path, splits={"train": "train"}).open("test").num_samples == 20
    with pytest.raises(UsageError, match="missing.h5 does not exist"):
        _packed(path.with_name("missing.h5"), splits={"test": None}).open("test")


def test_limit_is_spread_over_the_classes(path):
    split = _packed(path, limit=12).open("train")
    complete = _packed(path).open("train")
    rows = torch.arange(12) * 70 // 12
    assert (
        split.num_samples == 12
        and torch.equal(split.targets, complete.targets[rows])
        and len(split.targets.unique()) == 3
    )
    assert torch.equal(split.images["rgb"].interior, complete.images["rgb"].interior[rows])
    assert _packed(path, limit=1000).open("train").num_samples == 70


@pytest.mark.parametrize(
    "more,options,message",
    [
        (
            {},
            {"fields": {"rgb": "image"}},
            "train/image does not exist: fields there are rgb, target; choose with data.fields.rgb=NAME",
        ),
        ({}, {"target": "label"}, "train/label does not exist: fields there are rgb, target"),
        (
            {},
            {"splits": {"train": "training"}},
            "no split (group) 'training': it has test, train; choose with data.splits.train=NAME",
        ),
        ({"target": np.zeros(69, np.int64)}, {}, "differ in length: rgb 70, target 69"),
        ({"target": np.full(70, 3)}, {}, "target goes from 0 to 3, classes are 0 to 2"),
        ({"target": np.full(70, -1)}, {}, "target goes from -1 to 2, classes are 0 to 2"),
        ({"target": np.zeros(70)}, {}, "train/target is float64 (70,): classes are integers or names, (N,)"),
        (
            {"target": np.zeros((70, 8, 10), np.uint8)},
            {},
            "train/target is uint8 (70, 8, 10): classes are integers or names, (N,)",
        ),
        (
            {"rgb": np.full((70, 8, 10, 3), 255.0)},
            {},
            "train/rgb goes from 255 to 255: rgb is uint8, or floats in [0, 1]",
        ),
        ({"rgb": np.full((70, 8, 10, 3), -0.5)}, {}, "train/rgb goes from -0.5 to -0.5: rgb is uint8, or floats in"),
        ({"rgb": np.full((70, 8, 10, 3), np.nan)}, {}, "train/rgb holds NaN or infinite values: repair the images"),
        ({"rgb": np.zeros((70, 8, 10, 13), np.uint8)}, {}, "as data.fields={multispectral: rgb}"),
        (
            {"bands": np.zeros((70, 13, 20, 20), np.float32)},
            {"fields": {"bands": "bands"}},
            "train/bands is float32 (70, 13, 20, 20), and images are (N, H, W, channels): store channels last",
        ),
        (
            {"rgb": np.zeros((70, 3, 8, 10), np.uint8)},
            {},
            "train/rgb is uint8 (70, 3, 8, 10): images are uint8 (N, H, W, 1 to 4)",
        ),
        ({"rgb": np.zeros((70, 8, 10), np.int64)}, {}, "train/rgb is int64: rgb is uint8"),
        ({"rgb": np.zeros((0, 8, 10, 3), np.uint8), "target": np.zeros(0, np.int64)}, {}, "train has no samples"),
        (
            {"depth": np.zeros((70, 4, 5), np.uint8)},
            {"fields": {"rgb": "rgb", "depth": "depth"}},
            "rgb 8×10, depth 4×5",
        ),
    ],
)
def test_errors_name_the_cause_and_the_remedy(tmp_path, more, options, message):
    path = (
        _write(tmp_path / "set.h5", **more)
        if not ("rgb" in more and not len(more["rgb"]))
        else _empty(tmp_path / "set.h5")
    )
    with pytest.raises(UsageError, match=re.escape(message)):
        _packed(path, **options).open("train")


def _empty(path):
    with h5py.File(path, "w") as file:
        file["train/rgb"], file["train/target"] = np.zeros((0, 8, 10, 3), np.uint8), np.zeros(0, np.int64)
    return path


def test_missing_and_damaged_files(path, tmp_path):
    with pytest.raises(UsageError, match="nowhere.h5 does not exist"):
        _packed(tmp_path / "nowhere.h5").open("train")
    with pytest.raises(UsageError, match="is a folder"):
        _packed(tmp_path).open("train")
    intact = path.read_bytes()
    for name, content in (("half.h5", intact[: len(intact) // 2]), ("text.h5", b"not HDF5 at all"), ("none.h5", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ContrastillError, match=f"{name} cannot be read: it is truncated, damaged or no HDF5"
        ) as caught:
            _packed(tmp_path / name).open("train")
        assert caught.value.exit_code == 1
    with h5py.File(path) as file:
        chunk = file["train/rgb"].id.get_chunk_info(1)
    (tmp_path / "bits.h5").write_bytes(
        intact[: chunk.byte_offset] + bytes(chunk.size) + intact[chunk.byte_offset + chunk.size :]
    )
    with pytest.raises(ContrastillError, match="bits.h5 cannot be read"):
        _packed(tmp_path / "bits.h5").open("train")


def test_loader_refuses_what_cannot_be_shared_out():
    split = TensorSplit({"rgb": PaddedImages.zeros(8, 4, 4, 3, dtype=torch.uint8, padding=0)})
    for options, message in (
        ({"batch_size": 2, "world": 3}, "batch_size=2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 4, "rank": 1}, "rank=1"),
    ):
        with pytest.raises(UsageError, match=message):
            split.loader(device="cpu", train=True, **options)


def _official(folder, monkeypatch, payload=None):
    """Small files in CIFAR-100's own format, and torchvision told that their MD5 sums are the published ones."""
    from torchvision.datasets import CIFAR100

    rng = np.random.default_rng(0)
    files = {
        name: {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": rng.integers(0, 3, count).tolist(),
        }
        for name, count in (("train", 12), ("test", 5))
    }
    (folder / CIFAR100.base_folder).mkdir(parents=True)
    sums = {}
    for name, content in {**files, "meta": {"fine_label_names": ["a", "b", "c"]}}.items():
        raw = pickle.dumps(content)
        sums[name] = hashlib.md5(raw).hexdigest()
        (folder / CIFAR100.base_folder / name).write_bytes(payload if payload and name == "train" else raw)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return files


def _cifar100(folder, **options):
    return DATASETS["cifar100"](DATASETS["cifar100"].Options(path=str(folder), **options))


def test_cifar100_reads_the_official_files(tmp_path, monkeypatch):
    files = _official(tmp_path, monkeypatch)
    for name in ("train", "test"):
        split = _cifar100(tmp_path).open(name)
        batch = next(split.loader(batch_size=100, device="cpu", train=False).epoch(0))
        assert np.array_equal(batch["rgb"].reshape(-1, 3072), files[name]["data"])
        assert batch["target"].tolist() == files[name]["fine_labels"] and split.classes == ["a", "b", "c"]
    assert (
        split.num_classes == 3
        and DATASETS["cifar100"].recognises(str(tmp_path))
        and not DATASETS["cifar100"].recognises("/")
    )
    assert _cifar100(tmp_path).open("train").padding == 4
    with pytest.raises(UsageError, match="no split 'val'"):
        _cifar100(tmp_path).open("val")


class _Trap:
    def __reduce__(self):
        return os.mkdir, (_Trap.path,)


def test_cifar100_never_unpickles_other_files(tmp_path, monkeypatch):
    _Trap.path = str(tmp_path / "sprung")
    _official(tmp_path / "data", monkeypatch, payload=pickle.dumps(_Trap()))
    with pytest.raises(ContrastillError, match="not the published ones") as caught:
        _cifar100(tmp_path / "data").open("train")
    assert caught.value.exit_code == 1 and not Path(_Trap.path).exists()


def test_cifar100_absent_or_offline(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="set data.download=true"):
        _cifar100(tmp_path).open("train")
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "url", (tmp_path / "nothing.tar.gz").as_uri())
    with pytest.raises(ContrastillError, match="could not be downloaded.*unpack cifar-100-python.tar.gz") as caught:
        _cifar100(tmp_path, download=True).open("train")
    assert caught.value.exit_code == 1


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there; CONTRASTILL_DATA names the folder of real images")
def test_the_real_file():
    split = _packed(REAL).open("train")
    assert split.num_samples == 20_000 and split.num_classes == 100 and (split.targets.bincount() == 200).all()
    loader = split.loader(batch_size=64, device="cpu", train=True)
    batch = next(loader.epoch(0))
    # Sorted by class in the file, mixed in the batch.
    assert len(batch["target"].unique()) > 30 and torch.equal(batch["target"], split.targets[batch["index"]])
    assert 100 < batch["rgb"].float().mean() < 140
