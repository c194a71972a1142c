"""`contrastill bench`: the commands it makes, the published figures beside them, and a tiny grid as a user runs it."""

import contextlib
import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from contrastill.cli.main import main
from contrastill.compress import run_grid
from contrastill.compress.benchmark import (
    BENCHMARKS,
    Request,
    all_objectives,
    find_teacher,
    parse_objectives,
    parse_pairs,
)
from contrastill.compress.grid_rows import row_of
from contrastill.compress.published import PAIRS
from contrastill.compress.results import bits_of, read_rows
from contrastill.compress.run_grid import check
from contrastill.compress.trainings import trainings
from contrastill.core.config.loading import load_config
from contrastill.core.errors import ContrastillError
from contrastill.core.registry import OBJECTIVES
from contrastill.core.spawned import exit_code_of

CIFAR = BENCHMARKS["cifar100"]
ONE_EPOCH = ["--set", "train.epochs=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 + 40 images of ten classes that differ in brightness."""
    path = tmp_path_factory.mktemp("data") / "ten.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in (("train", 60), ("test", 40)):
            target = np.arange(count) % 10
            file[f"{split}/rgb"] = (
                target[:, None, None, None] * 24 + generator.integers(0, 24, (count, 16, 16, 3))
            ).astype(np.uint8)
            file[f"{split}/target"] = target
    return str(path)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def request(data, out, pairs="resnet20:resnet8", objectives="kd", **options):
    return Request(CIFAR, data, Path(out), parse_pairs(pairs, CIFAR), parse_objectives(objectives), **options)


def training_of(planned, objective):
    return next(training for training in planned if training.objective == objective)


# Names


def test_pairs_and_objectives_are_read_in_one_form():
    assert parse_pairs("all,resnet20:resnet8", CIFAR) == [*PAIRS, ("resnet20", "resnet8")] and len(PAIRS) == 13
    assert parse_objectives("kd+crd,crd+kd,student, crd") == ["crd+kd", "crd"]
    every = all_objectives()
    assert every[:3] == ["kd", "fitnet", "attention"] and {"crd", "similarity", "fsp", "dkd"} <= set(every)
    assert not {"cross_entropy", "dense_crd", "agglomerate", "dense_kd", "cwd"} & set(every)
    assert all(OBJECTIVES[name].needs_teacher for name in every)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "resnet20:resnet9"], "did you mean resnet"),
        (["--pairs", "resnet20"], "'resnet20' is no pair: write TEACHER:STUDENT"),
        (["--pairs", ""], "--pairs names no pair"),
        (
            ["--pairs", "resnet20:resnet8", "--objectives", "kd+crdd"],
            "objective 'crdd' does not exist: did you mean crd",
        ),
        (["--pairs", "resnet20:resnet8", "--objectives", "crd+crd"], "crd+crd has one objective twice"),
        (["--pairs", "resnet20:resnet8", "--objectives", "dense_crd"], "objective 'dense_crd' does not exist"),
        (
            ["--pairs", "resnet20:resnet8", "--set", "train.epoch=3"],
            "train.epoch is not a key of the config: did you mean epochs",
        ),
        (["--pairs", "resnet20:resnet8", "--set", "seed=3"], "say it with --seeds"),
        (
            ["--pairs", "resnet20:resnet8", "--objectives", "kd", "--set", "objectives.crd.num_negatives=3"],
            "belongs to none of these trainings",
        ),
        (["--pairs", "resnet20:resnet8,vgg13:vgg8", "--vary", "train.lr=0.1,0.2"], "--vary is for one pair"),
        (["--pairs", "resnet20:resnet8", "--vary", "train.lr"], "names no values"),
        (["--pairs", "resnet20:resnet8", "--teachers", "nowhere"], "--teachers nowhere is no folder"),
    ],
)
def test_what_cannot_be_asked_for(data, tmp_path, capsys, arguments, message):
    out = tmp_path / "bench"
    assert main(["bench", "cifar100", "--data", data, "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not out.exists()


def test_the_benchmark_and_its_results_are_named(data, tmp_path, capsys):
    assert main(["bench", "cifar10", "--data", data, "--pairs", "all"]) == 2
    assert "did you mean cifar100" in capsys.readouterr().err
    assert main(["bench", "cifar100", "--table", "--out", str(tmp_path)]) == 2
    assert "holds no results of a benchmark yet" in capsys.readouterr().err
    assert main(["bench", "--help"]) == 0
    output = capsys.readouterr().out
    assert (
        "objectives.crd.num_negatives=16,64" in output
        and "negatives_from=other_class,other_sample" in output
        and "crd,infonce" in output
    )


# Commands


def config_of(training):
    return load_config(training.config, training.overrides)


def test_the_recipe_is_the_published_one(data, tmp_path):
    planned = trainings(request(data, tmp_path, "resnet32x4:resnet8x4", "kd,crd,crd+kd,fitnet,fsp,review"))
    weights = {
        training.objective: {name: term.weight for name, term in config_of(training).objectives.items()}
        for training in planned
    }
    assert weights == {
        "teacher": {"cross_entropy": 1},
        "student": {"cross_entropy": 1},
        "kd": {"cross_entropy": 0.1, "kd": 0.9},
        "crd": {"cross_entropy": 1, "crd": 0.8},
        "crd+kd": {"cross_entropy": 1, "crd": 0.8, "kd": 1},
        "fitnet": {"cross_entropy": 1, "fitnet": 100},
        "fsp": {"cross_entropy": 1, "fsp": 1},
        "review": {"cross_entropy": 1, "review": 5},
    }
    assert all(
        (config_of(job).train.epochs, config_of(job).train.lr, config_of(job).train.batch_size) == (240, 0.05, 64)
        for job in planned
    )


def test_small_networks_have_their_own_learning_rate_unless_told(data, tmp_path):
    for given, rates in (((), [0.05, 0.01, 0.01]), (("train.lr=0.3",), [0.3] * 3)):
        planned = trainings(request(data, tmp_path, "vgg13:MobileNetV2", "crd", given=given))
        assert [(training.objective, config_of(training).train.lr) for training in planned] == list(
            zip(("teacher", "student", "crd"), rates, strict=True)
        )


def test_one_seed_of_everything_comes_before_the_second_of_anything(data, tmp_path):
    planned = trainings(request(data, tmp_path, "resnet56:resnet20,resnet110:resnet20", "kd", seeds=2))
    assert [(training.pair, training.objective, training.seed) for training in planned] == [
        ("resnet56", "teacher", 0),
        ("resnet110", "teacher", 0),
        *(
            (pair, objective, seed)
            for seed in (0, 1)
            for pair, objective in (("resnet20", "student"), ("resnet56:resnet20", "kd"), ("resnet110:resnet20", "kd"))
        ),
    ]
    assert (
        planned[3].out == tmp_path / "resnet56-resnet20" / "kd" / "seed-0"
        and planned[3].after == planned[0].out == tmp_path / "teachers" / "resnet56"
    )
    assert config_of(planned[3]).teachers[0].weights == str(planned[0].out) and len(
        {training.out for training in planned}
    ) == len(planned)


def test_settings_go_where_they_mean_something(data, tmp_path):
    given = (
        "train.epochs=12",
        "train.initial_epochs=2",
        "objectives.crd.num_negatives=9",
        "train.views=4",
        "teachers.0.maps=[layer1]",
    )
    planned = trainings(
        request(data, tmp_path, objectives="kd,crd,fsp", given=given, teacher_given=("train.epochs=20",))
    )
    assert {training.objective: training.given for training in planned} == {
        "teacher": ("train.epochs=12", "train.epochs=20"),
        "student": ("train.epochs=12", "train.views=4"),
        "kd": ("train.epochs=12", "train.views=4", "teachers.0.maps=[layer1]"),
        "crd": ("train.epochs=12", "objectives.crd.num_negatives=9", "train.views=4", "teachers.0.maps=[layer1]"),
        "fsp": ("train.epochs=12", "train.initial_epochs=2", "train.views=4", "teachers.0.maps=[layer1]"),
    }
    caches = {
        config_of(training).train.teacher_cache for training in planned if training.objective in ("kd", "crd", "fsp")
    }
    assert (
        caches == {str(tmp_path / "teacher_said")}
        and config_of(training_of(planned, "student")).train.teacher_cache is None
    )
    assert config_of(training_of(planned, "teacher")).train.epochs == 20


def test_an_ablation_varies_what_has_the_setting(data, tmp_path):
    planned = trainings(
        request(data, tmp_path, objectives="kd,crd,crd+kd", vary=("objectives.crd.num_negatives", ["16", "64"]))
    )
    varied = {
        training.objective: [job.vary and job.vary[1] for job in planned if job.objective == training.objective]
        for training in planned
    }
    assert varied == {"teacher": [None], "student": [None], "kd": [None], "crd": ["16", "64"], "crd+kd": ["16", "64"]}
    last = next(training for training in planned if training.objective == "crd" and training.vary[1] == "64")
    assert last.out == tmp_path / "resnet20-resnet8" / "crd" / "objectives.crd.num_negatives=64" / "seed-0"
    assert config_of(last).objectives["crd"].num_negatives == 64
    rates = trainings(request(data, tmp_path, objectives="kd", vary=("train.lr", ["0.1", "0.2"])))
    assert [(training.objective, config_of(training).train.lr) for training in rates] == [
        ("teacher", 0.05),
        *[("student", 0.1), ("student", 0.2), ("kd", 0.1), ("kd", 0.2)],
    ]


def test_teachers_are_found_as_they_are_laid_out(data, tmp_path):
    for name in (
        "resnet20/student.safetensors",
        "resnet56.pth",
        "resnet32x4_vanilla/ckpt_epoch_240.pth",
        "vgg13/config.yaml",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    planned = {name: find_teacher(tmp_path, name) for name in ("resnet20", "resnet56", "resnet32x4", "vgg13")}
    assert planned == {
        "resnet20": tmp_path / "resnet20",
        "resnet56": tmp_path / "resnet56.pth",
        "resnet32x4": tmp_path / "resnet32x4_vanilla" / "ckpt_epoch_240.pth",
        "vgg13": None,
    }
    jobs = trainings(request(data, tmp_path / "out", "resnet56:resnet20,vgg13:vgg8", teachers=str(tmp_path)))
    assert [training.pair for training in jobs if training.objective == "teacher"] == ["vgg13"]
    kd = next(training for training in jobs if training.pair == "resnet56:resnet20")
    assert config_of(kd).teachers[0].weights == str(tmp_path / "resnet56.pth") and kd.after is None


def test_every_published_pair_and_objective_is_a_config(data, tmp_path):
    planned = trainings(request(data, tmp_path, "resnet32x4:resnet8x4", "all")) + trainings(
        request(data, tmp_path, "all", "crd")
    )
    check(planned)
    assert {training.pair for training in planned} >= {":".join(pair) for pair in PAIRS}


# A tiny grid


class InProcess:
    """In the place of a spawned process: the same training in this process, as a new one takes many seconds to load
    torch.
    """

    def __init__(self, train, args, log, environment):
        assert environment["OMP_NUM_THREADS"] == "1"
        output = io.StringIO()
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            self.exitcode = exit_code_of(train, args)
        with open(log, "a", encoding="utf-8") as file:
            file.write(output.getvalue())


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(run_grid, "start_process", InProcess)


@pytest.fixture(scope="module")
def grid(data, tmp_path_factory):
    """Two objectives on one pair, two trainings at a time; the folder, the command and what was said."""
    out = tmp_path_factory.mktemp("grid") / "bench"
    command = ["bench", "cifar100", "--data", data, "--pairs", "resnet8:resnet8", "--objectives", "kd,crd", "--out",
        str(out), "--jobs", "2", "--threads", "1",
               *ONE_EPOCH, "--json"]  # fmt: skip
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        patch.setattr(run_grid, "start_process", InProcess)
        assert main(command) == 0
    return out, command, output.getvalue(), errors.getvalue()


def files_in(out):
    return {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name in ("student.safetensors", "metrics.jsonl", "results.jsonl")
    }


def test_a_grid_is_trained_and_measured(grid):
    out, _, printed, errors = grid
    rows = read_rows(out / "results.jsonl")
    assert set(rows) == {
        ("resnet8", "teacher", None, 0),
        ("resnet8", "student", None, 0),
        ("resnet8:resnet8", "kd", None, 0),
        ("resnet8:resnet8", "crd", None, 0),
    }
    for stored in rows.values():
        assert (
            stored["images"] == 40
            and stored["train_images"] == 60
            and stored["epochs"] == 1
            and stored["seconds"] >= 0
            and stored["given"] == ["train.epochs=1"]
        )
        assert 100 * bits_of(stored).mean() == pytest.approx(stored["top1"])
    answer = json.loads(printed)
    assert {(cell["objective"], cell["n"]) for cell in answer["table"]} == {
        (name, 1) for name in ("teacher", "student", "kd", "crd")
    }
    crd = next(cell for cell in answer["table"] if cell["objective"] == "crd")
    assert (
        crd["top1"] == rows["resnet8:resnet8", "crd", None, 0]["top1"]
        and set(crd["against"]) == {"student", "kd"}
        and not answer["comparable"]
    )
    assert "4 trainings, 0 finished before, 2 at a time" in errors and "none left" in errors and "left, about" in errors
    text = (out / "table.md").read_text()
    assert (
        "| crd |" in text
        and "do not compare" in text
        and "train.epochs=1" in text
        and "60 training images instead of 50,000" in text
    )
    with Image.open(out / "table.png") as picture:
        assert picture.width > 400


def test_images_are_counted_right_as_the_student_reads_them(data, in_process, tmp_path, caplog):
    command = ["bench", "cifar100", "--data", data, "--pairs", "resnet8:resnet8", "--objectives", "student"]
    settings = ["student.modality=luminance", "train.epochs=4", "train.batch_size=8"]
    for setting in settings:
        command += ["--set", setting]
    assert main([*command, "--out", str(tmp_path / "bench"), "--jobs", "1"]) == 0
    row = read_rows(tmp_path / "bench" / "results.jsonl")["resnet8", "student", None, 0]
    assert 100 * bits_of(row).mean() == pytest.approx(row["top1"]) and row["top1"] > 15
    assert "was trained on its modality of" not in caplog.text  # the first two samples are darker than the others


def test_the_same_command_trains_nothing_and_other_settings_are_refused(grid, in_process, capsys):
    out, command, printed, _ = grid
    before = files_in(out)
    assert main(command) == 0
    output = capsys.readouterr()
    assert (
        files_in(out) == before
        and "4 trainings, 4 finished before" in output.err
        and json.loads(output.out)["table"] == json.loads(printed)["table"]
    )
    assert main([*command, "--set", "train.lr=0.2"]) == 2
    assert "train.lr: 0.05, now 0.2" in capsys.readouterr().err and files_in(out) == before


def test_other_data_under_the_same_path_are_refused(grid, data, in_process, capsys):
    out, command, _, _ = grid
    before, whole = files_in(out), Path(data).read_bytes()
    try:
        for split in ("test", "train"):
            with h5py.File(data, "r+") as file:
                file[f"{split}/rgb"][:] = 255 - file[f"{split}/rgb"][:]
            assert main([*command, "--seeds", "2"]) == 2
            message = capsys.readouterr().err
            assert f"was trained ({split} differs), and trainings on other data do not compare" in message
            Path(data).write_bytes(whole)
    finally:
        Path(data).write_bytes(whole)
    assert files_in(out) == before and main(command) == 0


def test_results_of_other_settings_whose_runs_were_removed_are_refused(grid, tmp_path, capsys):
    out, command, _, _ = grid
    shutil.copy(out / "results.jsonl", tmp_path)
    command = [str(tmp_path) if argument == str(out) else argument for argument in command]
    assert main([*command, "--set", "train.lr=0.2"]) == 2
    error = capsys.readouterr().err
    assert "with other settings (train.lr=0.2): remove it" in error and [*tmp_path.iterdir()] == [
        tmp_path / "results.jsonl"
    ]


def test_rows_of_another_teacher_or_other_data_are_refused(grid, data, in_process, tmp_path, capsys):
    """Also where no training of them is requested: they stand in one table."""
    out, command, *_ = grid
    copy = shutil.copytree(out, tmp_path / "copy")
    other = [str(copy) if argument == str(out) else argument for argument in command]
    other[other.index("kd,crd")] = "dkd"
    teacher = copy / "teachers" / "resnet8"

    def answer(*more):
        code = main([*other, *more])
        return code, capsys.readouterr().err

    # One that the grid trains again with other settings, or that is another with the same settings.
    teacher.rename(tmp_path / "resnet8")
    code, error = answer("--teacher-set", "train.lr=0.2")
    assert code == 2 and "has results of resnet8 teacher with other settings (train.lr=0.2)" in error
    shutil.copytree(out / "resnet8-resnet8" / "kd" / "seed-0", tmp_path / "another")
    rows = (copy / "results.jsonl").read_text()
    (copy / "results.jsonl").write_text(
        rows.replace(read_rows(copy / "results.jsonl")["resnet8:resnet8", "kd", None, 0]["teacher"], "0123456789abcdef")
    )
    code, error = answer()
    assert code == 1 and "there are results of another teacher resnet8 than that in" in error
    assert not (copy / "resnet8-resnet8" / "dkd").exists()
    (copy / "results.jsonl").write_text(rows)
    # One of --teachers.
    (tmp_path / "T").mkdir()
    (tmp_path / "another").rename(tmp_path / "T" / "resnet8")
    code, error = answer("--teachers", str(tmp_path / "T"))
    assert code == 2 and f"another teacher resnet8 than that in {tmp_path / 'T' / 'resnet8'}" in error
    # Other data for another pair.
    for split, images in (("train", "training images"), ("test", "test images")):
        changed = tmp_path / f"{split}.h5"
        shutil.copy(data, changed)
        with h5py.File(changed, "r+") as file:
            file[f"{split}/rgb"][:] = 255 - file[f"{split}/rgb"][:]
        code, error = answer("--data", str(changed), "--pairs", "resnet14:resnet14")
        assert code == 2 and f"with other {images} than those of {changed}" in error


def test_another_teacher_under_the_same_path_is_refused(grid, in_process, capsys):
    out, command, _, _ = grid
    before, weights = files_in(out), out / "teachers" / "resnet8" / "student.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes((out / "resnet8-resnet8" / "kd" / "seed-0" / "student.safetensors").read_bytes())
        assert main([*command, "--seeds", "2"]) == 2
        assert "kd/seed-0 was trained, and trainings from other teachers do not compare" in capsys.readouterr().err
    finally:
        weights.write_bytes(whole)
    assert main(command) == 0 and {*before} == {*files_in(out)}


def test_the_table_is_shown_without_training(grid, tmp_path, capsys):
    out, *_ = grid
    assert (
        main(["bench", "cifar100", "--table", "--out", str(out), "--markdown", str(tmp_path / "made" / "table.md")])
        == 0
    )
    output = capsys.readouterr().out
    assert "resnet8 → resnet8" in output and "published figures do not compare" in output and "to student" in output
    assert (tmp_path / "made" / "table.md").read_text() == (out / "table.md").read_text()
    copy = shutil.copytree(out, tmp_path / "copy")
    assert main(["bench", "cifar100", "--table", "--out", str(copy), "--objectives", "kd", "--json"]) == 0
    assert {cell["objective"] for cell in json.loads(capsys.readouterr().out)["table"]} == {"teacher", "student", "kd"}


def test_what_is_lost_is_made_again_and_a_failure_stops_nothing_else(grid, in_process, capsys):
    out, command, *_ = grid
    (
        out / "resnet8-resnet8" / "crd" / "seed-0" / "student.safetensors"
    ).unlink()  # as if it had been killed after its last checkpoint
    rows = (out / "results.jsonl").read_text().splitlines()
    (out / "results.jsonl").write_text("".join(f"{line}\n" for line in rows if '"kd"' not in line))
    files = files_in(out / "students")
    broken = [*command, "--objectives", "ab,kd,crd", "--set", "objectives.ab.pairs=[[0,9]]"]
    assert main(broken) == 1
    output = capsys.readouterr()
    answer = json.loads(output.out)
    assert list(answer["failed"]) == ["resnet8:resnet8 ab seed 0"] and "contrastill: 1 training failed" in output.err
    assert answer["failed"]["resnet8:resnet8 ab seed 0"] in output.err and "names map 9 of the teacher" in output.err
    assert {cell["objective"] for cell in answer["table"]} == {"teacher", "student", "kd", "crd"}
    assert (
        files_in(out / "students") == files
        and (out / "resnet8-resnet8" / "crd" / "seed-0" / "student.safetensors").is_file()
    )
    assert len(read_rows(out / "results.jsonl")) == 4


def test_an_ablation_is_drawn_with_what_it_does_not_change(grid, in_process, capsys):
    out, command, *_ = grid
    key = "objectives.crd.num_negatives"
    more = ["--teachers", str(out / "teachers"), "--vary", f"{key}=2,32"]
    small = out.parent / "vary"
    changed = [
        *command[: command.index("--out")],
        "--out",
        str(small),
        *command[command.index("--jobs") :],
        *more,
        "--objectives",
        "crd",
    ]
    assert main(changed) == 0
    output = capsys.readouterr()
    assert f"teacher resnet8: {out / 'teachers' / 'resnet8'}" in output.err and not (small / "teachers").exists()
    values = [cell["vary"] for cell in json.loads(output.out)["table"] if cell["objective"] == "crd"]
    assert values == [[key, "2"], [key, "32"]]
    assert ("resnet8", "teacher", None, 0) in read_rows(small / "results.jsonl")
    with Image.open(small / f"vary_{key}.png") as picture:
        assert picture.width > 500 and len(set(picture.convert("RGB").resize((200, 200)).get_flattened_data())) > 50


def test_a_run_whose_numbers_are_cut_off_has_no_row(grid, tmp_path):
    out, *_ = grid
    copy = tmp_path / "seed-0"
    shutil.copytree(out / "resnet8-resnet8" / "kd" / "seed-0", copy)
    training = SimpleNamespace(out=copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("  epochs: 1\n", "  epochs: 2\n"))
    with pytest.raises(ContrastillError, match="no top-1 of its last epoch .metrics.jsonl is cut off after 1 of 2 epo"):
        row_of(training, None)


def test_stopping_stops_the_trainings_and_the_same_command_goes_on(data, grid, tmp_path, capsys, monkeypatch):
    out, *_ = grid
    command = [
        "bench",
        "cifar100",
        "--data",
        data,
        "--pairs",
        "resnet8:resnet8",
        "--teachers",
        str(out / "teachers"),
        "--out",
        str(tmp_path),
        "--threads",
        "1",
    ]
    command += ["--set", "train.epochs=60", "--set", "train.checkpoint_every=60"]
    run = tmp_path / "students" / "resnet8" / "seed-0"
    ended = threading.Event()

    def interrupt():
        while not (run / "metrics.jsonl").exists():
            if ended.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        assert main(command) == 130
    finally:
        ended.set()
        watcher.join()
    assert (
        "the same command" in capsys.readouterr().err
        and "stopped by SIGTERM" in (run.parent / "seed-0.log").read_text()
    )
    assert list((run / "checkpoints").iterdir()) and not (run / "student.safetensors").exists()
    monkeypatch.setattr(run_grid, "start_process", InProcess)
    assert main(command) == 0
    assert (
        "resnet8 student seed 0" in capsys.readouterr().err
        and read_rows(tmp_path / "results.jsonl")["resnet8", "student", None, 0]["epochs"] == 60
    )
