"""Sources that are put together in unusual ways: all samples are read, or a sentence says which are not and why."""

import io
import logging
import re
import tarfile

import h5py
import numpy as np
import pytest
from PIL import Image

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.recognition import recognised, unknown_layout
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.images import IMAGE_SUFFIXES


def _picture(level, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(buffer, format=kind)
    return buffer.getvalue()


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _open(name, path, split="train", **options):
    dataset = DATASETS[name]
    fields = dataset.Options.model_fields
    plain = {"size": 8, "workers": 0, "crop_padding": 0, "flip": False}
    return dataset(dataset.Options(path=str(path), **{k: v for k, v in plain.items() if k in fields} | options)).open(
        split
    )


def _member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def _tar(path, members):
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, content)
    return path.read_bytes()


def _sample(key, target):
    return [_member(f"{key}.png", _picture(10 * target + 5)), _member(f"{key}.cls", str(target).encode())]


def _levels(split):
    return [int(split.pictures.open(row).pixels()[0, 0, 0]) for row in range(split.num_samples)]


# --- tars


def test_tars_that_were_joined_are_read_to_the_end(tmp_path):
    parts = [_tar(tmp_path / "part", [*_sample(f"a{k}", k), *_sample(f"b{k}", k + 3)]) for k in range(3)]
    _write(tmp_path / "train.tar", b"".join(parts))
    split = _open("webdataset", tmp_path)
    assert split.targets.tolist() == [0, 3, 1, 4, 2, 5] and _levels(split) == [5, 35, 15, 45, 25, 55]
    # Zeros of any length between them are none of a part.
    _write(tmp_path / "train.tar", (bytes(1 << 21)).join(parts[:2]) + bytes(1 << 21))
    assert _open("webdataset", tmp_path).targets.tolist() == [0, 3, 1, 4]
    for rest in (b"x" * 700, parts[1][:1500], b"\0" * 900 + b"x"):
        _write(tmp_path / "train.tar", parts[0] + rest)
        with pytest.raises(ContrastillError, match="cannot be read as an uncompressed tar"):
            _open("webdataset", tmp_path)
    _write(tmp_path / "train.tar", parts[0] + parts[0])
    with pytest.raises(ContrastillError, match="two images of the key a0"):
        _open("webdataset", tmp_path)


def test_hard_links_are_read_as_the_members_that_they_name(tmp_path):
    links = [
        _member("deep/c.png", type=tarfile.LNKTYPE, linkname="./a.png"),
        _member("deep/c.cls", type=tarfile.LNKTYPE, linkname="b.cls"),
        # A link to a link, and one to a file of a kind that is not read itself.
        _member("d.png", type=tarfile.LNKTYPE, linkname="deep/c.png"),
        _member("d.cls", type=tarfile.LNKTYPE, linkname="label.bin"),
    ]
    _tar(tmp_path / "train.tar", [*_sample("a", 0), *_sample("b", 1), _member("label.bin", b"2"), *links])
    split = _open("webdataset", tmp_path)
    assert split.targets.tolist() == [0, 1, 1, 2] and _levels(split) == [5, 15, 5, 5]
    assert split.files.tolist()[2:] == [b"train.tar/deep/c.png", b"train.tar/d.png"]


def test_links_that_are_not_followed_are_counted_each_time(tmp_path, caplog):
    secret = _write(tmp_path / "outside.png", _picture(200))
    for number in range(2):
        _tar(
            tmp_path / f"train-{number}.tar",
            [
                *_sample("a", 0),
                *_sample("b", 1),
                _member("c.png", type=tarfile.SYMTYPE, linkname=str(secret)),
                _member("c.cls", type=tarfile.SYMTYPE, linkname="a.cls"),
                _member("d.png", type=tarfile.LNKTYPE, linkname=str(secret)),
                _member("folder.png", type=tarfile.DIRTYPE),
                _member("e.txt", b"neither"),
            ],
        )
    shard = tmp_path / "train-0.tar"
    with caplog.at_level(logging.WARNING):
        assert _open("webdataset", tmp_path).targets.tolist() == [0, 1, 0, 1]
    expected = [
        f"{shard} and 1 more: keys with neither an image nor a class are passed over: 2",
        f"{shard} and 1 more: symbolic links and other members that are no files are passed over: 6; pack the file "
        "that a link names, as tar --dereference does",
    ]
    assert [record.getMessage() for record in caplog.records] == expected
    # From the stored index too, as in another process.
    from contrastill.core import value_scale

    value_scale.note_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _open("webdataset", tmp_path)
    assert [record.getMessage() for record in caplog.records] == expected
    _tar(shard, [*_sample("a", 0), _member("c.png", type=tarfile.SYMTYPE, linkname="a.png"), _member("c.cls", b"1")])
    with pytest.raises(ContrastillError, match="key c has a class and no image .*; c.png is a link or no plain file"):
        _open("webdataset", tmp_path)


# --- TinyImageNet


@pytest.fixture
def tiny(tmp_path):
    """Three classes of two images; four of val, of which a grey level says which it is."""
    wnids = ["n03", "n01", "n02"]
    for place, wnid in enumerate(wnids):
        for number in range(2):
            name = f"train/{wnid}/images/{wnid}_{number}.JPEG"
            _write(tmp_path / name, _picture(60 * place + 10 * number, "JPEG"))
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t7\t7" for number, wnid in enumerate(["n02", "n03", "n01", "n03"])]
    for number in range(4):
        _write(tmp_path / "val" / "images" / f"val_{number}.JPEG", _picture(40 * number, "JPEG"))
    _write(tmp_path / "val" / "val_annotations.txt", "\n".join(lines).encode())
    _write(tmp_path / "wnids.txt", "\n".join(wnids).encode())
    return tmp_path


def _read(split):
    return [*zip(split.targets.tolist(), split.images["rgb"].interior[:, 0, 0, 0].tolist(), strict=True)]


def test_a_class_that_is_listed_twice_is_refused(tiny, caplog):
    _write(tiny / "wnids.txt", b"n03\nn01\nn02\nn03\n")
    for split in ("train", "test"):
        with pytest.raises(UsageError, match="wnids.txt names n03 2 times, and a class's number is its place there"):
            _open("tiny_imagenet", tiny, split)
    _write(tiny / "wnids.txt", b"\xef\xbb\xbfn03\r\nn01\r\nn02\r\n")
    _write(tiny / "words.txt", b"n01\tcrane\nn02\tcrane\nn03\t\nn77\tone\nn77\ttwo\n")
    with caplog.at_level(logging.WARNING):
        assert _open("tiny_imagenet", tiny).classes == ["n03", "crane", "crane"]
    assert "the classes 1 and 2 are both called crane" in caplog.text
    _write(tiny / "words.txt", b"n01\tcrane\nn01\theron\n")
    with pytest.raises(UsageError, match="words.txt calls n01 both crane and heron"):
        _open("tiny_imagenet", tiny)


@pytest.mark.parametrize("where", ["val/{}", "val/{}/images", "val/images/{}"])
def test_a_validation_split_in_folders_of_classes(tiny, where, caplog):
    expected = _read(_open("tiny_imagenet", tiny, "test"))
    for number, wnid in enumerate(["n02", "n03", "n01", "n03"]):
        folder = tiny / where.format(wnid)
        folder.mkdir(parents=True, exist_ok=True)
        (tiny / "val" / "images" / f"val_{number}.JPEG").rename(folder / f"val_{number}.JPEG")
    if "images/" not in where:
        (tiny / "val" / "images").rmdir()
    assert _read(_open("tiny_imagenet", tiny, "test")) == sorted(expected)
    annotations = tiny / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.unlink()
    assert _read(_open("tiny_imagenet", tiny, "test")) == sorted(expected)
    annotations.write_text(text.replace("val_2.JPEG\tn01", "val_2.JPEG\tn02"))
    with pytest.raises(UsageError, match="val_2.JPEG lies in the folder of n01, and val_annotations.txt says n02"):
        _open("tiny_imagenet", tiny, "test")
    annotations.write_text(text + "\nval_9.JPEG\tn01\t0\t0\t1\t1")
    with pytest.raises(UsageError, match="val_9.JPEG, which val_annotations.txt lists, is in no folder of"):
        _open("tiny_imagenet", tiny, "test")


def test_annotations_and_images_that_do_not_belong_together(tiny, caplog):
    annotations = tiny / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text + "\nval_0.JPEG\tn01\t0\t0\t1\t1")
    with pytest.raises(UsageError, match="line 5: val_0.JPEG is listed a second time, of n01, and before of n02"):
        _open("tiny_imagenet", tiny, "test")
    annotations.write_text(text + "\nimages/val_9.JPEG\tn01\t0\t0\t1\t1")
    with pytest.raises(UsageError, match="line 5: images/val_9.JPEG is not in .*images: unpack"):
        _open("tiny_imagenet", tiny, "test")
    annotations.write_text("\n".join(text.splitlines()[:3]))
    with caplog.at_level(logging.WARNING):
        assert _open("tiny_imagenet", tiny, "test").num_samples == 3
    assert "images that val_annotations.txt does not list are passed over, 1 such as val_3.JPEG" in caplog.text


def test_training_images_beside_the_folder_images(tiny, caplog):
    images = tiny / "train" / "n01" / "images"
    (images / "n01_1.JPEG").rename(images.parent / "n01_1.JPEG")
    _write(images / "._n01_0.JPEG", b"left by macOS")
    _write(images / "n01_2.gif", b"GIF89a")
    _write(images.parent / "n01_boxes.txt", b"")
    with caplog.at_level(logging.WARNING):
        split = _open("tiny_imagenet", tiny)
    assert _read(split) == [(0, 0), (0, 10), (1, 60), (1, 70), (2, 120), (2, 130)]
    assert "files that are no images to be read are passed over: 1 .gif" in caplog.text
    assert "such as" not in caplog.text
    _write(tiny / "train" / "loose.png", _picture(1))
    sixteen = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(sixteen, format="PNG")
    _write(images / "n01_0.png", sixteen.getvalue())
    with caplog.at_level(logging.WARNING):
        assert _open("tiny_imagenet", tiny).num_samples == 7
    assert f"in no folder of a class are passed over, 1 such as {tiny / 'train' / 'loose.png'}" in caplog.text
    assert "n01_0.png has more than 8 bits" in caplog.text
    for path in (tiny / "train" / "n02" / "images").iterdir():
        path.unlink()
    (tiny / "train" / "n02" / "images").rmdir()
    (tiny / "train" / "n02").rmdir()
    _write(tiny / "val" / "images" / "val_9.gif", b"GIF89a")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert _open("tiny_imagenet", tiny, "test").num_samples == 3
    assert "1 validation images are of classes without training images, and left out" in caplog.text
    assert f"{tiny / 'val' / 'images'}: files that are no images to be read are passed over: 1 .gif" in caplog.text


# --- tables


@pytest.fixture
def tables():
    library = pytest.importorskip("datasets")
    features = library.Features({"image": library.Image(), "label": library.Value("int64")})
    pictures = [np.full((8, 8, 3), 20 * k, np.uint8) for k in range(6)]
    table = library.Dataset.from_dict({"image": pictures, "label": [0, 1, 2] * 2}, features=features)

    def write(root, **parts):
        for name, rows in parts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            rows = table.select(rows) if isinstance(rows, list) else rows
            rows.to_parquet(str(root / f"{name}.parquet"))

    return table, write


@pytest.mark.parametrize("below", ["", "data/"])
def test_a_folder_of_tables_for_each_split(tmp_path, tables, below):
    _, write = tables
    for folder in ("train", "test"):
        (tmp_path / below / folder).mkdir(parents=True)
    write(tmp_path, **{f"{below}train/0": [0, 1, 2, 3], f"{below}test/0": [4, 5]})
    assert recognised(str(tmp_path)) == ["huggingface"]
    assert _open("huggingface", tmp_path).targets.tolist() == [0, 1, 2, 0]
    assert _open("huggingface", tmp_path, "test").targets.tolist() == [1, 2]


@pytest.mark.parametrize("names", [("Train/0", "Test/0"), ("Train", "Test"), ("tr", "te"), ("trainset/0", "testset/0")])
def test_tables_of_splits_that_the_library_reads_as_one_are_refused(tmp_path, tables, names):
    tables[1](tmp_path, **dict(zip(names, ([0, 1, 2, 3], [4, 5]), strict=True)))
    one, other = (name.removesuffix("/0") for name in names)
    with pytest.raises(UsageError, match=f"has {one} and {other}, which the library datasets reads as one split"):
        _open("huggingface", tmp_path)


def test_the_reason_why_tables_cannot_be_loaded(tmp_path, tables):
    library = pytest.importorskip("datasets")
    table, write = tables
    texts = library.Features({"image": library.Image(), "label": library.Value("string")})
    other = library.Dataset.from_dict({"image": table["image"][:2], "label": ["dog", "cat"]}, features=texts)
    write(tmp_path, train=[0, 1, 2], test=other)
    with pytest.raises(UsageError, match=r"\(.*Failed to parse string.*'(dog|cat)'.*\): give the files of all splits"):
        _open("huggingface", tmp_path)


# --- paths of no known layout


@pytest.mark.parametrize(
    "names,message",
    [
        (["a.tar"], r"\(it holds a.tar: unpack it, or call shards train-\*.tar\)"),
        (["train-0.tar.gz", "test-0.tar.gz"], "it holds t.*-0.tar.gz: uncompress shards to .tar"),
        (["deep/a.zip"], "it holds deep/a.zip: unpack it"),
        (["cat/1.gif", "cat/2.gif", "dog/1.gif"], r"\(its files have .gif; images are read as .png, .jpg"),
        (["train/cat/1.heic", "test/cat/1.heic"], "its files have .heic"),
    ],
)
def test_what_of_a_folder_is_not_read(tmp_path, names, message):
    for name in names:
        _write(tmp_path / name, b"x")
    assert re.match(rf"is of no known layout .*{message}", unknown_layout(str(tmp_path)))


def test_files_of_no_known_layout(tmp_path):
    for name in ("tiny-imagenet-100.tar", "a.tar.gz", "b.zip"):
        path = _write(tmp_path / name, b"x")
        assert unknown_layout(str(path)).endswith(
            "(an archive is to be unpacked, and the folder that comes of it named)"
        )
    path = _write(tmp_path / "c.parquet", b"x")
    assert unknown_layout(str(path)).endswith("(of tables and shards name the folder)")
    from contrastill.core import recognition

    assert {*recognition._IMAGES} <= {*IMAGE_SUFFIXES}


def test_a_split_alone_is_never_named_as_the_data(tmp_path):
    for split in ("test", "Val"):
        for name in ("cat/1.png", "dog/1.png"):
            _write(tmp_path / split / name, _picture(0))
            _write(tmp_path / "unpacked" / "train" / name, _picture(0))
            _write(tmp_path / "unpacked" / "test" / name, _picture(0))
    assert f"but {tmp_path / 'unpacked'} is" in unknown_layout(str(tmp_path))
    (tmp_path / "unpacked").rename(tmp_path / "dev")
    assert unknown_layout(str(tmp_path)) == "is of no known layout"


# --- packed files, STL-10


def test_a_packed_file_without_groups_says_how_they_are_made(tmp_path):
    path = tmp_path / "keras.h5"
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"x_{split}"], file[f"y_{split}"] = np.zeros((3, 8, 8, 3), np.uint8), np.arange(3)
    with pytest.raises(UsageError, match="has no groups, but x_test, x_train, y_test, y_train at its root: it needs"):
        _open("packed", path)
    with h5py.File(path, "a") as file:
        for split in ("train", "test"):
            file.move(f"x_{split}", f"{split}/rgb")
            file.move(f"y_{split}", f"{split}/target")
    assert _open("packed", path, "test").targets.tolist() == [0, 1, 2]


def test_names_of_samples_that_two_classes_have_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["classes"] = ["cat", "dog", "cat"]
        file["train/rgb"], file["train/target"] = np.zeros((2, 8, 8, 3), np.uint8), ["cat", "dog"]
    with pytest.raises(UsageError, match="the attribute classes has cat more than once, so which class it is is not"):
        _open("packed", path)


def test_values_that_are_not_in_the_file(tmp_path, caplog):
    path = tmp_path / "a.h5"
    pictures = np.full((4, 8, 8, 3), 9, np.uint8)
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["rgb"] = pictures
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(pictures.shape, np.uint8)
        layout[:] = h5py.VirtualSource("source.h5", "rgb", pictures.shape)
        file.create_virtual_dataset("train/rgb", layout, fillvalue=7)
        file["test"] = h5py.ExternalLink("nowhere.h5", "/test")
    assert (_open("packed", path).images["rgb"].interior == 9).all()
    with pytest.raises(UsageError, match="the split test is a link to nowhere.h5 /test, which is not there"):
        _open("packed", path, "test")
    (tmp_path / "source.h5").unlink()
    with pytest.raises(UsageError, match="train/rgb is a virtual dataset of source.h5, which is not there"):
        _open("packed", path)
    path = tmp_path / "b.h5"
    with h5py.File(path, "w") as file:
        field = file.create_dataset("train/rgb", pictures.shape, np.uint8, chunks=(1, 8, 8, 3))
        field[:3] = 9
    with caplog.at_level(logging.WARNING):
        _open("packed", path)
    assert f"{path}:train/rgb: 1 of 4 chunks were never written" in caplog.text


# --- what lies beside


def _classes(root, *splits):
    for split in splits:
        for place, name in enumerate("ab"):
            _write(root / split / name / "0.png", _picture(40 * place))


def _lines(caplog, name, path, split="train", **options):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _open(name, path, split, **options)
        _open(name, path, split, **options)
    return [record.getMessage() for record in caplog.records]


def test_images_beside_the_splits_are_named_once(tmp_path, caplog):
    _classes(tmp_path, "train", "test")
    assert not _lines(caplog, "image_folder", tmp_path)
    _classes(tmp_path, "val", "more")
    _write(tmp_path / "loose.png", _picture(0))
    _write(tmp_path / "notes" / "readme.txt", b"")
    expected = [f"{tmp_path}: what is beside train and test is not read: more, val, loose.png"]
    assert _lines(caplog, "image_folder", tmp_path) == expected
    (tmp_path / "train" / "c").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="train/c is a link to .*nowhere, which is not there: put that back"):
        _open("image_folder", tmp_path)


def test_files_of_several_images_are_named(tmp_path, caplog):
    _classes(tmp_path, "train", "test")
    buffer = io.BytesIO()
    pages = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (1, 2)]
    pages[0].save(buffer, format="TIFF", save_all=True, append_images=pages[1:])
    path = _write(tmp_path / "train" / "a" / "1.tif", buffer.getvalue())
    assert f"{path} holds 2 images, of which the first alone is read" in _lines(caplog, "image_folder", tmp_path)[0]


def test_what_lies_beside_modalities_is_named_once(tmp_path, caplog):
    depth = io.BytesIO()
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(depth, format="PNG")
    for split in ("train", "test", "val"):
        for name, content in (("rgb", _picture(3)), ("depth", depth.getvalue())):
            _write(tmp_path / split / name / "0.png", content)
    _write(tmp_path / "train" / "pose" / "0.txt", b"1 2 3")
    _write(tmp_path / "train" / "loose.png", _picture(0))
    assert _lines(caplog, "paired_folder", tmp_path, size=None) == [
        f"{tmp_path / 'train'}: what is beside depth and rgb is not read: pose, loose.png",
        f"{tmp_path}: what is beside train and test is not read: val",
    ]
    (tmp_path / "train" / "nir").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="train/nir is a link to .*nowhere, which is not there"):
        _open("paired_folder", tmp_path, size=None)


def test_names_of_label_maps_that_repeat_and_where_they_lie(tmp_path, caplog):
    labels = io.BytesIO()
    Image.fromarray(np.full((8, 8), 2, np.uint8)).save(labels, format="PNG")
    for split in ("train", "test"):
        _write(tmp_path / split / "rgb" / "0.png", _picture(3))
        _write(tmp_path / split / "semantics" / "0.png", labels.getvalue())
    path = _write(tmp_path / "train" / "classes.txt", b"wall\nfloor\nwall\n")
    lines = _lines(caplog, "paired_folder", tmp_path, size=None)
    assert len(lines) == 1 and f"{path}: the classes 1 and 3 are both called wall" in lines[0]
    for split in ("train", "test"):
        assert _open("paired_folder", tmp_path, split, size=None).semantic_classes == [
            "unlabelled",
            "wall",
            "floor",
            "wall",
        ]


def test_shards_beside_those_of_the_splits_are_named_once(tmp_path, caplog):
    for name in ("train-0.tar", "train-1.TAR", "test-0.tar", "val-0.tar", "train-2.tar.gz", "train-3.tar.part"):
        _tar(tmp_path / name, [*_sample("a", 0), *_sample("b", 1)])
    assert _lines(caplog, "webdataset", tmp_path) == [
        f"{tmp_path}: what is beside test*.tar and train*.tar is not read: train-2.tar.gz, train-3.tar.part, val-0.tar"
    ]
    assert _open("webdataset", tmp_path).num_samples == 4
    assert not _lines(caplog, "webdataset", tmp_path, train="train-0.tar", test="test-0.tar")
    (tmp_path / "train-4.tar").symlink_to(tmp_path / "nowhere.tar")
    with pytest.raises(UsageError, match="train-4.tar is a link to .*nowhere.tar, which is not there"):
        _open("webdataset", tmp_path)


def test_groups_and_tables_beside_the_splits_are_named_once(tmp_path, caplog, tables):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split in ("train", "test", "val"):
            file[f"{split}/rgb"] = np.zeros((2, 8, 8, 3), np.uint8)
        file["meta/note"] = [1]
    line = "what is beside train and test is not read: "
    assert _lines(caplog, "packed", tmp_path / "a.h5") == [f"{tmp_path / 'a.h5'}: {line}val"]
    assert not _lines(caplog, "packed", tmp_path / "a.h5", splits={"train": "train", "test": "val"})
    (tmp_path / "pq").mkdir()
    tables[1](tmp_path / "pq", train=[0, 1, 2], test=[3, 4], validation=[5])
    assert f"{tmp_path / 'pq'}: {line}validation" in _lines(caplog, "huggingface", tmp_path / "pq")
