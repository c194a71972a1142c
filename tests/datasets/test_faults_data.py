"""Data that is damaged or changed: corrupted images, truncated files, another data set under a resumed run, workers
that are killed.
"""

import json
import logging
import os
import re
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.cli.main import main
from contrastill.core.config.loading import make_data_config
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.run import Run
from contrastill.datasets.io.fingerprint import fingerprint
from contrastill.evaluation.evaluation_data import training_samples

SMALL = ["student.model=resnet8", "train.epochs=1", "train.batch_size=16", "-q"]


def _save(path, seed, size=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """120 images to train on, two a class and some to test on."""
    for seed in range(120):
        _save(tmp_path / "set" / "train" / "ab"[seed % 2] / f"{seed:03d}.png", seed)
    for seed in range(4):
        _save(tmp_path / "set" / "test" / "ab"[seed % 2] / f"{seed:03d}.png", 200 + seed)
    return tmp_path / "set"


def _split(name, path, split="train", **options):
    dataset = DATASETS[name]
    return dataset(dataset.Options(path=str(path), **{"workers": 0, **options})).open(split)


def _batches(split, epoch=1, start=0, rank=0, world=1):
    return list(
        split.loader(batch_size=16, device="cpu", seed=3, train=True, rank=rank, world=world).epoch(epoch, start)
    )


def _rows(batches):
    return torch.cat([batch["index"] for batch in batches])


def _cut_off(path):
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_sample_stands_in_for_a_corrupted_one(root, workers, caplog):
    sound, row = _batches(_split("image_folder", root, size=16)), 17
    path = root / "train" / "a" / "034.png"
    _cut_off(path)
    with caplog.at_level(logging.WARNING):
        split = _split("image_folder", root, size=16, skip_corrupted=True, workers=workers)
        batches = _batches(split)
    # No row moves: M, the classes and every other sample's row are as they were.
    assert split.num_samples == 120 and len(batches) == len(sound)
    by_row = {
        int(index): (pixels, target)
        for batch in sound
        for index, pixels, target in zip(batch["index"], batch["rgb"], batch["target"], strict=True)
    }
    for before, after in zip(sound, batches, strict=True):
        assert after["index"].tolist() == [row + 1 if index == row else index for index in before["index"].tolist()]
        for index, pixels, target in zip(after["index"], after["rgb"], after["target"], strict=True):
            assert pixels.equal(by_row[int(index)][0]) and target == by_row[int(index)][1]
    assert caplog.text.count(f"the next sample stands in for it: {path} cannot be read as an image") == 1
    assert "1 of 120 samples are corrupted and were left out" in caplog.text


def test_stand_ins_depend_on_neither_ranks_nor_resuming(root):
    _cut_off(root / "train" / "b" / "119.png")  # the last row: the first stands in
    split = _split("image_folder", root, size=16, skip_corrupted=True)
    expected = _batches(split)
    resumed = _batches(split, start=3)
    shared = [_batches(split, rank=rank, world=2) for rank in (0, 1)]
    assert 119 not in _rows(expected) and (_rows(expected) == 0).sum() == 2
    for batch, other in zip(expected[3:], resumed, strict=True):
        assert all(batch[name].equal(other[name]) for name in batch)
    for batch, *parts in zip(expected, *shared, strict=True):
        assert all(batch[name].equal(torch.cat([part[name] for part in parts])) for name in ("rgb", "index", "target"))


def test_more_than_one_per_cent_of_corrupted_samples_is_refused(root):
    for name in ("a/000.png", "b/033.png"):
        _cut_off(root / "train" / name)
    with pytest.raises(
        ContrastillError,
        match=r"2 of 120 samples are corrupted, more than the 1% that data.skip_corrupted leaves out: copy the "
        r"data again",
    ):
        _batches(_split("image_folder", root, size=16, skip_corrupted=True))


def test_tars_and_pairs_leave_out_corrupted_samples_too(tmp_path, caplog):
    import io
    import tarfile

    for name in ("train", "test"):
        with tarfile.open(tmp_path / f"{name}-0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for seed in range(101):
                buffer = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), seed, np.uint8)).save(buffer, "PNG")
                pixels = buffer.getvalue()
                for ending, content in (("png", pixels[:40] if seed == 5 else pixels), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{seed:03d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    batches = _batches(_split("webdataset", tmp_path, size=8, skip_corrupted=True))
    assert (_rows(batches) == 6).sum() == 2 and 5 not in _rows(batches)
    pairs = tmp_path / "pairs"
    for seed in range(101):
        _save(pairs / "train" / "rgb" / f"{seed:03d}.png", seed, 8)
        (pairs / "train" / "depth").mkdir(exist_ok=True)
        np.save(pairs / "train" / "depth" / f"{seed:03d}.npy", np.full((8, 8), seed + 1.0))
    (pairs / "test").mkdir()
    # The first of all, at which the data set looks when it is opened.
    (pairs / "train" / "depth" / "000.npy").write_bytes(b"")
    with pytest.raises(
        ContrastillError,
        match=r"000.npy cannot be read as an array \(.*\): repair or remove it, or set data.skip_corrupted=true",
    ):
        _split("paired_folder", pairs)
    batches = _batches(_split("paired_folder", pairs, crop="none", skip_corrupted=True))
    assert (_rows(batches) == 1).sum() == 2 and 0 not in _rows(batches)
    for batch in batches:
        assert (batch["depth"] == (batch["index"] + 1).view(-1, 1, 1, 1)).all()


def test_a_killed_worker_is_named_with_the_key_to_lower(root):
    split = _split("image_folder", root, size=16, workers=2)
    loader = split.loader(batch_size=4, device="cpu", train=True)
    batches = loader.epoch(0)
    next(batches)
    os.kill(loader._data._iterator._workers[0].pid, signal.SIGKILL)  # as the kernel does when memory runs out
    with pytest.raises(
        ContrastillError,
        match=r"a worker that reads images ended .*: lower data.workers=2, .*the same command goes on from",
    ) as caught:
        list(batches)
    assert caught.value.exit_code == 1
    assert len(_rows(loader.epoch(0))) == 120


def test_a_run_is_resumed_with_fewer_workers_but_not_with_other_settings(tmp_path):
    run = Run(tmp_path)
    run.claim("data:\n  workers: 8\n  size: 32\ntrain:\n  timeout_minutes: 30\n")
    run.claim("data:\n  workers: 1\n  size: 32\ntrain:\n  timeout_minutes: 90\n")
    assert "workers: 1" in run.config.read_text()
    with pytest.raises(UsageError, match="data.size: 32, now 64"):
        run.claim("data:\n  workers: 1\n  size: 64\n")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_hdf5_file_is_one_sentence(tmp_path, capsys, keep):
    path = _packed(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert main(["train", "teachers/cifar100", f"data.path={path}", f"out={tmp_path / 'run'}", *SMALL]) == 1
    stderr = capsys.readouterr().err
    assert (
        f"{path} cannot be read: it is truncated, damaged or no HDF5 file; copy or pack it again" in stderr
        and not (tmp_path / "run").exists()
    )


def _packed(path: Path, count=48, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split, samples in (("train", count), ("test", 16)):
            file[f"{split}/rgb"] = generator.integers(0, 256, (samples, 16, 16, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(samples) % classes
    return path


def test_a_changed_data_set_under_a_run_is_refused(tmp_path, capsys):
    path, out = _packed(tmp_path / "a.h5"), tmp_path / "run"
    command = ["train", "teachers/cifar100", f"data.path={path}", f"out={out}", *SMALL]
    assert main(command) == 0
    assert main(command) == 0  # finished: nothing is trained, nothing refused
    config, checkpoint = (out / "config.yaml").read_bytes(), (out / "checkpoints" / "data.json").read_bytes()
    for change, message in (
        ({"count": 60}, "samples of train differ (48, now 60)"),
        ({"classes": 3}, "classes of train differ (4, now 3)"),
        ({"seed": 1}, "contents of train differ"),
    ):
        _packed(path, **change)
        capsys.readouterr()
        assert main(command) == 2
        stderr = capsys.readouterr().err
        assert message in stderr and f"remove {out}/checkpoints/data.json to go on with these all the same" in stderr
    with h5py.File(_packed(path), "r+") as file:
        file["train/target"][:] = file["train/target"][()][::-1]
    assert main(command) == 2 and "labels of train differ" in capsys.readouterr().err
    assert (out / "config.yaml").read_bytes() == config and (
        out / "checkpoints" / "data.json"
    ).read_bytes() == checkpoint
    (out / "checkpoints" / "data.json").write_text("{")
    assert (
        main(command) == 2
        and "data.json, which tells this run's data from others, is damaged" in capsys.readouterr().err
    )
    (out / "checkpoints" / "data.json").unlink()
    assert main(command) == 0 and json.loads((out / "checkpoints" / "data.json").read_text())["train"]["samples"] == 48


@pytest.mark.parametrize("name", ["image_folder", "paired_folder"])
def test_of_few_files_another_of_the_same_size_is_seen_wherever_it_is(tmp_path, name, monkeypatch):
    for seed in range(40):
        _save(tmp_path / "train" / ("ab"[seed % 2] if name == "image_folder" else "rgb") / f"{seed:03d}.bmp", seed)
        if name == "paired_folder":
            (tmp_path / "train" / "depth").mkdir(exist_ok=True)
            depth = 1 + np.arange(256, dtype=np.float32).reshape(16, 16)
            np.save(tmp_path / "train" / "depth" / f"{seed:03d}.npy", depth)
    before = fingerprint(_split(name, tmp_path))
    path = next(tmp_path.rglob("003.bmp" if name == "image_folder" else "003.npy"))
    written = path.read_bytes()
    path.write_bytes(written[:-4] + written[-8:-4])
    assert path.stat().st_size == len(written)
    after = fingerprint(_split(name, tmp_path))
    assert {fact for fact in before if before[fact] != after[fact]} == {"values"}
    monkeypatch.setattr("contrastill.datasets.io.fingerprint.FILES_READ", 20)
    assert "values" not in fingerprint(_split(name, tmp_path))


def test_the_fingerprint_of_files_is_of_their_names_and_sizes(root):
    before = fingerprint(_split("image_folder", root, size=16))
    for path in root.rglob("*.png"):
        os.utime(path, (0, 0))  # a copy is the same data
    assert fingerprint(_split("image_folder", root, size=16, workers=3)) == before
    _save(root / "train" / "a" / "002.png", 2, size=17)
    after = fingerprint(_split("image_folder", root, size=16))
    assert {name for name in before if before[name] != after[name]} == {"names or sizes of files", "values"}
    (root / "train" / "a" / "002.png").rename(root / "train" / "a" / "002b.png")
    assert (
        fingerprint(_split("image_folder", root, size=16))["names or sizes of files"]
        != after["names or sizes of files"]
    )
    assert re.fullmatch("[0-9a-f]{16}", after["labels"])


def test_folders_of_modalities_are_no_classes(tmp_path):
    for folder in ("rgb", "depth", "semantics"):
        _save(tmp_path / folder / "0.png", 0)
    with pytest.raises(UsageError, match="has folders depth, rgb, semantics, which are modalities .*paired_folder"):
        _split("image_folder", tmp_path)
    (tmp_path / "semantics").rename(tmp_path / "cat")
    assert _split("image_folder", tmp_path, "test", test_fraction=1).classes == ["cat", "depth", "rgb"]


def test_a_larger_share_of_a_runs_own_data_has_a_line(tmp_path):
    def data(fraction, path="photos"):
        return make_data_config({"name": "image_folder", "path": path, "test_fraction": fraction}, {})

    run = Run(tmp_path)
    assert "was trained with data.test_fraction=0.1 of the same data, so with 1 training samples are" in (
        training_samples(run, data(0.1), data(1))
    )
    assert [training_samples(run, data(0.1), other) for other in (data(0.1), data(0.05), data(1, "others"))] == [""] * 3
