"""`contrastill train` as a user runs it: a teacher, a student, wrong usage, a kill, two processes."""

import json
import os
import signal

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.training.checkpoint import checkpoints, load_newest

SHORT = ["train.epochs=2", "train.lr=0.02"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """120 + 40 images of four classes that differ in brightness, in the layout of a packed CIFAR-100."""
    path = tmp_path_factory.mktemp("data") / "four.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in (("train", 120), ("test", 40)):
            target = np.arange(count) % 4
            images = target[:, None, None, None] * 60 + generator.integers(0, 60, (count, 32, 32, 3))
            file[f"{split}/rgb"] = images.astype(np.uint8)
            file[f"{split}/target"] = target.astype(np.int64)
        file.attrs["classes"] = ["a", "b", "c", "d"]
    return str(path)


@pytest.fixture(scope="module")
def teacher(packed, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("runs") / "teacher")
    assert (
        main(["train", "teachers/cifar100", f"data.path={packed}", "student.model=resnet8", f"out={out}", *SHORT, "-q"])
        == 0
    )
    return out


def student_command(packed, teacher, out, *more):
    return ["train", "compression/cifar100_crd", f"data.path={packed}", "teachers.0.model=resnet8",
        f"teachers.0.weights={teacher}",
            "student.model=resnet8", f"out={out}", *SHORT, *more]  # fmt: skip


def test_teacher_then_student(packed, teacher, tmp_path, capsys):
    out = tmp_path / "student"
    assert main(student_command(packed, teacher, out, "objectives.kd.weight=1", "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (
        answer["epoch"] == 1
        and answer["out"] == str(out)
        and {"cross_entropy", "kd", "crd", "loss", "top1"} <= set(answer)
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "curves.png",
        "metrics.jsonl",
        "student.safetensors",
        "versions.json",
        "weights.json",
    ]
    student = contrastill.load_student(out)
    trained = load_newest(out / "checkpoints").model
    for name, value in student.state_dict().items():
        assert torch.equal(value, trained[f"student.module.{name}"]), name


def test_the_same_seed_gives_every_objective_the_same_untrained_student(packed, teacher):
    from contrastill.core.config.loading import load_config
    from contrastill.training.assemble import assemble

    overrides = [argument for argument in student_command(packed, teacher, "unused")[2:] if "=" in argument]
    crd = assemble(load_config("compression/cifar100_crd", overrides)).transfer
    alone = assemble(load_config("teachers/cifar100", [f"data.path={packed}", "student.model=resnet8"])).transfer
    assert all(torch.equal(value, alone.student.state_dict()[name]) for name, value in crd.student.state_dict().items())


def test_dry_run_builds_nothing_and_prints_the_resolved_config(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "train",
                "compression/cifar100_crd",
                f"data.path={packed}",
                "teachers.0.weights=not-there.pth",
                "--dry-run",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "name: packed" in printed and "temperature: 0.07" in printed and "out: runs/compression/cifar100_crd" in printed
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "Missing argument"),
        (["trian"], 2, "No such command"),
        (["train", "compression/nothing"], 2, "is neither a file nor a shipped config"),
        (["train", "teachers/cifar100", "data.path={packed}", "train.epochs=x"], 2, "train.epochs='x' is not allowed"),
        (["train", "teachers/cifar100", "data.path={packed}", "student.modality=depth"], 2,
            "modality depth is not in this data, which has rgb"),
        (["train", "teachers/cifar100", "data.path={tmp}/cut.h5"], 1, "cut.h5"),
        (["train", "compression/cifar100_crd", "data.path={packed}", "teachers.0.weights={tmp}/nothing.pth"], 2,
            "nothing.pth"),
        (["train", "compression/cifar100_crd", "data.path={packed}", "teachers.0.model=resnet20",
            "teachers.0.weights={teacher}"], 2, "resnet20"),
        (["train", "compression/cifar100_crd", "data.path={packed}", "teachers.0.model=resnet8",
            "teachers.0.weights={teacher}",
          "objectives.crd.num_negatives=5000", "objectives.crd.negatives=sampled"], 2, "5000"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence_and_an_exit_code(packed, teacher, tmp_path, capsys, arguments, code, message):
    (tmp_path / "cut.h5").write_bytes(open(packed, "rb").read()[:5000])
    filled = [argument.format(packed=packed, teacher=teacher, tmp=tmp_path) for argument in arguments]
    out = tmp_path / "run"
    if len(filled) > 2:
        filled.append(f"out={out}")
    assert main(filled) == code
    output = capsys.readouterr().err
    assert message in output and "Traceback" not in output
    assert not out.exists()


def test_another_config_does_not_overwrite_a_run(packed, teacher, capsys):
    before = open(f"{teacher}/metrics.jsonl").read()
    assert (
        main(
            [
                "train",
                "teachers/cifar100",
                f"data.path={packed}",
                "student.model=resnet8",
                f"out={teacher}",
                "train.epochs=3",
                "-q",
            ]
        )
        == 2
    )
    assert "train.epochs: 2, now 3" in capsys.readouterr().err
    assert open(f"{teacher}/metrics.jsonl").read() == before


def test_a_killed_run_ends_in_the_same_bits(packed, teacher, tmp_path, forked):
    every = ["train.checkpoint_every_steps=1", "train.batch_size=40", "-q"]
    assert forked(*student_command(packed, teacher, tmp_path / "whole", *every)).wait() == 0
    arguments = student_command(packed, teacher, tmp_path / "killed", *every)
    process = forked(*arguments)
    folder = tmp_path / "killed" / "checkpoints"
    while process.is_alive() and not (folder.exists() and len(checkpoints(folder)) >= 2):
        os.sched_yield()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert forked(*arguments).wait() == 0
    uninterrupted, killed = (contrastill.load_student(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in uninterrupted.items())


RANK = """
import sys
from contrastill.cli.main import main
rank, _, logs, *arguments = sys.argv[1:]
sys.stdout = open(f"{logs}/{rank}", "w")
code = main(arguments)
sys.stdout.flush()
sys.exit(code)
"""


def test_two_processes_train_one_student_with_equal_banks(packed, teacher, tmp_path, ranks):
    out, logs = tmp_path / "two", tmp_path / "logs"
    logs.mkdir()
    ranks(RANK, 2, logs, *student_command(packed, teacher, out, "--json"))
    output = [(logs / str(rank)).read_text() for rank in (0, 1)]
    # Two processes that did not know of each other would both print.
    assert json.loads(output[0].strip().splitlines()[-1])["epoch"] == 1 and output[1] == ""
    # Every sample's row was written each epoch, whichever rank saw the sample, though only rank 0 wrote the checkpoint.
    state = load_newest(out / "checkpoints").model
    from contrastill.core.crd.loss import CRDLoss

    start = CRDLoss(64, 64, targets=torch.arange(120) % 4, seed=0)
    assert (state["terms.crd.objectives.0.loss.bank.student"] != start.bank.student).any(dim=1).all()
