"""``stl10`` on files of the official layout: columns before rows, labels from 1, folds as lines of text."""

import logging

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from contrastill.cli.main import main
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS

LABELS = {"train": [1, 10, 3, 2, 2, 7], "test": [4, 1, 10]}


@pytest.fixture
def stl(tmp_path):
    """The folder that holds stl10_binary, and the pictures in it, (N, 96, 96, 3) by file."""
    folder, rng, pictures = tmp_path / "data" / "stl10_binary", np.random.default_rng(0), {}
    folder.mkdir(parents=True)
    for name, count in (("train", 6), ("test", 3), ("unlabeled", 5)):
        pictures[name] = rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        pictures[name].transpose(0, 3, 2, 1).tofile(folder / f"{name}_X.bin")
    for name, labels in LABELS.items():
        np.array(labels, np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "fold_indices.txt").write_text("".join(f"{fold % 6} {(fold + 2) % 6} \n" for fold in range(10)))
    return tmp_path / "data", pictures


def opened(path, split="train", **options):
    dataset = DATASETS["stl10"]
    return dataset(dataset.Options(path=str(path), crop_padding=0, flip=False, **options)).open(split)


def test_labelled_images_are_upright(stl):
    root, pictures = stl
    for path in (root, root / "stl10_binary"):
        train, test = opened(path), opened(path, "test")
        assert np.array_equal(train.images["rgb"].interior, pictures["train"]) and train.targets.tolist() == [
            0,
            9,
            2,
            1,
            1,
            6,
        ]
        assert np.array_equal(test.images["rgb"].interior, pictures["test"]) and test.targets.tolist() == [3, 0, 9]
        assert (
            train.num_classes == 10
            and train.classes[0] == "airplane"
            and train.classes[9] == "truck"
            and train.modalities == {"rgb": (3, 96, 96)}
        )
        assert DATASETS["stl10"].recognises(str(path)) and not DATASETS["image_folder"].recognises(str(path))


def test_unlabelled_images_have_no_targets(stl):
    root, pictures = stl
    alone = opened(root, train_split="unlabeled")
    assert np.array_equal(alone.images["rgb"].interior, pictures["unlabeled"]) and alone.targets is None
    assert "target" not in next(alone.loader(batch_size=2, device="cpu", train=True).epoch(0))
    both = opened(root, train_split="train+unlabeled", limit=4)
    every = np.concatenate([pictures["train"], pictures["unlabeled"]])
    assert np.array_equal(both.images["rgb"].interior, every[[0, 2, 5, 8]]) and both.targets is None
    assert opened(root, "test", train_split="unlabeled").targets.tolist() == [3, 0, 9]


def test_folds_limit_and_size(stl):
    root, pictures = stl
    fold = opened(root, fold=5)
    assert np.array_equal(fold.images["rgb"].interior, pictures["train"][[5, 1]]) and fold.targets.tolist() == [6, 9]
    assert (
        opened(root, limit=3).targets.tolist() == [0, 2, 1] and opened(root, "test", fold=5, limit=2).num_samples == 2
    )
    small = opened(root, size=32)
    resized = F.interpolate(
        torch.from_numpy(pictures["train"]).permute(0, 3, 1, 2), (32, 32), mode="bilinear", antialias=True
    )
    difference = small.images["rgb"].interior.int() - resized.permute(0, 2, 3, 1).int()
    assert small.modalities == {"rgb": (3, 32, 32)} and difference.abs().max() <= 1
    with pytest.raises(ValueError, match="fold picks labelled images"):
        opened(root, fold=1, train_split="unlabeled")


def test_more_than_one_piece(stl, monkeypatch):
    root, pictures = stl
    monkeypatch.setattr("contrastill.datasets.stl10._AT_ONCE", 2)
    assert np.array_equal(
        opened(root, train_split="train+unlabeled").images["rgb"].interior,
        np.concatenate([pictures["train"], pictures["unlabeled"]]),
    )


def test_packs_with_and_without_labels_or_a_test_split(stl, tmp_path, capsys):
    root, pictures = stl
    out = tmp_path / "stl.h5"
    assert main(["data", "pack", f"stl10:{root}", str(out), "train_split=unlabeled", "--quiet"]) == 0
    with h5py.File(out) as file:
        assert (
            list(file["train"]) == ["rgb"]
            and np.array_equal(file["train/rgb"], pictures["unlabeled"])
            and file["test/target"][:].tolist() == [3, 0, 9]
        )
    (root / "stl10_binary" / "test_X.bin").unlink()
    again = ["data", "pack", f"stl10:{root}", str(out), "train_split=unlabeled", "size=48", "--force", "--quiet"]
    assert main(again) == 2
    assert "test_X.bin does not exist" in (stderr := capsys.readouterr().err) and "with --split train" in stderr
    assert main([*again, "--split", "train"]) == 0
    with h5py.File(out) as file:
        assert list(file) == ["train"] and file["train/rgb"].shape == (5, 48, 48, 3)
    packed = DATASETS["packed"]
    assert packed(packed.Options(path=str(out))).open("train").targets is None


def test_errors_are_reported(stl, tmp_path, caplog):
    root, _ = stl
    folder = root / "stl10_binary"
    with caplog.at_level(logging.WARNING):
        opened(root)
    assert "train_X.bin has 6 images, the published file 5000" in caplog.text
    with pytest.raises(UsageError, match="--download"):
        opened(tmp_path / "nowhere")
    (folder / "fold_indices.txt").write_text("0 6\nzero\n")
    with pytest.raises(UsageError, match="fold 0 names images up to 6, and there are 6"):
        opened(root, fold=0)
    for fold in (1, 2):
        with pytest.raises(ContrastillError, match=f"has no line {fold + 1} of whole numbers"):
            opened(root, fold=fold)
    np.array([1, 2, 3, 4, 5, 11], np.uint8).tofile(folder / "train_y.bin")
    with pytest.raises(UsageError, match="has labels 1 to 11, those of STL-10 are 1 to 10"):
        opened(root)
    np.array([1], np.uint8).tofile(folder / "train_y.bin")
    with pytest.raises(UsageError, match="train_y.bin has 1 labels for 6 images"):
        opened(root)
    with open(folder / "unlabeled_X.bin", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ContrastillError, match="unlabeled_X.bin is truncated: its 1000 bytes"):
        opened(root, train_split="unlabeled")
    (folder / "unlabeled_X.bin").unlink()
    with pytest.raises(UsageError, match="unlabeled_X.bin does not exist: unpack stl10_binary.tar.gz"):
        opened(root, train_split="unlabeled")
    with pytest.raises(UsageError, match="stl10 has no split 'val'"):
        opened(root, "val")


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", unreachable)
    with pytest.raises(
        ContrastillError, match=r"could not be downloaded \(no network\): without a network, unpack stl10_binary.tar.gz"
    ):
        opened(tmp_path, download=True)


def test_other_names_of_classes_and_folds_that_repeat_an_image_are_refused(stl):
    root, _ = stl
    names = root / "stl10_binary" / "class_names.txt"
    names.write_text("airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n")
    assert opened(root).num_samples == 6
    names.write_text("bird\nairplane\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n")
    with pytest.raises(UsageError, match="names the classes bird, airplane, .*, those of STL-10 are airplane, bird"):
        opened(root, "test")
    names.unlink()
    (root / "stl10_binary" / "fold_indices.txt").write_text("0 3 3 1\n")
    with pytest.raises(UsageError, match="fold 0 names image 3 more than once"):
        opened(root, fold=0)
