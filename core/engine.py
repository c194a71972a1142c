"""fit(): the only training loop. It never learns which objective, dataset or transfer it runs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from .checkpoint import Position, Snapshot, checkpoints, load_newest, random_state, save_checkpoint, set_random_state
from .compiled import compiled
from .errors import ContrastillError, Stopped, UsageError
from .preemption import StopRequest
from .progress import Progress
from .representation import Network
from .run import Run
from .schema import TrainConfig
from .transfer import Transfer, TransferOutput

log = logging.getLogger(__name__)


class Loader(Protocol):
    """What the loop asks of data: the batches of an epoch, from any batch on.

    ``epoch(k, start)`` yields the same batches whenever it is asked, so that a run can go on in the middle of one.
    """

    num_samples: int

    def __len__(self) -> int: ...

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]: ...


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        last: The last epoch's row of metrics.jsonl: ``epoch``, ``step``, ``lr``, ``loss``, each term, ``top1`` and
            ``top5`` in per cent on the test split, ``seconds``, ``samples_per_second``.
        history: All rows.
    """

    last: dict[str, Any]
    history: list[dict[str, Any]]


def fit(
    transfer: Transfer,
    train: Loader,
    test: Loader | None,
    config: TrainConfig,
    *,
    run: Run | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> FitResult:
    """Train the student and the objectives' heads; go on from the newest checkpoint if ``run`` has one.

    Args:
        transfer: Teachers, student, objectives.
        train: Training batches.
        test: Labelled test batches, or None.
        config: Epochs, optimiser, schedule, precision, checkpoints.
        run: Folder for metrics.jsonl and checkpoints; None keeps nothing.
        accelerator: Device, precision and processes; left out, Accelerate's defaults.
        progress: Whether to draw a bar, or on something that is no terminal a line an epoch.

    Raises:
        ContrastillError: The loss stopped being a number, or the checkpoint does not fit.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was written after the step under way.
    """
    accelerator = accelerator or Accelerator(mixed_precision={"fp32": "no"}.get(config.precision, config.precision))
    return _Training(transfer, train, test, config, run, accelerator, progress).fit()


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int, initial_epochs: int = 0) -> float:
    """The rate of optimiser step ``step`` (from 0): a function of the step alone, so a resumed run needs no scheduler state."""
    step -= initial_epochs * steps_per_epoch
    if step < 0:
        return config.initial_lr or config.lr
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= round(milestone * total) for milestone in config.milestones)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return config.lr


@torch.no_grad()
def evaluate(network: Network, loader: Loader, accelerator: Accelerator) -> dict[str, float]:
    """Top-1 and top-5 accuracy in per cent over all ranks, in eval mode; the training flag is put back."""
    training, metrics = network.training, {}
    network.eval()
    for batch in loader.epoch(0):
        with accelerator.autocast():
            logits = network(batch, frozenset({"logits"})).logits
        if not metrics:
            metrics = {
                f"top{k}": MulticlassAccuracy(logits.shape[1], top_k=k, average="micro", validate_args=False).to(logits.device)
                for k in (1, 5)
                if k < logits.shape[1]
            }
        for metric in metrics.values():
            metric.update(logits, batch["target"])
    network.train(training)
    return {name: 100 * metric.compute().item() for name, metric in metrics.items()}


class _Training:
    """The state of one call of :func:`fit`."""

    def __init__(
        self, transfer: Transfer, train: Loader, test: Loader | None, config: TrainConfig, run: Run | None, accelerator: Accelerator, progress: bool
    ) -> None:
        self.transfer, self.train, self.test = transfer.to(accelerator.device, memory_format=torch.channels_last), train, test
        self.config, self.run, self.accelerator = config, run, accelerator
        if config.initial_epochs and not transfer.initial_epochs:
            raise UsageError(f"train.initial_epochs={config.initial_epochs}, but none of {', '.join(transfer.terms)} has an initial stage: leave it out")
        self.initial_epochs = (config.initial_epochs or transfer.initial_epochs) if transfer.initial_epochs else 0
        self.epochs = self.initial_epochs + config.epochs
        # Teachers never change and objectives keep their own buffers (banks) equal on every rank: DDP must not broadcast rank 0's.
        ignored = [name for name, _ in [*transfer.named_parameters(), *transfer.named_buffers()] if name.startswith("teachers.")]
        ignored += [name for name, _ in transfer.named_buffers() if name.startswith("terms.")]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(transfer, ignored)
        self.position = Position()
        self.model: nn.Module | None = None
        self.running: dict[str, Tensor] = {}
        self.stop = StopRequest()
        self.progress = Progress(self.epochs, len(train), train.num_samples, enabled=progress and accelerator.is_main_process)

    @property
    def stage(self) -> str:
        """Of the epoch under way; after the last one still the training proper."""
        return "initial" if self.position.epoch < self.initial_epochs else "main"

    def _begin_stage(self) -> None:
        """Wrap the model and make an optimiser for what learns in the stage that the position is in."""
        self.transfer.train()
        self.transfer.enter(self.stage, {name: value[:2] for name, value in next(iter(self.train.epoch(0))).items()})
        if self.model is not None:  # of the stage before
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.accelerator.free_memory()
        self.model, self.optimizer = self.accelerator.prepare(self.transfer, _optimizer(self.transfer, self.config))

    def fit(self) -> FitResult:
        history = self._resume()
        with self.progress, self.stop, compiled(self.transfer) if self.config.compile else nullcontext():
            self.progress.start_at(self.position.epoch, self.position.batch)
            while self.position.epoch < self.epochs:
                history.append(self._epoch())
        return FitResult(last=history[-1] if history else {}, history=history)

    def _epoch(self) -> dict[str, Any]:
        """One epoch from the position on: its batches, its row, its checkpoint."""
        began, seen = time.perf_counter(), 0
        epoch, stage = self.position.epoch, self.stage
        for batch in self.train.epoch(epoch, self.position.batch):
            self._step(batch)
            seen += len(batch["index"])
            self.progress.advance()
            every = self.config.checkpoint_every_steps
            asked = self.stop.agreed(self.position.step, self.accelerator.device)
            if asked or (every and self.position.step % every == 0 and self.position.batch < len(self.train)):
                self._save()
            if asked:
                raise self._stopped()
        row = {"epoch": epoch, "step": self.position.step, "lr": self.optimizer.param_groups[0]["lr"], **self._means()}
        seconds = time.perf_counter() - began
        row |= {"seconds": round(seconds, 3), "samples_per_second": round(seen * self.accelerator.num_processes / seconds, 1)}
        last = epoch + 1 == self.epochs
        if stage == "initial":
            row["stage"] = stage
        elif self.test is not None and (last or (epoch + 1) % self.config.evaluate_every == 0):
            row |= evaluate(self.transfer.student, self.test, self.accelerator)
        if self.run and self.accelerator.is_main_process:
            self.run.log(row)
        self.accelerator.log({name: value for name, value in row.items() if name not in ("step", "stage")}, step=row["step"])
        self.position.epoch, self.position.batch, self.running = epoch + 1, 0, {}
        if self.stage != stage:
            self._begin_stage()
        if last or (epoch + 1) % self.config.checkpoint_every == 0:
            self._save()
        self.progress.end_epoch(row)
        return row

    def _step(self, batch: dict[str, Tensor]) -> None:
        """One optimiser step; nothing here waits for the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.position.step, len(self.train), self.initial_epochs)
        self.transfer.progress = (self.position.step / len(self.train) - self.initial_epochs) / self.config.epochs
        with self.accelerator.autocast():
            output: TransferOutput = self.model(batch)
        self.accelerator.backward(output.loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._accumulate(output, len(batch["index"]))
        self.position.batch += 1
        self.position.step += 1

    def _accumulate(self, output: TransferOutput, size: int) -> None:
        """Add the batch to the epoch's sums, on the device; remember the first step whose loss was no number."""
        loss = output.loss.detach()
        scalars = {"loss": loss, **output.terms, **output.logs}
        if not self.running:
            zero = torch.zeros((), dtype=torch.float64, device=loss.device)
            self.running = {name: zero.clone() for name in ("samples", "bad_step", *scalars)}
        for name, value in scalars.items():
            self.running[name] += value * size
        self.running["samples"] += size
        first_bad = ~torch.isfinite(loss) & (self.running["bad_step"] == 0)
        self.running["bad_step"] += torch.where(first_bad, float(self.position.step + 1), 0.0)

    def _means(self) -> dict[str, float]:
        """Means of the epoch under way over all ranks.

        Raises:
            ContrastillError: The loss was not a number at some step.
        """
        self._check_finite()
        sums = self.accelerator.reduce(
            torch.stack([*self.running.values()]).float() if self.accelerator.device.type == "mps" else torch.stack([*self.running.values()]), "sum"
        )
        values = dict(zip(self.running, sums.tolist(), strict=True))
        return {name: value / values["samples"] for name, value in values.items() if name not in ("samples", "bad_step")}

    def _check_finite(self) -> None:
        """Stop before anything that is no number is written."""
        if self.running and (bad := int(self.running["bad_step"].item())):
            terms = [name for name in self.transfer.terms if name in self.running and not math.isfinite(self.running[name].item())]
            raise ContrastillError(
                f"the loss is not a finite number since step {bad} (epoch {self.position.epoch}, objective {' and '.join(terms) or 'weights'}): "
                f"lower train.lr={self.config.lr} or the objective's weight; {self._kept()}"
            )

    def _kept(self) -> str:
        found = checkpoints(self.run.checkpoints) if self.run else []
        return f"{found[-1]} is from before" if found else "no checkpoint was written yet"

    def _stopped(self) -> Stopped:
        """The error that says where a training was stopped and how it goes on."""
        where = f"after epoch {self.position.epoch}, batch {self.position.batch}"
        kept = f"the checkpoint is in {self.run.checkpoints} and the same command goes on from it" if self.run else "nothing was kept, as it has no run folder"
        return Stopped(f"stopped by {self.stop.signal.name} {where}: {kept}", self.stop.signal)

    def _save(self) -> None:
        """Write a checkpoint (the main process alone)."""
        self._check_finite()
        if self.run is None or not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
        snapshot = Snapshot(self.position, self.transfer.trained_state(), self.optimizer.state_dict(), self.running, random_state(), scaler)
        save_checkpoint(self.run.checkpoints, snapshot, self.config.keep_checkpoints)

    def _resume(self) -> list[dict[str, Any]]:
        """Go on from the newest checkpoint, if there is one; returns the rows of the epochs done."""
        snapshot = load_newest(self.run.checkpoints) if self.run else None
        self.position = self.position if snapshot is None else snapshot.position
        self._begin_stage()
        if snapshot is None:
            if self.run and self.accelerator.is_main_process:
                self.run.rewind(0)
            return []
        self.transfer.load_trained_state(snapshot.model)
        self.optimizer.load_state_dict(snapshot.optimizer)
        if self.accelerator.scaler and snapshot.scaler:
            self.accelerator.scaler.load_state_dict(snapshot.scaler)
        set_random_state(snapshot.random)
        self.running = {name: value.to(self.accelerator.device) for name, value in snapshot.running.items()}
        if self.accelerator.is_main_process:
            self.run.rewind(self.position.epoch)
        self.accelerator.wait_for_everyone()
        log.info("going on at epoch %d, batch %d", self.position.epoch, self.position.batch)
        return self.run.history()


def _optimizer(transfer: Transfer, config: TrainConfig) -> torch.optim.Optimizer:
    """Student and heads in one parameter group, as the paper has it."""
    parameters = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov)
