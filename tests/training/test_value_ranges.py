"""Colours that a dataset of one's own hands out as floats are in one range, in every sample of both splits."""

import pytest
import torch
from pydantic import BaseModel
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import contrastill
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.value_range import ValueRange
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network

TARGETS = torch.arange(48) % 4
IMAGES = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NORMALISED = (IMAGES - 0.45) / 0.22


def data(images):
    return TensorDataset(images, TARGETS)


def module():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def distill(tmp_path, student, train, test):
    return contrastill.distill(
        None, student, (train, test), out=str(tmp_path / "out"), epochs=1, batch_size=16, quiet=True
    )


@pytest.mark.parametrize("make", [lambda: "resnet8", module], ids=["named", "module"])
@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (IMAGES, 255 * IMAGES, "TensorDataset are floats from .* to 255: hand out uint8, or floats in .0, 1."),
        (255 * IMAGES, 255 * IMAGES, "TensorDataset are floats from .* to 255: hand out uint8"),
        (IMAGES, NORMALISED, "test dataset TensorDataset go from -2.* to 2.*, and .*: normalise both, or neither"),
    ],
    ids=["bytes in the test set", "bytes in both", "normalised test set"],
)
def test_another_range_is_refused_before_the_training(tmp_path, make, train, test, message):
    with pytest.raises(UsageError, match=message):
        distill(tmp_path, make(), data(train), data(test))
    assert not (tmp_path / "out" / "student.safetensors").exists()


@pytest.mark.parametrize("make", [lambda: "resnet8", module], ids=["named", "module"])
def test_a_later_sample_in_another_range_stops_the_training(tmp_path, make):
    mixed = IMAGES.clone()
    mixed[47] *= 255  # it is not among those that are read before the training
    with pytest.raises(ContrastillError, match=r"rgb of sample \d+ of TensorDataset goes from .*, and other samples"):
        distill(tmp_path, make(), data(mixed), data(IMAGES))


@pytest.mark.parametrize("dark", [4, 40])
def test_dark_and_bright_samples_by_turns_are_in_one_range(tmp_path, dark):
    images = IMAGES.clone().repeat(4, 1, 1, 1)
    images[::dark] *= 0.3
    images = (images - 0.45) / 0.22
    own = TensorDataset(images, TARGETS.repeat(4))
    read = distill(tmp_path, module(), own, TensorDataset(images[::dark], TARGETS.repeat(4)[::dark]))
    own_range = read.student.preprocess.scale
    assert own_range.low == pytest.approx(float(images.min()), abs=0.01)
    assert own_range.high == pytest.approx(float(images.max()), abs=0.01)
    # Of dark samples alone the bright ones are in the same range all the same.
    ValueRange.of(images[::dark], "it").check(images[1], "sample 1")


def test_normalised_colours_are_a_modules_own_affair_in_both_splits(tmp_path):
    distill(tmp_path, module(), data(NORMALISED), data(NORMALISED))
    with pytest.raises(UsageError, match="normalise both, or neither"):
        contrastill.distill(None, module(), (data(NORMALISED), data(IMAGES)), out=str(tmp_path / "b"), epochs=1)


class Overshooting(Dataset):
    """Resizing with a cubic kernel takes colours a little beyond [0, 1]."""

    def __len__(self):
        return 48

    def __getitem__(self, row):
        return (IMAGES[row] * 1.2 - 0.1 if row % 8 in (0, 7) else IMAGES[row]), int(TARGETS[row])


def test_a_little_beyond_one_is_no_other_range(tmp_path):
    assert distill(tmp_path, "resnet8", Overshooting(), Overshooting()).metrics["epoch"] == 0


@pytest.mark.parametrize("scale", [255.0, 1.0])
def test_a_student_takes_floats_in_0_1_alone(tmp_path, scale):
    distill(tmp_path, "resnet8", data(IMAGES), data(IMAGES))
    student = contrastill.Student.from_run(tmp_path / "out")
    if scale == 1.0:
        assert student(IMAGES[:2]).shape == (2, 4) and student((255 * IMAGES[:2]).to(torch.uint8)).shape == (2, 4)
        return
    with pytest.raises(UsageError, match=r"the network takes uint8 images, or floats in \[0, 1\], and these go to 255"):
        student(scale * IMAGES[:2])
    with pytest.raises(UsageError, match="the network takes uint8 images, or floats"):
        student(NORMALISED)


UINT8 = (255 * IMAGES).to(torch.uint8)
SCALED = IMAGES / 0.22


@pytest.mark.parametrize("make", [lambda: "resnet8", module], ids=["named", "module"])
@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (UINT8, 255 * IMAGES, "TensorDataset are floats from .* to 255: hand out uint8"),
        (
            UINT8,
            NORMALISED,
            "go from -2.* of the training dataset from 0 to 1: normalise both",
        ),
        (UINT8, SCALED, "normalise both, or neither"),
        (UINT8, IMAGES / 255, "bring both to one range, as uint8 or floats"),
        (IMAGES, IMAGES / 255, "bring both to one range, as uint8 or floats"),
        (255 * IMAGES, IMAGES, "TensorDataset are floats from .* to 255: hand out uint8"),
        (NORMALISED, UINT8, "go from 0 to 1, .*: normalise both, or neither"),
        (NORMALISED, IMAGES, "normalise both, or neither"),
        (SCALED, NORMALISED, "normalise both, or neither"),
    ],
)
def test_ranges_that_differ_are_refused_whichever_is_uint8(tmp_path, make, train, test, message):
    with pytest.raises(UsageError, match=message):
        distill(tmp_path, make(), data(train), data(test))
    network = build_network("resnet8", num_classes=4)
    with pytest.raises(UsageError, match=message):
        contrastill.linear_probe(network, data(train), data(test))


@pytest.mark.parametrize(("train", "test"), [(UINT8, IMAGES), (IMAGES, UINT8)])
def test_uint8_and_floats_in_0_1_are_one_range(tmp_path, train, test):
    distill(tmp_path, "resnet8", data(train), data(test))
    student = contrastill.load_student(tmp_path / "out")
    same = [contrastill.linear_probe(student, data(UINT8), data(images)).top1 for images in (UINT8, test)]
    assert same[0] == same[1]


def test_a_probe_reads_every_sample_in_the_range_of_the_first(tmp_path):
    mixed = IMAGES.clone()
    mixed[47] *= 255  # it is not among those that are read before the training
    network = build_network("resnet8", num_classes=4)
    with pytest.raises(ContrastillError, match=r"rgb of sample \d+ of TensorDataset goes from .*, and other samples"):
        contrastill.linear_probe(network, data(mixed), data(IMAGES))
    with pytest.raises(UsageError, match="the network takes uint8 images, or floats .* it normalises them itself"):
        contrastill.linear_probe(network, data(NORMALISED), data(NORMALISED))


def test_a_student_of_normalised_images_takes_such_alone(tmp_path):
    contrastill.distill(
        None,
        {"model": "resnet8", "mean": (0.0,) * 3, "std": (1.0,) * 3},
        (data(NORMALISED), data(NORMALISED)),
        out=str(tmp_path / "out"),
        epochs=1,
        quiet=True,
    )
    student = contrastill.load_student(tmp_path / "out")
    assert student.preprocess.scale.low == pytest.approx(float(NORMALISED.min()), abs=0.2)
    assert student(student.preprocess(NORMALISED[:2])).shape == (2, 4)
    for images in (UINT8, 255 * IMAGES):
        with pytest.raises(UsageError, match="this network was trained on floats from -2"):
            student.preprocess(images)
    for part in ("mean", "std"):
        assert len(getattr(student.preprocess, part)) == 3


def test_a_mean_of_bytes_for_uint8_images_is_refused(tmp_path):
    entry = {"model": "resnet8", "mean": (125.0,) * 3, "std": (60.0,) * 3}
    with pytest.raises(UsageError, match="a mean of 125 is beyond: divide mean and std by 255"):
        distill(tmp_path, entry, data(UINT8), data(UINT8))


@pytest.mark.parametrize("make", [lambda: "resnet8", module], ids=["named", "module"])
def test_mean_and_std_that_are_named_are_for_the_values_as_they_are(tmp_path, make):
    entry = {"model": make(), "mean": (0.1,) * 3, "std": (0.9,) * 3}
    assert distill(tmp_path, entry, data(NORMALISED), data(NORMALISED)).metrics["epoch"] == 0


def test_vectors_are_no_colours(tmp_path):
    samples = [{"normals": 2 * image - 1, "target": int(label)} for image, label in zip(IMAGES, TARGETS, strict=True)]
    entry = {"model": module(), "modality": "normals", "mean": (0.1, 0.1, 0.8), "std": (0.5,) * 3}
    assert distill(tmp_path, entry, Listed(samples), Listed(samples)).metrics["epoch"] == 0


class Listed(Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        return self.samples[row]


def test_a_registered_data_set_may_hand_out_normalised_images_to_a_network_that_keeps_them(tmp_path, monkeypatch):
    class Normalised:
        class Options(BaseModel):
            pass

        def __init__(self, options):
            pass

        def open(self, split):
            images = PaddedImages.zeros(48, 16, 16, 3, dtype=torch.float32, padding=0)
            images.interior[:] = NORMALISED.permute(0, 2, 3, 1)
            return TensorSplit({"rgb": images}, targets=TARGETS, num_classes=4)

    monkeypatch.setitem(DATASETS._entries, "normalised", Normalised)
    for number, (mean, std) in enumerate([(0.0, 1.0), (0.1, 0.9)]):
        entry = {"model": "resnet8", "mean": (mean,) * 3, "std": (std,) * 3}
        contrastill.distill(None, entry, {"name": "normalised"}, out=str(tmp_path / str(number)), epochs=1, quiet=True)
    with pytest.raises(UsageError, match="takes uint8 images, or floats .* it normalises them itself"):
        contrastill.distill(None, "resnet8", {"name": "normalised"}, out=str(tmp_path / "named"), epochs=1, quiet=True)
    with pytest.raises(UsageError, match="trained on floats from -2.* and these go to 255"):
        contrastill.Student.from_run(tmp_path / "0")(255 * IMAGES)
