"""A student that predicts log depth is measured, taught and exported as such: against a computation of the test's."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import contrastill
from contrastill.compress.exported_module import described
from contrastill.core.errors import UsageError
from contrastill.core.predicted_quantity import quantity_of
from contrastill.evaluation.evaluate import evaluate_runs
from contrastill.models.recipe import read_recipe

STUDENT = {"model": "unet/resnet8", "num_classes": 1}
LOGS = {"scale_invariant": {"predicts": "log_depth", "invariance": 0.0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, draw = tmp_path_factory.mktemp("data") / "a.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in (("train", 16), ("test", 8)):
            ramp = np.linspace(0, 1, 16)[None, None] * (1 + np.arange(count) % 4)[:, None, None]
            ramp = ramp + draw.random((count, 16, 16)) * 0.05
            file[f"{split}/rgb"] = np.clip(np.stack([ramp * 50, ramp * 40, ramp * 30], -1) + 10, 0, 255).astype("u1")
            file[f"{split}/depth"] = (1 + ramp).astype("f4")
    fields = {"rgb": "rgb", "depth": "depth"}
    return {"name": "packed", "path": str(path), "fields": fields, "target": None, "crop_padding": 0, "flip": False}


def train(data, out, teacher=None, **options):
    options = {"epochs": 6, "batch_size": 4, "lr": 0.02, "quiet": True} | options
    return contrastill.distill(teacher, STUDENT, data, out=out, **options)


@pytest.fixture(scope="module")
def logs(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("runs") / "logs", objectives=LOGS, validation=0.25)


@pytest.fixture(scope="module")
def metres(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "metres"
    return train(data, out, objectives={"scale_invariant": 1.0}, epochs=1)


def measured(out, data, split="test"):
    """By the exponential of what the student answers."""
    with h5py.File(data["path"]) as file:
        images, depth = torch.tensor(file[f"{split}/rgb"][:]), file[f"{split}/depth"][:]
    with torch.no_grad():
        answer = contrastill.Student.from_run(out)(images.permute(0, 3, 1, 2))
    answer = F.interpolate(answer, size=depth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    ours = np.exp(answer.double().numpy())
    return {
        "delta1": 100 * (np.maximum(ours / depth, depth / ours) < 1.25).mean(),
        "abs_rel": (np.abs(ours - depth) / depth).mean(),
        "rmse": np.sqrt(((ours - depth) ** 2).mean()),
    }


def test_log_depth_is_measured_by_its_exponential(logs, data):
    expected = measured(logs.out, data)
    assert expected["delta1"] > 5
    row = json.loads((logs.out / "metrics.jsonl").read_text().splitlines()[-1])
    scores = evaluate_runs([logs.out]).to_dict()[0]
    assert "validation_delta1" in row and row["validation_delta1"] > 5
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-3), name
        assert scores[name] == pytest.approx(value, rel=1e-3), name


def test_a_run_without_a_finished_student_is_measured_alike(logs, data, tmp_path):
    stopped = tmp_path / "stopped"
    train(data, stopped, objectives=LOGS)
    (stopped / "student.safetensors").rename(tmp_path / "aside.safetensors")
    row = json.loads((stopped / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluate_runs([stopped]).to_dict()[0]["delta1"] == pytest.approx(row["delta1"], rel=1e-3)


def test_its_students_learn_log_depth(logs, data, tmp_path):
    both = train(data, tmp_path / "both", logs.out)
    assert {*both.config.objectives} == {"scale_invariant", "dense_regression"}
    assert both.config.objectives["scale_invariant"].options()["predicts"] == "log_depth"
    alone = train(data, tmp_path / "alone", logs.out, objectives="dense_regression")
    for run in (both, alone):
        assert quantity_of(read_recipe(run.paths.student)) == "log_depth"
        assert run.metrics["delta1"] == pytest.approx(measured(run.out, data)["delta1"], rel=1e-3)


@pytest.mark.parametrize("invariant", [False, True])
def test_a_student_of_two_quantities_is_refused(logs, metres, data, tmp_path, invariant):
    regression = {"dense_regression": {"scale_invariant": invariant}}
    for teacher, stated in ((logs.out, "depth"), (metres.out, "log_depth")):
        with pytest.raises(UsageError, match="would have to predict") as caught:
            train(data, tmp_path / "x", teacher, objectives={"scale_invariant": {"predicts": stated}, **regression})
        assert "teacher 0" in str(caught.value) and "\n" not in str(caught.value)
        assert not (tmp_path / "x").exists()
    train(data, tmp_path / "y", metres.out, objectives={"scale_invariant": 1.0, **regression}, epochs=1)


def test_weights_of_a_log_run_are_trained_to_metres(logs, data, tmp_path):
    run = contrastill.distill(
        None,
        {**STUDENT, "weights": str(logs.out)},
        data,
        out=tmp_path / "run",
        objectives={"scale_invariant": 1.0},
        epochs=1,
        batch_size=4,
        quiet=True,
    )
    assert quantity_of(read_recipe(run.paths.student)) == "depth"


def test_files_for_others_say_so(logs, metres, tmp_path):
    prediction, images = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8)
    for run, what in ((logs, "natural logarithm of depth"), (metres, "depth in metres")):
        assert what in described(prediction, images, read_recipe(run.paths.student))
        contrastill.Student.from_run(run.out).save_pretrained(tmp_path / what)
        assert what in str(contrastill.export_run(run.out, tmp_path / f"{what}.pt2", format="torch", check=False))
        assert what in json.loads((tmp_path / what / "config.json").read_text())["answers"]


def test_a_teacher_of_depth_is_matched_with_no_class(metres, data, tmp_path, caplog):
    """Label maps lie beside, whose classes are numbers in another order: they are none of what it predicts."""
    path = tmp_path / "with_labels.h5"
    shutil.copy(data["path"], path)
    with h5py.File(path, "r+") as file:
        for split in ("train", "test"):
            file[f"{split}/semantics"] = np.ones(file[f"{split}/depth"].shape, np.uint8)
        file.attrs["semantic_classes"] = ["unlabelled", "1", "10", "2"]
    labelled = data | {"path": str(path), "fields": data["fields"] | {"semantics": "semantics"}}
    train(labelled, tmp_path / "run", str(metres.out), objectives={"dense_regression": 1.0}, epochs=1)
    assert "classes" not in caplog.text
