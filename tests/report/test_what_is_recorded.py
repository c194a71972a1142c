"""Reports of runs whose folders record less than usual, or hold what other runs do not."""

import json
import shutil

import pytest

from contrastill.cli.main import main
from contrastill.compress.published import published
from contrastill.core.config.loading import load_config
from contrastill.report.comparison import Compared, comparison
from contrastill.report.evaluations import evaluation
from contrastill.report.likeness import same_test
from contrastill.report.runs import find


@pytest.fixture(scope="module")
def runs(four_classes, tmp_path_factory):
    """A teacher, a baseline and a student."""
    out = tmp_path_factory.mktemp("runs") / "all"
    common = [f"data.path={four_classes}", "train.epochs=1", "train.batch_size=16", "-q"]
    student = ["compression/cifar100_crd", "student.model=resnet8", "teachers.0.model=resnet20", "objectives.crd=null"]
    student += ["objectives.kd.weight=1"]
    for name, arguments in {
        "teacher": ["teachers/cifar100", "student.model=resnet20"],
        "baseline": ["teachers/cifar100", "student.model=resnet8"],
        "student": [*student, f"teachers.0.weights={out}/teacher"],
    }.items():
        assert main(["train", *arguments, *common, f"out={out}/{name}"]) == 0
    return out


@pytest.fixture
def copy(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "all", ignore=shutil.ignore_patterns("step-*", "*.html", "*.png"))
    return tmp_path / "all"


def replace(run, before, after):
    text = (run / "config.yaml").read_text()
    assert before in text
    (run / "config.yaml").write_text(text.replace(before, after))


def row_of(run):
    series = find([str(run)])
    (_, (row,)) = comparison(series, Compared(series))
    return row["published"], row["note"]


def test_a_published_figure_stands_beside_runs_of_a_hundred_classes_alone(copy):
    run = copy / "teacher"
    figure = published("resnet56", "resnet20", "student").top1
    assert row_of(run)[0] is None
    shutil.rmtree(run / "checkpoints")  # then the student's file says that its classes are four
    assert row_of(run)[0] is None
    (run / "student.safetensors").unlink()
    assert row_of(run)[0] is None
    replace(run, "num_classes: null", "num_classes: 100")
    assert row_of(run)[0] == figure


def test_settings_of_a_baselines_objective_are_named_beside_the_published_figure(copy):
    run = copy / "teacher"
    replace(run, "num_classes: null", "num_classes: 100")
    shutil.rmtree(run / "checkpoints")
    assert "cross_entropy" not in row_of(run)[1]
    replace(run, "label_smoothing: 0.0", "label_smoothing: 0.3")
    replace(run, "weight: 1.0", "weight: 3.0")
    note = row_of(run)[1]
    assert "a weight of 3 instead of 1 for cross_entropy, objectives.cross_entropy.label_smoothing 0.3 inst" in note


def test_an_objective_of_a_missing_package_ends_no_report(copy, capsys):
    run = copy / "student"
    replace(run, "imports: []", "imports: [a_missing_package]")
    replace(run, "  kd:", "  of_a_missing_package:")
    replace(run, "name: kd", "name: of_a_missing_package")
    for network in ("resnet8", "resnet20"):
        replace(run, f"model: {network}", "model: resnet20")
    replace(run, "num_classes: null", "num_classes: 100")
    shutil.rmtree(run / "checkpoints")
    assert row_of(run) == (None, "")
    assert main(["report", str(copy), "-q"]) == 0 and (copy / "report.html").is_file()


def test_a_limit_is_of_the_test_samples_too_where_no_count_of_them_is_recorded(copy, four_classes):
    usual = [f"data.path={four_classes}", "student.model=resnet8", "out=x"]
    one, other = (load_config("teachers/cifar100", [*usual, f"data.limit={limit}"]) for limit in (8, 12))
    assert same_test(one, other, recorded=True) and not same_test(one, other, recorded=False)
    assert same_test(one, one, recorded=False)

    def teachers():
        series = find([str(copy)])
        (group,) = (group for group in series.groups if group.name == "student")
        return Compared(series).teacher(group, "top1")

    replace(copy / "teacher", "limit: null", "limit: 12")
    assert teachers() is not None
    shutil.rmtree(copy / "teacher" / "checkpoints")
    assert teachers() is None


def test_depth_whose_scale_is_that_of_the_truth_says_so(copy):
    run = copy / "baseline"
    depth = {"abs_rel": 0.2, "rmse": 0.5, "delta1": 60.0, "delta2": 70.0, "delta3": 90.0}
    common = {"role": "student", "model": "unet/resnet8", "images": 16, "task": "accuracy"}
    for align, line in (("none", "prediction<"), ("median", "prediction, scale of each frame by its median<")):
        rows = [{**common, **depth, "align": align}]
        (run / "evaluation.json").write_text(json.dumps({"rows": rows, "evaluation": {}}))
        assert line in str(evaluation(run, "baseline", []))
        series = find([str(run)])
        compared = Compared(series)
        way = "its own outputs" + (", scale of each frame by its median" if align == "median" else "")
        assert compared.scores["baseline"]["delta1"].mean == 60.0 and compared.ways["baseline"]["delta1"] == {way}
        assert "δ &lt; 1.25, %" in str(comparison(series, compared)[0].body)
