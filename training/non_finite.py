"""What is done about a loss or a gradient that is no finite number: stop and name the batch, or leave the batch out."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..core.atomic import write_text
from ..core.config.schema import TrainConfig
from ..core.deferred import DeferredUpdates
from ..core.distributed import all_gather_ragged
from ..core.errors import ContrastillError
from ..core.loss_inputs import MASKED, hold, not_finite
from ..core.registry import short_name
from ..core.representation import PARTS, Representation
from ..core.run import Run
from ..core.transfer import Transfer
from .accumulation import own_samples
from .checkpoint import Position, checkpoints, random_state, set_random_state

log = logging.getLogger(__name__)

POSITIONS = "positions"
"""Attribute of a loader of a part of a data set: (n,), the position there of each index in its batches."""

Scalars = Mapping[str, Tensor]
"""``loss`` and each term of one pass, () tensors."""


class StopOnNonFinite:
    """``train.on_nan=stop``: the first step with a NaN or infinite loss is noted on the device, and reported before a
    row or a checkpoint is written.

    Args:
        transfer: What is trained.
        loader: Its training batches: asked once more for the batch that was bad.
        config: For what the message recommends.
        run: Folder of ``bad_batch.json``, which holds ``step``, ``epoch``, ``batch``, ``terms`` and the samples'
            ``indices`` in the data set, over all processes.
        accelerator: Device and processes.
    """

    unscales = False
    """Whether :meth:`accepts` takes fp16's factor out of the gradient."""

    def __init__(
        self, transfer: Transfer, loader: Any, config: TrainConfig, run: Run | None, accelerator: Accelerator
    ) -> None:
        self._transfer, self._loader, self._config, self._run, self._accelerator = (
            transfer,
            loader,
            config,
            run,
            accelerator,
        )
        self._positions = getattr(loader, POSITIONS, None)
        self._infinite = _infinite_buffers(transfer)
        self._names: list[str] = []
        self._first: Tensor | None = None

    def resume(self, position: Position) -> None:
        """Nothing to restore, as a checkpoint holds finite values alone."""

    def begin(self) -> None:
        """Nothing has to be put back."""

    def accepts(self, position: Position, batch: Mapping[str, Tensor], passes: Sequence[Scalars]) -> bool:
        """Always; notes the step, from 1, at which the loss and each term first were NaN or infinite."""
        for scalars in passes:
            first = self._first
            if first is None or self._names != list(scalars):
                self._names = list(scalars)
                first = torch.zeros(len(scalars), dtype=torch.int64, device=scalars["loss"].device)
            finite = torch.isfinite(torch.stack([value.detach() for value in scalars.values()]))
            self._first = torch.where(finite | (first > 0), first, position.step + 1)
        return True

    def check(self) -> None:
        """Stop before NaN or infinite values are written; called on all ranks together.

        Raises:
            ContrastillError: The loss was NaN or infinite at some step.
        """
        if self._first is None:
            return
        seen = self._accelerator.gather(self._first[None])
        if not int(seen.max()):
            _check_weights(self._transfer, self._infinite, self._config, self._run)
            return
        step = int(seen[seen > 0].min())
        terms = [
            name
            for name, bad in zip(self._names, (seen == step).any(0).tolist(), strict=True)
            if bad and name != "loss"
        ]
        epoch, number = divmod(step - 1, len(self._loader))
        batch = next(iter(self._loader.epoch(epoch, number)))
        indices = _indices(batch, self._accelerator, self._positions)
        advice = _advice(self._transfer, self._infinite, batch, terms, self._config, self._accelerator)
        where = f"the batch's sample indices are {', '.join(map(str, indices))}"
        if self._run is not None:
            file = self._run.path / "bad_batch.json"
            where = f"the batch's sample indices are in {file}"
            if self._accelerator.is_main_process:
                self._run.path.mkdir(parents=True, exist_ok=True)
                write_text(
                    file,
                    json.dumps({"step": step, "epoch": epoch, "batch": number, "terms": terms, "indices": indices})
                    + "\n",
                )
        raise ContrastillError(
            f"the loss is not a finite number since step {step} (epoch {epoch}, objective "
            f"{' and '.join(terms) or 'weights'}): {advice}, or leave such batches out with train.on_nan=skip; "
            f"{where}; {_newest(self._run)}"
        )

    def row(self) -> dict[str, int]:
        """What the epoch's row says of it: nothing."""
        return {}


class SkipNonFinite:
    """``train.on_nan=skip``: an optimiser step with a NaN or infinite loss or gradient on any rank is skipped on all.

    What it had changed is restored: BatchNorm's statistics, counters, torch's generators. Its place in the schedule of
    the learning rate is used up. To decide, the host waits for the device once a step. Under fp16 the steps that the
    gradient scaler leaves out are among them.

    Args:
        transfer, config, run, accelerator: As for :class:`StopOnNonFinite`; ``skipped_batches.jsonl`` has one line per
            batch.
        loader: Its number of batches is an epoch's.
    """

    unscales = True

    def __init__(
        self, transfer: Transfer, loader: Any, config: TrainConfig, run: Run | None, accelerator: Accelerator
    ) -> None:
        self._transfer, self._config, self._run, self._accelerator = transfer, config, run, accelerator
        self._batches, self._file = len(loader), None if run is None else run.path / "skipped_batches.jsonl"
        self._positions = getattr(loader, POSITIONS, None)
        self._infinite = _infinite_buffers(transfer)
        self._skipped = 0
        self._before: _UndeferredState | None = None

    def resume(self, position: Position) -> None:
        """Go on from the lines of the file; later ones than the checkpoint are forgotten."""
        if self._file is None or not self._file.exists():
            return
        lines = [
            line for line in self._file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
        ]
        lines_before = [line for line in lines if json.loads(line)["step"] <= position.step]
        self._skipped = sum(json.loads(line)["epoch"] == position.epoch for line in lines_before)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            write_text(self._file, "".join(lines_before))

    def begin(self) -> None:
        """Remember what the passes of the step that begins will change."""
        self._before = _UndeferredState(self._transfer)

    def accepts(self, position: Position, batch: Mapping[str, Tensor], passes: Sequence[Scalars]) -> bool:
        """Whether the step may be made: the same on all processes. If not, all is as before it.

        Raises:
            ContrastillError: More than half of the epoch's steps were left out.
        """
        # The scaler's factor is taken out first: with it, gradients overflow by design.
        self._accelerator.unscale_gradients()
        norms = [
            torch.linalg.vector_norm(parameter.grad)
            for parameter in self._transfer.parameters()
            if parameter.grad is not None
        ]
        scalars = {name: torch.stack([one[name].detach() for one in passes]) for name in passes[0]}
        bad = torch.stack(
            [*(~torch.isfinite(values).all() for values in scalars.values()), ~torch.isfinite(torch.stack(norms)).all()]
        )
        flags = self._accelerator.reduce(bad.float(), "sum").tolist()
        if not any(flags):
            return True
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.update()
        assert self._before is not None, "begin() was called for this step"
        self._before.restore()
        self._skipped += 1
        self._tell(
            position,
            [name for name, flag in zip(scalars, flags, strict=False) if flag and name != "loss"],
            _indices(batch, self._accelerator, self._positions),
        )
        if 2 * self._skipped > self._batches:
            advice = _advice(
                self._transfer, self._infinite, batch, [*self._transfer.terms], self._config, self._accelerator
            )
            raise ContrastillError(
                f"{self._skipped} of the {self._batches} steps of epoch {position.epoch} were left out, as their "
                f"loss or gradient was not a finite number: {advice}"
                + (f", or look at the samples that {self._file} names" if self._file else "")
            )
        return False

    def check(self) -> None:
        """Stop before NaN or infinite weights are written: a finite gradient may still be too large.

        Raises:
            ContrastillError: A weight of the student or a head is NaN or infinite.
        """
        _check_weights(self._transfer, self._infinite, self._config, self._run)

    def row(self) -> dict[str, int]:
        """Steps of the epoch that were left out; the next epoch's count begins."""
        skipped, self._skipped = self._skipped, 0
        return {"skipped": skipped}

    def _tell(self, position: Position, terms: list[str], indices: list[int]) -> None:
        if not self._accelerator.is_main_process:
            return
        step = position.step + 1
        what = f"objective {' and '.join(terms)}" if terms else "the gradient"
        log.warning("step %d (epoch %d) is left out: %s is not a finite number", step, position.epoch, what)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            line = {"step": step, "epoch": position.epoch, "batch": position.batch, "terms": terms, "indices": indices}
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


POLICIES: dict[str, type[StopOnNonFinite] | type[SkipNonFinite]] = {"stop": StopOnNonFinite, "skip": SkipNonFinite}


class _UndeferredState:
    """What forward passes change at once: buffers, counters and torch's generators. The writes of DeferredUpdates are
    pending, and need no copy.
    """

    def __init__(self, transfer: Transfer) -> None:
        trained = [module for root in (transfer.student, *transfer.terms.values()) for module in root.modules()]
        deferred = {id(part) for module in trained if isinstance(module, DeferredUpdates) for part in module.modules()}
        modules = [module for module in trained if id(module) not in deferred]
        # With their places, as a forward may put other tensors there: self.mean = 0.9 * self.mean + …
        self._buffers = [
            (module, name, buffer, None if buffer is None else buffer.clone())
            for module in modules
            for name, buffer in module._buffers.items()
        ]
        counting = [module for module in modules if type(module).get_extra_state is not torch.nn.Module.get_extra_state]
        self._counters = [(module, module.get_extra_state()) for module in counting]
        self._random = random_state()

    @torch.no_grad()
    def restore(self) -> None:
        for module, name, buffer, value in self._buffers:
            if buffer is not None and value is not None:
                buffer.copy_(value)
            module._buffers[name] = buffer
        for module, state in self._counters:
            module.set_extra_state(state)
        set_random_state(self._random)


def _check_weights(transfer: Transfer, infinite: Collection[str], config: TrainConfig, run: Run | None) -> None:
    """The last step's update shows in no loss that was looked at: without this a student of NaN would be saved, and
    evaluated.
    """
    if not _finite_weights(transfer, infinite):
        raise ContrastillError(
            "the weights became NaN or infinite in the last steps, as the loss grew beyond all bounds: lower "
            f"train.lr={config.lr} or the objectives' weights; {_newest(run)}"
        )


@torch.no_grad()
def _advice(
    transfer: Transfer,
    infinite: Collection[str],
    batch: Mapping[str, Tensor],
    terms: Sequence[str],
    config: TrainConfig,
    accelerator: Accelerator,
) -> str:
    """What to do about terms that are not finite of a batch, naming the network whose outputs are not, on any process.
    Called on all ranks together.
    """
    outputs: list[Representation] = []
    numbers = [*range(len(transfer.teacher_names))]
    with accelerator.autocast():
        if any(name in transfer.terms and transfer.terms[name].needs_teacher for name in terms):
            outputs = transfer.source.outputs(batch, numbers, transfer.teacher_needs)
        # With weights that are not finite its outputs say nothing.
        student = transfer.student(batch, transfer.student_needs) if _finite_weights(transfer, infinite) else None
    damaged = [[float(part in not_finite(network)) for part in PARTS] for network in (*outputs, student)]
    flags = accelerator.reduce(torch.tensor(damaged, device=accelerator.device), "sum").tolist()
    for number, row in enumerate(flags):
        if parts := [part for part, flag in zip(PARTS, row, strict=True) if flag]:
            named, verb = " and ".join(parts), hold(parts)
            if number < len(outputs):
                who = f"teacher {number} ({short_name(transfer.teacher_names[number])})"
                return f"the {named} of {who} {verb} infinite or NaN values: {MASKED}"
            return (
                f"the student's {named} {verb} infinite or NaN values: lower train.lr={config.lr}, or, where it masks "
                "classes, give them a large negative logit, such as -1e4"
            )
    return f"lower train.lr={config.lr} or the objective's weight"


def _infinite_buffers(transfer: Transfer) -> frozenset[str]:
    """Names of the student's buffers that hold infinite values before the training, as an attention mask does."""
    return frozenset(name for name, value in transfer.student.named_buffers() if bool(value.isinf().any()))


def _finite_weights(transfer: Transfer, infinite: Collection[str]) -> bool:
    """Whether all that is trained is finite; the buffers of these names may be infinite, but not NaN."""
    student = transfer.student
    bad = [weight.isfinite().logical_not().any() for weight in student.parameters()]
    bad += [
        value.isnan().any() if name in infinite else value.isfinite().logical_not().any()
        for name, value in student.named_buffers()
    ]
    bad += [weight.isfinite().logical_not().any() for term in transfer.terms.values() for weight in term.parameters()]
    return not bool(torch.stack(bad).any())


def _newest(run: Run | None) -> str:
    """Which checkpoint is from before."""
    paths = checkpoints(run.checkpoints) if run else []
    return f"{paths[-1]} is from before" if paths else "no checkpoint was written yet"


def _indices(batch: Mapping[str, Tensor], accelerator: Accelerator, positions: Tensor | None) -> list[int]:
    """The positions in the data set of the batch's samples over all processes, in the order of their ranks."""
    own = batch["index"][: own_samples(batch), None].to(torch.int64)
    rows = all_gather_ragged(own, accelerator.device)[:, 0].cpu()
    return (rows if positions is None else positions[rows]).tolist()
