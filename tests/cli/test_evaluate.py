"""`contrastill evaluate`, trackers and the pictures of a run, as a user meets them."""

import json

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.cli.tables import print_json, show
from contrastill.core.config.loading import load_config, to_yaml
from contrastill.core.run import Run
from contrastill.evaluation.evaluate import evaluate_runs
from contrastill.evaluation.evaluation_result import EvaluationResult
from contrastill.evaluation.unread_options import check_options
from contrastill.models.build import build_network, save_student


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "three.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in (("train", 60), ("test", 45)):
            target = np.arange(count) % 3
            file[f"{split}/rgb"] = (
                target[:, None, None, None] * 80 + generator.integers(0, 60, (count, 16, 16, 3))
            ).astype(np.uint8)
            file[f"{split}/target"] = target
        file.attrs["classes"] = ["dark", "grey", "light"]
    return str(path)


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory):
    """A teacher and a student of it, tracked with tensorboard."""
    folder = tmp_path_factory.mktemp("runs")
    short = [f"data.path={packed}", "student.model=resnet8", "train.epochs=2", "train.lr=0.02", "-q"]
    assert main(["train", "teachers/cifar100", *short, f"out={folder / 'teacher'}"]) == 0
    command = [
        "train",
        "compression/cifar100_crd",
        *short,
        "teachers.0.model=resnet8",
        f"teachers.0.weights={folder / 'teacher'}",
        "trackers=[tensorboard]",
    ]
    assert main([*command, f"out={folder / 'student'}"]) == 0
    return folder / "student"


def test_tensorboard_holds_every_row(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / "trackers" / "contrastill"))
    accumulator.Reload()
    rows = Run(run).history()
    for name in ("loss", "crd", "cross_entropy", "top1", "lr"):
        events = accumulator.Scalars(name)
        assert [event.step for event in events] == [row["step"] for row in rows]
        assert np.allclose([event.value for event in events], [row[name] for row in rows])


def test_curves_are_a_picture(run):
    from PIL import Image

    with Image.open(run / "curves.png") as picture:
        colours = len(set(picture.convert("RGB").resize((200, 60)).get_flattened_data()))
    assert colours > 50  # lines and text, not an empty canvas


@pytest.mark.parametrize(
    ("tracker", "message"), [("tensorbord", "did you mean tensorboard"), ("aim", "is not installed: pip install aim")]
)
def test_a_tracker_that_is_not_there(packed, tmp_path, capsys, tracker, message):
    assert (
        main(
            [
                "train",
                "teachers/cifar100",
                f"data.path={packed}",
                "student.model=resnet8",
                f"trackers=[{tracker}]",
                f"out={tmp_path / 'run'}",
            ]
        )
        == 2
    )
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_evaluate_agrees_with_the_training_and_with_a_loop_by_hand(run, packed, capsys):
    assert main(["evaluate", str(run), "--teachers", "--json"]) == 0
    student, teacher = json.loads(capsys.readouterr().out)
    assert student["top1"] == Run(run).history()[-1]["top1"] and student["images"] == 45
    assert teacher["role"] == "teacher" and teacher["top1"] == Run(run.parent / "teacher").history()[-1]["top1"]
    network = contrastill.load_student(run)
    with h5py.File(packed) as file:
        images = torch.from_numpy(file["test/rgb"][()]).permute(0, 3, 1, 2)
        with torch.no_grad():
            right = (network(network.preprocess(images)).argmax(1).numpy() == file["test/target"][()]).mean()
    assert student["top1"] == pytest.approx(100 * right)
    assert json.loads((run / "evaluation.json").read_text())["rows"] == [student, teacher]


def test_evaluate_prints_a_table_of_several_runs(run, capsys):
    assert main(["evaluate", str(run.parent / "teacher"), str(run)]) == 0
    output = capsys.readouterr().out
    assert "83,892" not in output and output.count("student resnet8") == 2 and "top-1 %" in output


def test_students_that_read_other_sizes_are_marked(run, packed, tmp_path):
    options = [f"data.path={packed}", "student.model=resnet8", "student.resolution=8", "train.epochs=1", "-q"]
    assert main(["train", "teachers/cifar100", *options, f"out={tmp_path / 'small'}"]) == 0
    note = "read different inputs, which their numbers depend on"
    (text,) = evaluate_runs([run, tmp_path / "small"], progress=False).notes
    assert note in text and f"({run}: rgb 16×16, {tmp_path / 'small'}: rgb 8×8)" in text
    assert evaluate_runs([run, run.parent / "teacher"], progress=False).notes == ()


def test_evaluate_takes_the_newest_checkpoint_of_a_run_under_way(run, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "student.safetensors").unlink()
    assert main(["evaluate", str(copy), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["weights"] == "checkpoint after step 2" and row["top1"] == Run(run).history()[-1]["top1"]
    shutil.rmtree(copy / "checkpoints")
    assert main(["evaluate", str(copy)]) == 1
    assert "neither student.safetensors nor a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nowhere"], "nowhere is no run"), (["data.path=x.h5"], "name at least one run folder")]
)
def test_evaluate_of_what_is_no_run(arguments, message, capsys):
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["evaluate"], ["export"], ["cost"], ["probe", "--data", "DATA"]])
def test_a_folder_of_seeds_names_the_runs_in_it(run, packed, tmp_path, capsys, command):
    import shutil

    runs = [shutil.copytree(run, tmp_path / "seeds" / f"seed-{seed}") for seed in (5, 6)]
    verb, *options = (str(packed) if word == "DATA" else word for word in command)
    assert main([verb, str(tmp_path / "seeds"), *options]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.endswith(f"seeds is no run, but a folder of runs: name {runs[0]}, {runs[1]}")


def test_evaluate_of_a_file_of_a_run_names_the_run_and_where_the_best_epoch_is(run, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    best = shutil.copy(copy / "student.safetensors", copy / "student_best.safetensors")
    figures = f", and student.weights={best} to measure this file"
    for file, way in ((best, figures), (copy / "config.yaml", "")):
        assert main(["evaluate", str(file)]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert message.endswith(f"{file} is a file of a run: name the run, {copy}{way}")


@pytest.mark.parametrize("command", [["export"], ["cost"], ["probe", "--data", "DATA"]])
def test_a_file_of_a_run_is_told_from_networks_and_runs(run, packed, tmp_path, capsys, command):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    best = shutil.copy(copy / "student.safetensors", copy / "student_best.safetensors")
    verb, *options = (str(packed) if word == "DATA" else word for word in command)
    for file, way in ((copy / "student.safetensors", ""), (best, f", or MODEL@{best} for this file")):
        assert main([verb, str(file), *options]) == 2
        message = " ".join(capsys.readouterr().err.split())
        way = "" if verb == "export" else way
        assert message.endswith(f"{file} is a file of a run: name the run, {copy}{way}")


def test_a_teacher_as_probes_name_it_is_measured_with_its_run(run, capsys):
    for name in (f"{run}:teacher", f"{run}:teachers.1"):
        assert main(["evaluate", name]) == 2
        assert f"{name} is a teacher of a run: name the run, {run}, with --teachers" in capsys.readouterr().err
        assert main(["export", name]) == 2
        assert f"{name} is a teacher of a run: name the run, {run} for its student" in capsys.readouterr().err


def test_other_networks_than_the_runs_own_are_measured_and_kept_apart(run, packed, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    assert main(["evaluate", str(copy), "--teachers", "--json"]) == 0
    own, before = (copy / "evaluation.json").read_text(), json.loads(capsys.readouterr().out)
    best = contrastill.load_student(copy)
    best.fc.bias.data += torch.tensor([100.0, 0, 0])  # always the first class
    network = build_network("resnet8", weights=copy, num_classes=None)
    network.module.load_state_dict(best.state_dict())
    save_student(network, copy / "student_best.safetensors")
    moved = shutil.copytree(run.parent / "teacher", tmp_path / "moved")
    other = {"top1": pytest.approx(100 / 3), "weights": str(copy / "student_best.safetensors")}
    for override, changed in (
        (f"student.weights={copy / 'student_best.safetensors'}", other),
        ("student.resolution=8", {}),
        (f"teachers.0.weights={copy}", {}),
    ):
        assert main(["evaluate", str(copy), "--teachers", "--json", override]) == 0
        output = capsys.readouterr()
        row = json.loads(output.out)[0]
        assert {key: row[key] for key in changed} == changed and "these are other networks than the run" in output.err
    assert (copy / "evaluation.json").read_text() == own and len([*copy.glob("evaluation-networks-*.json")]) == 3
    # The same teacher in another place is the run's own.
    assert main(["evaluate", str(copy), "--teachers", "--json", f"teachers.0.weights={moved}"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after[1].pop("weights") == str(moved) and before[1].pop("weights") and after == before
    assert len([*copy.glob("evaluation*.json")]) == 4
    # Heads and baselines of another seed.
    assert main(["evaluate", str(copy), "--json", "seed=7"]) == 0
    assert "of another seed than the run's: the rows are in" in capsys.readouterr().err
    assert (copy / "evaluation-seed-7.json").is_file() and len([*copy.glob("evaluation*.json")]) == 5


# Segmentation and classification

ROOMS = """
out: {out}
seed: 3
data: {{name: rooms, modalities: [rgb, depth], size: 16, train_samples: 36, test_samples: 24, crop_padding: 1}}
teachers: [{{model: resnet8, weights: {teacher}, modality: rgb}}]
student: {{model: resnet8, modality: depth, num_classes: 12}}
objectives: {{crd: {{weight: 1}}}}
evaluation:
  data: {{modalities: [rgb, depth, semantics]}}
  tasks: [segmentation, classification]
  layers: [embedding, maps.1]
  epochs: 1
  batch_size: 12
"""


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Two finished runs of depth students, which need no training to be evaluated, and their teacher."""
    folder = tmp_path_factory.mktemp("rooms")
    (folder / "teacher").mkdir()
    torch.manual_seed(0)
    save_student(build_network("resnet8", num_classes=12), folder / "teacher" / "student.safetensors")
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / "config.yaml").write_text(ROOMS.format(out=folder / name, teacher=folder / "teacher"))
        (folder / name / "config.yaml").write_text(to_yaml(load_config(str(folder / "config.yaml"))))
        save_student(
            build_network("resnet8", num_classes=12, modality="depth", mean=(2.5,), std=(1.2,)),
            folder / name / "student.safetensors",
        )
    return folder


def test_evaluate_segmentation_and_classification_beside_baselines(rooms, capsys):
    first, second = str(rooms / "one"), str(rooms / "two")
    baselines = ("random", "scratch", "teacher")
    result = evaluate_runs([first, second], {"evaluation.label_fractions": [0.5, 1]}, baselines=baselines)
    rows, messages = result.to_dict(), capsys.readouterr().err
    networks = [("student", "frozen"), ("teacher", "frozen"), ("random", "frozen"), ("scratch", "scratch")]
    segmentations = [
        (row["run"], row["role"], row["mode"], row["labels"], row["train_images"])
        for row in rows
        if row["task"] == "segmentation"
    ]
    assert segmentations[:8] == [(first, *network, part, round(36 * part)) for network in networks for part in (0.5, 1)]
    assert segmentations[8:] == [
        (second, "student", "frozen", part, round(36 * part)) for part in (0.5, 1)
    ]  # the baselines are the first run's
    assert all(
        0 <= row["miou"] <= 100 and len(row["per_class_iou"]) == 15 and row["images"] == 24
        for row in rows
        if row["task"] == "segmentation"
    )
    probes = [row for row in rows if row["task"] == "classification"]
    assert [row["role"] for row in probes] == [
        role for role in ("student", "teacher", "random", "student") for _ in range(2)
    ]
    assert all(
        {*row["layers"]} == {"embedding", "maps.1"} and 0 <= row["layers"]["maps.1"]["top1"] <= 100 for row in probes
    )
    assert [row for row in rows if row["run"] == second] == json.loads((rooms / "two" / "evaluation.json").read_text())[
        "rows"
    ]
    assert "segmentation, scratch resnet8" in messages and result.picture == rooms / "one" / "predictions.png"
    from PIL import Image

    with Image.open(rooms / "one" / "predictions.png") as picture:
        assert picture.width > 800 and len(set(picture.convert("RGB").resize((200, 150)).get_flattened_data())) > 100
    assert not (rooms / "two" / "predictions.png").exists()
    show(result)
    table = capsys.readouterr().out
    assert "mIoU %" in table and "top-1 %" in table and "maps.1" in table and table.count("│ student") >= 8
    assert f"picture: {result.picture}" in table


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_one_of_several_processes_prints_the_answer(monkeypatch, capsys, rank, lines):
    monkeypatch.setenv("RANK", rank)
    result = EvaluationResult((), notes=("one",))
    print_json(result)
    assert len(capsys.readouterr().out.splitlines()) == lines
    show(result)
    assert bool(capsys.readouterr().out) is bool(lines)


def test_the_student_can_be_fine_tuned_and_the_same_command_gives_the_same_numbers(rooms, capsys):
    command = [
        "evaluate",
        str(rooms / "one"),
        "evaluation.tasks=[segmentation]",
        "evaluation.mode=fine_tuned",
        "evaluation.head=unet",
        "--json",
    ]
    rows_shown = []
    for _ in range(2):
        assert main(command) == 0
        (row,) = json.loads(capsys.readouterr().out)
        row.pop("seconds")
        rows_shown.append(row)
    assert rows_shown[0] == rows_shown[1] and rows_shown[0]["mode"] == "fine_tuned" and rows_shown[0]["head"] == "unet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baselines", "randon"], "did you mean random"),
        (
            ["evaluation.tasks=[accuracy]", "--baselines", "scratch"],
            "the baseline scratch is for evaluation.tasks=[segmentation]",
        ),
        (["teachers=[]", "objectives={cross_entropy: {weight: 1}}", "--baselines", "teacher"], "has no teacher"),
        (
            ["evaluation.data={modalities: [rgb, depth]}"],
            "has no label maps: segmentation needs the modality semantics, and it has rgb, depth",
        ),
        (["evaluation.data={modalities: [rgb, semantics]}"], "depth"),
        (["evaluation.tasks=[classification]", "evaluation.layers=[maps.9]"], "layer maps.9 does not exist"),
        (["evaluation.head=unets"], "evaluation.head"),
        (["evaluation.data={modalitys: [rgb]}"], "data.modalitys is not a key"),
    ],
)
def test_evaluate_of_what_cannot_be_measured(rooms, arguments, message, capsys):
    assert main(["evaluate", str(rooms / "one"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_picture_is_a_png_in_a_folder_that_is_made(run, tmp_path):
    for picture in (tmp_path, tmp_path / "p.jpg", "p"):
        with pytest.raises(contrastill.UsageError, match=r"picture is '.*': give the name of a file that ends in .png"):
            evaluate_runs([run], picture=picture, progress=False)
    with pytest.raises(contrastill.UsageError, match="p.png' shows segmentations, and evaluation.tasks is accuracy"):
        evaluate_runs([run], picture=str(tmp_path / "new" / "p.png"), progress=False)
    assert not (tmp_path / "new").exists()


def test_options_that_change_nothing_are_named(run, caplog):
    overrides = {
        "evaluation.head": "unet",
        "evaluation.label_fractions": [0.5],
        "train.lr": 3,
        "train.precision": "fp32",
    }
    teacher = run.parent / "teacher"
    evaluate_runs([teacher], overrides, teachers=True, progress=False)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        'evaluation.head="unet" changes nothing, as it is of evaluation.tasks=[segmentation]: leave it out, or add one',
        "evaluation.label_fractions=[0.5] changes nothing, as it is of evaluation.tasks=[segmentation] or "
        "[classification]: leave it out, or add one",
        "train.lr=3 changes nothing, as an evaluation does not train the student: leave it out",
        f"there are no teachers to measure: {teacher} had none",
    ]


def test_positions_of_layers_that_have_none_are_named(run):
    def lines(*overrides):
        return check_options(
            [str(run)], ["evaluation.tasks=[classification]", *overrides], teachers=False, picture=None
        )

    assert lines("evaluation.spatial=4") == [
        "evaluation.spatial=4 changes nothing, as embedding has no positions and it is of maps.0, maps.1, …: "
        "leave it out"
    ]
    assert lines("evaluation.spatial=4", "evaluation.layers=[embedding,maps.0]") == lines() == []


def test_another_teacher_that_is_not_measured_is_named(run):
    def lines(task, **options):
        overrides = [f"evaluation.tasks=[{task}]", "teachers.0.weights=elsewhere"]
        return check_options([str(run)], overrides, **{"teachers": False, "picture": None, **options})

    assert lines("accuracy") == [
        "teachers.0.weights=elsewhere changes nothing, as no teacher is measured: add --teachers"
    ]
    assert [
        *lines("accuracy", teachers=True),
        *lines("classification", baselines=["teacher"]),
        *lines("retrieval"),
    ] == []


def test_teachers_of_one_architecture_have_names_of_their_own(run, capsys):
    teachers = [f"teachers.1.{key}={value}" for key, value in (("model", "resnet8"), ("weights", run))]
    chosen = ["evaluation.tasks=[classification]", "evaluation.layers=[embedding]", *teachers]
    assert main(["evaluate", str(run), "--teachers", *chosen]) == 0
    printed = capsys.readouterr()
    assert all(f"teacher {number} resnet8" in printed.out for number in range(2)), printed.out
    assert f"{run}: classification, teacher 1 resnet8" in printed.err
    rows = json.loads(next(run.glob("*-networks-*.json")).read_text())["rows"]
    assert [(row["role"], row.get("number")) for row in rows] == [("student", None), ("teacher", 0), ("teacher", 1)]
