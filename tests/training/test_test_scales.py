"""A test split whose values are in another unit than the training split's is refused, or has a line."""

import logging

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.value_scale import note_once

N = 16
NOISE = np.random.default_rng(0).uniform(0, 1, (N, 16, 16)).astype(np.float32)
TEST_NOISE = np.random.default_rng(1).uniform(0, 1, (N, 16, 16)).astype(np.float32)
CELSIUS, OTHER_CELSIUS = 90 + 50 * NOISE, 90 + 50 * TEST_NOISE
METRES, OTHER_METRES = 1 + 4 * NOISE, 1 + 4 * TEST_NOISE
BYTES = (255 * NOISE).astype(np.uint8)
LINE = "accuracies are right only if both are in one unit"


def millimetres(metres, factor=1000):
    return (factor * metres).astype(np.uint16)


def write(path, name, train, test):
    with h5py.File(path, "w") as file:
        for split, values in (("train", train), ("test", test)):
            file[f"{split}/{name}"], file[f"{split}/target"] = values, np.arange(len(values)) % 4
    return {"path": str(path), "fields": {name: name}}


def train(tmp_path, name, ours, theirs, reads=None, epochs=1):
    note_once.cache_clear()
    data = write(tmp_path / "data.h5", name, ours, theirs)
    options = {"student_modality": reads or name, "epochs": epochs, "batch_size": 16, "quiet": True}
    return contrastill.distill(None, "resnet8", data, out=tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("thermal", CELSIUS, OTHER_CELSIUS / 255),
        ("thermal", CELSIUS / 255, OTHER_CELSIUS),
        ("depth", METRES, 1000 * OTHER_METRES),
        ("depth", 1000 * METRES, OTHER_METRES),
    ],
    ids=["divided by 255", "times 255", "millimetres as metres", "the reverse"],
)
def test_another_unit_is_refused_before_the_training(tmp_path, name, ours, theirs):
    with pytest.raises(UsageError, match=f"{name} is .* in the training split and .* in the test split .* bring both"):
        train(tmp_path, name, ours, theirs)
    assert not (tmp_path / "out").exists()


DARK = 0.01 * TEST_NOISE


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("thermal", CELSIUS, OTHER_CELSIUS + 273),
        ("thermal", CELSIUS + 273, OTHER_CELSIUS),
        ("depth", millimetres(METRES), millimetres(OTHER_METRES, 100)),
        ("thermal", NOISE, DARK),
        ("thermal", NOISE, np.zeros_like(NOISE)),
        ("thermal", CELSIUS, OTHER_CELSIUS[:3] / 255),
        ("thermal", BYTES, (2 * TEST_NOISE).astype(np.uint8)),
    ],
    ids=["Kelvin", "Celsius", "cm", "dark", "black", "few", "dark bytes"],
)
def test_what_may_be_right_has_one_line(tmp_path, name, ours, theirs, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, name, ours, theirs)
    assert caplog.text.count(LINE) == 1


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "reads"),
    [
        ("thermal", CELSIUS, OTHER_CELSIUS, None),
        ("thermal", CELSIUS, OTHER_CELSIUS[:3], None),
        ("depth", METRES, 2 * OTHER_METRES, None),
        ("depth", millimetres(METRES), millimetres(OTHER_METRES), "inverse_depth"),
        ("depth", BYTES, np.sort(BYTES, 1)[::-1], None),
        ("depth", METRES, np.zeros_like(METRES), None),
        ("thermal", NOISE, np.where(np.arange(N)[:, None, None] < 2, DARK, TEST_NOISE), None),
    ],
    ids=["thermal", "few", "larger rooms", "derived", "relative", "nothing measured", "dark first samples"],
)
def test_the_same_scale_has_no_line(tmp_path, name, ours, theirs, reads, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, name, ours, theirs, reads)
    assert LINE not in caplog.text


def test_a_derived_modality_is_compared_as_networks_see_it(tmp_path):
    with pytest.raises(UsageError, match="^inverse_depth is .* in the training split"):
        train(tmp_path, "depth", METRES, 1000 * OTHER_METRES, "inverse_depth")


def test_a_run_that_is_trained_already_has_a_line_alone(tmp_path, caplog, monkeypatch):
    arguments = (tmp_path, "thermal", CELSIUS, OTHER_CELSIUS / 255)
    with monkeypatch.context() as patch:
        patch.setattr("contrastill.training.assemble.check_test_scale", lambda *_, **__: None)
        train(*arguments)
    with caplog.at_level(logging.WARNING):
        train(*arguments)
    assert LINE in caplog.text


COLOURS, TEST_COLOURS = (
    np.random.default_rng(seed).integers(0, 256, (N, 16, 16, 3), dtype=np.uint8) for seed in (0, 1)
)
MASKS = (TEST_COLOURS > 127).astype(np.uint8)


def unit(values, by=255):
    return (values / by).astype(np.float32)


BLACK = r"rgb goes to 0.00392 in the {} split and to 1 in the {} split .* is nearly black, .* bring both to one scale"


@pytest.mark.parametrize(
    ("ours", "theirs", "dark"),
    [
        (unit(COLOURS), unit(TEST_COLOURS, 255 * 255), "test"),
        (COLOURS, unit(TEST_COLOURS, 255 * 255), "test"),
        (COLOURS, MASKS, "test"),
        (unit(COLOURS, 255 * 255), TEST_COLOURS, "training"),
    ],
    ids=["twice", "bytes and twice", "masks", "the training split"],
)
def test_colours_that_are_nearly_black_in_one_split_are_refused(tmp_path, ours, theirs, dark):
    with pytest.raises(UsageError, match=BLACK.format(dark, "training" if dark == "test" else "test")):
        train(tmp_path, "rgb", ours, theirs)
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_bytes_whose_test_split_holds_0_and_1_is_refused(tmp_path):
    ours, theirs = (
        torch.utils.data.TensorDataset(torch.from_numpy(values).permute(0, 3, 1, 2), torch.arange(N) % 4)
        for values in (COLOURS, MASKS)
    )
    options = {"epochs": 1, "batch_size": 16, "quiet": True, "objectives": "cross_entropy"}
    with pytest.raises(UsageError, match=BLACK.format("test", "training")):
        contrastill.distill(None, "resnet8", (ours, theirs), out=tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("ours", "theirs", "lines"),
    [
        (COLOURS, TEST_COLOURS // 64, 1),
        (COLOURS, np.zeros_like(COLOURS), 1),
        (COLOURS, MASKS[:3], 1),
        (COLOURS // 64, TEST_COLOURS // 128, 0),
        (COLOURS, unit(TEST_COLOURS), 0),
        (COLOURS, np.where(np.arange(N)[:, None, None, None] < N - 1, MASKS, TEST_COLOURS), 0),
    ],
    ids=["dark", "black", "few", "both dark", "the same", "one bright sample"],
)
def test_dark_colours_that_may_be_right_have_a_line(tmp_path, ours, theirs, lines, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, "rgb", ours, theirs)
    assert caplog.text.count("accuracies are right only if both are in one scale") == lines
