"""Hugging Face datasets: the batches of the same bytes in folders, columns of each format with their values as stored,
splits, labels, and what is refused.
"""

import io
import logging
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.value_scale import note_once
from contrastill.datasets.huggingface import LoadedHuggingFace
from contrastill.datasets.io.fingerprint import fingerprint
from contrastill.datasets.io.pack import source_of
from contrastill.datasets.io.user_samples import UserSamples
from contrastill.datasets.user_dataset import UserDataset

hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
hf.disable_progress_bars()


def _encoded(values, kind="PNG", **options):
    buffer = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _picture(seed, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _dataset(columns, **features):
    return hf.Dataset.from_dict(columns, features=hf.Features(features))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """2 classes × 7 training and 2 test pictures of two heights, as a folder of classes and saved to disk."""
    folder, saved = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("hf") / "saved"
    splits = {}
    for split, count in (("train", 7), ("test", 2)):
        pictures = []
        for name in ("cat", "dog"):
            for k in range(count):
                content = _encoded(_picture(len(pictures) + 50 * (split == "test"), 20 + k % 2), "JPEG")
                path = folder / split / name / f"{k:02}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                pictures.append({"path": None, "bytes": content})
        labels = [0] * count + [1] * count
        splits[split] = _dataset(
            {"image": pictures, "label": labels}, image=hf.Image(), label=hf.ClassLabel(names=["cat", "dog"])
        )
    dataset = hf.DatasetDict(splits)
    dataset.save_to_disk(saved)
    return folder, saved, dataset


def _open(data, split="train", name="huggingface", **options):
    """The split of a path, or of a dataset or dict as a call takes it."""
    options = {"workers": 0, **options}
    if isinstance(data, hf.Dataset):
        data = {"train": data}
    if isinstance(data, dict):
        return LoadedHuggingFace(data, holds_out=len(data) > 1)(LoadedHuggingFace.Options(**options)).open(split)
    kind = DATASETS[name]
    return kind(kind.Options(path=str(data), **options)).open(split)


def _batches(split, epoch=0, start=0, train=True):
    loader = split.loader(batch_size=4, device="cpu", seed=3, train=train)
    return list(loader.epoch(epoch, start))


def _same(batches, others):
    return len(batches) == len(others) and all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in zip(batches, others, strict=True)
    )


def _values(split, name="rgb"):
    """The plain frame of each sample, (N, C, H, W)."""
    return torch.cat([batch[name] for batch in _batches(split, train=False)])


def test_batches_are_those_of_the_same_files_in_folders(both):
    folder, saved, dataset = both
    for options in ({"size": 16}, {"size": 16, "limit": 5, "color_jitter": 0.5, "crop": "padded"}):
        files, test = (_open(folder, name, "image_folder", **options) for name in ("train", "test"))
        for data in (saved, dataset):
            split = _open(data, **options)
            assert split.classes == files.classes == ["cat", "dog"] and torch.equal(split.targets, files.targets)
            assert _same(_batches(split, 2), _batches(files, 2))
            assert _same(_batches(_open(data, "test", **options)), _batches(test))


def test_workers_resuming_and_spawn_change_no_byte(both):
    split = _open(both[1], size=16)
    expected = _batches(split, 1)
    assert _same(_batches(_open(both[1], size=16, workers=2), 1), expected)
    assert _same(_batches(split, 1, start=2), expected[2:])
    reader = pickle.loads(pickle.dumps(split.reader(3)))
    rows = expected[0]["index"].numpy()
    assert torch.equal(reader[1, rows]["rgb"], split.reader(3)[1, rows]["rgb"])


def test_parquet_and_the_default_test_split_and_size(both, tmp_path, monkeypatch, caplog):
    dataset = both[2]
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    dataset["train"].to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(UsageError, match=r"test_fraction=0.001 no row is held out"):
        _open(tmp_path, test_fraction=0.001)
    split, test = (_open(tmp_path, name, test_fraction=0.3) for name in ("train", "test"))
    assert split.num_samples + test.num_samples == 14 and test.num_samples
    assert _open(tmp_path, "test", test_fraction=1).num_samples == 14
    assert f"is {test.num_samples} of the 14 rows, by data.test_fraction=0.3 (1: an evaluation" in caplog.text
    assert _open(tmp_path, test_fraction=0.3).modalities == {"rgb": (3, 224, 224)}
    assert _open({"train": dataset["train"].select([0, 2])}).modalities == {"rgb": (3, 224, 224)}
    square = _dataset({"image": [_encoded(_picture(k, 9, 9)) for k in range(3)]}, image=hf.Image())
    assert _open(square).modalities == {"rgb": (3, 9, 9)}
    assert _open(square, "test") is None and _open(square).targets is None


def test_recognises_its_own_and_no_other(both, tmp_path):
    folder, saved, dataset = both
    recognised = [name for name, kind in DATASETS.items() if getattr(kind, "recognises", lambda _: False)(str(saved))]
    assert recognised == ["huggingface"]
    recognises = DATASETS["huggingface"].recognises
    assert not recognises(str(folder)) and recognises(str(saved / "train")) and not recognises(str(tmp_path))
    (tmp_path / "train.parquet").touch()
    assert recognises(str(tmp_path))


@pytest.mark.parametrize("prefix", ["huggingface:", ""])
def test_it_is_packed_by_its_name_and_as_it_is_recognised(both, prefix):
    source = source_of(f"{prefix}{both[1]}", options=["size=8"])
    assert source.classes == ["cat", "dog"]
    assert {name: split.num_samples for name, split in source.splits.items()} == {"train": 14, "test": 4}


def test_indices_are_respected_and_in_the_fingerprint(both):
    train = both[2]["train"]
    plain, size = _values(_open(train, size=16)), {"size": 16}
    order = train.shuffle(seed=1)._indices.column(0).to_pylist()
    assert torch.equal(_values(_open(train.shuffle(seed=1), **size)), plain[order])
    assert torch.equal(_values(_open(train.select([5, 2, 9]), **size)), plain[[5, 2, 9]])
    dogs = train.filter(lambda row: row["label"] == 1)
    assert torch.equal(_values(_open(dogs, **size)), plain[7:]) and _open(dogs, **size).classes == ["cat", "dog"]
    prints = [fingerprint(_open(data, **size)) for data in (train, train.select(range(14)), train.shuffle(seed=1))]
    assert prints[0] == prints[1] == fingerprint(_open(both[1], **size))
    assert prints[0]["names or sizes of files"] != prints[2]["names or sizes of files"]


def test_each_kind_of_column_gives_the_same_pictures(tmp_path):
    contents = [_encoded(_picture(k)) for k in range(3)]
    paths = [str(tmp_path / f"{k}.png") for k in range(3)]
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
    text, binary = hf.Value("string"), hf.Value("binary")
    columns = {
        "bytes": _dataset({"image": contents}, image=hf.Image()),
        "paths": _dataset({"image": paths}, image=hf.Image()),
        "struct": _dataset(
            {"image": [{"bytes": content, "path": None} for content in contents]}, image={"bytes": binary, "path": text}
        ),
        "encoded": _dataset({"image": contents}, image=binary),
        "text": _dataset({"image": paths}, image=text),
    }
    expected = torch.stack([torch.from_numpy(_picture(k)).permute(2, 0, 1) for k in range(3)])[:, :, :20, 2:22]
    for name, dataset in columns.items():
        split = _open(dataset, image="image", size=20, crop="none")
        assert torch.equal(_values(split), expected), name
        assert len(split.listing()) == 16
    (tmp_path / "1.png").unlink()
    with pytest.raises(ContrastillError, match=r"row 1 cannot be read as an image \(.*1\.png.*skip_corrupted"):
        _values(_open(columns["paths"], size=20))


def test_values_of_several_columns_are_as_stored(caplog):
    depth = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24) + 40_000
    labels = Image.fromarray((np.arange(20 * 24).reshape(20, 24) % 5).astype(np.uint8), "P")
    labels.putpalette([250, 0, 0, 0, 250, 0] * 128)
    turned = Image.Exif()
    turned[274] = 3
    metres = np.random.default_rng(0).random((2, 20, 24)).astype(np.float32) + 1
    dataset = _dataset(
        {
            "image": [_encoded(_picture(k), "PNG") for k in range(2)],
            "depth_map": [_encoded(depth)] * 2,
            "semantics": [_encoded(labels)] * 2,
            "thermal": [_encoded((depth // 300).astype(np.uint8))] * 2,
            "near": list(metres),
            "caption": ["a", "b"],
        },
        image=hf.Image(),
        depth_map=hf.Image(),
        semantics=hf.Image(),
        thermal=hf.Image(),
        near=hf.Array2D((20, 24), "float32"),
        caption=hf.Value("string"),
    )
    split = _open(dataset)
    assert "the columns image, depth_map, semantics, thermal are read as the modalities rgb, depth" in caplog.text
    assert {name: shape[0] for name, shape in split.modalities.items()} == {
        "rgb": 3, "depth": 1, "semantics": 1, "thermal": 1,
    }  # fmt: skip
    assert split.camera.unit == "mm" and split.targets is None
    assert torch.equal(_values(split, "depth")[1, 0], torch.from_numpy(depth.astype(np.float32)))
    assert torch.equal(_values(split, "semantics")[0, 0], torch.from_numpy(np.array(labels)))
    assert torch.equal(_values(split)[1], torch.from_numpy(_picture(1)).permute(2, 0, 1))
    floats = _open(dataset, modalities={"depth": "near"})
    assert list(floats.modalities) == ["rgb", "depth"] and floats.camera.unit == "m"
    assert torch.equal(_values(floats, "depth")[:, 0], torch.from_numpy(metres))
    assert list(_open(dataset, image="image").modalities) == ["rgb"]
    mirrored = _dataset({"image": [_encoded(_picture(0), "JPEG", quality=95, exif=turned)]}, image=hf.Image())
    upright = _dataset({"image": [_encoded(_picture(0), "JPEG", quality=95)]}, image=hf.Image())
    turned_values, values = (_values(_open(data, size=20, crop="none")) for data in (mirrored, upright))
    assert torch.equal(turned_values, values.flip(2, 3))


def _labelled(labels, feature, name="label", **further):
    columns = {"image": [_encoded(_picture(k, 8, 8)) for k in range(len(labels))], name: labels, **further}
    return (
        hf.Dataset.from_dict(columns)
        .cast(hf.Features({"image": hf.Value("binary"), name: feature, **{key: feature for key in further}}))
        .cast_column("image", hf.Image())
    )


def test_labels_of_each_kind():
    names, text = hf.ClassLabel(names=["wolf", "ape"]), hf.Value("string")
    train = _labelled([1, 0, 1], names)
    split = _open({"train": train, "test": _labelled([1, 0], hf.ClassLabel(names=["ape", "wolf"]))}, "test")
    assert split.classes == ["wolf", "ape"] and split.targets.tolist() == [0, 1]
    words = _open(_labelled(["b", "c", "a"], text, "target"))
    assert words.classes == ["a", "b", "c"] and words.targets.tolist() == [1, 2, 0]
    numbers = _open({"train": _labelled([0, 2, 1], hf.Value("int8")), "test": _labelled([3], hf.Value("int64"))})
    assert numbers.classes is None and numbers.num_classes == 4 and numbers.targets.tolist() == [0, 2, 1]
    for labels, feature, message in (
        ([0, -1], hf.Value("int32"), r"1 of 2 rows have no label.*column label, the first is row 1"),
        ([0, -3], hf.Value("int32"), "column label: the label -3 numbers no class"),
        (["a", None], text, "1 of 2 rows have no label"),
        (["a", ""], text, "1 of 2 rows have no label"),
        ([0.0, 1.0], hf.Value("float32"), r"if the floats in label number classes, dataset.cast_column\('label', data"),
        ([0, 1], hf.ClassLabel(names=["a", ""]), "column label, has no name for class 1: name every class"),
    ):
        with pytest.raises(UsageError, match=message):
            _open(_labelled(labels, feature), label="label")
    beyond = _labelled([0, 5], hf.Value("int64")).cast_column("label", hf.ClassLabel(names=["a", "b"]))
    with pytest.raises(UsageError, match="the label 5 is beyond the 2 names of classes"):
        _open(beyond)
    with pytest.raises(UsageError, match="row 0 is of the class 'd', and the training split has"):
        _open({"train": _labelled(["a", "b"], text), "test": _labelled(["d"], text)}, "test")
    with pytest.raises(UsageError, match="labels fine, coarse: say which with data.label="):
        _open(_labelled([0, 1], names, "fine", coarse=[1, 0]))
    with pytest.raises(UsageError, match="labels label, target: say which with data.label="):
        _open(_labelled([0, 1], hf.Value("int8"), "label", target=[1, 0]))
    assert _open(_labelled([0, 1], names, "fine", coarse=[1, 0]), label="coarse").targets.tolist() == [1, 0]


def test_labels_of_two_kinds_are_matched_by_number_with_a_line_or_refused(caplog):
    note_once.cache_clear()
    names, text, number = hf.ClassLabel(names=["wolf", "ape"]), hf.Value("string"), hf.Value("int64")
    for train, test in (
        (_labelled(["b", "a"], text), _labelled([0, 1], number)),
        (_labelled([0, 1], number), _labelled(["b", "a"], text)),
    ):
        with pytest.raises(
            UsageError, match=r"are texts, and those of .* are numbers: cast .*cast_column\('label', data"
        ):
            _open({"train": train, "test": test}, "test")
        assert not caplog.text
    line = (
        "the classes of the Dataset/{} and the Dataset/{} are matched by number alone, as the Dataset/{} has no names"
    )
    data = {"train": _labelled([1, 0], names), "test": _labelled([1, 0], number)}
    assert [_open(data, split).classes for split in data for _ in range(2)] == [["wolf", "ape"]] * 4
    assert caplog.text.count(line.format("train", "test", "test")) == 1
    data = {"train": _labelled([0, 0], number), "test": _labelled([1, 0], names)}
    train, test = (_open(data, split) for split in data)
    assert (train.classes, train.num_classes, test.classes, test.num_classes) == (None, 2, ["wolf", "ape"], 2)
    assert caplog.text.count(line.format("test", "train", "train")) == 1
    for names in (["10", "9"], ["a"]):
        data = {"train": _labelled([0, 1], number), "test": _labelled([0], hf.ClassLabel(names=names))}
        for each in (data, {"train": data["test"], "test": data["train"]}):
            with pytest.raises(UsageError, match="numbers in another order|label 1 is beyond the 1 names of classes"):
                _open(each, "test")
    several = {
        "train": _listed([[0, 1], [1]], hf.List(hf.ClassLabel(names=["a", "b"]))),
        "test": _listed([[0, 1]], hf.List(number)),
    }
    caplog.clear()
    note_once.cache_clear()
    assert _open(several, "test").classes == ["a", "b"]
    assert line.format("train", "test", "test") in caplog.text


def test_another_column_that_is_called_as_labels_are_is_named_in_a_line(caplog):
    note_once.cache_clear()
    domain = hf.ClassLabel(names=["indoors", "outdoors"])
    for name, feature, labels in (
        ("label", hf.Value("string"), ["cat", "dog"]),
        ("class", hf.Value("int64"), [0, 1]),
        ("target", hf.Value("float32"), [0.0, 1.0]),
    ):
        pictures = [_encoded(_picture(k, 8, 8)) for k in range(2)]
        data = _dataset(
            {"image": [{"path": None, "bytes": each} for each in pictures], "domain": [1, 0], name: labels},
            image=hf.Image(), domain=domain, **{name: feature},
        )  # fmt: skip
        caplog.clear()
        assert [_open(data).classes for _ in range(2)] == [["indoors", "outdoors"]] * 2
        line = f"classes are those of the column domain, and the column {name} is not read: data.label={name} takes it"
        assert caplog.text.count(line) == 1
        caplog.clear()
        _open(data, label="domain")
        _open(data.remove_columns(name))
        assert not caplog.text


def _shaped(rows):
    return {
        "image": [torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in rows["image"]], "label": rows["label"],
    }  # fmt: skip


def _user_splits(train, test):
    opened = UserDataset(train, test)(UserDataset.Options())
    return opened.open("train"), opened.open("test")


@pytest.mark.parametrize(
    "shape",
    [
        lambda table: table.with_format("numpy"),
        lambda table: table.with_format("torch"),
        lambda table: table.with_transform(_shaped),
        lambda table: table.rename_column("label", "kind").with_transform(
            lambda rows: _shaped({"image": rows["image"], "label": rows["kind"]})
        ),
        lambda table: Subset(table, range(len(table))),
        lambda table: Subset(Subset(table.with_format("numpy"), [2, 1, 0]), [2, 1, 0]),
        lambda table: ConcatDataset([table, table.with_format("numpy")]),
    ],
)
def test_samples_of_a_formatted_table_have_the_names_of_its_column(shape):
    first, second = (hf.ClassLabel(names=names) for names in (["wolf", "ape", "elk"], ["elk", "ape", "wolf"]))
    a, b = _labelled([0, 1, 2], first), _labelled([0, 1, 2], second)
    train, test = _user_splits(shape(a), shape(b))
    assert train.classes == test.classes == ["wolf", "ape", "elk"] and test.targets.tolist()[:3] == [2, 1, 0]
    with pytest.raises(UsageError, match="puts together datasets whose classes are wolf, ape, elk, and elk, ape, wolf"):
        UserDataset(ConcatDataset([shape(a), shape(b)]))


def test_samples_of_a_table_have_its_names_where_their_labels_are_its_own(caplog):
    note_once.cache_clear()
    table = _labelled([0, 1, 2], hf.ClassLabel(names=["wolf", "ape", "elk"]))
    other = table.with_transform(lambda rows: {**_shaped(rows), "label": [2 - each for each in rows["label"]]})
    assert _user_splits(other, None)[0].classes is None and "lists other labels than its samples have" in caplog.text
    other.classes = ["elk", "ape", "wolf"]
    assert _user_splits(other, None)[0].classes == ["elk", "ape", "wolf"]
    assert UserSamples(_labelled([0, 1, 2], hf.Value("int64")).with_format("numpy")).classes is None
    caplog.clear()
    assert UserSamples(ConcatDataset([table, _labelled([0], hf.Value("int64"))])).classes is None
    assert "that name their classes (wolf, ape, elk) and others that do not, so they are matched by" in caplog.text
    frames = np.ones((3, 8, 8, 1), np.uint8)
    maps = table.with_transform(
        lambda rows: {"image": _shaped(rows)["image"], "semantics": frames[: len(rows["label"])]}
    )
    assert _user_splits(maps, None)[0].semantic_classes is None  # names of whole samples are none of pixels


def test_samples_of_several_classes_have_the_names_of_their_column():
    names = ["wolf", "ape", "elk"]
    feature, turned = hf.List(hf.ClassLabel(names=names)), hf.List(hf.ClassLabel(names=names[::-1]))
    lists = [[0, 1], [2, 0], [1, 2]]

    def hot(rows):
        return {
            "image": _shaped({**rows, "label": None})["image"],
            "label": [[float(place in row) for place in range(3)] for row in rows["labels"]],
        }

    a, b = (_listed(lists, each).with_transform(hot) for each in (feature, turned))
    assert [split.classes for split in _user_splits(a, a)] == [names] * 2
    with pytest.raises(
        UsageError, match="training dataset has the classes wolf, ape, elk, and the test dataset elk, a"
    ):
        _user_splits(a, b)
    listing = _listed([[0, 1], [1, 0]], feature).rename_column("labels", "label").with_format("numpy")
    with pytest.raises(
        UsageError, match="labels of Dataset list the classes of a sample, .*: hand out 1 for each class"
    ):
        UserSamples(listing)


def test_unlabelled_test_split_gives_way_to_validation(caplog):
    feature = hf.ClassLabel(names=["a", "b"])
    hidden = {"train": _labelled([0, 1], feature), "test": _labelled([-1, -1, -1], feature)}
    full = {**hidden, "validation": _labelled([1], feature)}
    with caplog.at_level(logging.WARNING):
        assert _open(full, "test").targets.tolist() == [1]
    assert "the split test has no labels, so validation is tested on" in caplog.text
    for data, options in ((hidden, {}), (full, {"test": "test"})):
        with pytest.raises(UsageError, match="3 of 3 rows have no label"):
            _open(data, "test", **options)


def test_what_is_not_clear_is_refused(both, tmp_path):
    dataset = both[2]
    train = dataset["train"]
    for data, options, message in (
        ({"a": train, "b": train}, {}, "splits a, b: say which to train on with data.train="),
        ({"train": train, "extra": train}, {}, "train, extra: say which to test on with data.test="),
        (dataset, {"test": "tset"}, "'tset' does not exist: did you mean test"),
        (train, {"image": "pixels"}, "'pixels' does not exist"),
        (train, {"label": "image"}, "the column image is Image"),
        (train, {"modalities": {"target": "image"}}, "cannot be called target"),
        (train, {"size": (16, 8)}, "become squares"),
        (train.remove_columns("image"), {}, "no column of pictures among label"),
        (train.cast_column("image", hf.Image(mode="L")), {}, r"Image\(mode='L'\), which converts values"),
        (_dataset({"a": [], "b": []}, a=hf.Image(), b=hf.Image()), {}, "pictures a, b: say which is rgb"),
        (tmp_path, {}, "cannot be loaded by the library datasets"),
        (__file__, {}, "test_huggingface.py is a file: name a folder"),
    ):
        with pytest.raises(UsageError, match=message):
            _open(data, **options)


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"data.path=nobody/nothing cannot be loaded.*: name a folder"):
        _open("nobody/nothing")


def test_without_the_library_the_extra_is_named(both, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ContrastillError, match=r"pip install 'contrastill\[datasets\]'"):
        _open(both[1])


class _Tiny(torch.nn.Module):
    def __init__(self, channels=3, classes=2):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(channels, 8, 3), torch.nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


_CALL = {"epochs": 1, "quiet": True, "batch_size": 8}


def test_one_call_takes_a_dict_of_splits_and_its_folder_alike(both, tmp_path):
    settings = {"objectives": "cross_entropy", "data.size": 16, "data.workers": 0, **_CALL}
    loaded = contrastill.distill(None, "resnet8", both[2], out=tmp_path / "loaded", **settings)
    read = contrastill.distill(None, "resnet8", both[1], out=tmp_path / "read", **settings)
    assert read.config.data.name == "huggingface" and "top1" in read.metrics
    pairs = zip(loaded.student.state_dict().values(), read.student.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    assert (loaded.metrics["loss"], loaded.metrics["top1"]) == (read.metrics["loss"], read.metrics["top1"])
    # Of other data the test view is that of the training, where nothing else is asked for.
    for overrides, size in (
        ([f"data.path={both[0]}"], 16),
        ([f"data.path={both[0]}", "data.size=20"], 20),
        ([f"data={{path: {both[0]}}}"], 224),
        (["data.name=packed", "data.path=other.h5"], None),
    ):
        assert load_config(str(tmp_path / "loaded" / "config.yaml"), overrides).data.options().get("size") == size


def test_one_call_from_rgb_to_depth(tmp_path):
    images, depth = [_picture(k) for k in range(12)], np.random.default_rng(0).integers(500, 4000, (12, 20, 24))
    dataset = _dataset(
        {"image": [_encoded(image) for image in images], "depth": [_encoded(each.astype(np.uint16)) for each in depth]},
        image=hf.Image(),
        depth=hf.Image(),
    )
    result = contrastill.distill(
        _Tiny(), _Tiny(1), dataset, out=tmp_path / "run", student_modality="depth", objectives="crd", **_CALL,
        **{"data.workers": 0},
    )  # fmt: skip
    assert result.config.student.modality == "depth" and np.isfinite(result.metrics["loss"])


def test_one_call_leaves_rows_that_the_user_shapes_alone(both, tmp_path):
    def shaped(rows):
        return {
            "image": [torch.full((3, 8, 8), 7, dtype=torch.uint8) for _ in rows["image"]], "label": rows["label"],
        }  # fmt: skip

    dataset = hf.DatasetDict({name: split.with_transform(shaped) for name, split in both[2].items()})
    result = contrastill.distill(_Tiny(), _Tiny(), dataset, out=tmp_path / "run", objectives="kd", **_CALL)
    assert "top1" in result.metrics
    with pytest.raises(UsageError, match="data.size"):
        contrastill.distill(
            _Tiny(), _Tiny(), dataset, out=tmp_path / "other", objectives="kd", **_CALL, **{"data.size": 8}
        )


def test_floats_that_number_classes_are_refused_with_the_way_to_classes(tmp_path):
    data = _labelled([0.0, 1.0], hf.Value("float32"))
    with pytest.raises(
        UsageError, match=r"if the floats in label number classes, dataset.cast_column\('label', .*else sa"
    ):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "run", objectives="cross_entropy", **_CALL)


def test_streams_are_refused(both, tmp_path):
    stream = both[2]["train"].to_iterable_dataset()
    for data in (stream, (stream, stream), hf.IterableDatasetDict({"train": stream})):
        with pytest.raises(UsageError, match="IterableDataset streams its rows.*streaming=False, or write WebDataset"):
            contrastill.distill(_Tiny(), _Tiny(), data, out=tmp_path / "run", **_CALL)


def test_a_config_names_it_by_the_folder_alone(both):
    config = validate(
        {
            "data": {"path": str(both[1])},
            "student": {"model": "resnet8"},
            "objectives": {"cross_entropy": {}},
            "out": "x",
        }
    )
    assert config.data.name == "huggingface" and config.data.options()["test_fraction"] is None


def _listed(lists, feature, seed=0):
    pictures = [{"path": None, "bytes": _encoded(_picture(seed + row))} for row in range(len(lists))]
    return _dataset({"image": pictures, "labels": lists}, image=hf.Image(), labels=feature)


def test_lists_of_classes_and_of_numbers_are_labels_of_several_classes():
    named = hf.List(hf.ClassLabel(names=["cat", "dog", "fox"]))
    split = _open(_listed([[0, 2], [], [1], [2, 1]], named), size=16)
    assert split.targets is None
    assert (split.num_classes, split.classes) == (3, ["cat", "dog", "fox"])
    expected = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert torch.equal(split.label_vectors, expected)
    batch = next(iter(split.loader(batch_size=4, device="cpu", train=True, seed=1).epoch(0)))
    assert torch.equal(batch["label_vector"], expected[batch["index"]])
    assert "target" not in batch
    soft = _open(_listed([[0.2, 0.8], [0.7, 0.3]], hf.List(hf.Value("float32"))), size=16)
    assert soft.targets.tolist() == [1, 0]
    assert torch.allclose(soft.label_vectors, torch.tensor([[0.2, 0.8], [0.7, 0.3]]))


@pytest.mark.parametrize(
    ("lists", "feature", "message"),
    [
        ([[1, 2], [1]], "int64", "lists of 1 to 2 numbers.*lists of ClassLabel"),
        ([[0.5, 0.1], [0.2, 0.2]], "float32", "neither hold 0 and 1 alone nor sum to 1"),
        ([[0, -1], [1]], None, "row 0 lists the class -1"),
        ([[0], [None, 1]], None, "row 1 lists the class None, .*: leave it out of the list"),
        ([[None, 1.0], [0.0, 1.0]], "float32", "labels .N, C. hold negative or infinite numbers or NaN"),
        ([[0], None], None, "1 of 2 rows have no label"),
    ],
)
def test_lists_that_are_no_labels_are_refused(lists, feature, message):
    inner = hf.ClassLabel(names=["cat", "dog"]) if feature is None else hf.Value(feature)
    with pytest.raises(UsageError, match=message):
        _open(_listed(lists, hf.List(inner)), size=16)


def test_two_forms_of_labels_are_refused_and_lists_of_one_number_are_classes():
    numbers = hf.List(hf.Value("int64"))
    assert _open(_listed([[2], [0], [1]], numbers), size=16).targets.tolist() == [2, 0, 1]
    with pytest.raises(UsageError, match="the label -2 numbers no class"):
        _open(_listed([[-2], [0]], numbers), size=16)
    both = {
        "train": _listed([[0, 1], [1, 0]], numbers),
        "test": _labelled([0, 1], hf.Value("int64"), "labels"),
    }
    for split in both:
        with pytest.raises(
            UsageError, match="Dataset/train are a number for each class, and those of the Dataset/test"
        ):
            _open(both, split, size=16)


def test_arrays_are_read_where_they_are_named(tmp_path):
    shades = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    data = _dataset(
        {"shot": shades.tolist(), "label": [0, 1, 0]}, shot=hf.Array3D((8, 8, 3), "uint8"), label=hf.Value("int8")
    )
    with pytest.raises(UsageError, match="no column of pictures, and arrays .* say which is rgb with data.image=shot"):
        _open(data)
    assert torch.equal(_values(_open(data, image="shot")), torch.from_numpy(shades).permute(0, 3, 1, 2))
    with pytest.raises(UsageError, match="no column of pictures, and arrays .* say which is rgb with data.image=shot"):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "run")
    options = {"epochs": 1, "batch_size": 2, "quiet": True, "data.image": "shot"}
    assert contrastill.distill(None, "resnet8", data, out=tmp_path / "run", **options).metrics["epoch"] == 0
    assert UserSamples(data.with_format("numpy")).shapes == {"shot": (3, 8, 8)}


def test_lists_of_numbers_are_cast_to_arrays(tmp_path):
    shades = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    data = hf.Dataset.from_dict({"shot": shades.tolist(), "label": [0, 1, 0]})
    with pytest.raises(
        UsageError, match=r"no image \(shot a list, .*\(dataset.cast_column\('shot', datasets.Array3D\("
    ):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "run")
    cast = data.cast_column("shot", hf.Array3D((8, 8, 3), "uint8"))
    assert torch.equal(_values(_open(cast, image="shot")), torch.from_numpy(shades).permute(0, 3, 1, 2))
