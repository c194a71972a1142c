"""A process of several that dies or hangs: the others stop in bounded time with a sentence, and one process alone may
go on.
"""

import signal
import socket

import pytest

from contrastill.cli.main import main
from contrastill.core.run import Run
from contrastill.training.checkpoint import checkpoints

# Runs a command and signals itself after an optimiser step.
SIGNALLED = """
import os, sys
from contrastill.cli.main import main
from contrastill.training import engine
step, calls, number, at = engine._Training._step, [], int(sys.argv[1]), int(sys.argv[2])
def signalled(*arguments):
    step(*arguments)
    calls.append(1)
    if len(calls) == at:
        os.kill(os.getpid(), number)
engine._Training._step = signalled
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture
def start(forked):
    """One of two processes that know of each other as under SLURM: no launcher ends the one when the other dies."""

    def process(rank, port, arguments, number=0):
        environment = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        environment = {name: str(value) for name, value in environment.items()}
        if number:
            return forked(int(number), 5, *arguments, script=SIGNALLED, environment=environment)
        return forked(*arguments, environment=environment)

    return process


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_killed_process_stops_the_other_and_one_alone_goes_on(short_training, tmp_path, start):
    out, port = tmp_path / "two", free_port()
    processes = [start(rank, port, [*short_training, f"out={out}"], signal.SIGKILL if rank else 0) for rank in (0, 1)]
    assert [process.wait(120) for process in processes] == [1, -signal.SIGKILL]
    errors = processes[0].errors.read_text()
    assert "Traceback" not in errors
    assert (
        "contrastill: another process of this training ended: its own output says why; the same command goes on from"
        in errors
    )
    assert checkpoints(out / "checkpoints")[-1].name == "step-00000004"
    # Another number of processes: batches are shared out anew, and a position is in batches of all.
    assert main([*short_training, f"out={out}"]) == 0
    assert [row["epoch"] for row in Run(out).history()] == list(range(3)) and Run(out).history()[-1]["step"] == 9


def test_a_process_that_hangs_is_given_up_after_the_timeout(short_training, tmp_path, start):
    port = free_port()
    processes = [
        start(
            rank,
            port,
            [*short_training, f"out={tmp_path / 'two'}", "train.timeout_minutes=0.1"],
            signal.SIGSTOP if rank else 0,
        )
        for rank in (0, 1)
    ]
    assert processes[0].wait(120) == 1
    processes[1].kill()
    errors = processes[0].errors.read_text()
    assert "Traceback" not in errors
    assert (
        "another process of this training sent nothing for train.timeout_minutes=0.1 minutes: raise it if a "
        "process may be busy" in errors
    )
