"""Part of a split, as a split: for validation on samples that the training does not see."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from ...core.data import Split
from ...core.errors import UsageError
from ...core.hashing import hash64
from ...core.label_vectors import several_classes
from .file_splits import ReadSplit
from .in_memory import TensorSplit
from .views import PaddedImages

_VALIDATION = 3


def split_off(split: Split, share: float, seed: int, *, measurable: Tensor | None = None) -> tuple[Any, Any]:
    """A training split in two: the rest, and a share of each class, drawn by (seed, index).

    Args:
        split, share, seed, measurable: As :func:`validation_samples` takes them.

    Raises:
        UsageError: As there; and a split of another kind than the library's, or ``skip_corrupted``.
    """
    taken = validation_samples(split, share, seed, measurable=measurable)
    rows = torch.arange(split.num_samples)
    return subset(split, rows[~taken]), subset(split, rows[taken])


def validation_samples(split: Split, share: float, seed: int, *, measurable: Tensor | None = None) -> Tensor:
    """(N,) of bool: which samples of a training split are for validation, a share of each class, drawn by (seed,
    index).

    Args:
        split: With labels.
        share: In (0, 1), of the samples of each class, rounded; one at least of all.
        seed: Of the run.
        measurable: (N,) of bool, where what is predicted is of positions, so that samples need no class of their own:
            which of them have something to measure it by. The others stay in the rest, whatever the share.

    Raises:
        UsageError: It has no labels, or so few samples that one of the two is empty, or that none of the second is
            marked with a class.
    """
    if several_classes(split) or (measurable is not None and split.targets is None):
        # A sample is of many classes: drawn as if all were of one.
        targets = torch.zeros(split.num_samples, dtype=torch.int64)
    elif split.targets is None:
        raise UsageError(
            "train.validation measures top-1 on samples of the training split, and they have no labels: leave it out"
        )
    else:
        targets = split.targets.cpu()
    order = hash64(torch.arange(split.num_samples), _VALIDATION, seed).argsort(stable=True)
    if measurable is not None and measurable.any():
        order = order[measurable[order]]
    taken = torch.zeros(split.num_samples, dtype=torch.bool)
    for label in targets.unique():
        of_class = order[targets[order] == label]
        taken[of_class[: round(share * len(of_class))]] = True
    if not taken.any() or taken.all():
        kind = "samples" if len(order) == split.num_samples else "samples with labels"
        raise UsageError(
            f"train.validation={share:g} of {len(order)} {kind} leaves nothing to "
            f"{'train' if taken.all() else 'validate'} on: choose another share"
        )
    if several_classes(split) and not bool(split.label_vectors.cpu()[taken].any()):  # type: ignore[attr-defined]
        raise UsageError(
            f"train.validation={share:g} takes {int(taken.sum())} samples, none of which is marked with a class, so "
            "that no mAP can be measured: choose a larger share, or another seed"
        )
    return taken


def subset(split: Split, rows: Tensor) -> Any:
    """The samples ``rows`` (n,) of a split, numbered from 0; ``positions`` (n,) are their numbers in the whole split.

    Raises:
        UsageError: A split of another kind than the library's, or one that puts other samples in the place of damaged
            ones.
    """
    if getattr(split, "skip_corrupted", False):
        raise UsageError(
            "data.skip_corrupted puts the next sample in a damaged one's place, which may be one for validation: leave "
            "out train.validation, or remove the damaged files"
        )
    if isinstance(split, TensorSplit):
        part: Any = copy(split)
        part.images = {
            name: PaddedImages(stored.storage[rows], stored.padding) for name, stored in split.images.items()
        }
        part._on = {}
    elif isinstance(split, ReadSplit):
        part = copy(split)
        part.rows = rows.numpy() if split.rows is None else split.rows[rows.numpy()]
    else:
        raise UsageError(
            f"{type(split).__name__} does not say how to take a part of it: leave out train.validation, or make the "
            "split yourself and hand over the data as (train, validation)"
        )
    part.num_samples = len(rows)
    before = getattr(split, "positions", None)
    part.positions = rows if before is None else before[rows]
    part.targets = None if split.targets is None else split.targets[rows.to(split.targets.device)]
    if (vectors := getattr(split, "label_vectors", None)) is not None:
        part.label_vectors = vectors[rows.to(vectors.device)]
    return part
