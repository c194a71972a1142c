"""Datasets and DataLoaders that are handed over: what of a DataLoader a training keeps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from ..core.errors import UsageError
from ..datasets.huggingface import is_streamed

log = logging.getLogger(__name__)


def dataset_of(argument: Any, *, training: bool) -> Any:
    """What a DataLoader reads, or the dataset itself.

    Batch size, ``drop_last`` and workers are kept; the order is a function of (seed, epoch). How batches come to the
    memory of the device (``pin_memory``, ``prefetch_factor``, ``persistent_workers``, …) and the generator change no
    value. What would is refused.
    """
    dataset = argument.dataset if isinstance(argument, DataLoader) else argument
    if is_streamed(dataset):
        raise UsageError(
            "an IterableDataset streams its rows, and a row of a bank and an order of one's own need rows that are "
            "read by place: load it with streaming=False, or write WebDataset shards and name their folder"
        )
    if not isinstance(argument, DataLoader):
        return argument
    if not isinstance(argument.dataset, IterableDataset):
        if problem := _not_kept(argument, training):
            raise UsageError(f"the DataLoader's {problem}: hand over its dataset")
        batches = argument.batch_sampler
        if training and isinstance(batches, BatchSampler) and isinstance(batches.sampler, SequentialSampler):
            log.warning(
                "the DataLoader hands out samples in their order (shuffle=False); a training shuffles them anew "
                "in each epoch, by its seed"
            )
    return argument.dataset


AS_DATASET = "make each split a dataset, as torch.utils.data.TensorDataset(images, labels), and pass (train, test)"


def holds_samples(value: Any) -> bool:
    """Whether it is a dataset or a DataLoader, and no setting."""
    if isinstance(value, (Dataset, DataLoader)) or is_streamed(value):
        return True
    setting = isinstance(value, (str, Sequence, Mapping, np.ndarray, Tensor))
    return not setting and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def batches_of(loader: DataLoader) -> dict[str, Any]:
    """The settings of ``train`` that a DataLoader has, of its own or of its ``batch_sampler``."""
    sampler = loader.batch_sampler
    if not isinstance(sampler, BatchSampler):
        return {}
    return {"batch_size": sampler.batch_size} | ({"drop_last": True} if sampler.drop_last else {})


def _not_kept(loader: DataLoader, training: bool) -> str:
    """What a DataLoader does that a training here would not; empty where there is nothing of the kind."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return f"class {type(loader).__name__} hands out batches in a way of its own, which cannot be kept"
    if loader.batch_sampler is None:
        return "batch_size=None hands out what the dataset gives as whole batches, and samples are put together here"
    if type(loader.batch_sampler) is not BatchSampler:
        return f"{type(loader.batch_sampler).__name__} cannot be kept, as the order is a function of (seed, epoch)"
    # That of a DataLoader with a batch_sampler is another one, which nothing draws from.
    sampler = loader.batch_sampler.sampler
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return f"{type(sampler).__name__} cannot be kept, as the order is a function of (seed, epoch)"
    repeats = isinstance(sampler, RandomSampler) and sampler.replacement
    dataset = loader.dataset
    if repeats or (isinstance(sampler, Sized) and isinstance(dataset, Sized) and len(sampler) != len(dataset)):
        return (
            f"{type(sampler).__name__} draws with replacement or another number of samples than the dataset has, and "
            "an epoch shows each sample once"
        )
    if loader.collate_fn is not default_collate:
        name = getattr(loader.collate_fn, "__qualname__", type(loader.collate_fn).__name__)
        return (
            f"collate_fn {name} cannot be kept, as samples are read one by one and each has its own label and "
            "index; do in the dataset what it does to a sample"
        )
    if loader.worker_init_fn is not None:
        name = getattr(loader.worker_init_fn, "__qualname__", type(loader.worker_init_fn).__name__)
        return (
            f"worker_init_fn {name} cannot be kept, as views are functions of (seed, view, index) in any "
            "worker; let the dataset do it when it is first read"
        )
    if loader.batch_sampler.drop_last and not training:
        return "drop_last leaves test samples out, and all of them are tested here"
    return ""
