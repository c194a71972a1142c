"""Test samples that are training samples, of datasets that a user hands over."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import Subset

log = logging.getLogger(__name__)


def warn_of_shared_samples(train: Any, test: Any) -> None:
    """Log how many samples of the test dataset are samples of the training dataset: the same object, or a Subset of
    the same.
    """
    (base, rows), (test_base, test_rows) = _rows_in(train), _rows_in(test)
    if test is None or base is not test_base:
        return
    shared = len(test) if rows is None else len({*rows} & {*(range(len(base)) if test_rows is None else test_rows)})
    if shared:
        log.warning(
            "%d of the %d test samples are training samples, as both are taken from one %s, so they say little of "
            "other images: hold some out, as torch.utils.data.random_split does",
            shared,
            len(test),
            type(base).__name__,
        )


def _rows_in(dataset: Any) -> tuple[Any, list[int] | None]:
    """The dataset that a Subset is of, also through others, and its rows there; None: all."""
    rows: list[int] | None = None
    while type(dataset) is Subset:
        indices = [int(index) for index in dataset.indices]
        rows = indices if rows is None else [indices[row] for row in rows]
        dataset = dataset.dataset
    return dataset, rows
