"""A grid of trainings that goes on where it stopped: each finished cell is a JSON row of a file, and a second call
makes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def parser(description: str, grids: Collection[str], runs: str) -> argparse.ArgumentParser:
    """The arguments that every grid has."""
    arguments = argparse.ArgumentParser(description=description.splitlines()[0])
    arguments.add_argument("grid", choices=grids)
    arguments.add_argument("--runs", default=runs)
    arguments.add_argument("--jobs", type=int, default=1, help="cells at a time")
    arguments.add_argument("--threads", type=int, default=1, help="threads of each")
    arguments.add_argument("--seeds", type=int, default=3, help="at most so many seeds a cell")
    arguments.add_argument("--cells", nargs="*", help="only these")
    arguments.add_argument("--table", action="store_true", help="print the table and train nothing")
    return arguments


def rows_of(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Finished rows by cell and seed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return {(row["cell"], row["seed"]): row for row in rows}


def called(command: list[str], threads: int, log: Path | None = None) -> str:
    """What a command of the package prints, see :func:`timed`."""
    return timed(command, threads, log)[0]


def timed(command: list[str], threads: int, log: Path | None = None) -> tuple[str, float]:
    """What a command of the package prints, and the user and system seconds of its processes, which other work on the
    machine changes little. It ends the grid where it fails; its standard error goes to ``log``, if given.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with open(log or os.devnull, "a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors if log else None,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        with process.stdout as output:
            answer = output.read()
        # Its own usage and that of the processes it waited for, which communicate() does not give.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}{f', see {log}' if log else ''}")
    return answer, usage.ru_utime + usage.ru_stime


def fill(
    results: Path,
    seeds: Mapping[str, int],
    make: Callable[[str, int], dict[str, Any]],
    summary: Callable[[dict[str, Any]], str],
    *,
    jobs: int,
) -> None:
    """Make the rows that a file lacks.

    Args:
        results: The file of rows.
        seeds: Cell -> how many seeds of it; one of every cell is made before the second of any.
        make: Cell and seed -> its row.
        summary: What is printed of a row.
        jobs: Cells at a time.
    """
    results.parent.mkdir(exist_ok=True)

    def work(job: tuple[str, int]) -> None:
        if job not in rows_of(results):
            row = make(*job)
            with open(results, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['cell']}-{row['seed']}: {summary(row)}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(
            pool.map(
                work,
                [
                    (cell, seed)
                    for seed in range(max(seeds.values(), default=0))
                    for cell, most in seeds.items()
                    if seed < most
                ],
            )
        )
