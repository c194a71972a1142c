"""Several processes that train together: how they end, and the error when one of them is gone."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState, is_initialized
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import distributed, nn

from ..core.errors import ContrastillError, UsageError
from ..core.transfer import Transfer

# What the backends say is a plain RuntimeError in places.
_BACKENDS = ("gloo", "nccl", "processgroup", "connection closed by peer", "connection reset")


@contextmanager
def others_may_end(timeout_minutes: float) -> Iterator[None]:
    """Within it, the error of a process whose partner is gone or silent becomes one sentence.

    Args:
        timeout_minutes: How long the others are waited for.

    Raises:
        ContrastillError: Another process ended, or said nothing for so long.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error).lower()
        if not isinstance(error, distributed.DistError) and not any(name in message for name in _BACKENDS):
            raise
        silent = "timeout" in message or "timed out" in message
        what = f"sent nothing for train.timeout_minutes={timeout_minutes:g} minutes" if silent else "ended"
        way = "raise it if a process may be busy for so long, or find out" if silent else "its own output says"
        raise ContrastillError(
            f"another process of this training {what}: {way} why; the same command goes on from the last checkpoint"
        ) from error


@contextmanager
def parting() -> Iterator[None]:
    """Within it, a training: what Accelerate keeps of it in the process ends with it, so that the next may have another
    precision.

    What was there before, as by an Accelerator of the caller's own, stays; and where there are several processes their
    group, which is made once, see :func:`accelerator_of`.
    """
    there = is_initialized()
    try:
        with own_gradient_state():
            yield
    finally:
        if not there and is_initialized() and not PartialState().use_distributed:
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def own_gradient_state() -> Iterator[None]:
    """Within it, optimisers step at each step: Accelerate has one state of accumulation for all of a process, which a
    loop of the caller's own may have left between two steps. It gets that back.
    """
    state = GradientState()
    before = state.plugin_kwargs, state.sync_gradients
    state.sync_gradients = True
    try:
        yield
    finally:
        state.plugin_kwargs, state.sync_gradients = before


def accelerator_of(precision: str = "fp32", **options: Any) -> Accelerator:
    """An ``Accelerator`` of this ``train.precision``, whose processes leave their group before the interpreter ends.

    Threads of a group that is still there then can end the process with an error after all its work is done. Steps of
    accumulation and a compiler that are set in the environment are left out: the loop has keys of its own for both.

    Raises:
        UsageError: This process has an Accelerator of another precision.
    """
    mixed_precision = "no" if precision == "fp32" else precision
    if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
        raise UsageError(
            f"train.precision={precision}, but this process has an Accelerator with "
            f"mixed_precision={AcceleratorState().mixed_precision!r} already: "
            "make both the same"
        )
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        # An argument gives way to the environment, a plugin does not.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        **options,
    )
    if accelerator.use_distributed:
        atexit.register(accelerator.state.destroy_process_group)
    return accelerator


@contextmanager
def some_without_gradient(accelerator: Accelerator, *, some: bool) -> Iterator[None]:
    """Within it a model is prepared so that its processes wait for no parameter without a gradient.

    Args:
        accelerator: As before afterwards.
        some: Whether there may be such parameters; to look for them takes time in each step.
    """
    before = accelerator.ddp_handler
    if some:
        accelerator.ddp_handler = replace(before or DistributedDataParallelKwargs(), find_unused_parameters=True)
    try:
        yield
    finally:
        accelerator.ddp_handler = before


def share_trained_alone(transfer: Transfer) -> None:
    """Let processes exchange nothing of teachers, which never change, nor of objectives' buffers (banks), which these
    keep equal on every rank: DDP must not broadcast rank 0's.
    """
    tensors = [*transfer.named_parameters(), *transfer.named_buffers()]
    ignored = [name for name, _ in tensors if name.startswith("teachers.")]
    ignored += [name for name, _ in transfer.named_buffers() if name.startswith("terms.")]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(transfer, ignored)
