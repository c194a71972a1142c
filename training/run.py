"""One run from a validated config: assemble, fit, save the student, draw its curves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..core.config.loading import to_yaml
from ..core.config.schema import RunConfig
from ..core.epochs import default_epochs
from ..core.errors import ContrastillError, UsageError
from ..core.full_disk import FullDisk
from ..core.run import Run, flatten, writable_folder
from ..core.run_lock import run_lock
from ..core.run_weights import WeightsRecord
from ..core.seeds import check_no_seeds
from ..datasets.io.fingerprint import fingerprint
from ..ensemble.adaptors import save_adaptors
from ..models.build import save_student
from ..models.recipe import read_recipe
from ..models.recorded_answer import answers_otherwise
from ..plots.curves import draw_curves
from .assemble import Assembly, assemble
from .checkpoint import checkpoints
from .engine import fit
from .processes import others_may_end, parting
from .versions import versions

log = logging.getLogger(__name__)


def train_run(
    config: RunConfig, *, splits: Mapping[str, Any] | None = None, progress: bool = True
) -> dict[str, Any] | None:
    """Train what a config describes in its run folder, going on where an earlier call was stopped.

    Args:
        config: Of the run.
        splits: Of its data, where they are open already.
        progress: Whether to show it.

    Returns:
        The last epoch's row of metrics.jsonl; None on a process that is not the main one.

    Raises:
        UsageError: The config does not fit the data or the folder holds another run, one of other data or weights, runs
            of several seeds, or one that another process is writing.
        ContrastillError: The training failed or was stopped, or another of its processes was; what was written before
            stays.
    """
    run = Run(config.out)
    check_no_seeds(run.path)
    with ExitStack() as stack, others_may_end(config.train.timeout_minutes), parting():
        parts = assemble(config, splits=splits)
        accelerator = parts.accelerator
        if config.train.epochs is None:
            # What the folder keeps says how long the training was.
            config = config.model_copy(
                update={"train": config.train.model_copy(update={"epochs": default_epochs(parts.train.num_samples)})}
            )
        begun = run.config.exists()
        ended = False
        if accelerator.is_main_process:
            stack.enter_context(run_lock(writable_folder(run.path)))
            ended = _ended(run)
            data = {name: fingerprint(split) for name, split in parts.splits.items() if split is not None}
            # Its record of the data may be gone with the checkpoints; others are no record of that training.
            run.claim(to_yaml(config), None if ended and not run.data.exists() else data)
            WeightsRecord(run).claim(parts.weights, begun=run.student.is_file() or bool(checkpoints(run.checkpoints)))
            if not ended:
                run.record(versions(), config.command)
        if _decided_by_main(ended, accelerator):
            return _last_row(run) if accelerator.is_main_process else None
        _start_trackers(parts, config)
        if not progress and accelerator.is_main_process:
            for remark in parts.transfer.remarks:
                log.warning("%s", remark)
        try:
            result = fit(
                parts.transfer,
                parts.train,
                parts.test,
                config.train,
                run=run,
                accelerator=accelerator,
                progress=progress,
                validation=parts.validation,
            )
        except UsageError:
            if accelerator.is_main_process and not begun and not run.metrics.exists():
                run.abandon()
            raise
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
            # Of a training that was stopped too: what there is of its curves is what one wants to see.
            if accelerator.is_main_process:
                _draw(run)
        if accelerator.is_main_process:
            _check_same_student(run, result.student.module)
            with run.room_for(run.student.name, sum(value.nbytes for value in result.student.state_dict().values())):
                save_student(result.student, run.student)
                save_adaptors(parts.transfer, run.adaptors)
        # Whoever trained it may read it.
        accelerator.wait_for_everyone()
    return result.last if accelerator.is_main_process else None


def train_unfinished(configs: Mapping[str, RunConfig], say: Callable[[str], None], progress: bool = True) -> None:
    """Train several configs, one after the other; those whose run has a student already are kept.

    Args:
        configs: By the name that ``say`` prints when one begins.
        progress: Whether to show each training's.

    Raises:
        UsageError: A folder holds a run of other settings.
    """
    for number, (name, config) in enumerate(configs.items(), 1):
        say(f"{number}/{len(configs)} {name}: {config.student.model} in {config.out}")
        if Run(config.out).finished:
            Run(config.out).claim(to_yaml(config))  # of other settings, such as another seed, it is not this one
        else:
            train_run(config, progress=progress)


def _ended(run: Run) -> bool:
    """Whether a run has its finished student and no checkpoint, as one may remove these: nothing is left to train."""
    if not run.finished or checkpoints(run.checkpoints):
        return False
    try:
        read_recipe(run.student)
    except ContrastillError:  # it is damaged, and trained again
        return False
    return True


def _decided_by_main(value: bool, accelerator: Accelerator) -> bool:
    """What the main process decided, on every process."""
    return bool(accelerator.gather(torch.tensor([value], device=accelerator.device, dtype=torch.int64))[0])


def _last_row(run: Run) -> dict[str, Any]:
    """Of a run that is not trained again; a line says so."""
    unchecked = "" if run.data.exists() else ", and whether the data are still those of its training is not checked"
    log.warning(
        "%s has its finished student and no checkpoint, so that nothing is trained%s: choose another out=… to train "
        "anew",
        run.path,
        unchecked,
    )
    return (run.history() or [{}])[-1]


def _check_same_student(run: Run, module: nn.Module) -> None:
    """Refuse a module that has the weights of a run's finished student and is another function of its input."""
    try:
        recipe = read_recipe(run.student) if run.finished else None
    except ContrastillError:  # it is damaged, and written again
        return
    if recipe is not None and answers_otherwise(module, recipe):
        raise UsageError(
            f"{type(module).__name__} with the weights of {run.student} does not answer as the network that was "
            "trained: hand it over with the same arguments, attributes and buffers, or choose another out=…"
        )


def _draw(run: Run) -> None:
    """The curves of what has been trained; a figure that the disk has no room for is no reason to fail."""
    try:
        with run.room_for(run.curves.name):
            if history := run.history():
                draw_curves(history, run.curves)
    except FullDisk as error:
        run.curves.unlink(missing_ok=True)
        log.warning("%s", error)


def _start_trackers(parts: Assembly, config: RunConfig) -> None:
    """Open the trackers, with the config as flat names and plain values, which is all that every one of them takes."""
    if config.trackers:
        values = flatten(config.model_dump(mode="json"))
        parts.accelerator.init_trackers(
            "contrastill", config={name: value for name, value in values.items() if value is not None}
        )
