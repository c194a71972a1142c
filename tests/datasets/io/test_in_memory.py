"""Splits in memory that a data set of a user's own fills: channels, sizes, classes, cameras."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from contrastill.core.config.loading import make_data_config
from contrastill.core.errors import UsageError
from contrastill.datasets.io.camera import Camera
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.shared_samples import warn_of_shared_images
from contrastill.datasets.io.views import PaddedImages
from contrastill.datasets.user_dataset import UserDataset
from contrastill.evaluation.data import _fields, _sample
from contrastill.training.data import open_splits


def images(height, width, channels, dtype=torch.uint8, padding=0):
    return PaddedImages.zeros(2, height, width, channels, dtype=dtype, padding=padding)


def test_channels_first_are_refused_before_sizes():
    with pytest.raises(UsageError, match=r"rgb has 32 channels of 3×32 pixels, and images are \(N, H, W, C\): give ch"):
        TensorSplit({"rgb": images(3, 32, 32, padding=4), "ir": images(32, 32, 1, padding=4)})


def test_sizes_that_differ_have_a_line_and_are_not_cropped(caplog):
    with pytest.raises(UsageError, match="rgb 32×32, ir 16×16. cannot be cropped jointly: set data.crop_padding=0"):
        TensorSplit({"rgb": images(32, 32, 3, padding=4), "ir": images(16, 16, 1, padding=4)})
    TensorSplit({"rgb": images(32, 34, 3), "ir": images(16, 17, 1)})
    assert "modalities of different sizes (rgb 32×34, ir 16×17): each network sees its own" in caplog.text


def test_a_mirrored_camera_is_that_of_depth_frames_whatever_the_size_of_rgb():
    camera = Camera("m", (9.0, 9.0, 3.0, 4.0))
    depth = images(8, 8, 1, torch.float32)
    alone, beside = (
        TensorSplit(fields, camera=camera, flip=True)
        for fields in ({"depth": depth}, {"rgb": images(32, 32, 3), "depth": depth})
    )
    options = {"batch_size": 2, "device": "cpu", "seed": 1, "train": True}
    for view in range(4):
        ours, theirs = (next(iter(split.loader(**options).epoch(view)))["camera"] for split in (beside, alone))
        assert torch.equal(ours, theirs)


def test_names_say_how_many_classes_there_are():
    split = TensorSplit({"rgb": images(8, 8, 3)}, targets=torch.tensor([0, 1]), classes=["a", "b", "c"])
    assert split.num_classes == 3


def test_a_description_has_the_stored_numbers():
    split = TensorSplit({"rgb": images(8, 8, 3), "ir": images(8, 8, 1, torch.uint16)})
    assert {name: field.dtype for name, field in _fields(split, _sample(split)).items()} == {
        "rgb": "uint8",
        "ir": "uint16",
    }


def test_a_border_wider_than_the_images_is_refused():
    with pytest.raises(UsageError, match="data.crop_padding=100000 is wider than the images, which are 16×12: .* to 2"):
        images(16, 12, 3, padding=100_000)
    assert images(16, 12, 3, padding=16).interior.shape == (2, 16, 12, 3)


def test_images_beyond_all_memory_are_refused_with_their_size():
    for side, room in ((10**6, "6000"), (10**10, "6e")):
        with pytest.raises(UsageError, match=rf"2 images of {side}×{side}×3 uint8 .* are {room}.* GB, and there is no"):
            images(side, side, 3)


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([0, 1], {}, "has targets and no num_classes: give the number of classes of the data set"),
        ([0, 2], {"num_classes": 2}, "has the class 2 and num_classes=2: classes count from 0"),
        ([0.0, 1.0], {"num_classes": 2}, r"has targets of shape \(2,\) and torch.float32: give the number of each"),
        ([False, True], {"num_classes": 2}, r"has targets of shape \(2,\) and torch.bool"),
        ([[0], [1]], {"num_classes": 2}, r"has targets of shape \(2, 1\) and torch.int64"),
    ],
)
def test_targets_that_do_not_number_classes_are_refused(targets, options, message):
    with pytest.raises(UsageError, match=f"^a TensorSplit {message}"):
        TensorSplit({"rgb": images(8, 8, 3)}, targets=torch.tensor(targets), **options)


def _packed(path, train, test):
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        for split, images in (("train", train), ("test", test)):
            file[f"{split}/rgb"], file[f"{split}/target"] = images, np.arange(len(images)) % 2
    return {"path": str(path)}


def _folder(path, train, test):
    for split, images in (("train", train), ("test", test)):
        for number, image in enumerate(images):
            file = path / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return {"path": str(path), "size": 8}


def _tensors(path, train, test):
    def dataset(images):
        return TensorDataset(torch.from_numpy(images).permute(0, 3, 1, 2), torch.arange(len(images)) % 2)

    return UserDataset(dataset(train), dataset(test))


@pytest.mark.parametrize("make", [_packed, _folder, _tensors])
@pytest.mark.parametrize("shared", [0, 3])
def test_test_images_that_are_in_the_training_split_too_are_counted(make, shared, tmp_path, caplog):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    train, test = images[:20], images[20 - shared :]
    data = make(tmp_path / "data", train, test)
    if isinstance(data, UserDataset):
        opened = data(UserDataset.Options())
        warn_of_shared_images(opened.open("train"), opened.open("test"))
    else:
        open_splits(make_data_config(data, {}))
    lines = [line for line in caplog.messages if "are in the training split too" in line]
    assert [line.split(" test images")[0] for line in lines] == [f"{shared} of the {10 + shared}"] * (shared > 0)
