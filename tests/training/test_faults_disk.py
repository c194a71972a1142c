"""A disk that runs full while a run is written: a clear error, nothing half-written, and the run goes on once there is
room.
"""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from contrastill.cli.main import main
from contrastill.core.atomic import write_text
from contrastill.core.full_disk import FullDisk, room_for
from contrastill.core.run import Run
from contrastill.training import checkpoint
from contrastill.training import run as run_module
from contrastill.training.checkpoint import Position, Snapshot, checkpoints, load_newest, save_checkpoint

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def _snapshot(step, size=100_000):
    generator = torch.Generator().manual_seed(step)
    return Snapshot(
        Position(step=step), {"a": torch.randn(size, generator=generator)}, {"state": {}, "param_groups": []}
    )


def _everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_checkpoint_without_room_leaves_the_last_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, _snapshot(1), keep=2)
    before, calls = _everything(tmp_path), []
    save_file = checkpoint.save_file

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 3:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    message = (
        rf"checkpoint step-00000002 could not be written to {tmp_path} \(No space left on device\): 0.4 MB are "
        r"needed and .* are free; "
    )
    with pytest.raises(
        FullDisk, match=message + rf"the last checkpoint, {tmp_path}/step-00000001, is intact: make room"
    ) as caught:
        save_checkpoint(tmp_path, _snapshot(2), keep=2)
    assert caught.value.exit_code == 1 and _everything(tmp_path) == before
    assert load_newest(tmp_path).model["a"].equal(_snapshot(1).model["a"])
    save_checkpoint(tmp_path, _snapshot(2), keep=2)
    assert load_newest(tmp_path).position.step == 2


def test_other_errors_of_writing_are_not_called_a_full_disk(tmp_path):
    for error in (OSError(errno.EIO, "Input/output error"), SafetensorError("header too large"), ValueError("other")):
        with pytest.raises(type(error)) as caught, room_for("it", tmp_path, tmp_path):
            raise error
        assert caught.value is error


def test_a_row_is_written_whole_or_not_at_all(tmp_path):
    """A limit on the size of files, which the system enforces: the row that passes it is written in part."""
    script = """
import resource, signal, sys
from contrastill.core.full_disk import FullDisk
from contrastill.core.run import Run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))
run = Run(sys.argv[1])
run.log({"epoch": 0, "a": "x" * 150})
try:
    run.log({"epoch": 1, "a": "y" * 150})
except FullDisk as error:
    print(error)
    run.log({"epoch": 2})
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert re.match(
        r"a row of metrics.jsonl could not be written to .* \(File too large\): 0.2 kB are needed and", done.stdout
    )
    assert "no checkpoint was written yet" in done.stdout
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").open()] == [0, 2]


def test_a_text_without_room_stays_as_it_was(tmp_path, monkeypatch):
    old = "# old\ntrain: {}\n"
    write_text(tmp_path / "config.yaml", old)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")))
    with pytest.raises(FullDisk, match=r"config.yaml could not be written to .* \(Disk quota exceeded\)"):
        Run(tmp_path).claim("train: {}")
    assert _everything(tmp_path) == ["config.yaml"] and (tmp_path / "config.yaml").read_text() == old


def test_a_training_without_room_says_so_and_goes_on_with_room(
    four_classes, files_up_to, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    command = [
        "train",
        "teachers/cifar100",
        f"data.path={four_classes}",
        "student.model=resnet8",
        "train.epochs=1",
        "train.batch_size=16",
        f"out={out}",
        "-q",
    ]

    def refused(says):
        message = capsys.readouterr().err
        assert re.search(
            rf"^contrastill: {says} could not be written to {out}.* are needed and .* are free; ", message, re.MULTILINE
        ), message
        assert (
            not [name for name in _everything(out) if name.endswith(".tmp") or name == "student.safetensors"]
            and "Traceback" not in message
        )
        return message

    with files_up_to(200_000):
        assert main(command) == 1
    assert "no checkpoint was written yet" in refused("checkpoint step-00000003") and not checkpoints(
        out / "checkpoints"
    )
    save = run_module.save_student

    def save_limited(*arguments):
        with files_up_to(100_000):
            save(*arguments)

    monkeypatch.setattr(run_module, "save_student", save_limited)
    assert main(command) == 1
    assert f"the last checkpoint, {out}/checkpoints/step-00000003, is intact" in refused("student.safetensors")
    monkeypatch.undo()
    assert main(command) == 0 and load_file(out / "student.safetensors")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.name != "posix"
        or os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system needs root and mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(small_disk):
    run = Run(small_disk)
    run.claim("train: {}")
    save_checkpoint(run.checkpoints, _snapshot(1, 50_000), keep=1)
    (small_disk / "other").write_bytes(bytes(300_000))
    with pytest.raises(
        FullDisk, match=r"step-00000002 .*: 0.2 MB are needed and [\d.]+ kB are free; .*step-00000001, is intact"
    ):
        save_checkpoint(run.checkpoints, _snapshot(2, 50_000), keep=1)
    free = os.statvfs(small_disk).f_bavail * 4096
    (small_disk / "rest").write_bytes(bytes(max(0, free)))
    with pytest.raises(FullDisk, match="a row of metrics.jsonl"):
        run.log({"epoch": 0, "text": "x" * 10_000})
    assert run.history() == [] and not list(small_disk.rglob("*.tmp"))
    for name in ("other", "rest"):
        (small_disk / name).unlink()
    save_checkpoint(run.checkpoints, _snapshot(2, 50_000), keep=1)
    run.log({"epoch": 0})
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000002"] and run.history() == [{"epoch": 0}]
