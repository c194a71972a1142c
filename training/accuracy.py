"""Accuracy of a network's own logits on a labelled split."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from ..core.data import Loader
from ..core.distributed import world_size
from ..core.errors import ContrastillError
from ..core.representation import Network
from .dense_accuracy import evaluate_dense
from .mean_average_precision import MeanAveragePrecision


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
    the classes that occur, in per cent. Of a network that answers for each position see
    :func:`~.dense_accuracy.evaluate_dense`.

    Raises:
        ContrastillError: A logit is NaN, so that no class is the largest.
    """
    if network.taps.prediction is not None and network.taps.logits is None:
        return evaluate_dense(network, loader, accelerator)
    training, damaged = network.training, torch.zeros((), device=accelerator.device)
    metrics: dict[str, Metric] = {}
    network.eval()
    for batch in loader.epoch(0):
        with accelerator.autocast():
            logits = network(batch, frozenset({"logits"})).require_logits()
        single = "target" in batch and not network.recipe.get("several_classes")
        if single:
            labels = batch["target"]
        elif "target" in batch:
            labels = F.one_hot(batch["target"].long(), logits.shape[1])
        else:
            labels = batch["label_vector"].long()
        # Each class of several is a question of its own: logits of classes that the data has not are left out.
        logits = logits if single else logits[:, : labels.shape[1]]
        metrics = metrics or {name: metric.to(logits.device) for name, metric in _metrics(single, logits.shape[1])}
        # A rank's share of the last batch may be empty, which torchmetrics cannot take.
        for metric in metrics.values() if len(logits) else ():
            metric.update(logits, labels)
        damaged += logits.isnan().any()
    network.train(training)
    if float(accelerator.reduce(damaged, "sum")):
        raise ContrastillError(
            f"{type(network.module).__name__} gives NaN for images of the test split: its weights or its "
            "normalisation are damaged, or its training diverged (lower train.lr then)"
        )
    return {name: 100 * metric.compute().item() for name, metric in metrics.items()}


def _metrics(single: bool, classes: int) -> Iterator[tuple[str, Metric]]:
    """What is measured with one class for each sample, or with any number of them."""
    if not single:
        yield "mAP", MeanAveragePrecision()
        return
    for k in (1, 5):
        if k < classes:
            yield f"top{k}", MulticlassAccuracy(classes, top_k=k, average="micro", validate_args=False)
