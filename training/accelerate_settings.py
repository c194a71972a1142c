"""What Accelerate sets for a loop of one's own, and a training has keys for: accumulation and torch.compile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator

from ..core.errors import UsageError
from ..core.value_scale import note_once
from .processes import accelerator_of, own_gradient_state, parting

_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
_DYNAMO = "ACCELERATE_DYNAMO_BACKEND"


@contextmanager
def training_accelerator(accelerator: Accelerator | None, precision: str) -> Iterator[Accelerator]:
    """Within it, a training: its accelerator neither divides a loss nor compiles, and steps at each step.

    Args:
        accelerator: The caller's; None: a new one.
        precision: Of a new one, as ``train.precision``.

    Raises:
        UsageError: The caller's accumulates gradients or compiles; without one, this process has one
            of another precision.
    """
    steps = 1 if accelerator is None else accelerator.gradient_accumulation_steps
    if steps != 1:
        raise UsageError(
            f"this Accelerator has gradient_accumulation_steps={steps} (its argument, or {_ACCUMULATION}), by which "
            "each loss would be divided, and a training splits its own batches: leave that out, and set "
            f"train.accumulation_steps={steps} to split each batch into as many passes"
        )
    # What Accelerate keeps of a new one ends with the training; the caller's stays.
    with own_gradient_state() if accelerator else parting():
        accelerator = accelerator or accelerator_of(precision)
        backend = accelerator.state.dynamo_plugin.backend.value
        if backend != "NO":
            raise UsageError(
                f"this process has an Accelerator that compiles (dynamo_backend={backend}, its argument or {_DYNAMO}), "
                "and a training compiles each network by itself: leave that out, and set train.compile=true"
            )
        if accelerator.is_main_process:
            _note_environment()
        yield accelerator


def _note_environment() -> None:
    """A line about each setting of ``accelerate config`` that a training does not take."""
    steps, backend = os.environ.get(_ACCUMULATION, "1"), os.environ.get(_DYNAMO, "NO").upper()
    if steps != "1":
        note_once(
            f"{_ACCUMULATION}={steps} is not applied: train.batch_size counts all samples of an optimiser step, and "
            f"train.accumulation_steps={steps} splits it into as many passes"
        )
    if backend != "NO":
        note_once(f"{_DYNAMO}={backend} is not applied: set train.compile=true to compile the networks")
