"""The samples that ``train.validation`` sets apart from the training split."""

from __future__ import annotations

from typing import Any

from ..core.config.schema import RunConfig
from ..datasets.io.subset import split_off
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
