"""Mean and std that were set for a network are in the unit of the data that it reads, or that is said or refused."""

import logging

import h5py
import numpy as np
import pytest
from torch import nn

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.value_scale import note_once

METRES = (np.random.default_rng(0).uniform(1, 5, (16, 16, 16)) + (np.arange(16) % 4)[:, None, None]).astype(
    np.float32
)  # 4.5 ± 1.6
STORED = {
    "m": METRES,
    "mm": (1000 * METRES).astype(np.uint16),
    "mm as metres": 1000 * METRES,
    "cm as mm": (100 * METRES).astype(np.uint16),
    "relative, 8 bits": (30 * METRES).astype(np.uint8),
    "relative": METRES / 8,
}
CHOSEN = {"mean": (3.0,), "std": (1.0,)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    for name, depth in STORED.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            if name == "relative":
                file.attrs["depth_unit"] = "relative"
            for split in ("train", "test"):
                file[f"{split}/depth"], file[f"{split}/target"] = depth, np.arange(16) % 4
    return folder


def train(files, name, student, out, teacher=None):
    note_once.cache_clear()
    data = {"path": str(files / f"{name}.h5"), "fields": {"depth": "depth"}}
    options = {"student_modality": "depth", "epochs": 1, "batch_size": 16, "quiet": True}
    return contrastill.distill(teacher, student, data, out=out, **options)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """Trained on metres, with a mean and a std of its own."""
    return train(files, "m", {"model": "resnet8", **CHOSEN}, tmp_path_factory.mktemp("run") / "run").out


def module():
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    taps, preprocess = contrastill.Taps(embedding="input:4"), contrastill.Preprocess(*CHOSEN.values())
    return contrastill.Network(layers, taps=taps, preprocess=preprocess, modality="depth")


REFUSED = (
    "is set to take depth of 3 ± 1 .* and that of this data is .*: bring the data to its unit, or set mean and std"
)
LINE = "is set to take depth of 3 ± 1 (mean ± deviation), and that of this data is"


@pytest.mark.parametrize("student", ["named", "module"])
@pytest.mark.parametrize(
    ("name", "outcome"),
    [("mm as metres", "refused"), ("relative, 8 bits", "refused"), ("relative", "line"), ("mm", "")],
)
def test_a_student_of_a_mean_in_another_unit(files, tmp_path, student, name, outcome, caplog):
    network = module() if student == "module" else {"model": "resnet8", **CHOSEN}
    if outcome == "refused":
        with pytest.raises(UsageError, match=REFUSED):
            train(files, name, network, tmp_path / "out")
        return
    with caplog.at_level(logging.WARNING):
        train(files, name, network, tmp_path / "out")
    assert (LINE in caplog.text) == (outcome == "line")


@pytest.mark.parametrize("name", ["mm as metres", "relative, 8 bits", "relative"])
def test_a_teacher_of_metres_with_a_mean_of_them_reads_nothing_else(files, run, tmp_path, name):
    for mean in (CHOSEN, {"mean": (3.5,), "std": (1.2,)}):
        teacher = {"model": "resnet8", "weights": str(run), "modality": "depth", **mean}
        with pytest.raises(
            UsageError, match="no factor brings|bring the data to its unit|of another unit than that of"
        ):
            train(files, name, "resnet8", tmp_path / "out", teacher)


def test_a_mean_of_the_data_lets_a_teacher_read_another_unit(files, run, tmp_path, caplog):
    teacher = {"model": "resnet8", "weights": str(run), "modality": "depth", "mean": (0.56,), "std": (0.2,)}
    with caplog.at_level(logging.WARNING):
        train(files, "relative", "resnet8", tmp_path / "out", teacher)
    assert "depth of 0.56" not in caplog.text
    plain = {"model": "resnet8", "mean": (0.0,), "std": (1.0,)}  # values as they are
    train(files, "relative, 8 bits", plain, tmp_path / "plain")


def test_an_evaluation_compares_the_data_whoever_chose_the_mean(files, run, caplog):
    def evaluate(name):
        note_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            return contrastill.evaluate_runs(run, [f"data.path={files / name}.h5"], progress=False)

    evaluate("mm")
    assert "it is right only if" not in caplog.text
    evaluate("cm as mm")
    assert "was trained on depth of 4.4" in caplog.text and "it is right only if both are in one unit" in caplog.text
    for name in ("mm as metres", "relative, 8 bits", "relative"):
        with pytest.raises(UsageError, match="no factor brings one|bring the data to its unit"):
            evaluate(name)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(("name", "lines"), [("cm as mm", 1), ("mm", 0), ("m", 0)])
def test_a_run_in_a_training_on_data_of_another_scale_has_one_line(files, run, tmp_path, role, name, lines, caplog):
    start = {"model": "resnet8", "weights": str(run)}
    options = (start, None) if role == "student" else ("resnet8", {"model": str(run), "modality": "depth"})
    with caplog.at_level(logging.WARNING):
        train(files, name, options[0], tmp_path / "out", options[1])
    those = [line for line in caplog.messages if "it is right only if both are in one unit" in line]
    assert len(those) == lines, those
    assert all("resnet8 was trained on depth of 4.4" in line for line in those)
