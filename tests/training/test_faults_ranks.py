"""A process of several that dies or hangs: the others stop in bounded time with a sentence, and one process alone may
go on.
"""

import os
import signal
import socket
import subprocess
import sys

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


def start(rank, port, arguments, number=0):
    """One of two processes that know of each other as under SLURM: no launcher ends the one when the other dies."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank),
                   "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    program = ["-c", SIGNALLED, str(int(number)), "5"] if number else ["-m", "contrastill"]
    return subprocess.Popen([sys.executable, *program, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_killed_process_stops_the_other_and_one_alone_goes_on(short_training, tmp_path, capsys):
    out, port = tmp_path / "two", free_port()
    processes = [start(rank, port, [*short_training, f"out={out}"], signal.SIGKILL if rank else 0) for rank in (0, 1)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert processes[1].returncode == -signal.SIGKILL
    assert processes[0].returncode == 1 and "Traceback" not in errors[0]
    assert (
        "contrastill: another process of this training ended: its own output says why; the same command goes on from"
        in errors[0]
    )
    assert checkpoints(out / "checkpoints")[-1].name == "step-00000004"
    # Another number of processes: batches are shared out anew, and a position is in batches of all.
    assert main([*short_training, f"out={out}"]) == 0
    assert [row["epoch"] for row in Run(out).history()] == list(range(3)) and Run(out).history()[-1]["step"] == 9


def test_a_process_that_hangs_is_given_up_after_the_timeout(short_training, tmp_path):
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
    errors = processes[0].communicate(timeout=120)[1]
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 1 and "Traceback" not in errors
    assert (
        "another process of this training sent nothing for train.timeout_minutes=0.1 minutes: raise it if a "
        "process may be busy" in errors
    )
