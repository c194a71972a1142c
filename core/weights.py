"""State dicts from and to files: safetensors, or a checkpoint that holds nothing but tensors. Never a free pickle."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .atomic import atomic_write
from .errors import ContrastillError, UsageError, looked_in, names_beside, nearest
from .home import expanded

log = logging.getLogger(__name__)

STUDENT = "student.safetensors"
_UNUSED_COUNTER = "num_batches_tracked"
_KEYS = ("model", "state_dict", "student", "ema", "model_ema", "state_dict_ema", "ema_state_dict")
"""Where a checkpoint may have its state dict, the likeliest first."""


def find_weights(path: str | os.PathLike) -> Path:
    """The file of weights that a path stands for: itself, or ``student.safetensors`` of a run folder.

    Raises:
        UsageError: There is no such file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"weights are a {type(path).__name__}: name a run folder or a file of weights")
    path = Path(expanded(path))
    if path.is_dir():
        if not (path / STUDENT).is_file():
            raise UsageError(f"weights {path} is a folder without {STUDENT}: name a finished run, or a file")
        return path / STUDENT
    if not path.is_file():
        hint = nearest(
            str(path),
            ["pretrained", *names_beside(path)],
            "name a run folder, a .safetensors file or a .pth checkpoint",
        )
        raise UsageError(f"weights {path} do not exist{looked_in(path)}: {hint}")
    return path


def load_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a state dict onto the CPU.

    ``.safetensors`` is read as such; a folder is a run, whose student is read; anything else is a torch checkpoint: a
    state dict, or a dict that has one under ``model`` or ``state_dict``, as the released ones and Lightning's do, or
    where there is neither under ``ema`` and its like. The prefix ``module.`` that DataParallel leaves is taken off.

    Args:
        path: File or run folder.

    Raises:
        UsageError: There is no such file, or it holds no state dict.
        ContrastillError: The file is cut off, or a pickle that holds more than tensors and plain values.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _damaged(path) from error
    stored = _load_checkpoint(path)
    state = _unwrap(stored)
    if state is None:
        names = [str(name) for name in stored] if isinstance(stored, Mapping) else []
        has = f"; it has {', '.join(names)}: save that of the network alone" if names else ""
        raise UsageError(
            f"weights {path} hold no state dict, neither as they are nor under {' or '.join(_KEYS[:2])}{has}"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def load_weights(module: nn.Module, path: str | os.PathLike, *, name: str | None = None) -> None:
    """Load a file into a module; every name and every shape must fit.

    Args:
        module: It is left as it was if anything does not fit.
        path: As :func:`load_state_dict` takes it.
        name: What the module is called in an error message; None is its class.

    Raises:
        UsageError: The file is missing or of another network; the first differences are named.
        ContrastillError: The file is damaged or refused.
    """
    load_into(module, without_prefix(load_state_dict(path), module.state_dict(), path), path, name=name)


def without_prefix(
    state: dict[str, Tensor], own: Mapping[str, Tensor], path: str | os.PathLike, classifiers: Sequence[str] = ()
) -> dict[str, Tensor]:
    """A state dict whose names all have one prefix, as ``_orig_mod.``, ``module.``, ``model.`` or ``student.``, with
    those of a module; what has another prefix, as a loss or an averaged copy in the same checkpoint, is left out.

    Args:
        state: What :func:`load_state_dict` gave. It is returned as it is where it fits, or where not exactly one
            prefix makes it fit; of an average (``ema``) or a teacher beside the network itself, the network counts.
        own: The module's own.
        path: Where it came from; what is taken off is logged.
        classifiers: Names of layers that the file may lack.
    """
    needed = [key for key in own if not key.endswith(_UNUSED_COUNTER) and key.rpartition(".")[0] not in classifiers]
    if not needed or all(key in state for key in needed):
        return state
    prefixes = [key.removesuffix(needed[0]) for key in state if key.endswith(f".{needed[0]}")]
    fitting = [
        prefix
        for prefix in prefixes
        if all(prefix + key in state for key in needed)
        and all(key.removeprefix(prefix) in own for key in state if key.startswith(prefix))
    ]
    if len(fitting) > 1:
        fitting = [prefix for prefix in fitting if not any(copy in prefix for copy in ("ema", "teacher", "shadow"))]
    if len(fitting) != 1:
        return state
    (prefix,) = fitting
    others = [key for key in state if not key.startswith(prefix)]
    log.info("%s: %s is taken off the names%s", path, prefix, f", and {_first(others)} left out" if others else "")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: str | os.PathLike,
    *,
    name: str | None = None,
    classifiers: Sequence[str] = (),
    new_classifier: bool = False,
    of: str | None = None,
) -> None:
    """Load a state dict into a module; every name and every shape must fit.

    Args:
        module: It is left as it was if anything does not fit.
        state: What :func:`load_state_dict` gave.
        path: Where it came from, for the error message.
        name: What the module is called in an error message; None is its class.
        classifiers: Names of the module's layers that give the logits.
        new_classifier: Where nothing but the classifiers is missing or of another length, they stay as they are and
            the rest is loaded; this is logged.
        of: The network that the file says it is of.

    Raises:
        UsageError: It is of another network; the first differences are named, and the number of classes if it is that.
    """
    name, own = name or type(module).__name__, module.state_dict()
    # Checkpoints from before BatchNorm counted its batches lack the counter, which nothing with a momentum reads.
    missing = [key for key in own if key not in state and not key.endswith(_UNUSED_COUNTER)]
    unexpected = [key for key in state if key not in own]
    misfits = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
    of_classifier = {key for key in own if key.rpartition(".")[0] in classifiers}
    only_classifier = not unexpected and {*missing, *misfits} <= of_classifier
    if new_classifier and only_classifier and (missing or misfits):
        log.info("%s starts from %s but for %s, which is new", name, path, " and ".join(classifiers))
        state = {key: value for key, value in state.items() if key not in misfits}
    elif missing or unexpected or misfits:
        shapes = [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in misfits]
        problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        differences = "; ".join(f"{kind} {_first(names)}" for kind, names in problems if names)
        classes = classes_in(state, classifiers)
        hint = (
            f"they have {classes} classes, set num_classes={classes}"
            if only_classifier and misfits and classes
            else f"they are of {of or 'another network'}"
        )
        if (prefix := os.path.commonprefix([*state]).rpartition(".")[0]) and missing and unexpected:
            hint += f" (nor do they fit without {prefix}. before each name)"
        raise UsageError(f"weights {path} do not fit {name}: {differences}: {hint}")
    module.load_state_dict(state, strict=False)


def classes_in(state: Mapping[str, Tensor], classifiers: Sequence[str]) -> int | None:
    """How many classes a state dict tells apart, by the first of its network's classifiers; None if it lacks that."""
    weight = state.get(f"{classifiers[0]}.weight") if classifiers else None
    return None if weight is None else weight.shape[0]


def save_state_dict(
    state: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state dict as safetensors, whole or not at all.

    Args:
        state: Tensors on any device.
        path: The file; its folder exists.
        metadata: Strings to keep in the file's header.
    """
    path = Path(path)
    # A clone each, because safetensors refuses tensors that share memory (tied weights).
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata or {}))


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The strings in a safetensors file's header.

    Raises:
        UsageError: There is no such file.
        ContrastillError: The file is damaged.
    """
    path = find_weights(path)
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error


def _load_checkpoint(path: Path) -> Any:
    """``torch.load`` of tensors and plain values; the released checkpoints also hold their command line as a
    Namespace.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        raise ContrastillError(
            f"weights {path} are refused: the file is damaged, or a pickle that holds more than tensors and could "
            "run code when it is read; "
            "save the state dict as .safetensors where it was made"
        ) from error


def _unwrap(loaded: Any) -> Mapping[str, Tensor] | None:
    """The state dict in what a checkpoint holds, or None."""
    if not isinstance(loaded, Mapping):
        return None
    for inner in (loaded, *(loaded.get(key) for key in _KEYS)):
        if (
            isinstance(inner, Mapping)
            and inner
            and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in inner.items())
        ):
            return inner
    return None


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _damaged(path: Path) -> ContrastillError:
    return ContrastillError(
        f"weights {path} are damaged: the file is cut off or is no safetensors file; make or copy it again"
    )
