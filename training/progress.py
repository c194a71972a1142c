"""What a person sees while a training runs: a bar on a terminal, elsewhere one line per epoch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from ..core.config.schema import TrainConfig
from ..core.data import Loader
from ..core.metric_names import METRICS, headline
from ..core.transfer import Transfer
from .optimizer import rate_notes

_SHOWN = 4
"""Parameters that a line names."""


class _SamplesPerSecond(ProgressColumn):
    """Throughput over the last steps."""

    def __init__(self, samples_per_batch: float) -> None:
        super().__init__()
        self._samples_per_batch = samples_per_batch

    def render(self, task: Task) -> Text:
        speed = task.speed * self._samples_per_batch if task.speed else 0
        return Text(f"{speed:,.0f} samples/s" if speed else "", style="cyan")


class Progress:
    """Progress of a whole training, in batches, with throughput and the time that is left.

    Args:
        epochs: Epochs in all.
        batches: Batches of an epoch.
        samples: Samples of an epoch.
        enabled: False draws and prints nothing.
    """

    def __init__(self, epochs: int, batches: int, samples: int, *, enabled: bool) -> None:
        console = Console(file=sys.stderr)
        self._enabled, self._epochs, self._batches = enabled, epochs, batches
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            _SamplesPerSecond(samples / max(1, batches)),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console, disable=not enabled or not console.is_terminal, transient=True,
        )  # fmt: skip
        self._console = console
        self._task = self._bar.add_task(f"epoch 1/{epochs}", total=epochs * batches)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def announce(self, line: str) -> None:
        """Print what is about to be trained."""
        if self._enabled:
            self._console.print(line, highlight=False, soft_wrap=True)

    def start_at(self, epoch: int, batch: int) -> None:
        """Say where a training goes on."""
        self._bar.update(
            self._task,
            completed=epoch * self._batches + batch,
            description=f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}",
        )
        if self._enabled and (epoch or batch) and epoch < self._epochs:
            self._console.print(f"going on at epoch {epoch + 1}/{self._epochs}, batch {batch + 1}/{self._batches}")

    def advance(self) -> None:
        """One more batch is done."""
        self._bar.advance(self._task)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        if self._enabled:
            measured = accuracy_text(row)
            accuracy = f"  {measured}" if measured else ""
            self._console.print(
                f"epoch {row['epoch'] + 1}/{self._epochs}  loss {row['loss']:.4f}{accuracy}  lr {row['lr']:.3g}  "
                f"{row['samples_per_second']:,.0f} samples/s",
                highlight=False,
            )
        self._bar.update(self._task, description=f"epoch {min(row['epoch'] + 2, self._epochs)}/{self._epochs}")


def accuracy_text(row: Mapping[str, Any]) -> str:
    """The accuracy on the test split in a row of metrics.jsonl: ``top-1 71.20 %``; empty where there is none."""
    key = headline(row)
    return "" if key is None else f"{METRICS[key]} {row[key]:.2f} %"


def announcement(transfer: Transfer, train: Loader, config: TrainConfig, epochs: int) -> str:
    """What is trained, for how long, at which rate, in one line; below it what was matched or chosen for the user."""
    usual = type(config).model_fields["batch_size"].default
    batches = "" if config.batch_size == usual else f"batches of {config.batch_size}, "
    rate = f"{config.optimizer}, {batches}learning rate {config.lr:g}, {config.schedule}"
    rate += "" if config.ema is None else f", weights averaged with decay {config.ema:g}"
    notes = (*transfer.remarks, *transfer.details, *rate_notes(transfer, config), *_unread_note(transfer))
    remarks = "".join(f"\n{note}" for note in notes)
    return f"{transfer}: {epochs} epoch{'s' * (epochs > 1)} of {train.num_samples:,} samples; {rate}{remarks}"


def _unread_note(transfer: Transfer) -> list[str]:
    """A line about the student's parameters that do not train, as no objective reads them."""
    if not (names := transfer.unread_names):
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [
        f"not trained: {', '.join(names[:_SHOWN])}{more} of the student, as no objective reads what depends on them"
    ]
