"""The report's chapter of evaluations: what `contrastill evaluate` wrote of a student's own heads, of its teacher's, of
retrieval and of a segmenter, in tables whose numbers are those of the files.
"""

import json
import shutil

import pytest
from omegaconf import OmegaConf

from contrastill.cli.main import main
from contrastill.report.comparison import Compared
from contrastill.report.evaluations import evaluation
from contrastill.report.runs import find
from contrastill.report.transfers import curves
from helpers.pages import Page

DATA = ["data.name=rooms", "data.size=16", "data.train_samples=32", "data.test_samples=12"]
SHORT = ["train.epochs=1", "train.batch_size=16", "-q"]
HEADS = ["evaluation.epochs=2", "evaluation.batch_size=8", "-q", "--json"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", "teachers/rooms", *DATA, "student.model=resnet8", *SHORT, f"out={out}/rgb"]) == 0
    depth = ["xmodal/rooms_rgb_to_depth_crd", *DATA, "teachers.0.model=resnet8", f"teachers.0.weights={out}/rgb"]
    depth += ["objectives.dense_crd=null", "objectives.agglomerate={estimate_steps: 2}", "train.views=1"]
    tasks = "evaluation.tasks=[segmentation,classification,retrieval]"
    assert main(["train", *depth, tasks, *SHORT, f"out={out}/depth"]) == 0
    segmenter = ["teachers/rooms_segmentation", *DATA, "student.model=linear/resnet8", *SHORT]
    assert main(["train", *segmenter, f"out={out}/segmenter"]) == 0
    assert main(["evaluate", f"{out}/depth", *HEADS]) == 0
    assert main(["evaluate", f"{out}/depth", "--head-of", "teacher", *HEADS]) == 0
    assert main(["evaluate", f"{out}/segmenter", "-q", "--json"]) == 0
    assert main(["evaluate", f"{out}/segmenter", "data.scene_seed=1", "-q", "--json"]) == 0
    assert main(["report", str(out), "-q"]) == 0
    return Page(out / "report.html"), out


def rows_of(file):
    return json.loads(file.read_text())["rows"]


def test_a_teachers_head_has_a_table_of_its_own_beside_the_students_heads(page):
    page, out = page
    own = page.tables["depth: measured on its test split"]
    assert [row["task"].split(",")[0] for row in own] == [
        "segmentation (linear)", "linear probe", "retrieval", "retrieval", "retrieval"]  # fmt: skip
    shared = page.tables["depth (head-of-teacher): measured on its test split"]
    written = rows_of(out / "depth" / "evaluation-head-of-teacher.json")
    students = [row for row in written if row["role"] == "student" and row["task"] != "retrieval"]
    shown = [row for row in shared if "head of teacher" in row["task"] and row["network"].startswith("student")]
    assert [row["of the teacher's, %"] for row in shown] == [f"{row['share_of_teacher']:.2f}" for row in students]
    assert float(shown[0]["mIoU, %"]) == pytest.approx(students[0]["miou"], abs=0.005)


def test_retrieval_has_a_line_for_each_direction_and_for_chance(page):
    page, out = page
    lines = page.tables["depth: measured on its test split"][-3:]
    written = next(row for row in rows_of(out / "depth" / "evaluation.json") if row["task"] == "retrieval")
    assert [line["task"] for line in lines] == [
        "retrieval, normalized_depth → rgb of teacher 0", "retrieval, rgb of teacher 0 → normalized_depth",
        "retrieval"]  # fmt: skip
    assert lines[2]["network"] == "chance"
    for line, key in zip(lines, ("recall", "reverse", "chance"), strict=True):
        assert [line[f"R@{k}, %"] for k in (1, 5, 10)] == [f"{written[key][str(k)]:.2f}" for k in (1, 5, 10)]


def test_teachers_of_one_architecture_are_told_apart(page, tmp_path):
    _, out = page
    file = tmp_path / "evaluation.json"
    evaluated = json.loads((out / "depth" / "evaluation.json").read_text())
    student = {**evaluated["rows"][0], "task": "accuracy", "top1": 50.0}
    teacher, retrieval = {**student, "role": "teacher"}, evaluated["rows"][-1]
    evaluated["rows"] = [
        student,
        *({**teacher, "weights": f"runs/{name}"} for name in "ab"),
        {**teacher, "model": "resnet14", "weights": "runs/c"},
        retrieval,
        {**retrieval, "number": 1, "modalities": ["rgb", "rgb"]},
    ]
    file.write_text(json.dumps(evaluated))
    (tmp_path / "page.html").write_text(evaluation(tmp_path, "depth", []), encoding="utf-8")
    (lines,) = Page(tmp_path / "page.html").tables.values()
    assert [line["network"] for line in lines[:4]] == [
        "student resnet8", "teacher resnet8, runs/a", "teacher resnet8, runs/b", "teacher resnet14"]  # fmt: skip
    assert [line["task"] for line in lines[4:]] == [
        "retrieval, normalized_depth → rgb of teacher 0", "retrieval, rgb of teacher 0 → normalized_depth", "retrieval",
        "retrieval, rgb of the student → rgb of teacher 1", "retrieval, rgb of teacher 1 → rgb of the student",
        "retrieval"]  # fmt: skip


def test_a_segmenters_own_answers_also_on_other_data(page):
    page, out = page
    run = out / "segmenter"
    files = sorted(run.glob("evaluation*.json"))
    assert len(files) == 2
    for file in files:
        suffix = file.stem.removeprefix("evaluation")
        line, = page.tables[f"segmenter{f' ({suffix[1:]})' if suffix else ''}: measured on its test split"]  # fmt: skip
        row, = rows_of(file)  # fmt: skip
        assert line["task"] == "prediction" and line["mIoU, %"] == f"{row['miou']:.2f}"
        assert line["pixels right, %"] == f"{row['pixel_accuracy']:.2f}"


def test_measures_have_charts_of_their_names_and_terms_of_the_loss_theirs(page, tmp_path):
    page, out = page
    titles = [caption.partition(": values")[0] for caption in page.tables if ": values" in caption]
    terms = [title.partition(", ")[0] for title in titles if title.endswith("before its weight")]
    rows = [json.loads(line) for file in out.glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
    objectives = {label for run in out.glob("*/config.yaml") for label in OmegaConf.load(run).objectives}
    assert sorted(terms) == sorted(objectives & {key for row in rows for key in row})
    assert {"mIoU on the test split, %", "Mean accuracy of the classes on the test split, %"} <= {*titles}
    # Of a network for depth.
    run = tmp_path / "depth"
    shutil.copytree(out / "segmenter", run, ignore=shutil.ignore_patterns("step-*"))
    measures = {"abs_rel": 0.2, "rmse": 0.5, "delta1": 60.0, "delta3": 90.0, "validation_delta1": 61.0}
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "loss": 1.0, "l1/counted": 9.0, "l1": 1.0} | measures))
    (tmp_path / "page.html").write_text(curves(find([str(run)])).body, encoding="utf-8")
    assert [caption.partition(": values")[0] for caption in Page(tmp_path / "page.html").tables] == [
        "Training loss", "δ < 1.25 on the test split, %", "δ < 1.25 on the validation samples, %",
        "δ < 1.25³ on the test split, %", "Absolute relative error on the test split",
        "Root of the mean squared error on the test split", "l1/counted", "l1, before its weight"]  # fmt: skip


def test_what_was_measured_on_the_way_is_no_result_of_a_finished_run(page, tmp_path):
    _, out = page
    shutil.copytree(out / "depth", tmp_path / "depth", ignore=shutil.ignore_patterns("step-*"))
    file = tmp_path / "depth" / "evaluation.json"

    def read():
        compared = Compared(find([str(tmp_path / "depth")]))
        return {name: score.mean for name, score in compared.scores["depth"].items()}, [*compared.notes]

    before, notes = read()
    assert before.keys() >= {"miou", "probe"} and notes == []
    evaluated = json.loads(file.read_text())
    for row in evaluated["rows"]:
        row["weights"] = "checkpoint after step 1"
    file.write_text(json.dumps(evaluated))
    scores, notes = read()
    assert not scores.keys() & {"miou", "probe"}
    assert notes == [
        "What evaluation.json of depth measured is left out, as it is of a checkpoint after step 1, before the "
        "training ended: evaluate it again"
    ]
    assert "student resnet8, checkpoint after step 1" in evaluation(tmp_path / "depth", "depth", [])
    # Of a training that has not ended it is what there is.
    (tmp_path / "depth" / "student.safetensors").unlink()
    assert read() == (before, [])


def test_a_heads_number_is_not_mixed_with_the_networks_own(page, tmp_path):
    _, out = page
    run = tmp_path / "segmenter"
    shutil.copytree(out / "segmenter", run, ignore=shutil.ignore_patterns("step-*"))
    file = run / "evaluation.json"
    evaluated = json.loads(file.read_text())
    head = {"task": "segmentation", "head": "linear", "mode": "frozen", "labels": 1.0, "miou": 99.0}
    evaluated["rows"].append({**evaluated["rows"][0], **head})
    file.write_text(json.dumps(evaluated))
    score = Compared(find([str(run)])).scores["segmenter"]["miou"]
    own = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]["miou"]
    assert (score.mean, score.count) == (own, 1)


def test_numbers_of_other_heads_are_not_compared(page, tmp_path):
    _, out = page
    for name in ("one", "two"):
        shutil.copytree(out / "depth", tmp_path / name, ignore=shutil.ignore_patterns("step-*"))
    baseline = OmegaConf.load(tmp_path / "two" / "config.yaml")
    baseline.teachers, baseline.objectives, baseline.train.views = [], {"cross_entropy": {}}, None
    OmegaConf.save(baseline, tmp_path / "two" / "config.yaml")
    file = tmp_path / "two" / "evaluation.json"
    evaluated = json.loads(file.read_text())

    def read():
        series = find([str(tmp_path)])
        groups = {group.name: group for group in series.groups}
        compared = Compared(series)
        return compared.metric(groups["one"]), compared.baseline(groups["one"], "miou"), [*compared.notes]

    metric, baseline, notes = read()
    assert metric == "miou" and baseline is not None and notes == []
    for row in evaluated["rows"]:
        row |= {"head": "fpn"} if row["task"] == "segmentation" else {}
    file.write_text(json.dumps(evaluated))
    _, baseline, (note,) = read()
    assert baseline is None and "mIoU, % holds what was measured in different ways" in note and "head fpn" in note


def test_a_mean_over_some_of_the_seeds_says_so(page, tmp_path):
    _, out = page
    for number in (0, 1):
        copy = tmp_path / "several" / f"seed-{number}"
        shutil.copytree(out / "depth", copy, ignore=shutil.ignore_patterns("step-*"))
        config = OmegaConf.load(copy / "config.yaml")
        config.seed = number
        OmegaConf.save(config, copy / "config.yaml")
    assert not Compared(find([str(tmp_path)])).notes
    (copy / "evaluation.json").unlink()
    compared = Compared(find([str(tmp_path)]))
    assert compared.scores["several"]["miou"].count == 1
    assert "mIoU, % of several is of 1 of its 2 runs: evaluate the others too" in compared.notes
