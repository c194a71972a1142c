"""A training in a spawned process: its exit code, its log, and the variables of the process that started it."""

import os

from contrastill.compress.training_process import exit_code_of, start_process
from contrastill.core.errors import ContrastillError
from contrastill.evaluation.benchmark import train_quietly


def test_a_failed_training_leaves_its_error_in_the_log(tmp_path):
    before = dict(os.environ)
    log = tmp_path / "run.log"
    log.write_text("an earlier attempt\n")
    process = start_process(train_quietly, "nowhere", [], log, {**before, "OMP_NUM_THREADS": "1", "NEW_VARIABLE": "x"})
    assert dict(os.environ) == before
    process.join()
    first, *_, last = log.read_text().splitlines()
    assert process.exitcode == 2 and first == "an earlier attempt"
    assert last.startswith("config 'nowhere' is neither a file nor a shipped config")


def test_exit_codes_are_those_of_the_command_line(capsys):
    def fail(error):
        def train(config, overrides):
            raise error

        return train

    assert exit_code_of(lambda config, overrides: None, "config", []) == 0
    assert exit_code_of(fail(ContrastillError("the disk\nis full")), "config", []) == 1
    assert capsys.readouterr().err == "the disk is full\n"
    assert exit_code_of(fail(RuntimeError("out of memory")), "config", []) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == "RuntimeError: out of memory"
