"""Runs that are compared though a setting tells them apart: a number of another setting is not taken, and what differs
is named.
"""

import json
import shutil

import pytest

from contrastill.cli.main import main
from contrastill.compress.published import published
from contrastill.report.comparison import Compared, comparison
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
    scores, group = compared(folder, name)
    score = scores.teacher(group, "top1")
    return score and score.mean, [*scores.notes]


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


def test_a_teacher_whose_numbers_are_cut_off_has_not_the_score_of_an_earlier_epoch(copy):
    teacher = copy / "teacher"
    replace(teacher, ("epochs: 1\n", "epochs: 2\n"))
    assert teachers_top1(copy, "plain")[0] is None
    (teacher / "metrics.jsonl").write_text("".join(json.dumps({**last(teacher), "epoch": k}) + "\n" for k in (0, 1)))
    assert teachers_top1(copy, "plain")[0] == last(teacher)["top1"]


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


def published_note(folder):
    series = find([str(folder)])
    (_, (row,)) = comparison(series, Compared(series))
    return row["published"], row["note"]


def test_a_published_figure_stands_beside_every_setting_that_differs(copy):
    run = copy / "plain"
    facts = json.loads((run / "checkpoints/data.json").read_text())
    for split, count in (("train", 50_000), ("test", 10_000)):
        facts[split] |= {"classes": 100, "samples": count, "modalities": "rgb [3, 32, 32]"}
    (run / "checkpoints/data.json").write_text(json.dumps(facts))
    replace(
        run, ("model: resnet14", "model: resnet56"), ("model: resnet8", "model: resnet20"), ("epochs: 1", "epochs: 240")
    )
    replace(run, ("batch_size: 16", "batch_size: 64"), ("weight: 1.0", "weight: 0.1"), ("weight: 1.0", "weight: 0.9"))
    figure, note = published_note(run)
    assert figure == published("resnet56", "resnet20", "kd").top1 and "instead of" not in note
    config, marker, student = (run / "config.yaml").read_text().partition("student:\n")
    for before, after in (("weights: null", "weights: there"), ("modality: rgb", "modality: luminance"),
                          ("resolution: null", "resolution: 64"), ("views: null", "views: 3")):  # fmt: skip
        student = student.replace(before, after, 1)
    config = config.replace("flip: true", "flip: false").replace("crop_padding: 4", "crop_padding: 0")
    config = config.replace("modality: rgb", "modality: luminance").replace("resolution: null", "resolution: [32, 32]")
    student = student.replace("warmup: 0.0", "warmup: 0.5", 1)
    (run / "config.yaml").write_text(config + marker + student)
    _, note = published_note(run)
    assert note.partition("these had ")[2].removesuffix(".").split(", ") == [
        "train.views 3 instead of none",
        "data.crop_padding 0 instead of 4",
        "data.flip False instead of True",
        "student.weights there instead of none",
        "student.modality luminance instead of rgb",
        "student.resolution 64 instead of [32",
        "32]",
        "teachers.0.modality luminance instead of rgb",
        "objectives.cross_entropy.warmup 0.5 instead of 0",
    ]
    facts["train"]["modalities"] = "rgb [3, 16, 16]"
    (run / "checkpoints/data.json").write_text(json.dumps(facts))
    replace(run, ("modality: luminance\n  num", "modality: rgb\n  num"))
    assert "these had images of 16×16 instead of 32×32, train.views 3" in published_note(run)[1]


def test_a_baseline_with_other_options_of_its_objectives_is_marked(copy):
    def notes():
        scores, group = compared(copy, "plain")
        assert scores.baseline(group, "top1") is not None
        return [line.partition("(")[2].partition(")")[0] for line in scores.notes]

    replace(copy / "plain", ("weight: 1.0", "weight: 0.1"))
    assert notes() == []
    replace(copy / "baseline", ("label_smoothing: 0.0", "label_smoothing: 0.9"))
    assert notes() == ["objectives.cross_entropy.label_smoothing 0 and 0.9"]
    replace(copy / "baseline", ("weight: 1.0", "weight: 0.01"), ("num_classes: null", "num_classes: 9"))
    assert notes() == [
        "student.num_classes none and 9, objectives.cross_entropy.weight 0.1 and 0.01, "
        "objectives.cross_entropy.label_smoothing 0 and 0.9"
    ]
