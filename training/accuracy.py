"""Accuracy of a network's own logits on a labelled split."""

from __future__ import annotations

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from torchmetrics.classification import MulticlassAccuracy

from ..core.data import Loader
from ..core.distributed import world_size
from ..core.errors import ContrastillError
from ..core.representation import Network


@torch.no_grad()
def share_buffers(network: Network) -> None:
    """Give all ranks the BatchNorm statistics of the main one, which are saved: each has its own of the last step."""
    if world_size() > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)


@torch.no_grad()
def evaluate(network: Network, loader: Loader, accelerator: Accelerator) -> dict[str, float]:
    """Top-1 and top-5 accuracy in per cent over all ranks, in eval mode; the training flag is put back.

    Raises:
        ContrastillError: A logit is NaN, so that no class is the largest.
    """
    training, damaged = network.training, torch.zeros((), device=accelerator.device)
    metrics: dict[str, MulticlassAccuracy] = {}
    network.eval()
    for batch in loader.epoch(0):
        with accelerator.autocast():
            logits = network(batch, frozenset({"logits"})).require_logits()
        if not metrics:
            metrics = {
                f"top{k}": MulticlassAccuracy(logits.shape[1], top_k=k, average="micro", validate_args=False).to(
                    logits.device
                )
                for k in (1, 5)
                if k < logits.shape[1]
            }
        # A rank's share of the last batch may be empty, which torchmetrics cannot take.
        for metric in metrics.values() if len(logits) else ():
            metric.update(logits, batch["target"])
        damaged += logits.isnan().any()
    network.train(training)
    if float(accelerator.reduce(damaged, "sum")):
        raise ContrastillError(
            f"{type(network.module).__name__} gives NaN for images of the test split: its weights or its "
            "normalisation are damaged, or its training diverged (lower train.lr then)"
        )
    return {name: 100 * metric.compute().item() for name, metric in metrics.items()}
