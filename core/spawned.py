"""A spawned process that works beside this one: its variables, its log, its exit code, and how both end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import current_process, get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .cores import available_cores
from .errors import ContrastillError, Stopped, UsageError

Call = Callable[..., object]
"""A module's function, which a new process can import."""
_STARTED, _RERUN = "CONTRASTILL_STARTED", 78
"""The variable of the processes that are started here, and the exit code of one that would start others as it reads the
caller's script.
"""


def visible_devices() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here, as what is started need not load it

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        [str(number) for number in range(torch.cuda.device_count())]
        if visible is None
        else [name.strip() for name in visible.split(",")]
    )
    return names[: torch.cuda.device_count()]


def environment_of(jobs: int, threads: int | None) -> Mapping[str, str]:
    """Variables of the trainings: the number of threads of each, which do not spin while they wait for work.

    Args:
        jobs: Trainings at a time.
        threads: Of each; None shares the cores.
    """
    variables = dict(os.environ)
    if threads is not None or "OMP_NUM_THREADS" not in variables:
        variables["OMP_NUM_THREADS"] = str(threads or max(1, available_cores() // jobs))
    variables.setdefault("OMP_WAIT_POLICY", "passive")
    return variables


def start_process(call: Call, args: Sequence[Any], log: Path, environment: Mapping[str, str]) -> BaseProcess:
    """Start a call in a new process, whose output is appended to a log.

    Args:
        call: Such as a training.
        args: Its arguments.
        log: The file.
        environment: The process's variables; they are there before torch is loaded.
    """
    process = get_context("spawn").Process(target=_child, args=(call, args, log))
    with _changed_environment({**environment, _STARTED: "1"}), _without_interrupts():
        process.start()
    return process


def leave_script() -> None:
    """End a new process that is still reading the caller's script, in which this call is not guarded: it would be made
    again in each.
    """
    if _STARTED in os.environ and getattr(current_process(), "_inheriting", False):
        sys.exit(_RERUN)


def check_guarded(code: int | None) -> None:
    """Complain where the exit code of a process says that it ended in :func:`leave_script`.

    Raises:
        UsageError: It does.
    """
    if code == _RERUN:
        raise UsageError(
            "a new process reads your script first, and came to this call again: put the call under if __name__ == "
            '"__main__":'
        )


def _child(call: Call, args: Sequence[Any], log: Path) -> None:
    """What the new process does; its exit code is that of the command line."""
    if hasattr(os, "setsid"):
        # In a session of its own: Ctrl-C on the terminal reaches the parent alone, which then passes it on once.
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(exit_code_of(call, args))


def _end_with_parent() -> None:
    """Ask this process to stop, so that a training saves itself, when the one that started it is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        signal.raise_signal(signal.SIGTERM)


def exit_code_of(call: Call, args: Sequence[Any]) -> int:
    """The exit code of a call. The last line on standard error is the message of an error."""
    try:
        call(*args)
    except ContrastillError as error:
        print(" ".join(str(error).split()), file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty without one."""
    if not log.is_file():  # the process ended before it came to open it
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def stopping() -> Iterator[None]:
    """Within it Ctrl-C, SIGTERM and a terminal that goes away end the work by an exception."""

    def stop(number: int, frame: object) -> None:
        raise Stopped("stopped: the same command goes on from the last checkpoints and trains what is missing", number)

    signals = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
    try:
        before = {number: signal.signal(number, stop) for number in signals}
    except ValueError:  # signals reach the main thread alone
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _changed_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """A new process inherits the variables of this one."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process started within ignores Ctrl-C until it says otherwise."""
    if os.name == "posix":
        resource_tracker.ensure_running()  # it lets signals through again as it starts
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # signals reach the main thread alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
