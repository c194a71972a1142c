"""Folders of images: layouts, damaged files, and views that are the same in any worker, rank or resumed epoch."""

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io import file_loader
from contrastill.datasets.io.file_views import FileViews, draw_part
from contrastill.datasets.io.file_workers import prepare_worker
from contrastill.datasets.io.images import Picture


def _save(path, height=30, width=40, seed=0, **options):
    """A smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """2 classes × 11 training and 3 test pictures."""
    root = tmp_path_factory.mktemp("pets")
    for split, count in (("train", 11), ("test", 3)):
        for target, name in enumerate(("cat", "dog")):
            for k in range(count):
                _save(
                    root / split / name / f"{k:02}.{('jpg', 'png')[k % 2]}",
                    30 + k % 3,
                    40,
                    seed=target * 100 + k + 50 * (split == "test"),
                )
    return root


def _data(root, **options):
    dataset = DATASETS["image_folder"]
    return dataset(dataset.Options(**{"path": str(root), "size": 16, "workers": 0, **options}))


def _loader(root, split="train", *, batch_size=8, train=True, seed=3, rank=0, world=1, **options):
    return (
        _data(root, **options)
        .open(split)
        .loader(batch_size=batch_size, device="cpu", seed=seed, train=train, rank=rank, world=world)
    )


def _same(batches, others):
    batches, others = list(batches), list(others)
    return len(batches) == len(others) and all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in zip(batches, others, strict=True)
    )


def _by_index(batches):
    return {row: image for batch in batches for row, image in zip(batch["index"].tolist(), batch["rgb"], strict=True)}


def test_split_is_listed_by_class_and_path(root):
    split = _data(root).open("train")
    assert (
        split.classes == ["cat", "dog"]
        and split.num_classes == 2
        and split.num_samples == 22
        and split.modalities == {"rgb": (3, 16, 16)}
    )
    assert split.targets.dtype == torch.int64 and split.targets.tolist() == [0] * 11 + [1] * 11
    assert [os.fsdecode(name) for name in split.files[:3]] == [
        "train/cat/00.jpg",
        "train/cat/01.png",
        "train/cat/02.jpg",
    ]
    loader = split.loader(batch_size=8, device="cpu", train=True)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 3 and loader.num_samples == 22
    index = torch.cat([batch["index"] for batch in batches])
    assert not torch.equal(index, torch.arange(22)) and torch.equal(index.sort().values, torch.arange(22))
    for batch in batches:
        assert (
            batch["rgb"].dtype == torch.uint8
            and batch["rgb"].shape[1:] == (3, 16, 16)
            and batch["rgb"].is_contiguous(memory_format=torch.channels_last)
        )
        assert torch.equal(batch["target"], split.targets[batch["index"]])


@pytest.mark.parametrize("options", [{}, {"color_jitter": 0.5}, {"crop": "padded"}])
def test_workers_ranks_and_resuming_change_no_byte(root, options):
    expected = list(_loader(root, **options).epoch(2))
    workers = _loader(root, workers=2, **options)
    assert (
        _same(workers.epoch(2), expected)
        and _same(workers.epoch(2, start=1), expected[1:])
        and list(workers.epoch(2, start=3)) == []
    )
    for world in (2, 8):
        ranks = [_loader(root, rank=rank, world=world, **options).epoch(2) for rank in range(world)]
        # In a batch of fewer samples than ranks, padding stands for the empty slices.
        parts_of_batches = [[part for part in parts if "is_padding" not in part] for parts in zip(*ranks, strict=True)]
        joined = [{name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in parts_of_batches]
        assert _same(joined, expected)
    other_batches = _by_index(_loader(root, batch_size=5, **options).epoch(2))
    assert all(torch.equal(image, other_batches[row]) for row, image in _by_index(expected).items())


def test_views_differ_by_epoch_and_seed(root):
    expected = _by_index(_loader(root).epoch(2))
    for other in (_loader(root).epoch(3), _loader(root, seed=4).epoch(2)):
        other = _by_index(other)
        assert not any(torch.equal(expected[row], other[row]) for row in range(22))


def test_a_test_split_is_the_centre_as_torchvision_cuts_it(root):
    from torchvision.transforms import v2

    usual = v2.Compose([v2.PILToTensor(), v2.Resize(round(16 * 256 / 224), antialias=True), v2.CenterCrop(16)])
    for options in ({"train": False}, {"train": True, "color_jitter": 0.5}):
        loader = _loader(root, "test", **options)
        images = _by_index(loader.epoch(0))
        files = sorted((root / "test").rglob("*.*"))
        assert all(torch.equal(images[row], usual(Image.open(path))) for row, path in enumerate(files))
    assert torch.equal(next(_loader(root, "test", train=False).epoch(5))["index"], torch.arange(6))
    # Training samples as the probe reads them.
    assert torch.equal(
        next(_loader(root, train=False, color_jitter=0.5).epoch(0))["rgb"],
        next(_loader(root, train=False).epoch(1))["rgb"],
    )


def test_parts_are_in_the_picture_and_in_the_range():
    views = FileViews(16)
    for height, width in ((30, 40), (40, 30), (1, 1), (5, 100)):
        for draws in views.draws(0, 1, torch.arange(200)):
            top, left, h, w = draw_part(height, width, (0.35, 1.0), draws[1:])
            assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width and h and w
            if min(height, width) == 30:
                assert 0.33 < h * w / (height * width) <= 1 and 0.7 < w / h < 1.43
    flips = sum(draws[0] < 0.5 for draws in views.draws(0, 1, torch.arange(1000)))
    assert 430 < flips < 570


def test_crop_none_and_padded(root):
    plain = _by_index(_loader(root, crop="none", flip=False).epoch(0))
    assert _same([plain], [_by_index(_loader(root, train=False, crop="none").epoch(0))])
    flipped = _by_index(_loader(root, crop="none").epoch(0))
    mirrored = {row: torch.equal(image.flip(2), plain[row]) for row, image in flipped.items()}
    assert 3 < sum(mirrored.values()) < 19 and all(
        mirrored[row] or torch.equal(image, plain[row]) for row, image in flipped.items()
    )
    for row, image in _by_index(_loader(root, crop="padded", flip=False).epoch(0)).items():
        framed = torch.nn.functional.pad(plain[row], (2, 2, 2, 2))
        assert any(torch.equal(image, framed[:, y : y + 16, x : x + 16]) for y in range(5) for x in range(5))


def test_jitter_is_of_the_colours_alone(root):
    plain, jittered = (_by_index(_loader(root, color_jitter=strength).epoch(1)) for strength in (0, 0.4))
    assert jittered[0].dtype == torch.float32 and 0 <= min(image.min() for image in jittered.values())
    changes = [(jittered[row].mean() / (plain[row].float().mean() / 255)).item() for row in plain]
    assert max(changes) > 1.1 and min(changes) < 0.9 and all(0.55 < change < 1.45 for change in changes)


@pytest.mark.parametrize(
    "transforms",
    [
        [{"name": "GaussNoise", "p": 0.7}, {"name": "RandomRotate90"}],
        [{"name": "torchvision/TrivialAugmentWide", "p": 0.8}, {"name": "Erasing", "p": 0.4}],
        [{"name": "torchvision/RandAugment", "num_ops": 1, "magnitude": 9, "p": 0.8}],
    ],
)
def test_further_transforms_are_drawn_by_sample(root, transforms):
    options = {"transforms": transforms}
    expected = list(_loader(root, **options).epoch(1))
    assert _same(_loader(root, workers=2, **options).epoch(1, start=1), expected[1:])
    noisy, plain = _by_index(expected), _by_index(_loader(root).epoch(1))
    assert 10 < sum(not torch.equal(noisy[row], plain[row]) for row in plain) <= 22
    assert torch.equal(
        next(_loader(root, "test", **options).epoch(0))["rgb"], next(_loader(root, "test").epoch(0))["rgb"]
    )
    for wrong, message in (
        ({"name": "GausNoise"}, "did you mean GaussNoise"),
        ({"name": "GaussNoise", "sigma": 1}, "GaussNoise does not take {'sigma': 1}"),
        ({"name": "GaussNoise", "p": 2}, "GaussNoise does not take {'p': 2}"),
        ({"name": "torchvision/TrivialAugment"}, "did you mean TrivialAugmentWide"),
        ({"name": "torchvision/RandAugment", "sigma": 1}, "RandAugment does not take {'sigma': 1}"),
        ({"name": "torchvision/Resize", "size": 8}, "do not keep 16×16 pixels"),
        ({"name": "Resize", "height": 8, "width": 8}, "do not keep 16×16 pixels"),
        ({"name": "Normalize"}, "do not keep 16×16 pixels of uint8"),
        # Seen at once, however seldom it is drawn.
        ({"name": "Normalize", "p": 0.01}, "do not keep 16×16 pixels of uint8"),
        ({"name": "Mosaic"}, "Mosaic asks for mosaic_metadata beside each image"),
        ({"name": "FDA"}, "FDA asks for fda_metadata beside each image"),
        ({"name": "MaskDropout"}, "MaskDropout asks for mask beside each image"),
        ({"name": "RandomCrop", "height": 32, "width": 32}, "(RandomCrop) fail on an image of 16×16 pixels: "),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            _data(root, transforms=[wrong]).open("train")


def test_an_epoch_left_early_does_not_disturb_the_next(root):
    expected = list(_loader(root).epoch(1))
    loader = _loader(root, workers=2)
    state = torch.get_rng_state()
    next(loader.epoch(0))
    assert _same(loader.epoch(1), expected)
    # Two under way at once: each goes on where it was.
    first, second = loader.epoch(1), loader.epoch(1)
    taken = [next(first), next(second), next(first), next(second), next(first), next(second)]
    assert (
        _same(taken[::2], expected) and _same(taken[1::2], expected) and next(first, None) is next(second, None) is None
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_can_be_spawned(root, monkeypatch):
    here = list(_loader(root).epoch(1))
    monkeypatch.setattr(
        file_loader,
        "DataLoader",
        lambda *args, **options: DataLoader(*args, multiprocessing_context="spawn", **options),
    )
    assert _same(_loader(root, workers=1).epoch(1), here)


def test_workers_of_a_loader_in_a_cycle_end_by_themselves(root, monkeypatch):
    terminated = []
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "terminate", lambda worker: terminated.append(worker))
    before = {*multiprocessing.active_children()}
    loader = _loader(root, workers=1)
    list(loader.epoch(0))
    (worker,) = {*multiprocessing.active_children()} - before
    loader.itself = loader
    del loader
    gc.collect()
    # torch terminates those that have not ended after five seconds.
    assert not worker.is_alive() and not terminated


class _Loud:
    """Says where it is cleared away, as torch's iterators with workers do in a fork."""

    def __init__(self):
        self.itself, self.process = self, os.getpid()

    def __del__(self):
        if os.getpid() != self.process:
            os.write(2, b"cleared away in a fork")


def _as_a_worker():
    prepare_worker(0)
    gc.collect()


def test_workers_leave_what_came_with_the_fork(capfd):
    gc.collect()
    _Loud()  # garbage in a cycle, until it is collected
    process = multiprocessing.get_context("fork").Process(target=_as_a_worker)
    process.start()
    process.join(10)
    assert process.exitcode == 0 and "cleared away" not in capfd.readouterr().err
    gc.collect()


def test_nothing_is_cleared_away_between_the_fork_and_the_start_of_a_worker(root, monkeypatch):
    collects, blocked = [], file_loader.sigterm_blocked

    def starting():
        collects.append(gc.isenabled())
        return blocked()

    monkeypatch.setattr(file_loader, "sigterm_blocked", starting)
    next(_loader(root, workers=1, batch_size=1).epoch(1))
    assert collects == [False] and gc.isenabled()


def test_workers_heed_the_signals_of_their_own_process_alone(root):
    torch.set_num_threads(
        torch.get_num_threads()
    )  # from then on torch starts a thread in each fork, before anything else runs there
    loader = _loader(root, workers=2, batch_size=1)
    batches = loader.epoch(1)
    # One of each worker: both have begun and minded their signals.
    taken = [next(batches), next(batches)]
    workers = list(loader._data._iterator._workers)
    helper = (
        "import os, signal, sys\nfor pid in sys.argv[1:]:\n    os.kill(int(pid), signal.SIGTERM); "
        "os.kill(int(pid), signal.SIGINT)"
    )
    subprocess.run([sys.executable, "-c", helper, *(str(worker.pid) for worker in workers)], check=True)
    taken += batches
    assert _same(taken, _loader(root, batch_size=1).epoch(1)) and all(worker.is_alive() for worker in workers)
    workers[0].terminate()
    workers[0].join(10)
    assert not workers[0].is_alive()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ConnectionResetError("reset by peer")],
)
def test_a_worker_that_was_killed(root, error):
    def killed():
        yield loader._reader[1, np.arange(2)]
        raise error

    loader = _loader(root, batch_size=2)
    loader._data = killed()
    with pytest.raises(
        ContrastillError,
        match=r"a worker that reads images ended \(.*(Killed|peer)\): lower data.workers=0, or give it more",
    ):
        list(loader.epoch(1))
    assert _same(loader.epoch(1), _loader(root, batch_size=2).epoch(1))


def test_large_photographs_are_decoded_as_far_as_needed(tmp_path):
    _save(tmp_path / "it.jpg", 600, 801, quality=95)
    views = FileViews(32)
    for draws in views.draws(0, 0, torch.arange(6)):
        fast = views.view(Picture(tmp_path / "it.jpg"), draws, 0)
        top, left, h, w = draw_part(600, 801, views.scale, draws[1:])
        expected = Picture(tmp_path / "it.jpg").pixels()[top : top + h, left : left + w].permute(2, 0, 1)[None]
        slow = torch.nn.functional.interpolate(expected, (32, 32), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        slow = slow.flip(1) if draws[0] < 0.5 else slow
        assert (fast.int() - slow.int()).abs().float().mean() < 8


@pytest.mark.parametrize("height,width", [(1, 1), (1, 900), (900, 1), (16, 16), (7, 33)])
def test_odd_sizes(tmp_path, height, width):
    for split in ("train", "test"):
        _save(tmp_path / split / "a" / "1.png", height, width)
        assert next(_loader(tmp_path, split).epoch(0))["rgb"].shape == (1, 3, 16, 16)


def _damage(path, kind):
    content = path.read_bytes()
    path.write_bytes(
        {
            "half": content[: len(content) // 2],
            "end": content[:-20],
            "text": b"this is no image",
            "none": b"",
            "head": content[:30],
            "zeros": content[: len(content) // 2].ljust(len(content), b"\0"),
        }[kind]
    )


def _damaged_folder(root):
    for name in ("cat", "dog"):
        for k in range(6):
            _save(root / "train" / name / f"{k}.jpg", seed=k)
            _save(root / "test" / name / f"{k}.jpg", seed=k + 9)
    _damage(root / "train" / "dog" / "4.jpg", "half")
    _damage(root / "train" / "cat" / "2.jpg", "text")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_stops_a_training_in_one_sentence(tmp_path, workers):
    root = _damaged_folder(tmp_path)
    (root / "train" / "cat" / "2.jpg").unlink()
    loader = _loader(root, batch_size=3, workers=workers)
    with pytest.raises(ContrastillError) as caught:
        list(loader.epoch(0))
    stderr = (
        "(?i)"
        + re.escape(str(root / "train" / "dog" / "4.jpg"))
        + r" cannot be read as an image \(.*truncated.*\): remove it, or set data.skip_corrupted=true"
    )
    assert re.fullmatch(stderr, str(caught.value)) and caught.value.exit_code == 1
    _save(root / "train" / "dog" / "4.jpg")
    assert sum(len(batch["index"]) for batch in loader.epoch(0)) == 11


def test_what_counts_as_an_image(tmp_path):
    for name in ("b.PNG", "a/deep/er/1.jpeg", "a/.hidden/2.jpg", ".3.jpg", "a/4.gif.txt"):
        path = tmp_path / "train" / "z" / name
        _save(path, format="PNG" if path.suffix in (".PNG", ".txt") else "JPEG")
    _save(tmp_path / "train" / ".cache" / "1.png")
    _save(tmp_path / "train" / "Zebra" / "1.png")
    _save(tmp_path / "val" / "z" / "1.png")
    (tmp_path / "train" / "notes.txt").write_text("read me")
    split = _data(tmp_path).open("train")
    assert split.classes == ["Zebra", "z"] and [os.fsdecode(name) for name in split.files] == [
        "train/Zebra/1.png",
        "train/z/a/deep/er/1.jpeg",
        "train/z/b.PNG",
    ]
    assert _data(tmp_path).open("test").targets.tolist() == [1]


def test_holding_out_a_part(tmp_path, caplog):
    for name in ("cat", "dog"):
        for k in range(40):
            _save(tmp_path / name / f"{k}.png", 2, 3)
    whole = _data(tmp_path, test_fraction=1)
    assert whole.open("test").num_samples == 80 and not caplog.text
    with pytest.raises(UsageError, match="data.test_fraction=1 is for evaluations, as it leaves no images to train on"):
        whole.open("train")
    held_out = _data(tmp_path, test_fraction=0.25).open("test").num_samples
    assert f"{tmp_path} has no test split: it is {held_out} of the 80 images, by data.test_fraction=0.25" in caplog.text
    parts = {
        split: [os.fsdecode(name) for name in _data(tmp_path, test_fraction=0.25).open(split).files]
        for split in ("train", "test")
    }
    assert sorted(parts["train"] + parts["test"]) == sorted(
        f"{name}/{k}.png" for name in ("cat", "dog") for k in range(40)
    )
    assert 10 <= len(parts["test"]) <= 30 and parts["test"][0] == "cat/0.png"
    # More held out, or more images: what was held out stays so.
    assert set(parts["test"]) < {os.fsdecode(name) for name in _data(tmp_path, test_fraction=0.5).open("test").files}
    limited = _data(tmp_path, limit=10).open("train")
    assert limited.num_samples == 10 and limited.targets.sum() == 5
    with pytest.raises(UsageError, match="no image is held out for testing"):
        _data(tmp_path, test_fraction=1e-6).open("test")
    with pytest.raises(UsageError, match="no image of cat is left to train on"):
        _data(tmp_path, test_fraction=0.9999).open("train")


@pytest.mark.parametrize(
    "make,split,message",
    [
        (["train/cat/1.png", "val/dog/1.png"], "test", "val/dog is not a class of train: sort the images of val"),
        (["train/cat/1.png", "train/dog/1.txt"], "train", "train/dog has no images (.png, .jpg"),
        (["train/cat/1.png", "test/cat/1.txt"], "test", "test has no images"),
        (["train/cat/1.png"], "test", "none called test or val: add one, or hold out a part of train with data.path="),
        (["train/1.png", "test/1.png"], "train", "train has no folders of classes"),
        (["test/cat/1.png"], "train", "test alone, data.path={root}/test data.test_fraction=1"),
        (["1.png"], "train", "has no folders of classes"),
        (["train/cat/1.png", "test/cat/1.png"], "val", "no split 'val': it has train, test"),
    ],
)
def test_errors_name_the_folder_and_the_remedy(tmp_path, make, split, message):
    for name in make:
        _save(tmp_path / name, 2, 3, format="PNG")
    with pytest.raises(UsageError, match=re.escape(message.replace("{root}", str(tmp_path)))):
        _data(tmp_path).open(split)


def test_missing_folder_and_wrong_options(tmp_path, root, monkeypatch):
    with pytest.raises(UsageError, match="nowhere does not exist: set data.path"):
        _data(tmp_path / "nowhere").open("train")
    monkeypatch.chdir(tmp_path)  # the folder that a run's relative path is read in is not always that of its training
    for name in ("image_folder", "paired_folder", "tiny_imagenet"):
        dataset = DATASETS[name]
        with pytest.raises(UsageError, match=re.escape(f"nowhere does not exist (in {tmp_path}): set data.path")):
            dataset(dataset.Options(path="nowhere")).open("train")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        _data(tmp_path / "file").open("train")
    config = {"out": "x", "student": {"model": "resnet20"}, "objectives": {"cross_entropy": {}}}
    assert validate({**config, "data": {"path": str(root)}}).data.name == "image_folder"
    for options, message in (
        ({"scale": [0.5, 0.1]}, "least and a greatest share"),
        ({"sizes": 3}, "did you mean size"),
        ({"workers": -1}, "data.workers=-1"),
    ):
        with pytest.raises(UsageError, match=message):
            validate({**config, "data": {"name": "image_folder", "path": str(root), **options}})
    with pytest.raises(UsageError, match="batch_size=2"):
        _loader(root, batch_size=2, world=3)


def test_recognises_its_own_and_no_other(tmp_path, root):
    recognises = DATASETS["image_folder"].recognises
    assert (
        recognises(str(root))
        and recognises(str(root / "train"))
        and not recognises(str(root / "train" / "cat"))
        and not recognises(str(tmp_path / "none"))
    )
    others = {"tiny": "wnids.txt", "cifar": "cifar-100-python/meta", "run": "config.yaml"}
    for name, file in others.items():
        for split in ("train", "val"):
            _save(tmp_path / name / split / "a" / "1.png", 2, 3)
        assert recognises(str(tmp_path / name))
        (tmp_path / name / file).parent.mkdir(exist_ok=True)
        (tmp_path / name / file).write_text("")
        assert not recognises(str(tmp_path / name))
    for seed in ("seed0", "seed1"):
        _save(tmp_path / "runs" / seed / "figures" / "1.png", 2, 3)
        (tmp_path / "runs" / seed / "config.yaml").write_text("")
    assert not recognises(str(tmp_path / "runs"))
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    assert not recognises(str(tmp_path / "empty")) and not recognises(str(tmp_path))


def test_workers_end_with_the_process(root):
    # By itself, in time and without a word, though an epoch is under way.
    script = (
        "import sys\n"
        "from contrastill.core.registry import DATASETS\n"
        "from contrastill.datasets.image_folder import ImageFolder as D\n"
        "if __name__ == '__main__':\n"
        "    loader = D(D.Options(path=sys.argv[1], size=16, workers=2)).open('train').loader(batch_size=2, "
        "device='cpu', train=True)\n"
        "    batches = loader.epoch(0)\n"
        "    next(batches)\n"
        "    print(*(worker.pid for worker in loader._data._iterator._workers))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stderr == ""
    for pid in ended.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), signal.SIG_DFL)


def test_an_image_in_no_class_is_named(tmp_path, caplog):
    for place in ("train/cat", "train/dog", "test/cat", "test"):
        _save(tmp_path / place / "a.png")
    assert _data(tmp_path).open("test").num_samples == 1
    assert f"passed over, 1 such as {tmp_path / 'test' / 'a.png'}" in caplog.text
    (tmp_path / "test" / "cat" / "a.png").unlink()
    with pytest.raises(UsageError, match="in folders of classes, and a.png in none: move it"):
        _data(tmp_path).open("test")
