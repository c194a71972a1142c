"""What the shell can, from Python: one function per command, in one process, with the numbers of ``--json``."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main

SHORT = {"student.model": "resnet8", "train.epochs": 1, "train.batch_size": 16, "train.lr": 0.02}
TIMES = re.compile(r"latency|images_per_second|seconds|samples_per_second")


@pytest.fixture(scope="module")
def runs(four_classes, tmp_path_factory):
    """A folder with two teachers (two seeds) and a student of the first."""
    folder = tmp_path_factory.mktemp("runs")
    data = {"data.path": four_classes, **SHORT}
    series = contrastill.train("teachers/cifar100", {**data, "seeds": 2, "out": folder / "two"}, progress=False)
    teacher = {"teachers.0.model": "resnet8", "teachers.0.weights": folder / "two" / "seed-0"}
    student = contrastill.train(
        "compression/cifar100_crd", {**data, **teacher, "out": folder / "student"}, progress=False
    )
    return folder, series, student


def shell(capsys, *arguments):
    """The answer of a command under ``--json``."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def plain(result):
    """A result as JSON has it."""
    return json.loads(json.dumps(result.to_dict()))


def without_times(value):
    """The same value without measured times."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if not TIMES.search(key)}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def test_trainings(runs, four_classes, capsys):
    folder, series, student = runs
    assert student.out == folder / "student" and 0 <= student.top1 <= 100 and str(student).startswith(str(student.out))
    assert [run.seed for run in series.runs] == [0, 1] and len(series.diversity.networks) == 2
    overrides = [f"data.path={four_classes}", "student.model=resnet8", "train.epochs=1", "train.batch_size=16"]
    common = [*overrides, "train.lr=0.02", "-q"]
    command = ["train", "teachers/cifar100", *common, "seeds=2", f"out={folder / 'two'}"]
    assert shell(capsys, *command) == plain(series)
    teacher = ["teachers.0.model=resnet8", f"teachers.0.weights={folder / 'two' / 'seed-0'}"]
    command = ["train", "compression/cifar100_crd", *common, *teacher, f"out={folder / 'student'}"]
    assert shell(capsys, *command) == plain(student)
    assert "top-1 of the last epoch" in str(series) and "seed-1" in str(series)


def test_a_config_is_changed_in_python(runs, tmp_path):
    from contrastill.core.config.loading import load_config

    folder, _, student = runs
    config = load_config(str(folder / "student" / "config.yaml"))
    again = contrastill.train(config, {"out": tmp_path / "again"}, progress=False)
    assert again.metrics["loss"] == student.metrics["loss"]
    other = contrastill.train(config, [f"out={tmp_path / 'other'}", "objectives.crd=null"], progress=False)
    assert "crd" not in other.metrics and config.out == str(folder / "student")
    with pytest.raises(ValueError, match="is no override"):
        contrastill.train(config, ["train.epochs"])


def test_cache(runs, four_classes, tmp_path, capsys):
    folder, *_ = runs
    config = folder / "student" / "config.yaml"
    result = contrastill.cache_teachers(config, out=tmp_path / "cache", views=2, progress=False)
    assert result.written == result.missing > 0 and (result.views, result.samples) == (2, 48)
    again = contrastill.cache_teachers(config, out=tmp_path / "cache", views=2, progress=False)
    assert shell(capsys, "cache", config, "--out", tmp_path / "cache", "--views", 2, "-q") == plain(again)
    planned = contrastill.cache_teachers(config, out=tmp_path / "none", views=2, dry_run=True)
    assert planned.written is None and not list((tmp_path / "none").rglob("*.h5"))


def test_evaluation(runs, capsys):
    folder, _, student = runs
    tasks = "evaluation.tasks=[accuracy,classification]"
    result = contrastill.evaluate_runs([student.out], [tasks], teachers=True, baselines=["random"], progress=False)
    assert [(row.role, row.task) for row in result.rows] == [
        ("student", "accuracy"),
        ("student", "classification"),
        ("teacher", "accuracy"),
        ("teacher", "classification"),
        ("random", "classification"),
    ]
    assert result.rows[0].scores.top1 == student.top1 and "linear probe, embedding" in str(result)
    command = ["evaluate", student.out, tasks, "--teachers", "--baselines", "random", "-q"]
    assert shell(capsys, *command) == plain(result)


def test_probes(runs, four_classes, tmp_path, capsys):
    folder, _, student = runs
    networks, teacher = [student.out, f"{student.out}:teacher"], f"{student.out}:teacher"
    spec = contrastill.ProbeSpec(layers=None, knn=3, logme=True, cka=teacher, correlation=teacher)
    report = contrastill.probe_networks(networks, [four_classes], spec, out=tmp_path / "probe", progress=False)
    assert len(report.rows) == 2 * len({row.layer for row in report.rows}) and len(report.correlation) == 1
    assert report.rows[0].accuracy.low <= report.rows[0].top1 <= report.rows[0].accuracy.high
    extra = ["--layers", "all", "--knn", 3, "--logme", "--cka", teacher, "--correlation", teacher]
    command = ["probe", *networks, "--data", four_classes, *extra, "--out", tmp_path / "probe", "-q"]
    assert shell(capsys, *command) == plain(report)
    tables = report.tables()
    assert "linear probe" in tables[0].title and "LogME" in str(report) and "written: " in tables[-1].notes[0]


def test_more_neighbours_than_samples_are_all_of_them(runs, four_classes, capsys):
    spec = contrastill.ProbeSpec(knn=500)
    report = contrastill.probe_networks(runs[2].out, four_classes, spec, progress=False)
    assert report.rows[0].knn_k == 48
    assert "knn=500 is more than its 48 training samples: all of them vote" in capsys.readouterr().err


def test_probes_of_networks_in_memory(runs, four_classes):
    from contrastill.models.build import build_network

    _, _, student = runs
    networks = [build_network("resnet8", num_classes=4) for _ in range(2)]
    report = contrastill.probe_networks([student.out, *networks], [four_classes], progress=False)
    names = [network.name for network in report.networks]
    assert names[0] == str(student.out) and len(set(names)) == 3 and not report.written
    assert contrastill.measure_cost(networks[:1], size=16, rounds=1).rows[0].cost.parameters == 77_652
    with pytest.raises(ValueError, match=r"wrap it in contrastill.Network"):
        contrastill.probe_networks([torch.nn.Flatten()], [four_classes], progress=False)


def test_diversity_and_figure(runs, tmp_path, capsys):
    folder, series, student = runs
    result = contrastill.measure_diversity(folder / "two")
    assert plain(result) == plain(series.diversity) == shell(capsys, "ensemble", "diversity", folder / "two")
    assert result.networks[0].top1 == series.runs[0].top1 and "their ensemble" in str(result)
    figure = contrastill.ensemble_figure([folder], tmp_path / "error.png")
    assert {point.kind for point in figure.points} >= {"baseline", "distilled"} and figure.picture.is_file()
    assert shell(capsys, "ensemble", "figure", folder, "--out", tmp_path / "error.png") == plain(figure)


def test_cost(runs, capsys):
    *_, student = runs
    result = contrastill.measure_cost([student.out], rounds=1, device="cpu")
    assert [row.role for row in result.rows] == ["student", "teacher"]
    assert result.rows[0].of_teacher["parameters"] == 1 and "MFLOPs" in str(result)
    answer = shell(capsys, "cost", student.out, "--rounds", 1, "--device", "cpu")
    assert without_times(answer) == without_times(plain(result))


def test_export(runs, tmp_path, capsys):
    *_, student = runs
    result = contrastill.export_run(student.out, tmp_path / "student.pt2", format="torch")
    assert result.path.is_file() and result.export.real_images and "compared with PyTorch" in str(result)
    command = ["export", student.out, "--format", "torch", "--out", tmp_path / "student.pt2"]
    answer, expected = shell(capsys, *command), plain(result)
    assert abs(answer.pop("bytes") - expected.pop("bytes")) < 1000 and answer == expected


def test_data(four_classes, tmp_path, capsys):
    description = contrastill.describe_data(four_classes)
    assert description.splits["train"].samples == 48 and description.splits["test"].fields["target"].classes == 4
    assert plain(description) == shell(capsys, "data", "info", four_classes)
    packed = contrastill.pack_data(f"packed:{four_classes}", tmp_path / "copy.h5", progress=False)
    assert packed.samples == {"train": 48, "test": 16} and str(packed).startswith(f"{packed.path} (train 48")
    with h5py.File(packed.path) as file:
        assert len(file["train/rgb"]) == 48
    command = ["data", "pack", f"packed:{four_classes}", tmp_path / "copy.h5", "--force", "-q"]
    assert shell(capsys, *command) == plain(packed)


def test_environment(four_classes, capsys):
    report = contrastill.check_environment([four_classes])
    answer = shell(capsys, "doctor", four_classes)
    names = [(row["subject"], row["name"], row["mark"]) for row in answer["findings"]]
    assert names == [(row["subject"], row["name"], row["mark"]) for row in plain(report)["findings"]]
    assert answer["problems"] == report.problems == 0 and len(report.tables()[0].rows) == len(names)


def test_benchmark_table(tmp_path, capsys):
    from contrastill.compress.results import append_row

    for objective, correct in (("student", "aa"), ("kd", "ff")):
        pair = "resnet8" if objective == "student" else "resnet20:resnet8"
        append_row(
            tmp_path / "results.jsonl",
            {
                "pair": pair,
                "objective": objective,
                "vary": None,
                "seed": 0,
                "overrides": [],
                "given": [],
                "top1": 50.0,
                "train_images": 60,
                "images": 8,
                "correct": correct,
            },
        )
    result = contrastill.run_benchmark(out=tmp_path, train_missing=False)
    assert result.failed == {} and tmp_path / "table.md" in result.written and "resnet20 → resnet8" in str(result)
    assert shell(capsys, "bench", "cifar100", "--table", "--out", tmp_path) == plain(result)


def test_report(runs, tmp_path, capsys):
    folder, *_ = runs
    result = contrastill.write_report([folder], tmp_path / "page.html", progress=False)
    assert result.runs == 3 and result.path.read_text(encoding="utf-8").startswith("<!")
    answer = shell(capsys, "report", folder, "--out", tmp_path / "page.html", "-q")
    assert answer == plain(result)


def test_arguments_of_another_kind_are_named():
    for call in (contrastill.evaluate_runs, contrastill.write_report):
        for value, message in (
            (None, "runs is None"),
            ([], "runs is empty"),
            ([3], r"runs is \[3\]"),
            (3, "runs is 3"),
        ):
            with pytest.raises(contrastill.UsageError, match=message):
                call(value)
    for config, overrides, message in (
        (None, (), "config is None"),
        ([], (), r"config is \[\]"),
        ("teachers/rooms", None, "overrides is None"),
        ("teachers/rooms", "train.lr=1", "overrides is 'train.lr=1'"),
        ("teachers/rooms", {"train.lr": object()}, "a value of the overrides is"),
    ):
        with pytest.raises(contrastill.UsageError, match=message):
            contrastill.train(config, overrides)


def test_numbers_of_numpy_and_paths_are_values():
    from contrastill.evaluation.train import resolve_config

    values = {"train.lr": np.float32(0.5), "train.epochs": np.int64(3), "out": Path("runs/here")}
    config = resolve_config("teachers/rooms", values)
    again = resolve_config(config, values)
    for each in (config, again):
        assert (each.train.lr, each.train.epochs, each.out) == (0.5, 3, config.out)
    assert type(again.train.lr) is float and config.out.endswith("runs/here")
