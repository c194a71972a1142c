"""``contrastill doctor``: what it finds where all is well, and where a training would be stopped."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from contrastill.cli.main import main
from contrastill.evaluation import environment_checks
from contrastill.evaluation.environment import EnvironmentReport, check_environment


def findings(capsys, *arguments):
    code = main(["doctor", *map(str, arguments), "--json"])
    report = json.loads(capsys.readouterr().out)
    rows = report["findings"]
    assert code == (1 if report["problems"] else 0)
    assert report["problems"] == sum(row["mark"] == "problem" for row in rows)
    assert all(row["mark"] in environment_checks.MARKS and (row["mark"] == "ok" or row["message"]) for row in rows)
    return {(row["subject"], row["name"]): row for row in rows}


def test_all_is_well_here(four_classes, capsys):
    rows = findings(capsys, four_classes)
    assert {subject for subject, _ in rows} == {
        "versions",
        "extras",
        "devices",
        "environment",
        "room",
        "configs",
        "weights",
        "data",
    }
    messages = {key: finding["message"] for key, finding in rows.items()}
    assert messages["versions", "torch"] == metadata.version("torch")
    assert messages["versions", "python"].startswith(sys.version.split()[0])
    assert messages["data", str(four_classes)] == "test 16 (rgb 16×16×3, 4 classes), train 48 (rgb 16×16×3, 4 classes)"
    assert not [finding for finding in rows.values() if finding["mark"] == "problem"]


def test_data_that_would_stop_a_training(four_classes, tmp_path, capsys):
    cut = tmp_path / "cut.h5"
    cut.write_bytes(four_classes.read_bytes()[:3000])
    (tmp_path / "empty").mkdir()
    rows = findings(capsys, cut, tmp_path / "nothing.h5", tmp_path / "empty", "romms:x")
    messages = {name: finding["message"] for (subject, name), finding in rows.items() if subject == "data"}
    assert "truncated" in messages[str(cut)] and "does not exist" in messages[str(tmp_path / "nothing.h5")]
    assert "no known layout" in messages[str(tmp_path / "empty")] and "did you mean rooms" in messages["romms:x"]


def test_old_and_missing_packages_are_problems_with_the_way_out(monkeypatch):
    own = {"torch": "2.4.1", "timm": None, "h5py": "3.99.dev1"}
    monkeypatch.setattr(environment_checks, "installed", lambda name: own.get(name, "1000"))
    findings_by_name = {finding.name: finding for finding in environment_checks.versions() if finding.mark == "problem"}
    assert (
        findings_by_name["torch"].message == "2.4.1, and contrastill needs >=2.5"
        and findings_by_name["torch"].advice == "pip install --upgrade 'torch>=2.5'"
    )
    assert findings_by_name["timm"].message == "is not installed" and "h5py" not in findings_by_name


def test_packages_that_do_not_fit_each_other(monkeypatch):
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda name: (
            ['torch==2.0.0 ; python_version >= "3"', 'torch==1 ; extra == "old"'] if name == "torchvision" else []
        ),
    )
    (finding,) = [finding for finding in environment_checks.versions() if finding.mark == "problem"]
    assert finding.name == "torchvision" and "needs torch==2.0.0, and " in finding.message


def test_the_environment_is_shown_and_secrets_are_not(monkeypatch):
    for name, value in {
        "OMP_WAIT_POLICY": "active",
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_abc",
        "CONTRASTILL_DATA": "here",
    }.items():
        monkeypatch.setenv(name, value)
    findings_by_name = {finding.name: finding for finding in environment_checks.environment()}
    assert (
        findings_by_name["OMP_WAIT_POLICY"].mark == "note" and "passive" in findings_by_name["OMP_WAIT_POLICY"].advice
    )
    assert (
        "pretrained" in findings_by_name["HF_HUB_OFFLINE"].message
        and findings_by_name["HF_TOKEN"].message == "(set)"
        and findings_by_name["CONTRASTILL_DATA"].message == "here"
    )


def test_little_room_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    usage = environment_checks.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        environment_checks.shutil, "disk_usage", lambda _: usage._replace(total=64_000_000, free=30_000_000)
    )
    findings_by_name = {finding.name: finding for finding in environment_checks.room()}
    assert findings_by_name["disk"].mark == "problem" and findings_by_name["disk"].message.startswith("30 MB free")
    if Path("/dev/shm").is_dir():
        assert (
            findings_by_name["shared memory"].mark == "note"
            and "data.workers=0" in findings_by_name["shared memory"].advice
        )


def test_a_damaged_shipped_config(monkeypatch, tmp_path):
    from contrastill.core.config import loading as config

    (tmp_path / "broken.yaml").write_text("a: [1")
    monkeypatch.setattr(config, "configs_folder", lambda: tmp_path)
    (finding,) = environment_checks.configs()
    assert finding.mark == "problem" and finding.name == "broken" and "cannot be read" in finding.message


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("driver\nshell")

    broken.__name__ = "devices"
    monkeypatch.setattr(environment_checks, "devices", broken)
    (finding,) = [finding for finding in check_environment().findings if finding.mark == "problem"]
    assert finding.message == "could not be looked at: RuntimeError: driver shell"


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
    report = EnvironmentReport(
        tuple(
            environment_checks.Finding("room", "disk", mark, f"state {mark}", "the way out")
            for mark in environment_checks.MARKS
        )
    )
    monkeypatch.setattr("contrastill.evaluation.environment.check_environment", lambda data: report)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["ok", "note", "problem"] and lines[3] == "1 problem, 1 note"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["doctor"]) == 1
    drawn = capsys.readouterr().out
    assert all(mark in drawn for mark in environment_checks.MARKS) and "state problem" in drawn
