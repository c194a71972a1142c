"""Modules around a module, and programs that were made of one."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..core.errors import UsageError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself in the place of what ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` or an
    average of weights (``AveragedModel``, timm's ``ModelEma``) put around it: names of modules and weights, and what it
    says of itself, are its own.
    """
    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        elif isinstance(module, _WRAPPERS) or type(module).__module__ == "timm.utils.model_ema":
            module = module.get_submodule("module")
        else:
            return module


def refuse_program(module: nn.Module, what: str) -> None:
    """Complain where a module, or a part of it, is a program of ``torch.export``: it has the one mode that it was
    exported in, so that a training would leave dropout out and BatchNorm as it was, and ``eval()`` raises.

    Args:
        module: Its copies are programs too, though their ``eval()`` does not raise.
        what: It is to be, as ``"the student"``.

    Raises:
        UsageError: It is.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.fx.GraphModule) and any(
            base.__module__.startswith("torch.export.") for base in type(part).__mro__
        ):
            where = f"has a part of torch.export, {name}, which" if name else "is a program of torch.export, and"
            raise UsageError(
                f"{what}, a {type(module).__name__}, {where} has no training mode: hand over the module that it was "
                "made from, with its weights: module.load_state_dict(program.state_dict())"
            )


def refuse_empty(module: nn.Module) -> None:
    """Complain about weights without values.

    Raises:
        UsageError: A parameter or buffer is on torch's device ``meta``.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_meta:
            raise UsageError(
                f"{type(module).__name__} has no values yet, as {name} is on the device meta: call "
                "module.to_empty(device='cpu') and load its weights, or make it without torch.device('meta')"
            )


def to_be_filled(module: nn.Module) -> nn.Module:
    """A user's module that a student's weights are to be loaded into, without wrappers.

    Raises:
        UsageError: It is a program of ``torch.export``, or on the device ``meta``.
    """
    inner = unwrapped(module)
    refuse_program(inner, "module")
    refuse_empty(inner)
    return inner
