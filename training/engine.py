"""fit(): the only training loop. It never learns which objective, dataset or transfer it runs."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..core.arguments import checked
from ..core.config.schema import TrainConfig
from ..core.data import Loader
from ..core.epochs import default_epochs
from ..core.errors import UsageError
from ..core.memory_layout import channels_last
from ..core.metric_names import refuse_columns
from ..core.plain_state import PlainState
from ..core.representation import Network, Representation
from ..core.run import Run
from ..core.teachers.repeatable import unrepeatable_notes, unrepeatable_student_notes
from ..core.torch_settings import own_settings
from ..core.transfer import Transfer, TransferOutput
from .accelerate_settings import training_accelerator
from .accumulation import batch_samples, chunks
from .accuracy import evaluate, share_buffers
from .checkpoint import (
    Position,
    Snapshot,
    all_random_states,
    check_same_start,
    load_newest,
    prune,
    save_checkpoint,
    set_random_state,
)
from .compiled import compiled
from .epoch_sums import EpochSums, warn_of_uncounted
from .moving_average import MovingAverage, without_average
from .non_finite import POLICIES
from .optimizer import LR_SCALE, Clipping, match_memory, new_optimizer
from .optimizer_state import with_all_parameters
from .preemption import StopRequest
from .processes import share_trained_alone, some_without_gradient
from .progress import Progress, announcement
from .schedule import learning_rate
from .smallest_pass import check_smallest_pass
from .unapplied_keys import note_unapplied
from .validation import BestEpoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    Attributes:
        last: The last epoch's row of metrics.jsonl: ``epoch``, ``step``, ``lr``, ``loss``, each term, ``top1`` and
            ``top5`` in per cent on the test split, ``seconds``, ``samples_per_second``.
        history: All rows.
        student: What was evaluated: the student, or with ``train.ema`` the average of its weights.
    """

    last: dict[str, Any]
    history: list[dict[str, Any]]
    student: Network


@checked
@own_settings()
def fit(
    transfer: Transfer,
    train: Loader,
    test: Loader | None,
    config: TrainConfig,
    *,
    run: Run | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    validation: Loader | None = None,
) -> FitResult:
    """Train the student and the objectives' heads; go on from the newest checkpoint if ``run`` has one.

    However many processes and passes (``config.accumulation_steps``) a batch is split into, the loss is the mean over
    the whole batch, as long as the objectives are means over samples and the student has no statistics of its batch.

    Args:
        transfer: Teachers, student, objectives.
        train: Training batches.
        test: Labelled test batches, or None.
        config: Epochs, optimiser, schedule, precision, checkpoints; a line names keys that networks were not built by.
        run: Folder for metrics.jsonl and checkpoints; None keeps nothing.
        accelerator: Device, precision and processes; default: Accelerate's own.
        progress: Whether to draw a bar, or without a terminal print one line per epoch.
        validation: Labelled batches by which the best epoch is chosen, see :class:`~.validation.BestEpoch`; or None.

    Raises:
        ContrastillError: The loss is NaN or infinite (``config.on_nan``), or the checkpoint does not fit.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was written after the step under way.
    """
    with transfer.thawed_at_the_end(), training_accelerator(accelerator, config.precision) as own:
        note_unapplied(transfer, train, config, own, validation)
        return _Training(transfer, train, test, config, run, own, progress, validation).fit()


class _Training:
    """The state of one call of :func:`fit`."""

    def __init__(
        self,
        transfer: Transfer,
        train: Loader,
        test: Loader | None,
        config: TrainConfig,
        run: Run | None,
        accelerator: Accelerator,
        progress: bool,
        validation: Loader | None,
    ) -> None:
        refuse_columns(transfer.terms)
        self.transfer = channels_last(transfer.to(accelerator.device))
        self.train, self.test = train, test
        for name, loader in (("train", train), ("test", test)):
            if loader is not None and not hasattr(loader, "epoch"):
                raise UsageError(
                    f"{name} is a {type(loader).__name__}, and fit takes a loader whose epoch(k, start) always gives "
                    "the same batches: hand a Dataset or a DataLoader to contrastill.distill, or take a split's loader"
                )
        epochs = config.epochs or default_epochs(train.num_samples)
        self.config, self.run, self.accelerator = config.model_copy(update={"epochs": epochs}), run, accelerator
        for key in ("initial_epochs", "initial_lr"):
            if (value := getattr(config, key)) is not None and not transfer.initial_epochs:
                raise UsageError(
                    f"train.{key}={value}, but none of {', '.join(transfer.terms)} has an initial stage: leave it out"
                )
        self.initial_epochs = (config.initial_epochs or transfer.initial_epochs) if transfer.initial_epochs else 0
        self.epochs = self.initial_epochs + epochs
        self.average = None if config.ema is None else MovingAverage(transfer.student, config.ema)
        transfer.prepare(train)
        self.plain = PlainState(transfer.terms, transfer.student)  # type: ignore[arg-type]
        share_trained_alone(transfer)
        self.position, self.sums = Position(), EpochSums(accelerator)
        self.model: nn.Module | None = None
        self.bad = POLICIES[config.on_nan](transfer, train, config, run, accelerator)
        self.best = BestEpoch(validation, run, accelerator)
        self.clip = Clipping(config, accelerator, unscaled=self.bad.unscales)
        self.stop = StopRequest()
        self.progress = Progress(
            self.epochs, len(train), train.num_samples, enabled=progress and accelerator.is_main_process
        )

    @property
    def stage(self) -> str:
        """Of the epoch under way; after the last one still the training proper."""
        return "initial" if self.position.epoch < self.initial_epochs else "main"

    def _begin_stage(self) -> None:
        """Wrap the model and make an optimiser for what learns in the stage that the position is in."""
        self.transfer.train()
        self.transfer.source.start_epoch(0)
        first = next(iter(self.train.epoch(0)))
        few = {name: value[:2] for name, value in first.items()}
        self.transfer.enter(self.stage, few)
        if self.model is None and self.accelerator.is_main_process:
            several = {name: value[:4] for name, value in first.items()}
            with self.accelerator.autocast():
                notes = unrepeatable_notes(self.transfer.source, several, self.transfer.teacher_needs)
                notes += unrepeatable_student_notes(self.transfer.student, several, self.transfer.student_needs)
            for note in notes:
                log.warning("%s", note)
        share = int(self.accelerator.gather(torch.tensor([len(first["index"])], device=self.accelerator.device)).max())
        passes = self.config.accumulation_steps
        self.transfer.defer(max(share, passes), passes)
        check_smallest_pass(
            self.transfer, self.train, first, self.accelerator.num_processes, passes, self.accelerator.autocast()
        )
        if self.model is not None:  # of the stage before
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.accelerator.free_memory()
        with some_without_gradient(self.accelerator, some=not self.transfer.all_always_read):
            self.model, self.optimizer = self.accelerator.prepare(
                self.transfer, new_optimizer(self.transfer, self.config)
            )

    def fit(self) -> FitResult:
        history = self._resume()
        with self.progress, self.stop, compiled(self.transfer) if self.config.compile else nullcontext():
            if self.position.epoch < self.epochs:
                self.progress.announce(announcement(self.transfer, self.train, self.config, self.epochs))
            self.progress.start_at(self.position.epoch, self.position.batch)
            while self.position.epoch < self.epochs:
                history.append(self._epoch())
        self.transfer.stop_deferring()
        return FitResult(last=history[-1] if history else {}, history=history, student=self.evaluated)

    @property
    def evaluated(self) -> Network:
        """The network that is evaluated and saved."""
        return self.transfer.student if self.average is None else self.average.network

    def _epoch(self) -> dict[str, Any]:
        """One epoch from the position on: its batches, its row, its checkpoint."""
        began, seen = self.sums.start_clock(), 0
        epoch, stage = self.position.epoch, self.stage
        self.transfer.source.start_epoch(epoch)
        for batch in self.train.epoch(epoch, self.position.batch):
            self._step(batch)
            seen += len(batch["index"])
            self.progress.advance()
            every = self.config.checkpoint_every_steps
            asked = self.stop.agreed(self.position.step, self.accelerator.device)
            if asked or (every and self.position.step % every == 0 and self.position.batch < len(self.train)):
                self._save()
            if asked:
                raise self.stop.error(self.position, self.run)
        self.bad.check()
        row = {
            "epoch": epoch,
            "step": self.position.step,
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            **self.sums.means(),
            **self.bad.row(),
        }
        seconds = time.perf_counter() - began
        row |= {
            "seconds": round(self.sums.seconds, 3),
            "samples_per_second": round(seen * self.accelerator.num_processes / seconds, 1),
        }
        last = epoch + 1 == self.epochs
        row |= {"stage": stage} if stage == "initial" else {}
        if stage != "initial" and (last or (epoch + 1) % self.config.evaluate_every == 0):
            share_buffers(self.evaluated)
            with nullcontext() if self.average is None else self.average.unchanged():
                if self.test is not None:
                    row |= evaluate(self.evaluated, self.test, self.accelerator)
                row |= self.best.measure(self.evaluated)
        if self.run and self.accelerator.is_main_process:
            self.run.log(row)
        tracked = {name: value for name, value in row.items() if name not in ("step", "stage")}
        self.accelerator.log(tracked, step=row["step"])
        warn_of_uncounted(row, self.transfer, self.accelerator)
        self.position.epoch, self.position.batch = epoch + 1, 0
        self.sums.clear()
        if self.stage != stage:
            self._begin_stage()
        if last or (epoch + 1) % self.config.checkpoint_every == 0:
            self._save()
        self.progress.end_epoch(row)
        return row

    def _step(self, batch: dict[str, Tensor]) -> None:
        """One optimiser step; nothing here waits for the device but ``on_nan=skip``."""
        rate = learning_rate(self.config, self.position.step, len(self.train), self.initial_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get(LR_SCALE, 1.0)
        epochs = self.epochs - self.initial_epochs
        # A single step has no time for a weight that rises from 0, and would train nothing.
        single = epochs * len(self.train) == 1
        passed = self.position.step / len(self.train) - self.initial_epochs
        self.transfer.progress = 1.0 if single else passed / epochs
        self.bad.begin()
        passes = self._backward(batch)
        if self.bad.accepts(self.position, batch, [{"loss": one.loss, **one.terms} for one, _ in passes]):
            measured = self.clip([p for group in self.optimizer.param_groups for p in group["params"]])
            self.optimizer.step()
            self.transfer.commit()
            if self.average is not None:
                self.average.update(self.position.step)
            self.sums.add(passes, measured)
        else:
            self.transfer.rollback()
        self.optimizer.zero_grad(set_to_none=True)
        self.position.batch += 1
        self.position.step += 1

    def _backward(self, batch: dict[str, Tensor]) -> list[tuple[TransferOutput, int]]:
        """Add up the gradient of the batch's mean loss over all ranks; what each pass came to, and how many samples
        count in it.
        """
        assert self.model is not None, "a stage has begun"
        parts = chunks(batch, self.config.accumulation_steps)
        # DDP takes the mean of the ranks' gradients where their sum is meant.
        share = self.accelerator.num_processes / batch_samples(sum(size for _, size in parts), self.accelerator.device)
        passes = []
        for number, (chunk, size) in enumerate(parts, start=1):
            # Gradients are exchanged once, with the last pass.
            with self.accelerator.no_sync(self.model) if number < len(parts) else nullcontext():
                with self.accelerator.autocast():
                    output: TransferOutput = self.model(chunk)
                self.accelerator.backward(output.loss * (size * share))
            # Maps and graph are not kept till the last pass is done.
            passes.append((replace(output, loss=output.loss.detach(), student=Representation()), size))
        return passes

    def _save(self) -> None:
        """Write a checkpoint (the main process alone)."""
        self.bad.check()
        if self.run is None:
            return
        # Called on all ranks: the rows of a sharded bank are gathered.
        trained, running = self.transfer.trained_state(), self.sums.total()
        random = all_random_states(self.accelerator.device)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
        trained |= {} if self.average is None else self.average.state()
        snapshot = Snapshot(self.position, trained, self.optimizer.state_dict(), running, random, scaler)
        snapshot.plain, snapshot.buffers = self.plain.changed(), self.plain.changed_buffers()
        save_checkpoint(self.run.checkpoints, snapshot, self.config.keep_checkpoints)

    def _resume(self) -> list[dict[str, Any]]:
        """Go on from the newest checkpoint, if there is one; returns the rows of the epochs done."""
        self.accelerator.wait_for_everyone()  # a training before this one in the same processes may still be saving
        run, is_main = self.run, self.accelerator.is_main_process
        snapshot = load_newest(run.checkpoints) if run else None
        self.position = self.position if snapshot is None else snapshot.position
        if run is not None:
            check_same_start(run.checkpoints, self.position, self.accelerator.device)
        self._begin_stage()
        self.bad.resume(self.position)
        if run is None or snapshot is None:
            if run and is_main:
                run.rewind(0)
            return []
        self.transfer.load_trained_state(without_average(snapshot.model))
        self.optimizer.load_state_dict(
            with_all_parameters(snapshot.optimizer, self.optimizer, self.transfer.missed_in_eval)
        )
        match_memory(self.optimizer)
        if self.accelerator.scaler and snapshot.scaler:
            self.accelerator.scaler.load_state_dict(snapshot.scaler)
        self.plain.load(snapshot.plain, snapshot.buffers)
        if self.average is not None:
            self.average.load(snapshot.model)
        set_random_state(snapshot.random)
        self.sums.load(snapshot.running)
        if is_main:
            run.rewind(self.position.epoch)
            # A kill may have come between a save and this.
            prune(run.checkpoints, self.position, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()
        log.info("going on at epoch %d, batch %d", self.position.epoch, self.position.batch)
        rows = run.history()
        self.best.resume(rows)
        return rows
