"""Labels and indices that a loss reads, checked before anything is computed from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import UsageError


def whole_numbers(value: Any) -> bool:
    """Whether it is a tensor of integers."""
    return isinstance(value, Tensor) and not (
        value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
    )


def check_numbers(name: str, field: str, value: Any, samples: int) -> Tensor:
    """``value`` as int64 if it is one whole number from 0 on for each sample, (B,); values are read on the CPU alone.

    Raises:
        UsageError: It is not.
    """
    if not whole_numbers(value):
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"{name}: {field} is {kind}: pass whole numbers (B,) as int64")
    if tuple(value.shape) != (samples,):
        raise UsageError(
            f"{name}: {field} has shape {tuple(value.shape)}: pass one number of each sample, ({samples},)"
        )
    if value.device.type == "cpu" and (low := int(value.min())) < 0:
        raise UsageError(f"{name}: {field} has {low}: samples and classes are counted from 0; leave such samples out")
    return value.long()


def check_counted_from_0(targets: Tensor | None) -> None:
    """Refuse classes of all training samples with numbers below 0, which stand for no label: as negatives of another
    class such samples would count as a class of their own.

    Raises:
        UsageError: There are some.
    """
    # torch has no minimum of unsigned integers but bytes.
    low = 0 if targets is None or not len(targets) else targets.long().min()
    if low < 0:
        raise UsageError(
            f"targets has {int(low)} among them, and classes are counted from 0: leave samples without a label out, or "
            "take negatives_from='other_sample' with num_samples"
        )


def check_probabilities(name: str, target: Tensor) -> None:
    """Refuse rows (B, C) that are no probabilities of classes; values are read on the CPU alone."""
    if target.device.type == "cpu" and target.numel():
        values = target.detach().float().numpy()
        if not (values.min() >= -1e-4 and abs(values.sum(1) - 1).max() <= 1e-2):  # nor is NaN a probability
            raise UsageError(
                f"{name}: rows of target are not negative and sum to 1, as probabilities do, or are classes as int64; "
                f"these sum to {values.sum(1).min():.3g} … {values.sum(1).max():.3g}"
            )


def check_targets(name: str, target: Any, logits: Tensor, ignored: int | None = None) -> Tensor:
    """Labels as int64 if each is a class of its sample; values are read on the CPU alone.

    Args:
        name: The objective, for the message.
        target: (B,) integers, or (B, …) as the logits' positions.
        logits: (B, C, …).
        ignored: A label that stands for none.

    Raises:
        UsageError: Another shape or device, no integers, a class that the logits do not have, or no label at all.
    """
    if not whole_numbers(target) or target.dtype.itemsize == 1:
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise UsageError(f"{name}: target is {kind}: pass the number of each sample's class as int64")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected:
        raise UsageError(
            f"{name}: target has shape {tuple(target.shape)}, and the student's logits {tuple(logits.shape)}: "
            f"pass the number of each sample's class, {expected}"
        )
    if target.device != logits.device:
        raise UsageError(
            f"{name}: target is on {target.device} and the student's logits are on {logits.device}: move it there"
        )
    if target.device.type == "cpu" and target.numel():
        values = target.detach().numpy()
        outside = (values < 0) | (values >= logits.shape[1])
        wrong = values[outside if ignored is None else outside & (values != ignored)]
        if wrong.size:
            number = int(wrong.flat[0])
            way = "leave out samples without a class" if number < 0 else "give the student as many outputs as there are"
            raise UsageError(
                f"{name}: target has class {number}, and the student's logits are of the classes 0 to "
                f"{logits.shape[1] - 1}: {way}{' classes' if number >= 0 else ', or number the classes from 0'}"
            )
        if ignored is not None and (values == ignored).all():
            raise UsageError(f"{name}: no sample of the batch has a label, all are {ignored}: skip such batches")
    return target.long()


def unlabelled(objective: str) -> UsageError:
    """The error of an objective that needs labels where there are none."""
    return UsageError(
        f"objective {objective} needs labels, and this data has none to train on: take the objective out of the "
        "config, or pass target=labels in a loop of your own"
    )


def several_classes_refused(objective: str) -> UsageError:
    """The error of an objective that reads one class for each sample where the labels mark any number of them."""
    return UsageError(
        f"objective {objective} reads one class for each sample, and the labels of this data mark any number of "
        "classes: use binary_cross_entropy, and binary_kd towards a teacher, or an objective without labels"
    )


def check_label_vectors(objective: str, batch: dict[str, Tensor], logits: Tensor) -> Tensor:
    """The batch's numbers for each class (B, C) in [0, 1], in the dtype of the logits (B, C).

    Raises:
        UsageError: There are none, or of another shape or range; values are read on the CPU alone.
    """
    labels = batch.get("label_vector", batch.get("target"))
    if labels is None:
        raise unlabelled(objective)
    if not isinstance(labels, Tensor) or labels.shape != logits.shape:
        shown = (
            f"have the shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"are {type(labels).__name__}"
        )
        raise UsageError(
            f"objective {objective} compares logits {tuple(logits.shape)} with a number for each class, and the "
            f"labels {shown}: pass a tensor of the same shape"
        )
    loop_of_ones_own = "label_vector" not in batch and labels.device.type == "cpu"
    # Asked this way round, NaN is refused too.
    if loop_of_ones_own and not bool(((labels >= 0) & (labels <= 1)).all()):
        raise UsageError(f"objective {objective}: labels are numbers from 0 to 1, and some are not")
    return labels.to(logits.dtype)


def batch_index(batch: dict[str, Tensor], objective: str, samples: int) -> Tensor:
    """The batch's places (B,) in the training set; a UsageError where there are none, or not one of each sample."""
    if "index" not in batch:
        raise UsageError(f"objective {objective} stores what it saw of each sample: pass index=, their places (B,)")
    return check_numbers(f"objective {objective}", "index", batch["index"], samples)


def batch_targets(
    batch: dict[str, Tensor], objective: str, logits: Tensor | None = None, samples: int | None = None
) -> Tensor:
    """The batch's classes (B,), or a clear refusal.

    Args:
        batch: With ``target``.
        objective: Its name, for the message.
        logits: The student's (B, C), where the classes are among theirs.
        samples: B, where they are compared with each other alone.

    Raises:
        UsageError: The data has no labels, or labels that the logits cannot be compared with.
    """
    if "target" not in batch:
        raise several_classes_refused(objective) if "label_vector" in batch else unlabelled(objective)
    if logits is not None:
        return check_targets(objective, batch["target"], logits)
    if samples is not None:
        return check_numbers(f"objective {objective}", "target", batch["target"], samples)
    return batch["target"]
