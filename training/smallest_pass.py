"""The smallest forward pass of an epoch, and whether the networks and objectives can take it: found out before the
first step, not at the end of the first epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..core.as_before import AsBefore
from ..core.data import ViewLoader
from ..core.deferred import DeferredState
from ..core.errors import UsageError
from ..core.transfer import Transfer
from .wrapped_loader import WrappedLoader


class FullBatches(WrappedLoader):
    """The batches of a loader without the last one of an epoch where that has fewer than ``batch_size`` samples;
    everything else is the loader's own.

    Args:
        loader: Of the training samples, in another order each epoch, so that no sample is left out for good.

    Raises:
        UsageError: No batch is left.
    """

    def __init__(self, loader: ViewLoader) -> None:
        super().__init__(loader)
        if not len(self):
            raise UsageError(
                f"train.drop_last leaves nothing of {loader.num_samples} samples in batches of "
                f"{loader.batch_size}: lower train.batch_size, or set train.drop_last=false"
            )

    def __len__(self) -> int:
        return self._loader.num_samples // self._loader.batch_size

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The loader's batches of epoch ``k`` from ``start`` on, those that are full."""
        return islice(self._loader.epoch(k, start), max(0, len(self) - start))


def smallest_pass(samples: int, processes: int, passes: int) -> int:
    """Samples of the smallest forward pass in which a batch of ``samples`` is looked at, see
    :func:`~.accumulation.chunks`.

    Example:
        >>> smallest_pass(64, 1, 1), smallest_pass(65, 2, 4), smallest_pass(1, 1, 4), smallest_pass(3, 4, 1)
        (64, 8, 1, 1)
    """
    share = max(1, samples // processes)
    return max(1, share // (passes if processes > 1 else min(passes, share)))


def check_smallest_pass(
    transfer: Transfer,
    loader: Any,
    batch: Mapping[str, Tensor],
    processes: int,
    passes: int,
    autocast: AbstractContextManager[Any],
) -> None:
    """Where some pass of an epoch has a single sample, look at one: BatchNorm has no variance of a single value, some
    objectives have no negatives.

    Nothing is other afterwards. Called by all processes, while banks and draws move on by ``commit`` alone.

    Args:
        transfer: In its stage, in training mode.
        loader: Of the training samples. One that does not say its ``batch_size`` is not checked.
        batch: Some of the training's.
        processes: Their number.
        passes: ``train.accumulation_steps``.
        autocast: Of the training.

    Raises:
        UsageError: Such a pass would fail.
    """
    size = getattr(loader, "batch_size", None)
    if size is None:
        return
    full = min(size, loader.num_samples)
    left = loader.num_samples - size * len(loader) + size if loader.num_samples < size * len(loader) else full
    if smallest_pass(full, processes, passes) == 1:
        where = (
            f"a pass of this training has 1 sample (train.batch_size={size} in {passes * processes} "
            f"part{'s' * (passes * processes > 1)})"
        )
        way = "raise train.batch_size" + ", or lower train.accumulation_steps" * (passes > 1)
    elif smallest_pass(left, processes, passes) == 1:
        shared = f", in {passes * processes} parts" if passes * processes > 1 else ""
        where = (
            f"the last batch of an epoch has {left} sample{'s' * (left > 1)}{shared} ({loader.num_samples:,} "
            f"samples, train.batch_size={size})"
        )
        way = "set train.drop_last=true, or another train.batch_size"
    else:
        return
    try:
        with _unchanged(transfer), autocast:
            transfer({name: value[:1] for name, value in batch.items()})
    except ValueError as error:
        reason = str(error)
        if "more than 1 value per channel" in reason:
            reason = "and a BatchNorm has no variance of a single value for each channel"
        elif isinstance(error, UsageError) and "one sample" in reason:
            reason = f"and {reason.rpartition(': ')[0]}"
        else:
            raise
        raise UsageError(f"{where}, {reason}: {way}") from error


@contextmanager
def _unchanged(transfer: Transfer) -> Iterator[None]:
    """Within it forward passes leave no trace: neither in statistics, nor in generators, banks and draws."""
    # Banks are large, and are not written before a commit; what else counts in its forward pass is put back.
    modules = [
        module
        for part in (transfer.student, *transfer.terms.values())
        for module in part.modules()
        if not isinstance(module, DeferredState)
    ]
    before = AsBefore(modules)
    counts = [
        (module, module.get_extra_state())
        for module in modules
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    stepped = [(term, term.stepped) for term in transfer.terms.values()]
    try:
        for term, _ in stepped:
            term.stepped = frozenset({"forward", "initial"})  # what shows in the first step, it will show
        # With gradients, as some objectives compute with them.
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        for term, methods in stepped:
            term.stepped = methods
        transfer.rollback()
        before.restore()
        for module, count in counts:
            module.set_extra_state(count)
