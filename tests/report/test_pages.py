"""`contrastill report` on real short runs: what the page says equals the runs' files, damage is said in its place,
wrong usage is one sentence.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contrastill.cli.main import main
from contrastill.compress.published import published
from contrastill.core.config.loading import load_config
from contrastill.core.run import Run
from contrastill.report.comparison import Compared
from contrastill.report.references import teacher_of
from contrastill.report.runs import RunSeries, find
from helpers.pages import Page


def train(*arguments):
    assert main(["train", *map(str, arguments), "train.batch_size=16", "-q"]) == 0


@pytest.fixture(scope="module")
def runs(four_classes, tmp_path_factory):
    """A teacher, a baseline with two seeds, a student of the teacher, and an evaluation of it."""
    out = tmp_path_factory.mktemp("runs") / "all"
    data = f"data.path={four_classes}"
    train("teachers/cifar100", data, "student.model=resnet14", "train.epochs=2", f"out={out}/teacher")
    train("teachers/cifar100", data, "student.model=resnet8", "train.epochs=2", "seeds=2", f"out={out}/baseline")
    distilled = [
        "compression/cifar100_crd",
        data,
        "student.model=resnet8",
        "train.epochs=2",
        "teachers.0.model=resnet14",
        f"teachers.0.weights={out}/teacher",
    ]
    train(*distilled, "objectives.crd.num_negatives=16", "objectives.kd.weight=1", f"out={out}/distilled")
    assert main(["evaluate", f"{out}/distilled", "--teachers", "--json"]) == 0
    return out


@pytest.fixture(scope="module")
def page(runs):
    assert main(["report", str(runs), "--embeddings", "--latency", "-q"]) == 0
    return Page(runs / "report.html")


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_chapters_are_in_order_and_named_in_the_contents(page):
    levels = [level for level, _ in page.headings]
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    )
    titles = [title for level, title in page.headings if level == 2]
    assert titles == ["Contents", "Transfers", "Results", "Training curves", "Ensembles", "Evaluations", "Costs",
        "Embeddings", "How to reproduce"]  # fmt: skip
    anchors = {attrs["id"] for _, attrs in page.attributes if "id" in attrs}
    links = {attrs["href"][1:] for tag, attrs in page.attributes if tag == "a"}
    assert links <= anchors and len(anchors) == len([1 for _, attrs in page.attributes if "id" in attrs])


def test_the_figures_are_those_of_the_runs(page, runs):
    rows = {row["run"]: row for row in page.table("Results of the last epoch")}
    assert [*rows] == ["baseline", "teacher", "distilled"]
    top1 = {name: [history(run)[-1]["top1"] for run in folders] for name, folders in
            {"teacher": [runs / "teacher"], "distilled": [runs / "distilled"],
                "baseline": [runs / "baseline/seed-0", runs / "baseline/seed-1"]}.items()}  # fmt: skip
    for name in ("teacher", "distilled"):
        assert rows[name]["top-1, %"] == f"{top1[name][0]:.2f}" and rows[name]["seeds"] == "1"
    values = np.array(top1["baseline"])
    assert (
        rows["baseline"]["top-1, %"] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
        and rows["baseline"]["seeds"] == "2"
    )
    assert rows["distilled"]["points to baseline"] == f"{top1['distilled'][0] - values.mean():+.2f}".replace("-", "−")
    assert "published" not in "".join(rows["distilled"])  # the data has four classes


def test_curves_hold_the_rows_of_metrics_jsonl(page, runs):
    drawn = [
        json.loads(attrs["data-values"]) for tag, attrs in page.attributes if tag == "svg" and "data-values" in attrs
    ]
    names = {line["name"]: line["points"] for line in drawn[0]}
    assert [round(value, 3) for _, value in names["distilled"]] == [
        round(row["top1"], 3) for row in history(runs / "distilled") if "top1" in row
    ]
    loss = {line["name"]: line["points"] for line in drawn[1]}
    both = [[row["loss"] for row in history(runs / f"baseline/seed-{seed}")] for seed in (0, 1)]
    assert [value for _, value in loss["baseline"]] == pytest.approx(np.mean(both, axis=0).tolist(), rel=1e-5)
    assert [epoch for epoch, _ in loss["baseline"]] == [1, 2]


def test_networks_costs_and_evaluations(page):
    trainings = {row["run"]: row for row in page.table("The trainings")}
    assert (
        trainings["distilled"]["teachers"] == "resnet14 on rgb"
        and trainings["distilled"]["transfer"] == "compression"
        and trainings["baseline"]["seeds"] == "2 (0, 1)"
    )
    assert (
        "resnet8 reads rgb and learns from resnet14 (reads rgb), by crd and kd, with the labels of four.h5 (packed)."
        in page.text
    )
    costs = page.table("What the networks cost")
    assert [(row["role"], row["network"]) for row in costs] == [
        ("student", "resnet8"),
        ("student", "resnet14"),
        ("student", "resnet8"),
        ("teacher", "resnet14"),
    ]
    assert costs[2]["parameters"].endswith("%)") and float(costs[2]["latency of one image, ms"].split()[0]) > 0
    assert {row["network"] for row in page.table("distilled: measured on its test split")} == {
        "student resnet8",
        "teacher resnet14",
    }


def test_the_commands_and_versions(page, runs):
    import torch

    assert f"contrastill train teachers/cifar100 data.path={runs.parent.parent}"[:40] in page.text
    assert f"seeds=2 out={runs}/baseline train.batch_size=16" in page.text and "objectives.kd.weight=1" in page.text
    assert page.text.count(f"seeds=2 out={runs}/baseline") == 1
    assert {row["torch"] for row in page.table("baseline: versions")} == {torch.__version__} and len(
        page.table("baseline: versions")
    ) == 2
    assert sum(attrs.get("class") == "map" for tag, attrs in page.attributes if tag == "svg") == 3


def test_one_run_and_answers_in_json(runs, tmp_path, capsys):
    out = tmp_path / "new" / "one.html"
    assert main(["report", str(runs / "distilled"), "--out", str(out), "--json", "--quiet"]) == 0
    output = capsys.readouterr()
    answer = json.loads(output.out)
    assert answer["report"] == str(out) and answer["runs"] == 1 and not output.err
    assert answer["rows"][0]["top1"]["mean"] == history(runs / "distilled")[-1]["top1"]
    # What is not among the runs is known from the evaluation beside the student.
    assert answer["rows"][0]["points_to_baseline"] is None and answer["rows"][0]["name"] == "distilled"
    report = Page(out)
    assert (
        report.headings[0] == (1, "Report on distilled")
        and "Networks" in report.tables
        and not [path for path in out.parent.iterdir() if path != out]
    )


def test_damage_is_said_in_its_place(runs, tmp_path):
    hurt = tmp_path / "<b>hurt"
    shutil.copytree(runs, hurt, ignore=shutil.ignore_patterns("report.html"))
    lines = (hurt / "distilled/metrics.jsonl").read_text().splitlines()
    (hurt / "distilled/metrics.jsonl").write_text("\n".join(['{"epoch": ', lines[1], '{"cut']))
    (hurt / "distilled/evaluation.json").write_text('{"rows": [{"role": 1}]}')
    (hurt / "baseline/seed-0/student.safetensors").unlink()
    (hurt / "baseline/seed-1/student.safetensors").write_bytes(b"no weights")
    (hurt / "teacher/config.yaml").write_text("student: [")
    (hurt / "comparison.json").write_text("[]")
    assert main(["report", str(hurt), "--embeddings", "-q"]) == 0
    report = Page(hurt / "report.html")
    assert (
        "Line 1 of metrics.jsonl cannot be read and is left out" in report.text
        and "There is no student.safetensors" in report.text
    )
    assert (
        "config.yaml cannot be read" in report.text
        and "what was written there cannot be read" in report.text
        and "weights" in report.text
    )
    assert "<b>hurt" in report.text and "<b>hurt" not in report.source
    rows = {row["run"]: row for row in report.table("Results of the last epoch")}
    assert rows["distilled"]["top-1, %"] == f"{json.loads(lines[1])['top1']:.2f}"


def test_published_figures_stand_beside_with_what_sets_them_apart(runs, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(runs / "distilled", out)
    text = (
        (out / "config.yaml")
        .read_text()
        .replace("model: resnet14", "model: resnet56")
        .replace("model: resnet8", "model: resnet20")
    )
    (out / "config.yaml").write_text(text.replace("num_negatives: 16\n", "num_negatives: null\n"))
    facts = json.loads((out / "checkpoints/data.json").read_text())
    facts["train"]["classes"] = facts["test"]["classes"] = 100
    (out / "checkpoints/data.json").write_text(json.dumps(facts))
    assert main(["report", str(out), "--json", "-q"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["published"] == published("resnet56", "resnet20", "crd+kd").top1
    assert "48 train images instead of 50,000" in row["note"] and "2 epochs instead of 240" in row["note"]
    assert "train.batch_size 16 instead of 64" in row["note"] and "train.lr" not in row["note"]


def change(path, *keys, value):
    """An entry of a JSON file."""
    whole = json.loads(path.read_text())
    entry = whole
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    path.write_text(json.dumps(whole))


def test_runs_of_data_or_teachers_that_were_replaced_are_not_compared(runs, tmp_path):
    copy = tmp_path / "all"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns("step-*", "*.html", "*.png"))

    def read():
        series = find([str(copy)])
        groups = {group.name: group for group in series.groups}
        compared = Compared(series)
        return groups, compared.baseline(groups["distilled"], "top1"), [*compared.notes]

    facts = copy / "distilled" / "checkpoints" / "data.json"
    change(facts, "train", "modalities", value="rgb [3, 8, 8], depth [1, 8, 8]")
    change(facts, "train", "contents", value="of more modalities")
    groups, baseline, notes = read()
    assert baseline.count == 2 and notes == [] and len(groups["baseline"].runs) == 2
    change(facts, "test", "contents", value="others")
    assert read()[1:] == (None, ["distilled is not compared with baseline: the data differ (contents of test)"])
    # Seeds of which one saw other data, or another teacher, are no series.
    change(copy / "baseline" / "seed-1" / "checkpoints" / "data.json", "train", "labels", value="others")
    for number in (0, 1):
        shutil.copytree(copy / "distilled", copy / "several" / f"seed-{number}")
    assert len(read()[0]["several"].runs) == 2
    change(copy / "several" / "seed-1" / "weights.json", "teachers.0", "hash", value="others")
    groups = read()[0]
    assert {"baseline/seed-1", "several/seed-1"} <= {*groups} and not {"baseline", "several"} & {*groups}
    assert [*groups["baseline/seed-1"].problems, *groups["several/seed-1"].problems] == [
        "It has a row of its own: labels of train differ from those of seed-0.",
        "It has a row of its own: weights of teachers.0 differ from those of seed-0.",
    ]


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ("resolution: null", "resolution: [6, 6]", "read samples at different sizes (6 and its own or the data's)"),
        ("weights: null", "weights: {start}", "start from different weights ({start} and random)"),
    ],
)
def test_a_baseline_of_another_size_or_start_is_marked(runs, tmp_path, before, after, note):
    copy = tmp_path / "all"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns("step-*", "*.html", "*.png"))
    config = copy / "distilled" / "config.yaml"
    after, note = (text.replace("{start}", str(runs / "baseline" / "seed-0")) for text in (after, note))
    sections, marker, student = config.read_text().partition("student:\n")
    for text, notes in ((student, []), (student.replace(before, after, 1), [note])):
        config.write_text(sections + marker + text)
        series = find([str(copy)])
        (group,) = (group for group in series.groups if group.name == "distilled")
        compared = Compared(series)
        assert compared.baseline(group, "top1").count == 2
        assert [line[line.index(note) :].split(",")[0] for line in compared.notes] == notes


def test_a_teacher_is_found_where_the_folders_were_moved():
    student = load_config("compression/rooms_crd", ["teachers.0.weights=/old/demo/teacher"])
    teacher = load_config("teachers/rooms")

    def group(path, config):
        return RunSeries(path, Path(path), [Run(Path(path))], [config])

    far = group("/new/demo/luminance/teacher", load_config("teachers/rooms", ["student.modality=luminance"]))
    similar, other = (
        group("/new/other/teacher", teacher),
        group("/new/demo/baseline", load_config("teachers/rooms", ["student.model=resnet8"])),
    )
    there = group("/new/demo/teacher", teacher)
    run = Run("/new/demo/student")
    assert teacher_of([far, similar, other, there], student, run) == (there, 0)
    assert teacher_of([far, similar, other], student, run) == (similar, 0)
    assert teacher_of([far, other], student, run) is None
    # Of a folder of seeds it is the one that is named.
    there.runs, there.configs = [Run(f"/new/demo/teacher/seed-{seed}") for seed in (0, 1)], [teacher, teacher]
    second = load_config("compression/rooms_crd", ["teachers.0.weights=/old/demo/teacher/seed-1"])
    assert teacher_of([similar, there], second, run) == (there, 1)


def test_a_gap_is_that_of_the_teacher_trained_from(runs, tmp_path):
    copy = tmp_path / "all"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns("step-*", "*.html", "*.png", "evaluation.json"))
    shutil.move(copy / "teacher", copy / "teachers" / "seed-0")
    shutil.copytree(copy / "teachers" / "seed-0", copy / "teachers" / "seed-1")
    other = copy / "teachers" / "seed-1" / "metrics.jsonl"
    again = other.with_name("config.yaml")
    again.write_text(again.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    other.write_text("".join(json.dumps({**row, "top1": 99.0}) + "\n" for row in history(other.parent)))
    config = copy / "distilled" / "config.yaml"
    config.write_text(config.read_text().replace(f"{runs}/teacher", str(copy / "teachers" / "seed-0")))

    def top1():
        series = find([str(copy)])
        (group,) = (group for group in series.groups if group.name == "distilled")
        compared = Compared(series)
        teacher = compared.teacher(group, "top1")
        return teacher and teacher.mean, [*compared.notes]

    assert top1() == (history(runs / "teacher")[-1]["top1"], [])
    # A run under the same name with other weights is another teacher.
    change(copy / "distilled" / "weights.json", "teachers.0", "hash", value="others")
    teacher, (note,) = top1()
    assert teacher is None and "as the weights in seed-0 are others than those that it was trained from" in note


def test_a_run_inside_a_run_of_its_name_has_scores_of_its_own(runs, tmp_path):
    shutil.copytree(runs / "baseline" / "seed-0", tmp_path / "one")
    shutil.copytree(runs / "distilled", tmp_path / "one" / "one")
    series = find([str(tmp_path / "one"), str(tmp_path / "one" / "one")])
    compared = Compared(series)
    means = [compared.scores[group.name]["top1"].mean for group in series.groups]
    assert means == [history(runs / name)[-1]["top1"] for name in ("baseline/seed-0", "distilled")]


def test_runs_of_one_seed_are_named(runs, tmp_path):
    for number in (0, 1):
        shutil.copytree(runs / "distilled", tmp_path / "several" / f"seed-{number}")
    compared = Compared(find([str(tmp_path)]))
    (note,) = compared.notes
    assert note.startswith("several has several runs of seed 0, which all count")


def test_of_several_baselines_the_one_trained_most_alike_is_taken(runs, tmp_path):
    copy = tmp_path / "all"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns("step-*", "*.html", "*.png"))
    shutil.copytree(copy / "baseline" / "seed-0", copy / "another")
    config = copy / "another" / "config.yaml"
    config.write_text(config.read_text().replace("  lr: 0.05", "  lr: 0.5"))

    def compared():
        series = find([str(copy)])
        (group,) = (group for group in series.groups if group.name == "distilled")
        compared = Compared(series)
        return compared.baseline(group, "top1").count, [*compared.notes]

    assert compared() == (2, [])
    shutil.rmtree(copy / "baseline")
    count, (note,) = compared()
    assert count == 1 and "its baseline another were trained with different settings (train.lr 0.05 and 0.5)" in note


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (None, ["{}/nothing"], "is no folder"),
        ("empty", ["{}/empty"], "holds no run"),
        ("comparison.json", ["{}"], "results and no run"),
        (None, [], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence(tmp_path, capsys, make, arguments, message):
    if make == "empty":
        (tmp_path / make).mkdir()
    elif make:
        (tmp_path / make).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *(argument.format(tmp_path) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and sorted(tmp_path.rglob("*")) == before


def test_a_page_that_cannot_be_written(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path, tmp_path / "file" / "page.html", tmp_path / "page.txt", tmp_path / "page"):
        assert main(["report", str(runs / "teacher"), "--out", str(out), "-q"]) == 2
        assert "--out" in capsys.readouterr().err and (tmp_path / "file").read_text() == "x"
