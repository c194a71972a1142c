"""The GPU check, rehearsed on a CPU: what it would run on a GPU runs, small."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def parts():
    spec = importlib.util.spec_from_file_location("gpu_parts", BENCHMARKS / "gpu_parts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_loss_and_every_step_has_a_row(parts, capsys, monkeypatch):
    monkeypatch.setattr(parts, "COMPILE", (False,))
    parts.part_loss("cpu", True)
    losses = rows_of(capsys)
    assert {row["loss"] for row in losses} >= {"shared", "sampled", "all", "fresh whitened", "gathered"}
    parts.part_step("cpu", True)
    steps = rows_of(capsys)
    assert {(row["objective"], row["teacher"]) for row in steps} == {
        ("baseline", "none"),
        *((name, teacher) for name in ("kd", "crd", "fresh_crd") for teacher in ("live", "cached")),
    }
    assert all(row["ms"] > 0 and "failed" not in row for row in losses + steps)


def test_a_step_is_a_training_step(parts):
    """Each takes its teacher into account and changes the student."""
    for objective, cached in (("crd", True), ("fresh_crd", False)):
        transfer = parts.transfer_of(objective, cached, True, "cpu", 8, 32, 64)
        transfer(next(parts.batches_of("cpu", 8, 32, 64))).loss.backward()
        assert all(parameter.grad is not None for parameter in transfer.student.parameters())
        assert not any(parameter.requires_grad for teacher in transfer.teachers for parameter in teacher.parameters())


def test_rows_are_in_the_file_and_a_part_that_hangs_costs_its_own_alone(tmp_path):
    out = tmp_path / "rows.jsonl"
    call = [sys.executable, BENCHMARKS / "gpu.py", "--cpu-rehearsal", "--out", out]
    done = subprocess.run([*call, "--parts", "processes"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("loss") for row in rows] == ["all", "sampled", "fresh", None] and rows[-1]["ended"] == "complete"
    assert all(row["largest_difference_of_two_and_one"] < 1e-5 for row in rows[:-1])
    done = subprocess.run([*call, "--parts", "tests", "--patience", "0.0001"], capture_output=True, text=True)
    assert done.returncode == 1 and "tests: time limit after" in done.stdout
    assert "| sampled |" in subprocess.run([*call, "--table"], capture_output=True, text=True).stdout


def test_a_rank_that_a_signal_ends_is_told_and_tried_once_more(parts, tmp_path, monkeypatch):
    rank = "import os, pathlib, signal, sys\nmark = pathlib.Path(sys.argv[3], 'mark')\nif sys.argv[1] == '1' {}:\n"
    kill = "    mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    monkeypatch.setattr(parts, "HERE", tmp_path)
    (tmp_path / "gpu_rank.py").write_text(rank.format("and not mark.exists()") + kill)
    (crash,) = parts.ended_ranks(2, str(tmp_path), "cpu")
    assert "rank 1 of 2, exit code -9" in crash
    assert parts.ended_ranks(2, str(tmp_path), "cpu") == []
    (tmp_path / "gpu_rank.py").write_text(rank.format("") + kill)
    with pytest.raises(SystemExit, match="rank 1 of 2, exit code -9"):
        parts.ended_ranks(2, str(tmp_path), "cpu")


def test_a_rank_that_fails_is_not_tried_again(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "HERE", tmp_path)
    (tmp_path / "gpu_rank.py").write_text("import sys\nopen(sys.argv[3] + '/tries', 'a').write('x')\nsys.exit('why')\n")
    with pytest.raises(SystemExit, match="rank 0 of 1, exit code 1: why"):
        parts.ended_ranks(1, str(tmp_path), "cpu")
    assert (tmp_path / "tries").read_text() == "x"
