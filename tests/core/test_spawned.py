"""A spawned process: its exit code, its log, the variables of the process that started it, and its end with that."""

import os
import select
import subprocess
import sys

import pytest

from contrastill.core.errors import ContrastillError
from contrastill.core.spawned import exit_code_of, start_process
from contrastill.evaluation.benchmark import train_quietly


def test_a_failed_training_leaves_its_error_in_the_log(tmp_path):
    before = dict(os.environ)
    log = tmp_path / "run.log"
    log.write_text("an earlier attempt\n")
    environment = {**before, "OMP_NUM_THREADS": "1", "NEW_VARIABLE": "x"}
    process = start_process(train_quietly, ("nowhere", []), log, environment)
    assert dict(os.environ) == before
    process.join()
    first, *_, last = log.read_text().splitlines()
    assert process.exitcode == 2 and first == "an earlier attempt"
    assert last.startswith("config 'nowhere' is neither a file nor a shipped config")


def test_exit_codes_are_those_of_the_command_line(capsys):
    def fail(error):
        def call():
            raise error

        return call

    assert exit_code_of(lambda: None, ()) == 0
    assert exit_code_of(fail(ContrastillError("the disk\nis full")), ()) == 1
    assert capsys.readouterr().err == "the disk is full\n"
    assert exit_code_of(fail(RuntimeError("out of memory")), ()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == "RuntimeError: out of memory"


_STARTER = """
import os, signal, sys
from pathlib import Path
from contrastill.core.spawned import start_process
process = start_process(signal.pause, (), Path(sys.argv[1]), {})
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="asks Linux whether a process that is no child has ended")
def test_it_ends_when_the_process_that_started_it_is_killed(forked, tmp_path):
    starter = forked("starter", tmp_path / "log", script=_STARTER)
    assert starter.wait(60) == -9
    try:
        descriptor = os.pidfd_open(int(starter.output.read_text()))
    except ProcessLookupError:  # it has ended already
        return
    try:
        assert select.select([descriptor], [], [], 60)[0], "it still runs"
    finally:
        os.close(descriptor)


_UNGUARDED = """
import sys
from contrastill import run_benchmark
run_benchmark("cifar100", data=sys.argv[1], pairs=["resnet14:resnet8"], objectives=["kd"], seeds=1, out=sys.argv[2],
              overrides={"train.epochs": 1, "train.batch_size": 16})
"""


def test_a_script_that_calls_it_without_a_guard_gets_one_sentence(four_classes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    command = [sys.executable, script, four_classes, tmp_path / "out"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = answer.stderr.strip().splitlines()
    assert answer.returncode == 1 and 'put the call under if __name__ == "__main__":' in lines[-1]
    # The caller's own traceback alone.
    assert sum(line.startswith("Traceback") for line in lines) == 1 and "FileNotFoundError" not in answer.stderr
