"""Heads are trained on the training split: whether that is the run's own, and what share of its labels counts."""

import json
import logging

import h5py
import numpy as np
import pytest

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.run import Run
from contrastill.evaluation.evaluation_data import replaced_data
from contrastill.training.data import open_split

QUIET = {"progress": False}


def pack(path, train=60, test=20, seed=0):
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split, count in (("train", train), ("test", test)):
            maps = np.ones((count, 16, 16), np.uint8)
            maps[:, :, 8:] = 2
            file[f"{split}/rgb"] = draw.integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(count) % 4
            file[f"{split}/semantics"] = maps
    return path


def train(data, out, **more):
    fields = {"rgb": "rgb", "semantics": "semantics"}
    settings = {"data.path": str(data), "data.fields": fields, "data.flip": False, "train.epochs": 1, **more}
    contrastill.train("teachers/cifar100", {**settings, "student.model": "resnet8", "out": str(out)}, **QUIET)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("data") / "maps.h5")


@pytest.fixture
def run(data, tmp_path):
    return train(data, tmp_path / "run", **{"train.batch_size": 16})


def files(run):
    return sorted(path.name.rpartition("-")[0] or path.stem for path in run.glob("evaluation*.json"))


def test_samples_set_apart_for_validation_are_no_other_data(data, tmp_path, caplog):
    data = pack(tmp_path / "own.h5")
    run = train(data, tmp_path / "run", **{"train.validation": 0.2, "train.batch_size": 16})
    tasks = {"evaluation.tasks": ["classification"]}
    with caplog.at_level(logging.WARNING):
        result = contrastill.evaluate_runs([run], tasks, **QUIET)
    assert not result.notes and "no longer" not in caplog.text and files(run) == ["evaluation"]
    assert isinstance(contrastill.write_report(run, **QUIET).rows[0]["probe"]["mean"], float)
    config = load_config(str(Run(run).config), trains=False)
    splits = {name: open_split(config, name) for name in ("train", "test")}
    assert replaced_data(Run(run), config, config.data, splits) == ""
    # Samples that it trained on were replaced.
    with h5py.File(data, "r+") as file:
        file["train/rgb"][:] = 255 - file["train/rgb"][()]
    assert "of train differ" in contrastill.evaluate_runs([run], tasks, **QUIET).notes[0]


@pytest.mark.parametrize(
    ("task", "change", "other"),
    [
        ("classification", {"data.limit": 32}, True),
        ("segmentation", {"data.label_fraction": 0.05}, True),
        ("segmentation", {"data.flip": True}, True),
        ("classification", {"data.flip": True}, False),
        ("accuracy", {"data.flip": True}, False),
        ("accuracy", {"data.label_fraction": 0.05}, False),
    ],
)
def test_heads_of_other_training_samples_are_kept_apart(run, task, change, other):
    overrides = {"evaluation.tasks": [task], "evaluation.epochs": 1, **change}
    contrastill.evaluate_runs([run], overrides, **QUIET)
    assert files(run) == ["evaluation-maps" if other else "evaluation"]


def test_a_copy_of_the_tested_samples_with_others_to_train_on(run, data, tmp_path):
    for name, change in (("copied", {}), ("changed", {"train/rgb": lambda values: 255 - values})):
        pack(tmp_path / f"{name}.h5")
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            for key, value in change.items():
                file[key][:] = value(file[key][()])
        for task in ("accuracy", "classification"):
            overrides = {"data.path": str(tmp_path / f"{name}.h5"), "evaluation.tasks": [task]}
            contrastill.evaluate_runs([run], overrides, **QUIET)
    assert files(run) == ["evaluation", "evaluation-changed"]


@pytest.mark.parametrize("mode", ["frozen", "fine_tuned"])
def test_the_share_of_the_labels_is_of_those_that_were_kept(run, mode):
    options = {"evaluation.tasks": ["segmentation"], "evaluation.epochs": 1, "evaluation.mode": mode}
    rows = contrastill.evaluate_runs(
        [run], {**options, "data.label_fraction": 0.1, "evaluation.label_fractions": [0.5, 1]}, **QUIET
    ).rows
    assert [row.scores.labels for row in rows] == [0.05, 0.1] and rows[1].scores.train_images == 6
    assert rows[0].scores.train_images <= 6 and "10 % (6)" in rows[1].lines()[0]["labels"]
    full = contrastill.evaluate_runs([run], options, **QUIET).rows[0].scores
    assert (full.labels, full.train_images) == (1, 60)


def test_seeds_whose_heads_had_other_training_samples_are_told_apart(data, tmp_path):
    """As a file of an earlier version has them together."""
    train(data, tmp_path / "two", seeds=2, **{"train.batch_size": 16})
    for seed in range(2):
        run = tmp_path / "two" / f"seed-{seed}"
        contrastill.evaluate_runs([run], {"evaluation.tasks": ["classification"]}, **QUIET)
    file = tmp_path / "two" / "seed-1" / "evaluation.json"
    written = json.loads(file.read_text())
    written["rows"][0]["train_images"] = 14
    file.write_text(json.dumps(written))
    page = contrastill.write_report(tmp_path / "two", **QUIET).path.read_text()
    assert "training images 14" in page and "training images 60" in page
