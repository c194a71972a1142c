"""Runs that are compared though a setting tells them apart: a number of another setting is not taken, and what differs
is named.
"""

import json
import shutil

import pytest

from contrastill.cli.main import main
from contrastill.report.comparison import Compared
from contrastill.report.runs import find


@pytest.fixture(scope="module")
def runs(four_classes, tmp_path_factory):
    """A teacher, a baseline, and two students of the teacher, of which ``small`` shows it images of another size."""
    out = tmp_path_factory.mktemp("runs") / "all"
    common = [f"data.path={four_classes}", "train.epochs=1", "train.batch_size=16", "-q"]
    distilled = [
        "compression/cifar100_crd",
        "student.model=resnet8",
        "teachers.0.model=resnet14",
        "objectives.crd=null",
    ]
    distilled += ["objectives.kd.weight=1", f"teachers.0.weights={out}/teacher"]
    for name, arguments in {
        "teacher": ["teachers/cifar100", "student.model=resnet14"],
        "baseline": ["teachers/cifar100", "student.model=resnet8"],
        "plain": distilled,
        "small": [*distilled, "teachers.0.resolution=8"],
    }.items():
        assert main(["train", *arguments, *common, f"out={out}/{name}"]) == 0
    return out


@pytest.fixture
def copy(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "all", ignore=shutil.ignore_patterns("step-*", "*.html", "*.png"))
    return tmp_path / "all"


def last(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def replace(run, *pairs):
    """Lines of a run's config."""
    text = (run / "config.yaml").read_text()
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after, 1)
    (run / "config.yaml").write_text(text)


def compared(folder, name):
    series = find([str(folder)])
    (group,) = (group for group in series.groups if group.name == name)
    return Compared(series), group


def teachers_top1(folder, name):
    comparison, group = compared(folder, name)
    score = comparison.teacher(group, "top1")
    return score and score.mean, [*comparison.notes]


def evaluate(run, top1):
    """The file that an evaluation beside the teacher leaves."""
    rows = [{"role": role, "task": "accuracy", "top1": top1, "images": 16} for role in ("student", "teacher")]
    (run / "evaluation.json").write_text(json.dumps({"rows": rows, "evaluation": {}}))


def test_a_teacher_at_another_resolution_has_not_the_score_of_its_own_run(copy):
    assert teachers_top1(copy, "plain") == (last(copy / "teacher")["top1"], [])
    score, (note,) = teachers_top1(copy, "small")
    assert score is None and note == (
        "small is not compared with teacher, whose score is of another resolution than its teacher has: evaluate it "
        "with its teachers"
    )
    evaluate(copy / "small", 77.0)
    assert teachers_top1(copy, "small") == (77.0, [])
    # The size of the teacher's own training, given as both sides, changes nothing.
    replace(copy / "small", ("resolution: 8", "resolution: [16, 16]"))
    assert teachers_top1(copy, "small") == (last(copy / "teacher")["top1"], [])


def test_a_teacher_of_another_normalisation_has_not_the_score_of_its_own_run(copy):
    config, marker, student = (copy / "plain" / "config.yaml").read_text().partition("student:\n")
    config = config.replace("mean: null", "mean: [0.1, 0.1, 0.1]", 1)
    (copy / "plain" / "config.yaml").write_text(config + marker + student)
    score, (note,) = teachers_top1(copy, "plain")
    assert score is None and "whose score is of another mean than" in note


def test_a_score_beside_another_run_is_that_of_the_same_settings(copy):
    evaluate(copy / "small", 77.0)
    shutil.rmtree(copy / "teacher")
    assert teachers_top1(copy, "plain")[0] is None
    shutil.copytree(copy / "small", copy / "again")
    (copy / "again" / "evaluation.json").unlink()
    assert teachers_top1(copy, "again")[0] == 77.0
