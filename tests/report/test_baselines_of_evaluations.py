"""The report's baseline where an evaluation trained it: ``contrastill evaluate --baselines scratch``."""

import json

import pytest

import contrastill
from contrastill.core.run import Run

ROOMS = ["data.train_samples=16", "data.test_samples=8", "train.epochs=1", "train.batch_size=8"]
HEADS = ["evaluation.tasks=[segmentation]", "evaluation.epochs=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    teacher, out = str(folder / "teacher"), str(folder / "depth")
    contrastill.train("teachers/rooms", [*ROOMS, "student.model=resnet8", f"out={teacher}"], progress=False)
    networks = ["teachers.0.model=resnet8", f"teachers.0.weights={teacher}", "student.model=resnet8"]
    contrastill.train("xmodal/rooms_rgb_to_depth_crd", [*ROOMS, *networks, f"out={out}"], progress=False)
    return out


def row_of(run, path):
    (row,) = contrastill.write_report([run], str(path), progress=False).rows
    return row


@pytest.mark.parametrize("mode", ["frozen", "fine_tuned"])
def test_the_baseline_is_read_from_the_evaluation(run, tmp_path, mode):
    settings = [*HEADS, f"evaluation.mode={mode}"]
    contrastill.evaluate_runs([run], settings, baselines=("random", "scratch"), progress=False)
    rows = json.loads((Run(run).path / "evaluation.json").read_text())["rows"]
    miou = {row["role"]: row["miou"] for row in rows if row["task"] == "segmentation"}
    row = row_of(run, tmp_path / "page.html")
    assert row["points_to_baseline"] == pytest.approx(miou["student"] - miou["scratch"])
    assert "--baselines scratch: from random weights" in (tmp_path / "page.html").read_text()


def test_a_baseline_under_another_head_is_none(run, tmp_path):
    contrastill.evaluate_runs([run], HEADS, baselines=("random", "scratch"), progress=False)
    file = Run(run).path / "evaluation.json"
    evaluation = json.loads(file.read_text())
    for row in evaluation["rows"]:
        if row["role"] == "scratch":
            row["head"] = "another"
    file.write_text(json.dumps(evaluation))
    row = row_of(run, tmp_path / "page.html")
    assert row["points_to_baseline"] is None and row["points_to_untrained"] is not None
