"""Accuracy of a network's own logits on a labelled split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ..core.data import Loader
from ..core.distributed import world_size
from ..core.errors import ContrastillError, UsageError
from ..core.representation import Network
from ..core.value_scale import note_once
from .dense_accuracy import evaluate_dense

if TYPE_CHECKING:
    from .mean_average_precision import MeanAveragePrecision

_TOP = (1, 5)


@torch.no_grad()
def share_buffers(network: Network) -> None:
    """Give all ranks the BatchNorm statistics of the main one, which are saved: each has its own of the last step."""
    if world_size() > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)


@torch.no_grad()
def evaluate(network: Network, loader: Loader, accelerator: Accelerator) -> dict[str, float]:
    """Top-1 and top-5 accuracy in per cent over all ranks, in eval mode; the training flag is put back. Of labels that
    mark any number of classes, and of a network that was trained with such, the mean average precision ``mAP`` over
    the classes that occur, in per cent; nothing where none does. Of a network that answers for each position see
    :func:`~.dense_accuracy.evaluate_dense`.

    Raises:
        UsageError: The samples have no classes.
        ContrastillError: A logit is NaN, so that no class is the largest.
    """
    if network.taps.prediction is not None and network.taps.logits is None:
        return evaluate_dense(network, loader, accelerator)
    training, damaged = network.training, torch.zeros((), device=accelerator.device)
    precision: MeanAveragePrecision | None = None
    counts = torch.zeros(1 + len(_TOP), dtype=torch.int64, device=accelerator.device)
    classes = 0
    network.eval()
    for batch in loader.epoch(0):
        with accelerator.autocast():
            logits = network(batch, frozenset({"logits"})).require_logits()
        single = "target" in batch and not network.recipe.get("several_classes")
        if single:
            labels = batch["target"]
        elif "target" in batch:
            labels = F.one_hot(batch["target"].long(), logits.shape[1])
        elif "label_vector" not in batch:
            raise UsageError(
                f"the samples that {type(network.module).__name__} is tested on have no classes (target) to compare "
                "its logits with: give them some, or leave the test samples out"
            )
        else:
            labels = batch["label_vector"].long()
        # Each class of several is a question of its own: logits of classes that the data has not are left out.
        logits = logits if single else logits[:, : labels.shape[1]]
        classes = logits.shape[1]
        if single:
            counts += _right(logits, labels).to(counts.device)
        else:
            precision = precision or _mean_average_precision(logits.device)
            precision.update(logits, labels)
        damaged += logits.isnan().any()
    network.train(training)
    if float(accelerator.reduce(damaged, "sum")):
        raise ContrastillError(
            f"{type(network.module).__name__} gives NaN for images of the test split: its weights or its "
            "normalisation are damaged, or its training diverged (lower train.lr then)"
        )
    if precision is not None:
        mean = precision.compute().item()
        if math.isnan(mean):
            note_once("no sample is marked with a class, so no mAP is measured")
        return {} if math.isnan(mean) else {"mAP": 100 * mean}
    # A rank whose share is empty takes part in the sum.
    total, *right = accelerator.reduce(counts, "sum").tolist()
    return {f"top{k}": 100 * count / total for k, count in zip(_TOP, right, strict=True) if total and k < classes}


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """(3,) int64: how many samples there are, and for how many the label is the first or among the first five of the
    logits (B, C).
    """
    first = logits.argmax(1) == labels
    among = (logits.topk(min(_TOP[1], logits.shape[1])).indices == labels[:, None]).any(1)
    return torch.stack([torch.tensor(len(labels), device=labels.device), first.sum(), among.sum()])


def _mean_average_precision(device: torch.device) -> MeanAveragePrecision:
    # torchmetrics takes as long to load as torch does, and few trainings need it.
    from .mean_average_precision import MeanAveragePrecision

    return MeanAveragePrecision().to(device)
