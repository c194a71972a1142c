"""WebDataset shards: the same batches as of the same files in folders, an index that is stored and rebuilt, and shards
that are damaged.
"""

import io
import json
import logging
import os
import pickle
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.core.config.loading import make_data_config
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io import tar_index, tar_pictures
from contrastill.datasets.webdataset import braces
from contrastill.training.data import open_splits


def _jpeg(seed, height=30, width=40):
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(buffer, format="JPEG")
    return buffer.getvalue()


def _tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _sample(key, target, seed=0):
    return [(f"{key}.jpg", _jpeg(seed)), (f"{key}.cls", str(target).encode())]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """2 classes × 11 training and 3 test pictures, as folders and as shards, in which the second class says its classes
    by .json.
    """
    folder, shards = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("shards")
    for split, count in (("train", 11), ("val", 3)):
        members = []
        for target, name in enumerate(("n01", "n02")):
            for k in range(count):
                content, key = _jpeg(100 * target + k + 50 * (split == "val"), 30 + k % 3), f"{name}_{k:02}"
                path = folder / split / name / f"{key}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                label_file = (
                    (f"{key}.cls", f"{target}\n".encode())
                    if target == 0
                    else (f"{key}.json", json.dumps({"label": target}).encode())
                )
                # The order within a key is the writer's.
                members.append([(f"{key}.jpg", content), label_file][:: 1 - 2 * (k % 2)])
        cut = 9 if split == "train" else 2
        for number, part in enumerate((members[:cut], members[cut:])):
            _tar(shards / f"{split}-{number:06}.tar", [member for sample in part for member in sample])
    return folder, shards


def _data(path, name="webdataset", **options):
    dataset = DATASETS[name]
    return dataset(dataset.Options(**{"path": str(path), "size": 16, "workers": 0, **options}))


def _loader(path, name="webdataset", split="train", *, batch_size=8, train=True, rank=0, world=1, **options):
    return (
        _data(path, name, **options)
        .open(split)
        .loader(batch_size=batch_size, device="cpu", seed=3, train=train, rank=rank, world=world)
    )


def _same(batches, others):
    batches, others = list(batches), list(others)
    return len(batches) == len(others) and all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in zip(batches, others, strict=True)
    )


@pytest.mark.parametrize("options", [{}, {"limit": 7}, {"color_jitter": 0.5, "crop": "padded"}])
def test_batches_are_those_of_the_same_files_in_folders(both, options):
    folder, shards = both
    from_shards, folders = (
        _data(folder, "image_folder", **options).open("train"),
        _data(shards, **options).open("train"),
    )
    assert (
        torch.equal(from_shards.targets, folders.targets)
        and from_shards.num_samples == folders.num_samples
        and folders.num_classes == 2
    )
    assert [os.path.basename(name) for name in folders.files.tolist()] == [
        os.path.basename(name) for name in from_shards.files.tolist()
    ]
    assert folders.files[0].startswith(b"train-000000.tar/n01_00")
    for epoch in (0, 2):
        assert _same(_loader(folder, "image_folder", **options).epoch(epoch), _loader(shards, **options).epoch(epoch))
    assert _same(
        _loader(folder, "image_folder", "test", train=False, **options).epoch(0),
        _loader(shards, split="test", train=False, **options).epoch(0),
    )


def test_workers_ranks_and_resuming_change_no_byte(both):
    folder, shards = both
    expected = list(_loader(folder, "image_folder").epoch(2))
    workers = _loader(shards, workers=2)
    assert _same(workers.epoch(2), expected) and _same(workers.epoch(2, start=1), expected[1:])
    ranks = [_loader(shards, rank=rank, world=2).epoch(2) for rank in range(2)]
    assert _same(
        ({name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in zip(*ranks, strict=True)),
        expected,
    )


def test_open_tars_are_few_and_are_not_pickled(both, monkeypatch):
    monkeypatch.setattr(tar_pictures, "_OPEN", 1)
    pictures = _data(both[1]).open("train").pictures
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for row in (0, 21, 0, 21):
        pictures.open(row).pixels()
    assert len(pictures._open) == 1 and (before is None or len(os.listdir("/proc/self/fd")) == before + 1)
    other = pickle.loads(pickle.dumps(pictures))
    assert not other._open and torch.equal(other.open(4).pixels(), pictures.open(4).pixels())


def test_the_index_is_stored_and_rebuilt_when_it_is_stale(tmp_path, monkeypatch):
    shard = _tar(tmp_path / "train-0.tar", _sample("a", 0) + _sample("b", 1))
    read = []
    members = tar_index._members
    monkeypatch.setattr(tar_index, "_members", lambda path: read.append(path) or members(path))

    def opened():
        read.clear()
        return _data(tmp_path).open("train"), len(read)

    assert opened()[1] == 1 and opened()[1] == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".h5", ".tar"]
    # As large as before, but newer.
    stat = shard.stat()
    _tar(shard, _sample("c", 1) + _sample("d", 0))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    split, count = opened()
    assert (
        shard.stat().st_size == stat.st_size
        and count == 1
        and split.targets.tolist() == [1, 0]
        and split.files[0] == b"train-0.tar/c.jpg"
    )
    # One shard more; what is kept of fewer is another file.
    _tar(tmp_path / "train-1.tar", _sample("a", 0))
    split, count = opened()
    assert count == 2 and split.num_samples == 3 and opened()[1] == 0
    for path in tmp_path.glob("*.h5"):
        path.write_bytes(path.read_bytes()[:300])
    assert opened()[1] == 2 and opened()[1] == 0


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, caplog):
    _tar(tmp_path / "shards" / "train-0.tar", _sample("a", 0))
    write = tar_index._write

    def refuse(path, *rest):
        if path.parent == tmp_path / "shards":
            raise PermissionError("Read-only file system")
        write(path, *rest)

    monkeypatch.setattr(tar_index, "_write", refuse)
    with caplog.at_level(logging.WARNING):
        assert _data(tmp_path / "shards", cache=str(tmp_path / "cache" / "deep")).open("train").num_samples == 1
        assert not caplog.text and len(list((tmp_path / "cache" / "deep").iterdir())) == 1
        monkeypatch.setattr(tar_index, "_members", lambda path: pytest.fail("it was kept"))
        assert _data(tmp_path / "shards", cache=str(tmp_path / "cache" / "deep")).open("train").num_samples == 1
        monkeypatch.undo()
        monkeypatch.setattr(tar_index, "_write", refuse)
        with caplog.at_level(logging.WARNING):
            assert _data(tmp_path / "shards").open("train").num_samples == 1
    assert "could not be stored (Read-only file system)" in caplog.text and "data.cache" in caplog.text


def test_which_shards(tmp_path):
    for name in ("a/x-08.tar", "a/x-09.tar", "a/x-10.tar", "b/y.tar", "train/0.tar", "val/0.tar", "test-0.tar"):
        _tar(tmp_path / name, _sample(name.replace("/", "_").removesuffix(".tar"), 0))

    def files(split="train", **options):
        return [os.fsdecode(name) for name in _data(tmp_path, **options).open(split).files]

    assert files() == ["0.tar/train_0.jpg"] and files("test") == ["test-0.tar/test-0.jpg"]
    assert files(train="a/x-{08..10}.tar") == ["x-08.tar/a_x-08.jpg", "x-09.tar/a_x-09.jpg", "x-10.tar/a_x-10.jpg"]
    assert files(train="{b/y,a/x-09}.tar") == ["x-09.tar/a_x-09.jpg", "y.tar/b_y.jpg"]
    assert len(files(train="a")) == len(files(train="a/*-*.tar")) == 3 and files(
        "test", test=str(tmp_path / "b" / "y.tar")
    ) == ["y.tar/b_y.jpg"]
    for options, message in (
        ({"train": "a/x-{08..11}.tar"}, "x-11.tar does not exist: data.train=a/x-{08..11}.tar"),
        ({"train": "z*.tar"}, "has no shards z*.tar"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            files(**options)
    assert list(braces("s{2..0}")) == ["s2", "s1", "s0"] and list(braces("plain.tar")) == ["plain.tar"]


def test_what_belongs_to_a_sample(tmp_path):
    members = [
        ("./deep/a.CLS", b"1"),
        ("./deep/a.jpg", _jpeg(0)),
        ("./deep/a.json", b'{"label": 1}'),
        ("deep/a.txt", b"a dog"),
        ("deep/a.seg.png", b""),
    ]
    members += [("._a.jpg", b"no"), ("__meta__.json", b"{}"), ("b.jpg", _jpeg(1)), ("b.json", b'{"label": 0}')]
    _tar(tmp_path / "train.tar", members)
    split = _data(tmp_path).open("train")
    assert (
        split.targets.tolist() == [1, 0]
        and (split.num_classes, split.classes) == (2, None)
        and [name for name in split.files.tolist()] == [b"train.tar/./deep/a.jpg", b"train.tar/b.jpg"]
    )
    assert _data(tmp_path, num_classes=5).open("train").num_classes == 5


def test_dots_part_as_in_webdataset(tmp_path, caplog):
    # webdataset's own expression, of tariterators.base_plus_ext.
    def base_plus_ext(path):
        match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", path)
        return match.groups() if match else (None, None)

    names = [
        "v1.0/a.jpg",
        "v1.0/a.cls",
        "v1.0/a.seg.png",
        "v1.0/b.c/a.JPG",
        "v1.0/b.c/a.cls",
        "c.jpg",
        "c.json",
        "c.x.json",
        "v1.0/.hidden.jpg",
        "v1.0/plain",
        "d.txt",
    ]
    expected = {base for name in names for base, kind in [base_plus_ext(name)] if base and kind.lower() == "jpg"}
    _tar(
        tmp_path / "train.tar",
        [
            (name, {"jpg": _jpeg(0), "cls": b"1", "json": b'{"label": 0}'}.get(name.rpartition(".")[2].lower(), b""))
            for name in names
        ],
    )
    with caplog.at_level(logging.WARNING):
        split = _data(tmp_path).open("train")
    assert {
        os.fsdecode(name).removeprefix("train.tar/").rpartition(".")[0] for name in split.files
    } == expected and split.num_samples == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'train.tar'}: keys with neither an image nor a class are passed over: 1"
    ]


@pytest.mark.parametrize(
    "members,message",
    [
        (
            _sample("n.1", 0),
            "n.1.jpg is of the key n and of the kind 1.jpg, as WebDataset parts a file name at its first dot, "
            "and the key has no image",
        ),
        ([*_sample("a", 0), *_sample("v1.0/b.2", 1)], "v1.0/b.2.jpg is of the key v1.0/b and of the kind 2.jpg"),
        ([*_sample("a", 0), ("b.jpg", b""), ("b.label.cls", b"0")], "the key b has no class"),
        ([*_sample("a", 0), ("a.CLS", b"1")], "two classes of the key a, the second is a.CLS"),
        ([("a.jpg", b""), ("a.cls", b"1_0")], "a.cls says '1_0', which is no class"),
        ([("a.jpg", b"")], "the key a has no class: add a.cls"),
        ([("a.jpg", b""), ("a.json", b'{"caption": 1}')], "the key a has no class"),
        ([("a.cls", b"0")], "the key a has a class and no image"),
        ([("a.jpg", b""), ("a.png", b"")], "two images of the key a, a.jpg and a.png"),
        ([("a.jpg", b""), ("a.cls", b"dog")], "a.cls says 'dog', which is no class"),
        ([("a.jpg", b""), ("a.cls", b"-1")], "a.cls says '-1'"),
        ([("a.jpg", b""), ("a.json", b'{"label": 0.5}')], "which is no class"),
        ([("a.jpg", b""), ("a.json", b"{")], "which is no class"),
        (
            [("a.jpg", b""), ("a.json", b'{"label": 1}'), ("a.cls", b"0")],
            "the key a is of class 1 by a.json and of class 0 by a.cls: correct one of them, or take it out",
        ),
        ([*_sample("a", 0), ("a.json", b'{"label": 2}')], "of class 0 by a.cls and of class 2 by a.json"),
    ],
)
def test_errors_name_shard_and_key(tmp_path, members, message):
    path = _tar(tmp_path / "train-0.tar", members)
    with pytest.raises(ContrastillError, match=re.escape(message)) as caught:
        _data(tmp_path).open("train")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.h5"))


def test_classes_without_training_samples_are_named(tmp_path, caplog):
    _tar(tmp_path / "train.tar", [*_sample("a", 1), *_sample("b", 3)])
    _tar(tmp_path / "test.tar", [*_sample("c", 1), *_sample("d", 2)])
    with caplog.at_level(logging.WARNING):
        open_splits(make_data_config({"path": str(tmp_path)}, {}))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: no training sample is of class 0, 2: their outputs are not trained; number classes "
        "from 0 without gaps",
        "no training sample is of class 2, and 1 of the 2 test samples are, which nothing teaches: number both splits "
        "alike, or train on these classes too",
    ]


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_a_compressed_tar_says_how_to_unpack_it(tmp_path, module):
    compress = pytest.importorskip(module).compress
    path = _tar(tmp_path / "train-0.tar", _sample("a", 0))
    path.write_bytes(compress(path.read_bytes()))
    tool = {"gzip": "gzip", "bz2": "bzip2", "lzma": "xz"}[module]
    message = f"{path} is compressed, and samples are read by .*: {tool} -dc < train-0.tar > plain.tar, and mv"
    with pytest.raises(ContrastillError, match=message):
        _data(tmp_path).open("train")


def test_damaged_tars(tmp_path):
    path = _tar(tmp_path / "train-0.tar", _sample("a", 0) + _sample("b", 1))
    intact = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmember("b.jpg")
    for content, message in (
        (intact[: second.offset_data + 100], "unexpected end of data"),
        (intact[: second.offset + 100], "truncated|unexpected end"),
        (intact[: second.offset], "truncated, no end of archive"),
        (intact[: second.offset] + b"x" * 512 + intact[second.offset + 512 :], "damaged header"),
        (b"\x1f\x8c" + intact[2:], "."),
        (b"", "empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(
            ContrastillError,
            match=rf"train-0.tar cannot be read as an uncompressed tar \(.*({message}).*\): copy it again",
        ) as caught:
            _data(tmp_path).open("train")
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_by_shard_and_member(tmp_path, workers):
    path = _tar(
        tmp_path / "train-0.tar",
        [*_sample("a", 0), ("b.jpg", _jpeg(1)[:200]), ("b.cls", b"0"), ("c.jpg", b"text"), ("c.cls", b"0")],
    )
    with pytest.raises(
        ContrastillError,
        match=re.escape(str(path))
        + r"/[bc]\.jpg cannot be read as an image \(.+\): remove it, or set data.skip_corrupted=true",
    ):
        list(_loader(tmp_path, workers=workers).epoch(0))
    loader = _loader(tmp_path)
    path.unlink()
    with pytest.raises(ContrastillError, match="cannot be read as an image .*No such file"):
        list(loader.epoch(0))


def test_classes_and_splits_that_are_not_there(tmp_path):
    _tar(tmp_path / "train-0.tar", _sample("a", 0) + _sample("b", 1))
    with pytest.raises(UsageError, match="no shards to test on: the layout is"):
        _data(tmp_path).open("test")
    _tar(tmp_path / "val-0.tar", _sample("a", 2))
    with pytest.raises(
        UsageError,
        match=r"val-0.tar: a.jpg is of class 2, and the shards to train on end at class 1: set data.num_classes",
    ):
        _data(tmp_path).open("test")
    assert _data(tmp_path, num_classes=3).open("test").targets.tolist() == [2]
    with pytest.raises(UsageError, match="b.jpg is of class 1, and data.num_classes is 1"):
        _data(tmp_path, num_classes=1).open("train")
    _tar(tmp_path / "train-0.tar", [("readme.txt", b"nothing")])
    with pytest.raises(UsageError, match="hold no samples: each is KEY.jpg"):
        _data(tmp_path).open("train")
    for path, split, message in (
        (tmp_path / "none", "train", "does not exist"),
        (tmp_path / "val-0.tar", "train", "is a file"),
        (tmp_path, "val", "no split 'val'"),
    ):
        with pytest.raises(UsageError, match=message):
            _data(path).open(split)


def test_recognises_its_own_and_no_other(tmp_path, both):
    folder, shards = both
    recognises = DATASETS["webdataset"].recognises
    assert recognises(str(shards)) and not recognises(str(folder)) and not recognises(str(tmp_path))
    assert not DATASETS["image_folder"].recognises(str(shards))
    # A tar left beside the folder that was made of it.
    (tmp_path / "train" / "a").mkdir(parents=True)
    _tar(tmp_path / "train.tar", [])
    assert not recognises(str(tmp_path))
    config = {
        "out": "x",
        "student": {"model": "resnet20"},
        "objectives": {"cross_entropy": {}},
        "data": {"path": str(shards)},
    }
    assert validate(config).data.name == "webdataset"
