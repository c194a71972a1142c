"""The optimiser of a training."""

from __future__ import annotations

import torch

from ..core.config.schema import TrainConfig
from ..core.transfer import Transfer


def new_optimizer(transfer: Transfer, config: TrainConfig) -> torch.optim.Optimizer:
    """Student and heads in one parameter group, as the paper has it."""
    parameters = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
    )
