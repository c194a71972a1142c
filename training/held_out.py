"""The samples that ``train.validation`` sets apart from the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.config.schema import NetworkConfig, RunConfig
from ..core.config.stated import plain
from ..core.config.validation import checked
from ..datasets.io.subset import split_off, validation_samples
from .pixel_labels import measurable_samples


def without_validation(split: Any, config: RunConfig) -> tuple[Any, Any]:
    """What a run trains on of a training split, and its samples for validation; the split and None without any.

    Raises:
        UsageError: See :func:`~contrastill.datasets.io.subset.split_off`.
    """
    share = config.train.validation
    if share is None:
        return split, None
    return split_off(split, share, config.seed, measurable=measurable_samples(split, config.student))


def samples_without_validation(split: Any, share: Any, student: Mapping[str, Any], seed: int) -> int:
    """How many samples a run trains on of a training split; all where ``share`` is no share, which its config refuses.

    Args:
        split: For training.
        share: ``train.validation``.
        student: Its entry in a config.
        seed: Of the run.

    Raises:
        UsageError: See :func:`~contrastill.datasets.io.subset.validation_samples`.
    """
    if not isinstance(share, float) or not 0 < share < 1:
        return split.num_samples
    measurable = measurable_samples(split, checked(NetworkConfig, plain(student), "student."))
    taken = validation_samples(split, share, seed, measurable=measurable)
    return int((~taken).sum())
