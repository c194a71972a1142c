"""A path that begins with ``~`` is in the home folder, wherever one is given: nothing is written to a folder called
``~``, and nothing that is there is refused.
"""

import inspect
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import contrastill
from contrastill.cli.main import main
from contrastill.core.errors import UsageError
from contrastill.core.run import Run

CACHED = {
    "data.path": "~/x.h5",
    "teachers.0.weights": "~/run",
    "teachers.0.model": "resnet8",
    "student.model": "resnet8",
}
ONE_EPOCH = {"epochs": 1, "quiet": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, four_classes):
    """A run of a student with a teacher, pictures in folders of classes, and a file that is no folder."""
    home = tmp_path_factory.mktemp("trained")
    shutil.copy(four_classes, home / "x.h5")
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (home / "pictures" / part / name).mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(home / "pictures" / part / name / "1.png")
    contrastill.distill(None, "resnet8", home / "x.h5", out=home / "run", **ONE_EPOCH)
    (home / "file").touch()
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    """The home folder; another one is the working directory, in which nothing may be written."""
    shutil.copytree(trained, tmp_path / "home")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert not os.listdir(tmp_path / "elsewhere")


def saved():
    contrastill.Student.from_run("~/run").save_pretrained("~/hub")
    contrastill.Student.from_pretrained("~/hub")


WRITTEN = {
    "cache_teachers": (
        lambda: contrastill.cache_teachers("compression/cifar100", CACHED, views=1, out="~/new", progress=False),
        "new",
    ),
    "pack_data": (lambda: contrastill.pack_data("~/pictures", "~/new.h5", progress=False), "new.h5"),
    "distill": (
        lambda: contrastill.distill("~/run", "resnet8", "~/x.h5", objectives="kd", out="~/new", **ONE_EPOCH),
        "new/student.safetensors",
    ),
    "distill, weights in a dict": (
        lambda: contrastill.distill(
            {"model": "resnet8", "weights": Path("~/run")}, "resnet8", {"path": "~/x.h5"}, out=Path("~/new"),
            objectives="kd", **ONE_EPOCH,
        ),
        "new/student.safetensors",
    ),
    "train": (
        lambda: contrastill.train(
            "~/run/config.yaml", {"out": "~/new", "train.epochs": 1, "student.weights": "~/run"}, progress=False
        ),
        "new/student.safetensors",
    ),
    "evaluate_runs": (lambda: contrastill.evaluate_runs(["~/run"], progress=False), "run/evaluation.json"),
    "export_student": (
        lambda: contrastill.export_student("~/run", "~/new.pt2", format="torch", size=16, check=False),
        "new.pt2",
    ),
    "write_report": (lambda: contrastill.write_report("~/run", "~/new.html", progress=False), "new.html"),
    "probe_networks": (
        lambda: contrastill.probe_networks(
            ["~/run", "resnet8@~/run", "resnet8@~/run/student.safetensors"],
            "~/x.h5",
            contrastill.ProbeSpec(cka="~/run", cache="~/features"),
            out="~/new",
            progress=False,
        ),
        "new/probe.json",
    ),
    "ProbeSpec": (
        lambda: contrastill.probe_networks(
            "~/run", "packed:~/x.h5", contrastill.ProbeSpec(cache="~/new"), progress=False
        ),
        "new",
    ),
    "Student": (saved, "hub/model.safetensors"),
    "Run": (lambda: Run("~/new").claim("seed: 0\n"), "new/config.yaml"),
}  # fmt: skip
READ = {
    "check_environment": lambda: contrastill.check_environment("~/x.h5"),
    "describe_data": lambda: contrastill.describe_data("~/x.h5"),
    "describe_data of a kind": lambda: contrastill.describe_data("image_folder:~/pictures,size=8"),
    "load_student": lambda: contrastill.load_student("~/run"),
    "measure_cost": lambda: contrastill.measure_cost(["~/run"], size=16, rounds=1),
}
REFUSED = {  # they would take long, or a run of another kind: the sentence names the place
    "ensemble_figure": lambda: contrastill.ensemble_figure("~/none", "~/new.png"),
    "export_run": lambda: contrastill.export_run("~/none"),
    "in_teacher_space": lambda: contrastill.in_teacher_space("~/run"),
    "a teacher of a run": lambda: contrastill.probe_networks("~/run:teachers.3", "~/x.h5"),
    "load_adaptors": lambda: contrastill.load_adaptors("~/run"),
    "measure_diversity": lambda: contrastill.measure_diversity("~/none"),
    "run_benchmark": lambda: contrastill.run_benchmark(
        data="~/x.h5", pairs="resnet32x4:resnet8x4", objectives="kd", teachers="~/none", out="~/new", train_missing=True
    ),
    "run_demo": lambda: contrastill.run_demo("~/file/demo"),
}
COMMANDS = {
    "cache": (
        ["cache", "compression/cifar100", *(f"{key}={value}" for key, value in CACHED.items()), "--views=1",
         "--out=~/new", "-q"],
        "new",
    ),
    "cost": (["cost", "~/run", "--size=16"], "run"),
    "data": (["data", "pack", "~/pictures", "~/new.h5"], "new.h5"),
    "evaluate": (["evaluate", "~/run", "-q"], "run/evaluation.json"),
    "probe": (["probe", "resnet8@~/run", "--data=~/x.h5", "--out=~/new", "--cache=~/features", "-q"], "new/probe.json"),
    "report": (["report", "~/run", "--out=~/new.html", "-q"], "new.html"),
    "train": (["train", "~/run/config.yaml", "out=~/new", "-q"], "new/student.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_written_is_in_the_home_folder(home, case):
    call, written = WRITTEN[case]
    call()
    assert (home / written).exists()


@pytest.mark.parametrize("case", READ)
def test_what_is_read_is_in_the_home_folder(home, case):
    assert READ[case]() is not None


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_in_the_home_folder(home, case):
    with pytest.raises(UsageError, match=str(home)):
        REFUSED[case]()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_look_into_the_home_folder(home, command, capsys):
    arguments, written = COMMANDS[command]
    assert main(arguments) == 0, capsys.readouterr().err
    assert (home / written).exists()


def test_every_public_function_that_takes_a_path_is_tried():
    functions = {name: getattr(contrastill, name) for name in contrastill.__all__}
    taking = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        for parameter in inspect.signature(function).parameters.values()
        if "Path" in str(parameter.annotation) or "Like" in str(parameter.annotation)
    }
    assert taking <= {*WRITTEN, *READ, *REFUSED}
