"""`data.decoded_cache`: pictures decoded once. What is read from it, by one process or several, in one epoch or the
next, is the same to the bit; a picture that is not larger than needed is as without a cache.
"""

import io
import json
import multiprocessing
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill import ContrastillError, UsageError
from contrastill.cli.main import main
from contrastill.core.registry import DATASETS
from contrastill.datasets.io import decoded_store, folder_reader, tar_pictures
from contrastill.datasets.io.decoded_cache import DecodedPictures
from contrastill.datasets.io.decoded_store import DecodedStore
from contrastill.datasets.io.file_views import resized
from contrastill.datasets.io.file_workers import PictureFiles
from contrastill.datasets.io.images import Picture

SIZES = ((40, 60), (90, 70), (64, 64), (20, 30), (120, 50))


@pytest.fixture
def folder(tmp_path):
    """Two classes in train and test, pictures of several sizes, one greyscale, one turned by EXIF."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            where = tmp_path / "images" / split / name
            where.mkdir(parents=True)
            for number, (height, width) in enumerate(SIZES):
                pixels = generator.integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
                if number == 2:
                    picture = picture.convert("L")
                exif = Image.Exif()
                exif[0x0112] = 6 if number == 1 else 1
                picture.save(where / f"{number}.jpg", quality=95, exif=exif)
    return tmp_path / "images"


def split_of(folder, split="train", **options):
    data = DATASETS["image_folder"]
    return data(data.Options(path=str(folder), **{"size": 32, "workers": 0, **options})).open(split)


def epochs(split, count=2, *, train=True, seed=3):
    loader = split.loader(batch_size=4, device="cpu", seed=seed, train=train)
    return [
        torch.cat([batch["rgb"] for batch in loader.epoch(k)])[
            torch.cat([b["index"] for b in loader.epoch(k)]).argsort()
        ]
        for k in range(count)
    ]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_from_a_cache_are_the_same_when_it_fills_and_when_it_is_full(folder, tmp_path, workers):
    options = {"decoded_cache": str(tmp_path / "cache"), "workers": workers}
    filling = epochs(split_of(folder, **options))
    again = split_of(folder, **options)
    assert same(filling, epochs(again)) and same(filling, epochs(split_of(folder, **{**options, "workers": 0})))
    # In the same place of the picture as without, from pixels that were resized once more.
    for ours, theirs in zip(filling, epochs(split_of(folder, workers=0)), strict=True):
        assert (ours.float() - theirs.float()).abs().mean() < 3
    assert not same(filling, epochs(split_of(folder, **options), seed=4))


def test_a_picture_that_is_not_larger_than_needed_is_as_without(folder, tmp_path):
    for crop in ("random_resized", "padded", "none"):
        # Of random_resized a shorter side of 203 pixels is needed.
        options = {"size": 120, "crop": crop}
        with_cache = split_of(folder, decoded_cache=str(tmp_path / "cache"), **options)
        for train in (True, False):
            assert same(epochs(with_cache, train=train), epochs(split_of(folder, **options), train=train))


@pytest.mark.parametrize("size", [32, 100])
def test_a_test_view_lies_where_it_does_without(size, tmp_path):
    for number in range(6):
        height, width = 300 + 7 * number, 420 + 13 * number
        ramps = np.broadcast_arrays(
            np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None], np.zeros((height, width))
        )
        where = tmp_path / "ramps" / "train" / str(number % 2)
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack(ramps, -1).round().astype(np.uint8)).save(where / f"{number}.png")
    (plain,), (cached,) = (
        epochs(split_of(tmp_path / "ramps", size=size, **more), 1, train=False)
        for more in ({}, {"decoded_cache": str(tmp_path / "cache")})
    )
    # Half a pixel aside would be 1.2 levels at 100 pixels on average.
    assert (plain.float() - cached.float()).mean((2, 3)).abs().max() < 0.25


def test_what_is_cached_is_the_picture_resized_and_upright(folder, tmp_path):
    files = PictureFiles(folder, [f"train/a/{number}.jpg" for number in range(len(SIZES))])
    cache = DecodedPictures(files, tmp_path / "cache", 32)
    assert cache.store.num_cached() == 0
    for row in range(len(SIZES)):
        kept, picture = cache.open(row), Picture(folder / f"train/a/{row}.jpg")
        assert (kept.height, kept.width) == (picture.height, picture.width)
        pixels = kept.pixels(8)
        height, width = picture.height, picture.width
        short = min(height, width, 32)
        assert min(pixels.shape[:2]) == short and pixels.dtype == torch.uint8
        expected = resized(picture.pixels(), *pixels.shape[:2])
        assert (pixels.float() - expected.float()).abs().max() <= 1
    assert kept.height == 120 and pixels.shape == (76, 32, 3)
    cache.store.flush()
    assert cache.store.num_cached() == len(SIZES)
    total = sum(path.stat().st_size for path in cache.store.folder.glob("part-*.raw"))
    assert cache.estimated_bytes() == total  # so few are all looked at


def test_nothing_is_raised_where_the_interpreter_took_the_modules_apart(tmp_path, monkeypatch):
    store, descriptor = DecodedStore(tmp_path, {}, 1), os.open(tmp_path, os.O_RDONLY)
    tar = tar_pictures._Tar(descriptor)
    for module in (decoded_store, tar_pictures):
        for name in ("os", "suppress"):
            monkeypatch.setattr(module, name, None, raising=False)
    store.__del__()
    del tar
    monkeypatch.undo()
    with pytest.raises(OSError):
        os.fstat(descriptor)


def _fill(files, folder, rows):
    cache = DecodedPictures(files, folder, 32)
    for row in rows:
        cache.open(row)
    cache.store.flush()


def test_processes_fill_one_cache_and_a_killed_one_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    files = PictureFiles(folder, [f"train/{name}/{number}.jpg" for name in "ab" for number in range(len(SIZES))])
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_fill, args=(files, tmp_path / "cache", rows)) for rows in (range(6), range(3, 10))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache, alone = DecodedPictures(files, tmp_path / "cache", 32), DecodedPictures(files, tmp_path / "other", 32)
    assert cache.store.num_cached() == 10 and cache.store.folder.name == alone.store.folder.name
    for row in range(10):
        assert torch.equal(cache.open(row).pixels(), alone.open(row).pixels())
    # What was decoded and not yet entered is decoded again.
    monkeypatch.setattr(DecodedStore, "flush", lambda self: None)
    lost = DecodedPictures(files, tmp_path / "killed", 32)
    lost.open(0), lost.open(0)
    monkeypatch.undo()
    after = DecodedPictures(files, tmp_path / "killed", 32)
    assert after.store.num_cached() == 0 and torch.equal(after.open(0).pixels(), cache.open(0).pixels())
    assert len([*after.store.folder.glob("part-*.raw")]) == 2


def test_other_files_and_sizes_have_caches_of_their_own(folder, tmp_path):
    options = {"decoded_cache": str(tmp_path / "cache")}
    split_of(folder, **options), split_of(folder, size=16, **options), split_of(folder, "test", **options)
    assert len([*(tmp_path / "cache").iterdir()]) == 3
    split_of(folder, flip=False, **options)
    assert len([*(tmp_path / "cache").iterdir()]) == 3
    Image.new("RGB", (30, 30)).save(folder / "train" / "a" / "new.png")
    split_of(folder, **options)
    assert len([*(tmp_path / "cache").iterdir()]) == 4


def _bitmaps(root, count=40, seed=0):
    """Pictures whose files are all of one size, in two folders, as a list of names."""
    generator = np.random.default_rng(seed)
    files = [f"{'ab'[number % 2]}/{number:02d}.bmp" for number in range(count)]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(root / name)
    return PictureFiles(root, files)


def _shards(root, count=40, seed=0):
    """The same in a tar."""
    pictures = _bitmaps(root / f"files-{seed}", count, seed)
    (root / "train").mkdir(exist_ok=True)
    with tarfile.open(root / "train" / "a-0.tar", "w") as tar:
        for number, name in enumerate(pictures.files.tolist()):
            tar.add(root / f"files-{seed}" / name.decode(), f"{number:02d}.bmp")
            label = tarfile.TarInfo(f"{number:02d}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"0"))
    shards = DATASETS["webdataset"]
    return shards(shards.Options(path=str(root), train="train/*.tar", size=8)).open("train").pictures


def _cached(pictures, folder):
    cache = DecodedPictures(pictures, folder, 8)
    values = [cache.open(row).pixels() for row in range(len(pictures.files))]
    cache.store.flush()
    return values


@pytest.mark.parametrize("make", [_bitmaps, _shards])
def test_files_of_the_same_names_and_sizes_are_not_taken_for_others(make, tmp_path):
    first = make(tmp_path / "one", seed=0)
    _cached(first, tmp_path / "cache")
    if make is _bitmaps:
        other = make(tmp_path / "two", seed=1)  # another folder
        assert same(_cached(other, tmp_path / "cache"), [other.open(row).pixels() for row in range(40)])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.*")}
    first = make(tmp_path / "one", seed=2)  # all replaced in place, as of the same time
    for path, time in times.items():
        os.utime(path, ns=(time, time))
    assert same(_cached(first, tmp_path / "cache"), [first.open(row).pixels() for row in range(40)])


def test_a_replaced_picture_is_decoded_anew_and_a_copy_is_the_same(tmp_path, caplog):
    pictures, cache = _bitmaps(tmp_path / "one"), tmp_path / "cache"
    values = _cached(pictures, cache)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert same(_cached(PictureFiles(tmp_path / "copy", [n.decode() for n in pictures.files]), cache), values)
    assert len([*cache.iterdir()]) == 1 and len([*cache.rglob("part-*.raw")]) == 1 and not caplog.records
    os.replace(tmp_path / "copy" / "b" / "01.bmp", tmp_path / "one" / "b" / "01.bmp")  # the same bytes
    os.replace(tmp_path / "copy" / "b" / "03.bmp", tmp_path / "one" / "b" / "09.bmp")  # neither is sampled
    values[9] = values[3]
    assert same(_cached(pictures, cache), values)
    assert len([*cache.iterdir()]) == 1 and len(caplog.records) == 1
    assert "b/09.bmp was replaced since it was cached in" in caplog.text and "remove that folder" in caplog.text


def test_what_is_wrong_is_one_sentence(folder, tmp_path, monkeypatch):
    options = {"decoded_cache": str(tmp_path / "cache")}
    (folder / "train" / "a" / "0.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(ContrastillError, match=r"0\.jpg cannot be read as an image"):
        epochs(split_of(folder, **options))
    with pytest.raises(UsageError, match=r"decoded_cache=.*0\.jpg cannot be written \(.*\): name a folder that can"):
        split_of(folder, decoded_cache=str(folder / "train" / "a" / "0.jpg"))
    (folder / "train" / "a" / "0.jpg").unlink()
    full = split_of(folder, **options)
    epochs(full)
    full.pictures.store.flush()
    part = next(full.pictures.store.folder.glob("part-*.raw"))
    part.write_bytes(b"")
    with pytest.raises(ContrastillError, match=r"part-\d+\.raw of data\.decoded_cache is damaged or gone: remove"):
        epochs(split_of(folder, **options))
    (full.pictures.store.folder / "index.npy").write_bytes(b"no index")
    with pytest.raises(ContrastillError, match=r"index\.npy is no index of data\.decoded_cache"):
        split_of(folder, **options)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(decoded_store.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UsageError, match=r"takes about .* kB for 9 pictures of 55 pixels .* and 1 kB are free"):
        split_of(folder, decoded_cache=str(tmp_path / "other"))


def test_a_training_reads_from_it_and_its_run_goes_on(folder, tmp_path, capsys):
    command = ["train", "teachers/image_folder", f"data.path={folder}", "data.size=32", "student.model=resnet8",
               "student.weights=null", "train.batch_size=4", "data.workers=0", "-q"]  # fmt: skip
    for name, cache in (("one", "cache"), ("two", "cache")):
        assert (
            main([*command, "train.epochs=2", f"data.decoded_cache={tmp_path / cache}", f"out={tmp_path / name}"]) == 0
        )
    rows = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    assert main(["train", "teachers/rooms", "data.decoded_cache=x"]) == 2
    assert "data.decoded_cache" in capsys.readouterr().err


H, W = 24, 32


@pytest.fixture
def sensors(tmp_path):
    """Train and test of rgb as JPEG, depth of 16 bits, label maps and two channels of floats with NaN, of odd sizes in
    bytes.
    """
    root, generator = tmp_path / "sensors", np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for name in ("rgb", "depth", "semantics", "radar"):
            (root / split / name).mkdir(parents=True)
        for k in range(count):
            _write_sample(root / split, f"{k:02}", generator)
    return root


def _write_sample(where, stem, generator, height=H, width=W):
    pixels = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    picture.save(where / "rgb" / f"{stem}.jpg", quality=95)
    depth = generator.integers(0, 65536, (height, width), dtype=np.uint16)
    Image.fromarray(depth).save(where / "depth" / f"{stem}.png")
    labels = generator.integers(0, 6, (height, width), dtype=np.uint8)
    Image.fromarray(labels).save(where / "semantics" / f"{stem}.png")
    radar = generator.normal(size=(height, width, 2)).astype(np.float32)
    radar[generator.random((height, width)) < 0.2] = np.nan
    np.save(where / "radar" / f"{stem}.npy", radar.astype(">f4") if int(stem) % 2 else radar)


def sensors_of(root, split="train", **options):
    data = DATASETS["paired_folder"]
    return data(data.Options(path=str(root), **{"workers": 0, **options})).open(split)


def batches(split, count=2, *, train=True, seed=3):
    loader = split.loader(batch_size=6, device="cpu", seed=seed, train=train)
    return [batch for k in range(count) for batch in loader.epoch(k)]


def same_batches(ours, theirs):
    """Whether they are the same to the bit, NaN too."""
    return len(ours) == len(theirs) and all(
        one.keys() == other.keys()
        and all(one[name].dtype == other[name].dtype for name in one)
        and all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one)
        for one, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"size": (16, 20), "color_jitter": 0.3, "intrinsics": (20.0, 20.0, 15.5, 11.5)},
        {"crop": "none", "flip": False, "transforms": [{"name": "CoarseDropout", "p": 1.0}]},
    ],
)
def test_batches_of_sensors_are_to_the_bit_those_without_a_cache(sensors, tmp_path, options, workers):
    options = {**options, "workers": workers}
    for split, train in (("train", True), ("test", False)):
        plain = batches(sensors_of(sensors, split, **{**options, "workers": 0}), train=train)
        assert {name: batch.dtype for name, batch in plain[0].items() if name in ("depth", "semantics")} == {
            "depth": torch.float32, "semantics": torch.uint8,
        }  # fmt: skip
        # Filled, and then full.
        for _ in range(2):
            cached = sensors_of(sensors, split, decoded_cache=str(tmp_path / "cache"), **options)
            assert same_batches(batches(cached, train=train), plain)
    assert len([*(tmp_path / "cache").iterdir()]) == 2


def test_files_of_sensors_are_decoded_once_with_their_values_and_dtype(sensors, tmp_path, monkeypatch, caplog):
    with caplog.at_level("INFO"):
        reader = sensors_of(sensors, decoded_cache=str(tmp_path / "cache")).samples
    total = 20 * H * W * (3 + 2 + 1 + 2 * 4)
    assert f"0 of 80 files of rgb, depth, radar, semantics are in {reader.store.folder}" in caplog.text
    assert f"all take about {total / 1000:.3g} kB" in caplog.text
    plain, stored = sensors_of(sensors).samples, {}
    for row in range(20):
        reader.read(row)
    reader.store.flush()
    assert reader.store.num_cached() == 80
    again = sensors_of(sensors, decoded_cache=str(tmp_path / "cache")).samples
    monkeypatch.setattr(folder_reader, "read_file", None)  # nothing is decoded any more
    for row in range(20):
        stored, expected = again.read(row), plain._stored(row)
        for name, values in stored.items():
            assert values.dtype == expected[name].dtype and values.shape == expected[name].shape
            assert values.tobytes() == np.ascontiguousarray(expected[name]).tobytes()
    assert stored["depth"].dtype == np.uint16 and np.isnan(stored["radar"]).any()
    size = sum(path.stat().st_size for path in again.store.folder.glob("part-*.raw"))
    assert total <= size <= total + 80 * 4


def test_a_replaced_file_of_a_sensor_is_decoded_anew(sensors, tmp_path, caplog):
    options = {"decoded_cache": str(tmp_path / "cache"), "size": (16, 20)}
    full = batches(sensors_of(sensors, **options))
    np.save(tmp_path / "new.npy", np.zeros((H, W, 2), np.float32))
    os.replace(tmp_path / "new.npy", sensors / "train" / "radar" / "09.npy")  # of the same size, not sampled
    changed = batches(sensors_of(sensors, **options))
    assert not same_batches(changed, full) and same_batches(changed, batches(sensors_of(sensors, size=(16, 20))))
    assert len([*(tmp_path / "cache").iterdir()]) == 1 and "09.npy was replaced since it was cached" in caplog.text
    # A size that its partners do not have is refused as without a cache.
    np.save(sensors / "train" / "radar" / "09.npy", np.zeros((W, H, 2), np.float32))
    with pytest.raises(ContrastillError, match=r"09\.npy is 32×24 .*, its partner"):
        batches(sensors_of(sensors, **options))


def test_what_is_wrong_with_a_cache_of_sensors_is_one_sentence(sensors, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"decoded_cache=.*00\.png cannot be written \(.*\): name a folder that can"):
        sensors_of(sensors, decoded_cache=str(sensors / "train" / "depth" / "00.png"))
    options = {"decoded_cache": str(tmp_path / "cache")}
    split = sensors_of(sensors, **options)
    (sensors / "train" / "depth" / "01.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ContrastillError, match=r"01\.png cannot be read as an image .* data\.skip_corrupted=true"):
        batches(split)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(decoded_store.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UsageError, match=r"about 53.8 kB for 20 files of rgb, .* of which 0 are .* 1 kB are free"):
        sensors_of(sensors, "test", decoded_cache=str(tmp_path / "other"))
