"""A training in a spawned process: its variables, its log, its exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ..core.errors import ContrastillError

Train = Callable[[str, Sequence[str]], object]
"""Takes a config and its overrides; a module's function, which a new process can import."""


def visible_devices() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them."""
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
        variables["OMP_NUM_THREADS"] = str(
            threads
            or max(
                1,
                len(os.sched_getaffinity(0)) // jobs
                if hasattr(os, "sched_getaffinity")
                else (os.cpu_count() or 1) // jobs,
            )
        )
    variables.setdefault("OMP_WAIT_POLICY", "passive")
    return variables


def start_process(
    train: Train, config: str, overrides: Sequence[str], log: Path, environment: Mapping[str, str]
) -> BaseProcess:
    """Start a training in a new process, whose output is appended to a log.

    Args:
        train: Trains a config with overrides.
        config: Its config.
        overrides: Changes of it.
        log: The file.
        environment: The process's variables; they are there before torch is loaded.
    """
    process = get_context("spawn").Process(target=_child, args=(train, config, list(overrides), log))
    with _changed_environment(environment), _without_interrupts():
        process.start()
    return process


def _child(train: Train, config: str, overrides: list[str], log: Path) -> None:
    """What the new process does; its exit code is that of the command line."""
    if hasattr(os, "setsid"):
        # In a session of its own: Ctrl-C on the terminal reaches the parent alone, which then passes it on once.
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(exit_code_of(train, config, overrides))


def exit_code_of(train: Train, config: str, overrides: list[str]) -> int:
    """Train; the exit code. The last line on standard error is the message of an error."""
    try:
        train(config, overrides)
    except ContrastillError as error:
        print(" ".join(str(error).split()), file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


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
