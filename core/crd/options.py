"""The options of the CRD losses: what they may be, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, unknown_name
from ..loss_inputs import check_floats
from ..loss_labels import whole_numbers
from .negatives import ORIGINS

PLACEMENTS, MEMORIES = ("replicated", "sharded"), ("device", "host")
INITS, TEACHER_MAPS = ("random", "teacher_outputs"), ("learned", "whitened")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# `auto` takes all rows up to this many rows per negative.
ALL_ROWS_PER_NEGATIVE = 8


def choose_negatives(num_samples: int, num_negatives: int) -> tuple[str, str]:
    """What ``auto`` stands for, and why, in one line.

    Time is proportional to the rows scored, M or K, and to B, on a CPU as on a GPU: so B and the device do not decide,
    and every rank and every resumed run decides alike.
    """
    times = num_samples / num_negatives
    if times <= ALL_ROWS_PER_NEGATIVE:
        return (
            "all",
            f"all: the exact expectation over {num_samples} rows has no sampling noise and takes at most "
            f"{max(1.0, times):.1f} times a shared window of {num_negatives}",
        )
    return (
        "shared",
        f"shared: scoring all of {num_samples} rows would take {times:.0f} times a window of {num_negatives}, "
        "drawing for each anchor longer still",
    )


def check_choices(**choices: tuple[Any, Collection[Any]]) -> None:
    """Refuse an option whose value is not among those it may have: name=(value, allowed)."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise unknown_name(name, value, allowed)


def negatives_origin(negatives_from: str | None, targets: Tensor | None) -> str:
    """Which samples are negatives: as asked for, else those of another class where there are classes.

    Raises:
        UsageError: There is no such choice, or classes are asked for and there are none.
    """
    origin = negatives_from or ("other_sample" if targets is None else "other_class")
    check_choices(negatives_from=(origin, ORIGINS))
    if origin == "other_class" and targets is None:
        raise UsageError(
            "negatives_from='other_class' needs the targets of all training samples: pass targets, or 'other_sample'"
        )
    return origin


def as_targets(targets: Any) -> Tensor | None:
    """Classes of all training samples as a tensor, of a list or an array too, as torchvision's ``targets`` are.

    Raises:
        UsageError: They are no numbers.
    """
    if targets is None or isinstance(targets, Tensor):
        return targets
    try:
        return torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"targets must be the (M,) whole-numbered classes of all training samples, not a {type(targets).__name__}"
        ) from error


def as_index(index: Any, embeddings: Any, like: Tensor) -> Tensor:
    """Places of the samples as a tensor, of a list or an array too.

    Args:
        index: (B,) whole numbers.
        embeddings: What the loss compares, the student's and the teachers'.
        like: A weight of the loss.

    Raises:
        UsageError: An embedding is no tensor of floating-point numbers on the loss's device, or the index has no
            numbers.
    """
    for features in embeddings:
        if not isinstance(features, Tensor):
            raise UsageError(f"embeddings are tensors (B, D), and one is a {type(features).__name__}")
        check_floats("an embedding is", features)
        if features.device != like.device:
            raise UsageError(
                f"embeddings are on {features.device} and the loss on {like.device}: move both to one device"
            )
    if isinstance(index, Tensor):
        return index.long() if whole_numbers(index) else index
    try:
        return torch.as_tensor(index, dtype=torch.int64, device=embeddings[0].device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"index must be (B,) places of the samples, not a {type(index).__name__}") from error


def count_samples(targets: Tensor | None, num_samples: int | None) -> int:
    """M, from the classes of all training samples or as it is given.

    Raises:
        UsageError: Neither is given, they contradict each other, or the classes are no whole numbers.
    """
    if targets is None:
        if num_samples is None:
            raise UsageError(
                "the loss needs the number of training samples: pass targets (M,), or num_samples for an unlabelled set"
            )
        return int(num_samples)
    if targets.ndim != 1 or not (targets.dtype == torch.bool or whole_numbers(targets)):
        raise UsageError(
            "targets must be the (M,) whole-numbered classes of all training samples, not "
            f"{tuple(targets.shape)} {targets.dtype}"
        )
    if num_samples not in (None, len(targets)):
        raise UsageError(f"num_samples={num_samples} contradicts the {len(targets)} targets: leave it out")
    return len(targets)


def critic_bias(bias: str | float, negatives: float, samples: int, dim: int, temperature: float) -> float:
    """b of the critic h = sigmoid(s/τ − b): ``"released"``, ``"paper"`` or the number itself; see :class:`CRDLoss`.

    Args:
        bias: Which.
        negatives: K.
        samples: M.
        dim: D.
        temperature: τ.
    """
    if bias == "released":
        return math.log(negatives) + 1 / (2 * dim * temperature**2)
    if bias == "paper":
        return math.log(negatives / samples)
    if isinstance(bias, str):
        raise unknown_name("bias", bias, ("released", "paper"))
    if not math.isfinite(bias):
        raise UsageError(f"bias must be a finite number, 'released' or 'paper', not {bias}")
    return float(bias)
