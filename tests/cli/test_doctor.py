"""``contrastill doctor``: what it finds where all is well, and where a training would be stopped."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from contrastill.cli.doctor import _findings
from contrastill.cli.main import main
from contrastill.evaluation import environment as checkup


def findings(capsys, *arguments):
    code = main(["doctor", *map(str, arguments), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == (1 if said["problems"] else 0) and said["problems"] == sum(
        one["mark"] == "problem" for one in said["findings"]
    )
    assert all(one["mark"] in checkup.MARKS and (one["mark"] == "ok" or one["said"]) for one in said["findings"])
    return {(one["subject"], one["name"]): one for one in said["findings"]}


def test_all_is_well_here(four_classes, capsys):
    found = findings(capsys, four_classes)
    assert {subject for subject, _ in found} == {
        "versions",
        "extras",
        "devices",
        "environment",
        "room",
        "configs",
        "weights",
        "data",
    }
    assert found["versions", "torch"]["said"] == metadata.version("torch") and found["versions", "python"][
        "said"
    ].startswith(sys.version.split()[0])
    assert (
        found["data", str(four_classes)]["said"]
        == "test 16 (rgb 16×16×3, 4 classes), train 48 (rgb 16×16×3, 4 classes)"
    )
    assert not [one for one in found.values() if one["mark"] == "problem"]


def test_data_that_would_stop_a_training(four_classes, tmp_path, capsys):
    cut = tmp_path / "cut.h5"
    cut.write_bytes(four_classes.read_bytes()[:3000])
    (tmp_path / "empty").mkdir()
    found = findings(capsys, cut, tmp_path / "nothing.h5", tmp_path / "empty", "romms:x")
    said = {name: one["said"] for (subject, name), one in found.items() if subject == "data"}
    assert "truncated" in said[str(cut)] and "does not exist" in said[str(tmp_path / "nothing.h5")]
    assert "no known layout" in said[str(tmp_path / "empty")] and "did you mean rooms" in said["romms:x"]


def test_old_and_missing_packages_are_problems_with_the_way_out(monkeypatch):
    own = {"torch": "2.4.1", "timm": None, "h5py": "3.99.dev1"}
    monkeypatch.setattr(checkup, "installed", lambda name: own.get(name, "1000"))
    found = {one.name: one for one in checkup.versions() if one.mark == "problem"}
    assert (
        found["torch"].said == "2.4.1, and contrastill needs >=2.5"
        and found["torch"].way == "pip install --upgrade 'torch>=2.5'"
    )
    assert found["timm"].said == "is not installed" and "h5py" not in found


def test_packages_that_do_not_fit_each_other(monkeypatch):
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda name: (
            ['torch==2.0.0 ; python_version >= "3"', 'torch==1 ; extra == "old"'] if name == "torchvision" else []
        ),
    )
    (found,) = [one for one in checkup.versions() if one.mark == "problem"]
    assert found.name == "torchvision" and "needs torch==2.0.0, and " in found.said


def test_the_environment_is_shown_and_secrets_are_not(monkeypatch):
    for name, value in {
        "OMP_WAIT_POLICY": "active",
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_abc",
        "CONTRASTILL_DATA": "here",
    }.items():
        monkeypatch.setenv(name, value)
    found = {one.name: one for one in checkup.environment()}
    assert found["OMP_WAIT_POLICY"].mark == "note" and "passive" in found["OMP_WAIT_POLICY"].way
    assert (
        "pretrained" in found["HF_HUB_OFFLINE"].said
        and found["HF_TOKEN"].said == "(set)"
        and found["CONTRASTILL_DATA"].said == "here"
    )


def test_little_room_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    usage = checkup.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda _: usage._replace(total=64_000_000, free=30_000_000))
    found = {one.name: one for one in checkup.room()}
    assert found["disk"].mark == "problem" and found["disk"].said.startswith("30 MB free")
    if Path("/dev/shm").is_dir():
        assert found["shared memory"].mark == "note" and "data.workers=0" in found["shared memory"].way


def test_a_damaged_shipped_config(monkeypatch, tmp_path):
    from contrastill.core.config import loading as config

    (tmp_path / "broken.yaml").write_text("a: [1")
    monkeypatch.setattr(config, "configs_folder", lambda: tmp_path)
    (found,) = checkup.configs()
    assert found.mark == "problem" and found.name == "broken" and "cannot be read" in found.said


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("driver\nshell")

    broken.__name__ = "devices"
    monkeypatch.setattr(checkup, "devices", broken)
    (found,) = [one for one in _findings([]) if one.mark == "problem"]
    assert found.said == "could not be looked at: RuntimeError: driver shell"


@pytest.mark.parametrize("setting", ["torch", "psutil"])
def test_a_package_that_cannot_be_imported_is_no_traceback(setting, tmp_path):
    (tmp_path / f"{setting}.py").write_text("raise OSError('libcudart.so.99: cannot open shared object file')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "from contrastill.cli.main import main; raise SystemExit(main(['doctor']))"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1 and not done.stderr and "libcudart.so.99" in done.stdout and "problem " in done.stdout


def test_marks_are_words_in_a_table_as_in_lines(capsys, monkeypatch):
    from contrastill.cli import doctor

    found = [checkup.Finding("room", "disk", mark, f"said {mark}", "the way out") for mark in checkup.MARKS]
    doctor._show(found)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["ok", "note", "problem"] and lines[3] == "1 problem, 1 note"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    doctor._show(found)
    drawn = capsys.readouterr().out
    assert all(mark in drawn for mark in checkup.MARKS) and "said problem" in drawn
