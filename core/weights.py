"""Weights on disk: safetensors, or PyTorch files read without running anything that is in them."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import ContrastillError, UsageError

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")


def find_weights(path: str | os.PathLike[str]) -> Path:
    """The weights' file: the path itself, or ``student.safetensors`` of a run folder.

    Raises:
        UsageError: There is no such file, or the run has not finished.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "student.safetensors").is_file():
            raise UsageError(f"{path} holds no student.safetensors: it is no run folder, or its training has not finished")
        return path / "student.safetensors"
    if not path.is_file():
        raise UsageError(f"weights {path} do not exist: give a run folder, a .safetensors file or a .pth checkpoint")
    return path


def load_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict on the CPU.

    Args:
        path: A run folder, a .safetensors file, or a .pth/.pt file: a plain state dict or a released checkpoint
            (``{"epoch", "model", "best_acc", …}``, ``{"state_dict"}``); ``module.`` prefixes of DataParallel are taken off.

    Raises:
        UsageError: There is no such file.
        ContrastillError: It is damaged, holds no state dict, or would run code when it is read.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ContrastillError(f"weights {path} are damaged: {error}") from error
    try:
        # Released checkpoints hold their argparse.Namespace: plain attributes, the one class that is let through.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ContrastillError(f"weights {path} are refused, as reading them could run code: convert them to safetensors where you trust them") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ContrastillError(f"weights {path} are damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ContrastillError(f"{path} holds no state dict: a mapping from names to tensors was expected")
    return {name.removeprefix("module."): value for name, value in content.items()}


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load weights into a module; every name and shape must fit.

    Raises:
        UsageError: They are another network's; the message names the first differences.
    """
    state, own = load_state_dict(path), module.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not in the network" for name in state if name not in own]
    faults += [f"{name} is {tuple(state[name].shape)}, the network's {tuple(own[name].shape)}" for name in own if name in state and state[name].shape != own[name].shape]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UsageError(f"weights {path} do not fit {type(module).__name__}: {'; '.join(faults[:3])}{more}: name the network they were made for")
    module.load_state_dict(state)


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors beside and rename: the file is there whole, or as it was before.

    Args:
        state: Names to tensors.
        path: The file.
        metadata: Strings that go into the file's header.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, temporary, dict(metadata or {}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
