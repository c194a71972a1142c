"""`contrastill ensemble` as a user runs it: what teachers are worth together, and the figure of error against their
number.
"""

import json
import shutil
from pathlib import Path
from statistics import stdev

import pytest
from PIL import Image

from contrastill.cli.main import main
from contrastill.core.run import Run

SMALL = ["data.train_samples=64", "data.test_samples=64", "student.model=resnet8", "train.epochs=1", "-q"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two teachers, and a student of both by KD."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "teachers/rooms", *SMALL, "seeds=2", f"out={folder / 'two'}"]) == 0
    command = [
        "train",
        "compression/rooms_crd",
        *SMALL,
        "teachers.0.model=resnet8",
        f"teachers.0.weights={folder / 'two'}",
        "train.views=null",
    ]
    assert main([*command, "objectives.crd=null", f"out={folder / 'kd'}"]) == 0
    return folder


def with_settings(run, copy, top1, **changes):
    """A run like another one: other settings in its config.yaml, another accuracy at its last epoch."""
    from omegaconf import OmegaConf

    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("diversity*"))
    config = OmegaConf.load(copy / "config.yaml")
    for key, value in {"out": str(copy), **{name.replace("__", "."): value for name, value in changes.items()}}.items():
        OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, copy / "config.yaml")
    row = {**Run(copy).history()[-1], "epoch": config.train.epochs - 1, "top1": top1}
    (copy / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return copy


@pytest.fixture
def family(runs, tmp_path):
    """Students of one and two teachers by KD, three seeds each, and two baselines, with accuracies that one can
    check by hand.
    """
    teacher = {"model": "resnet8", "weights": str(runs / "two" / "seed-0")}
    for seed in range(3):
        with_settings(runs / "kd", tmp_path / "f" / f"kd1-{seed}", 50 + seed, seed=seed, teachers=[teacher])
        with_settings(runs / "kd", tmp_path / "f" / f"kd2-{seed}", 60 + 2 * seed, seed=seed)
    for seed in range(2):
        with_settings(runs / "two" / f"seed-{seed}", tmp_path / "f" / "baseline" / f"seed-{seed}", 40 + seed)
    return tmp_path / "f"


# Diversity


def test_diversity_of_a_run_measures_teachers_their_ensemble_and_the_student(runs, capsys):
    assert main(["ensemble", "diversity", str(runs / "kd"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((runs / "kd" / "diversity.json").read_text())
    assert [row["name"] for row in result["networks"]] == ["teachers.0 resnet8", "teachers.1 resnet8"] and result[
        "student"
    ]["name"] == "student resnet8"
    assert result["student"]["top1"] == pytest.approx(Run(runs / "kd").history()[-1]["top1"])
    assert [row["top1"] for row in result["networks"]] == pytest.approx(
        [Run(runs / "two" / f"seed-{seed}").history()[-1]["top1"] for seed in (0, 1)]
    )
    alone = json.loads((runs / "two" / "diversity.json").read_text())
    assert (
        result["ensemble"] == alone["ensemble"]
        and result["disagreement"] == alone["disagreement"]
        and alone["student"] is None
    )
    assert len(result["student_disagreement"]) == 3 and result["oracle"] >= result["ensemble"]["top1"]
    with Image.open(runs / "kd" / "diversity.png") as picture:
        assert picture.width > 1200 and len(set(picture.convert("RGB").resize((300, 100)).get_flattened_data())) > 100


def test_errors_of_other_teachers_are_not_in_the_figure_of_a_run(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "kd", tmp_path / "kd")
    moved = shutil.copytree(runs / "two" / "seed-1", tmp_path / "moved")
    for teacher, kinds in ((moved, ["distilled", "teachers", "ensemble"]), (runs / "two" / "seed-0", ["distilled"])):
        assert main(["ensemble", "diversity", str(run), f"teachers.1.weights={teacher}"]) == 0
        for file in run.glob("diversity-networks-*.json"):  # as an earlier version named it
            file.rename(run / "diversity.json")
        capsys.readouterr()
        assert main(["ensemble", "figure", str(run), "--out", str(tmp_path / "f.png"), "--json"]) == 0
        output = capsys.readouterr()
        assert [point["kind"] for point in json.loads(output.out)["points"]] == kinds
        assert (f"teachers.1 ({teacher}) is not the teacher of {run}" in output.err) == (len(kinds) == 1)


def test_diversity_prints_a_table_and_the_ceiling(runs, capsys):
    assert main(["ensemble", "diversity", str(runs / "kd"), "data.test_samples=32"]) == 0
    output = capsys.readouterr().out
    for words in (
        "teachers.1 resnet8",
        "their ensemble",
        "student resnet8",
        "top-1 %",
        "NLL, nats",
        "ECE %",
        "32 test samples",
        "at least one right",
        "points to the ensemble",
    ):
        assert words in output
    assert main(["ensemble", "diversity", str(runs / "kd"), "data.test_samples=32", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["ensemble"]
    row = next(line for line in output.splitlines() if "their ensemble" in line)
    assert [f"{values['top1']:.2f}", f"{values['nll']:.4f}", f"{100 * values['ece']:.2f}"] == [
        word for word in row.split() if word[0].isdigit()
    ]
    assert main(["ensemble", "diversity", str(runs / "two")]) == 0
    output = capsys.readouterr().out
    assert "seed-1 resnet8" in output and "64 test samples" in output and "student" not in output


def test_diversity_leaves_out_seeds_that_have_not_ended_and_a_classifier_that_never_learnt(runs, tmp_path, capsys):
    two = shutil.copytree(runs / "two", tmp_path / "two")
    (two / "seed-1" / "student.safetensors").unlink()
    assert main(["ensemble", "diversity", str(two)]) == 0
    output = capsys.readouterr()
    assert "left out, as they have not ended" in output.err and "seed-1" in output.err and "1 network," in output.out
    (two / "seed-0" / "student.safetensors").unlink()
    assert main(["ensemble", "diversity", str(two)]) == 2
    assert "none of the 2 runs in" in capsys.readouterr().err
    crd = with_settings(runs / "kd", tmp_path / "crd", 0, objectives={"crd": {"num_negatives": 16}})
    assert main(["ensemble", "diversity", str(crd), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["student"] is None and "never" not in output.out and "is left out" in output.err


def test_diversity_of_what_cannot_be_compared(runs, tmp_path, capsys):
    from contrastill.models.build import build_network, save_student

    save_student(build_network("resnet8", num_classes=7), tmp_path / "seven.safetensors")
    for arguments, message in (
        ([str(tmp_path)], "is neither a run nor a folder of seeds"),
        ([str(runs / "two" / "seed-0")], "has no teachers to compare"),
        ([str(runs / "kd"), f"teachers.1.weights={tmp_path / 'seven.safetensors'}"], "teachers.1 (resnet8"),
        ([str(runs / "kd"), "data.nothing=1"], "nothing is not a key"),
    ):
        assert main(["ensemble", "diversity", *arguments]) == 2
        output = capsys.readouterr().err
        assert message in output and "Traceback" not in output
    assert (
        main(["ensemble", "diversity", str(runs / "kd"), f"teachers.1.weights={tmp_path / 'seven.safetensors'}"]) == 2
    )
    assert "tells 7 classes apart, and rooms has 12" in capsys.readouterr().err
    broken = build_network("resnet8", num_classes=12)
    broken.module.fc.bias.data[3] = float("inf")
    save_student(broken, tmp_path / "broken.safetensors")
    assert main(["ensemble", "diversity", str(runs / "kd"), f"teachers.1.weights={tmp_path / 'broken.safetensors'}"])
    assert "the logits of teachers.1 (resnet8" in (error := capsys.readouterr().err) and "infinite or NaN" in error


def test_a_teacher_of_more_classes_is_measured_among_those_of_the_data(runs, tmp_path, capsys):
    import torch

    from contrastill.models.build import build_network, save_student

    run = shutil.copytree(runs / "kd", tmp_path / "kd")
    own = build_network("resnet8", weights=runs / "two" / "seed-1", num_classes=None)
    names = own.recipe["classes"]
    wide = build_network("resnet8", num_classes=len(names) + 2)
    state = {**own.module.state_dict()}
    for key in ("fc.weight", "fc.bias"):
        state[key] = torch.cat([state[key][:2] + 9, state[key].flip(0)])
    wide.module.load_state_dict(state)
    wide.recipe = {**wide.recipe, "classes": ("canoe", "kayak", *names[::-1])}
    save_student(wide, tmp_path / "wide.safetensors")
    rows = []
    for weights in (runs / "two" / "seed-1", tmp_path / "wide.safetensors"):
        command = ["ensemble", "diversity", str(run), f"teachers.1.weights={weights}", "--json"]
        assert main(command) == 0
        output = capsys.readouterr()
        rows.append(json.loads(output.out)["networks"][1])
    assert [rows[1][key] for key in ("top1", "nll", "ece")] == pytest.approx(
        [rows[0][key] for key in ("top1", "nll", "ece")], rel=1e-4
    )
    assert f"has {len(names) + 2} classes: its probabilities are those among the {len(names)}" in output.err


# The figure


def points(answer, kind):
    return [
        (point["label"], point["teachers"], pytest.approx(point["error"]), point["n"])
        for point in answer["points"]
        if point["kind"] == kind
    ]


def test_the_figure_is_the_mean_over_seeds_for_each_number_of_teachers(family, tmp_path, capsys):
    assert main(["ensemble", "figure", str(family), "--out", str(tmp_path / "made" / "error.png"), "--json"]) == 0
    output = capsys.readouterr()
    answer = json.loads(output.out)
    assert output.err == "" and answer["picture"] == str(tmp_path / "made" / "error.png")
    assert points(answer, "distilled") == [("KD", 1, 49, 3), ("KD", 2, 38, 3)] and points(answer, "baseline") == [
        ("baseline", 0, 59.5, 2)
    ]
    assert [point["std"] for point in answer["points"] if point["kind"] == "distilled"] == pytest.approx([1, 2])
    assert points(answer, "teachers") == points(answer, "ensemble") == []
    with Image.open(tmp_path / "made" / "error.png") as picture:
        assert picture.width > 500 and len(set(picture.convert("RGB").resize((200, 200)).get_flattened_data())) > 50


def test_runs_of_data_that_were_replaced_are_a_line_of_their_own(family, tmp_path, capsys):
    facts = family / "kd1-2" / "checkpoints" / "data.json"
    recorded = json.loads(facts.read_text())
    recorded["test"]["contents"] = "others"
    facts.write_text(json.dumps(recorded))
    assert main(["ensemble", "figure", str(family), "--out", str(tmp_path / "error.png"), "--json"]) == 0
    assert points(json.loads(capsys.readouterr().out), "distilled") == [
        ("KD, data=None", 1, 49.5, 2),
        ("KD, data=None", 2, 38, 3),
        ("KD, data=replaced 1", 1, 48, 1),
    ]


def test_the_figure_knows_what_its_teachers_are_worth(family, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        assert main(["ensemble", "diversity", str(family / f"kd2-{seed}"), "--json"]) == 0
    assert (
        main(["ensemble", "diversity", str(family / "kd2-2"), "data.test_samples=32", "--json"]) == 0
    )  # on other data: not for the figure
    values = json.loads(capsys.readouterr().out.splitlines()[0])
    assert main(["ensemble", "figure", *map(str, family.iterdir()), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    mean = sum(row["top1"] for row in values["networks"]) / 2
    assert points(answer, "teachers") == [("the teachers, mean", 2, 100 - mean, 2)]
    assert points(answer, "ensemble") == [("the teachers' ensemble", 2, 100 - values["ensemble"]["top1"], 2)]
    assert Path("teachers.png").is_file()


def test_teachers_on_different_data_have_no_common_mean(family, tmp_path, capsys):
    other = with_settings(family / "kd2-1", family / "other", 64, data__test_samples=32, train__epochs=2)
    Run(other).data.unlink()  # the facts of the data that the run it is a copy of was trained on
    for run in (family / "kd2-0", other):
        assert main(["ensemble", "diversity", str(run), "--json"]) == 0
    one, two = (json.loads((run / "diversity.json").read_text()) for run in (family / "kd2-0", other))
    capsys.readouterr()
    assert main(["ensemble", "figure", str(family), "--out", str(tmp_path / "error.png"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    for kind, label in (("teachers", "the teachers, mean"), ("ensemble", "the teachers' ensemble")):
        assert points(answer, kind) == [
            (
                f"{label}, data.test_samples={values['samples']}",
                2,
                100 - (values["ensemble"]["top1"] if kind == "ensemble" else mean(values)),
                1,
            )
            for values in (one, two)
        ]


def mean(values):
    """Top-1 of the networks of a diversity.json."""
    return sum(row["top1"] for row in values["networks"]) / len(values["networks"])


def test_lines_are_named_by_objectives_rule_and_what_else_differs(runs, family, tmp_path, capsys):
    crd = {"cross_entropy": {"weight": 1}, "crd": {"num_negatives": 16}, "kd": {}}
    with_settings(runs / "kd", family / "both", 70, objectives=crd)
    with_settings(runs / "kd", family / "longer", 71, train__epochs=9)
    with_settings(runs / "kd", family / "other", 72, student__model="resnet14")
    assert main(["ensemble", "figure", str(family), "--out", str(tmp_path / "error.png")]) == 0
    output = capsys.readouterr().out
    assert (
        "CRD + KD" in output
        and "KD, epochs=9" in output
        and "KD, epochs=1" in output
        and "resnet14" in output
        and "38.00 ± 2.00" in output
    )
    assert "60.00" not in output and stdev([50, 51, 52]) == 1


def test_the_figure_says_what_it_leaves_out(runs, family, tmp_path, capsys):
    (family / "kd2-2" / "student.safetensors").unlink()
    with_settings(runs / "kd", family / "again", 50, seed=1)
    out = ["--out", str(tmp_path / "error.png")]
    assert main(["ensemble", "figure", str(family), *out, "--json"]) == 0
    output = capsys.readouterr()
    assert f"left out: {family / 'kd2-2'} has not ended" in output.err and "both count" in output.err
    assert points(json.loads(output.out), "distilled")[1] == ("KD", 2, pytest.approx(100 - (60 + 62 + 50) / 3), 3)
    (tmp_path / "empty").mkdir()
    for arguments, code, message in (
        ([str(family / "kd2-2")], 1, f"there is nothing to draw: {family / 'kd2-2'} has not ended"),
        ([str(family), str(tmp_path / "empty")], 2, "empty is no run and holds none"),
        ([str(family / "baseline")], 2, "none of these runs has a teacher"),
        ([str(family), "--out", "error.pdf"], 2, "--out error.pdf is no PNG"),
        ([], 2, "Missing argument"),
    ):
        assert main(["ensemble", "figure", *out, *arguments]) == code
        output = capsys.readouterr().err
        assert message in output and "Traceback" not in output


def test_an_earlier_epoch_is_not_taken_for_the_last(family, tmp_path, capsys):
    one, file = family / "kd2-1", "metrics.jsonl"
    for run in family.rglob("kd*"):
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("  epochs: 1\n", "  epochs: 2\n"))
        values = {**Run(run).history()[-1], "epoch": 0 if run == one else 1}
        (run / file).write_text(json.dumps(values) + ('\n{"epoch": 1, "to' if run == one else ""))
    assert main(["ensemble", "figure", str(family), "--out", str(tmp_path / "error.png"), "--json"]) == 0
    output = capsys.readouterr()
    assert f"left out: {one}: metrics.jsonl is cut off after 1 of 2 epochs" in output.err
    assert points(json.loads(output.out), "distilled")[1] == ("KD", 2, pytest.approx(100 - (60 + 64) / 2), 2)
    assert output.err.count("left out") == 1


def test_help_names_the_commands_and_their_examples(capsys):
    assert main(["--help"]) == 0
    assert "ensemble" in capsys.readouterr().out
    for command in ("diversity", "figure"):
        assert main(["ensemble", command, "--help"]) == 0
        assert f"contrastill ensemble {command} runs" in capsys.readouterr().out
