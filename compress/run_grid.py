"""Runs the trainings of a benchmark, each in a spawned process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..core.config.loading import load_config, to_yaml
from ..core.config.schema import RunConfig
from ..core.data_facts import compared_facts
from ..core.errors import ContrastillError, Stopped, UsageError
from ..core.representation import Network
from ..core.run import Run
from ..core.run_data import compared_splits
from ..core.run_weights import WeightsRecord
from ..core.spawned import Call, check_guarded, environment_of, last_line, start_process, stopping, visible_devices
from ..models.build import build_network
from .benchmark import Training
from .grid_data import facts_of, forget
from .grid_rows import Correct, other_teacher, row_of
from .results import append_row, key_of, read_rows

_POLL_SECONDS = 0.2


def finished(run: Run) -> bool:
    """Whether a training has ended: its student and its last epoch's accuracy are there."""
    history = run.history()
    return run.finished and bool(history) and "top1" in history[-1]


def check(trainings: Sequence[Training]) -> None:
    """Read every config before anything is trained, and hold it against what is in its folder already.

    Raises:
        UsageError: A key, a name or a value that is not allowed, or a folder with a run of other settings, data or
            teacher.
    """
    forget()  # the file may be another since an earlier call
    networks: dict[tuple[str, str | None], Network] = {}
    for training in trainings:
        exists = Run(training.out).config.is_file()
        if training.seed == 0 or exists:
            config = load_config(training.config, training.overrides)
        if exists:
            Run(training.out).claim(to_yaml(config))
            _check_data(Run(training.out), config)
            _check_teacher(Run(training.out), config, networks)


def _check_data(run: Run, config: RunConfig) -> None:
    """Refuse other data: differences between trainings are paired by test images."""
    for split, before in run.data_facts().items():
        if split not in compared_splits(config.train.validation):
            continue
        if before != compared_facts(before, facts_of(config.data, split)):
            raise UsageError(
                f"the data in {config.data.path} changed since {run.path} was trained ({split} differs), and trainings "
                "on other data do not compare: put the former data back, or choose another --out"
            )


def _check_teacher(run: Run, config: RunConfig, networks: dict[tuple[str, str | None], Network]) -> None:
    """Refuse another teacher under the same path: the trainings of a cell have one, and the table shows its accuracy.

    Args:
        run: Of the training.
        config: Its config.
        networks: Teachers that were built for other trainings, by model and weights.
    """
    for entry in config.teachers:
        if entry.weights is None or not (Path(entry.weights).is_file() or Run(entry.weights).finished):
            continue  # a teacher of the grid is trained again
        key = entry.model, entry.weights
        if key not in networks:
            networks[key] = build_network(entry.model, weights=entry.weights)
        if not WeightsRecord(run).is_teacher(0, networks[key].module):
            raise UsageError(
                f"the teacher in {entry.weights} changed since {run.path} was trained, and trainings from other "
                "teachers do not compare: put the former one back, or choose another --out"
            )


class Grid:
    """Trainings side by side.

    Args:
        trainings: In the order to begin them; a student waits for its teacher.
        results: File of rows.
        train: Trains a config with overrides; a module's function, which a new process can import.
        correct: Measures a finished run.
        jobs: Trainings at a time.
        threads: Of each on the CPU; None shares the cores out.
        say: Told a line of progress.

    Attributes:
        failed: Name of each training that failed, and the last line of its error.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        results: Path,
        train: Call,
        correct: Correct,
        *,
        jobs: int = 1,
        threads: int | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.results, self.say, self.jobs, self._train, self._correct = results, say, jobs, train, correct
        self.failed: dict[str, str] = {}
        self._environment = environment_of(jobs, threads)
        self._devices = visible_devices()
        self._running: dict[int, tuple[Training, BaseProcess]] = {}
        self._rows = read_rows(results)
        self._teachers: dict[Path, str | None] = {}
        self._waiting = [training for training in trainings if not finished(Run(training.out))]
        self._unread = [
            training for training in trainings if finished(Run(training.out)) and training.key not in self._rows
        ]
        self._total, self._old = len(trainings), len(trainings) - len(self._waiting)
        self._left, self._began, self._done = len(self._waiting), time.monotonic(), 0

    def run(self) -> None:
        """Train what is missing and write the row of each; nothing is raised for a training that fails.

        Raises:
            Stopped: Asked to stop; the trainings under way stopped too, and wrote a checkpoint each.
        """
        self.say(
            f"{self._total} training{'s' * (self._total > 1)}, {self._old} finished before"
            + (f", {self.jobs} at a time" if self._waiting and self.jobs > 1 else "")
        )
        for training in self._unread:  # their row was lost, or never written
            self._read(training)
        with stopping():
            try:
                while self._waiting or self._running:
                    self._begin()
                    ended = self._ended()
                    self._begin()  # what comes next trains while these are measured
                    for training, code in ended:
                        self._end(training, code)
                    if not ended:
                        time.sleep(_POLL_SECONDS)
            finally:
                self._stop()

    def _begin(self) -> None:
        """Start trainings in the free places."""
        for training in list(self._waiting):
            place = next((place for place in range(self.jobs) if place not in self._running), None)
            if place is None:
                return
            if training.after and Run(training.after).finished and (reason := self._changed(training)):
                self.failed[training.name] = reason
                self._waiting.remove(training)
                self._left -= 1
                continue
            if training.after and not Run(training.after).finished:
                if any(
                    other_training.out == training.after
                    for other_training in [*self._waiting, *(other for other, _ in self._running.values())]
                ):
                    continue
                self.failed[training.name] = f"its teacher in {training.after} was not trained"
                self._waiting.remove(training)
                self._left -= 1
                continue
            self._waiting.remove(training)
            self._running[place] = training, self._start(training, place)

    def _changed(self, training: Training) -> str | None:
        """What is wrong where the teacher, trained again, is another than that of earlier students."""
        assert training.after is not None, "it has a teacher"
        if training.after not in self._teachers:
            name = training.pair.partition(":")[0]
            self._teachers[training.after] = other_teacher(self._rows, name, training.after)
        return self._teachers[training.after]

    def _start(self, training: Training, place: int) -> BaseProcess:
        training.out.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(self._environment)
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[place % len(self._devices)]
        return start_process(self._train, (training.config, training.overrides), _log(training), environment)

    def _ended(self) -> list[tuple[Training, int]]:
        ended = [
            (place, training, process.exitcode)
            for place, (training, process) in self._running.items()
            if process.exitcode is not None
        ]
        for place, _, _ in ended:
            del self._running[place]
        return [(training, code) for _, training, code in ended]

    def _end(self, training: Training, code: int) -> None:
        check_guarded(code)
        self._done, self._left = self._done + 1, self._left - 1
        if code:
            self.failed[training.name] = last_line(_log(training)) or f"exit code {code}"
            self.say(f"failed: {training.name}: {self.failed[training.name]}")
        else:
            row = self._read(training)
            if row is not None:
                self.say(f"{training.name}: {row['top1']:.2f} % in {row['seconds']:.0f} s; {self._outlook()}")

    def _read(self, training: Training) -> dict[str, Any] | None:
        """Measure a finished run and write its row."""
        try:
            row = row_of(training, self._correct)
        except ContrastillError as error:
            self.failed[training.name] = str(error)
            return None
        append_row(self.results, row)
        self._rows[key_of(row)] = row
        return row

    def _outlook(self) -> str:
        """How many trainings are to come, and roughly how long they take."""
        if not self._left:
            return "none left"
        seconds = (time.monotonic() - self._began) / self._done * self._left
        rough = (
            f"{seconds:.0f} s"
            if seconds < 90
            else f"{seconds / 60:.0f} min"
            if seconds < 5400
            else f"{seconds / 3600:.1f} h"
        )
        return f"{self._left} left, about {rough}"

    def _stop(self) -> None:
        """Ask what still runs to stop, and wait until it has saved itself."""
        for _, process in self._running.values():
            process.terminate()
        try:
            for _, process in self._running.values():
                process.join()
        except Stopped:  # asked a second time
            for _, process in self._running.values():
                process.kill()
                process.join()
            raise


def _log(training: Training) -> Path:
    return training.out.with_name(f"{training.out.name}.log")
