"""Which of a student's parameters its objectives read, by what comes of a few samples in eval and in training mode."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .as_before import AsBefore
from .distributed import all_gather_ragged, world_size
from .errors import UsageError
from .first_step import graph_leaves
from .learnable import check_learning
from .representation import Network, Representation

_DEEP = 4
"""Containers in containers that a network's answer is looked for in."""


@dataclass(frozen=True)
class Reading:
    """What is known of each of a student's parameters, in order.

    Attributes:
        missed: Whether in eval mode no gradient comes to it from what the objectives read.
        idle: Whether it is certain that none ever does: the network's own answer depends on it, and nothing else.
        always: Whether all others had a gradient in each mode that was looked at.
    """

    missed: list[bool]
    idle: list[bool]
    always: bool


@dataclass(frozen=True)
class _Pass:
    """One forward pass: for each parameter whether what is read, and what the network returns, depends on it."""

    outputs: Representation
    read: list[bool]
    answer: list[bool]


def reading(
    student: Network,
    parameters: Sequence[nn.Parameter],
    batch: Mapping[str, Tensor],
    reads: Mapping[str, Collection[str]],
) -> Reading:
    """Look at what objectives read of a student. Where a look in eval mode does not show all, or several processes wait
    for each other's gradients, a copy is looked at in training mode too: some parameters, as a mask token, have a part
    in it there alone.

    Args:
        student: Neither its statistics nor torch's generators are others afterwards.
        parameters: Those of it that train.
        batch: Of any size.
        reads: Name of an objective -> parts that it reads of the student.

    Raises:
        UsageError: Nothing that an objective reads depends on a parameter that trains.
    """
    needs = frozenset().union(*reads.values())
    training = student.training
    with _uncompiled(student):
        before = AsBefore(student.modules())
        try:
            first = _pass(student.eval(), parameters, batch, needs)
        finally:
            student.train(training)
            before.restore()
        second = None
        if not all(first.read) or world_size() > 1:
            second = _training_pass(student, parameters, batch, needs)
    for number, looked in enumerate((first, second)):
        try:
            if looked is not None:
                _check(student, looked, reads)
                break
        except UsageError:
            if number or second is None:
                raise
    passes = [first] if second is None else [first, second]
    read = [any(each) for each in zip(*(looked.read for looked in passes), strict=True)]
    idle = [answer and not one for answer, one in zip(first.answer, read, strict=True)]
    always = all(all(each) for *each, no in zip(*(looked.read for looked in passes), idle, strict=True) if not no)
    return _agreed(Reading([not one for one in first.read], idle, always), batch)


def _check(student: Network, looked: _Pass, reads: Mapping[str, Collection[str]]) -> None:
    check_learning(student, looked.outputs, reads)
    if not any(looked.read):
        raise UsageError(
            f"no gradient comes from what the student returns ({', '.join(sorted(frozenset().union(*reads.values())))})"
            " to any of its parameters, as through quantised layers: hand over the network before it was quantised or "
            "detached"
        )


def _pass(
    student: Network, parameters: Sequence[nn.Parameter], batch: Mapping[str, Tensor], needs: Collection[str]
) -> _Pass:
    answers: list[Any] = []
    hook = student.module.register_forward_hook(lambda module, inputs, output: answers.append(output))
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            outputs = student(batch, needs)
            # A pass that reads timm's intermediate maps calls none of its forward.
            if not answers and "logits" in student.parts(None):
                with suppress(UsageError):  # of what it returns, which need be no logits
                    student(batch, {"logits"})
    finally:
        hook.remove()
    answered = {id(leaf) for leaf in graph_leaves(_tensors(answers, _DEEP))}
    read = [value for value in outputs.tensors() if value.requires_grad]
    gradients: Sequence[Tensor | None] = [None] * len(parameters)
    if read:
        gradients = torch.autograd.grad([value.sum() for value in read], parameters, allow_unused=True)
    return _Pass(
        outputs, [gradient is not None for gradient in gradients], [id(each) in answered for each in parameters]
    )


def _training_pass(
    student: Network, parameters: Sequence[nn.Parameter], batch: Mapping[str, Tensor], needs: Collection[str]
) -> _Pass | None:
    """The pass of a copy in training mode; None where there is none, as of a single sample with BatchNorm."""
    places = {id(parameter): name for name, parameter in student.named_parameters()}
    # Whatever is wrong in training mode shows in the training itself, with the samples that it is wrong of.
    try:
        with _plain_generators():
            other = copy.deepcopy(student)
            own = dict(other.named_parameters())
            return _pass(other.train(), [own[places[id(each)]] for each in parameters], batch, needs)
    except Exception:
        return None


def _agreed(own: Reading, batch: Mapping[str, Tensor]) -> Reading:
    """The same on all processes, each of which looked at samples of its own."""
    if world_size() == 1:
        return own
    device = next(iter(batch.values())).device
    rows = all_gather_ragged(torch.tensor([[*own.missed, *own.idle, own.always]], device=device), device).cpu()
    count = len(own.idle)
    idle = rows[:, count:-1].all(0)
    # A process by whose samples a parameter is idle, which by those of another is not, has no gradient for it.
    same = bool((rows[:, count:-1] == idle).all())
    return Reading(rows[:, :count].any(0).tolist(), idle.tolist(), same and bool(rows[:, -1].all()))


@contextmanager
def _uncompiled(student: Network) -> Iterator[None]:
    """Within it the student has its own forward: a hook would have it compiled anew."""
    forward = student.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if forward is not None:
            student.forward = forward  # type: ignore[method-assign]


@contextmanager
def _plain_generators() -> Iterator[None]:
    """Within it the generators of Python and NumPy may be drawn from: they are as before afterwards."""
    state, numbers = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    """The tensors in what a network returned."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        yield from (tensor for each in value.values() for tensor in _tensors(each, depth - 1))
    elif depth and isinstance(value, (list, tuple)):
        yield from (tensor for each in value for tensor in _tensors(each, depth - 1))
    elif depth and hasattr(value, "__dict__"):
        yield from (tensor for each in vars(value).values() for tensor in _tensors(each, depth - 1))
