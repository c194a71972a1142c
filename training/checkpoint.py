"""Checkpoints: everything a run needs to go on with the same bits, in safetensors and JSON, whole or not there at
all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.atomic import atomic_write
from ..core.distributed import all_gather_ragged, rank
from ..core.errors import ContrastillError
from ..core.full_disk import room_for

log = logging.getLogger(__name__)

_BUFFERS = "buffers"
"""File of what no ``state_dict`` has."""
_PYTHON, _NUMPY, _MERSENNE = "python", "numpy", "MT19937"


@dataclass
class Position:
    """Where a training is.

    Attributes:
        epoch: Epoch that is under way, from 0.
        batch: Batches of that epoch that are done.
        step: Optimiser steps done in all.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass
class Snapshot:
    """The contents of a checkpoint.

    Attributes:
        position: Where the training is.
        model: Student, objective heads, banks and their generators.
        optimizer: ``optimizer.state_dict()``.
        running: Sums of the epoch under way, for its row in metrics.jsonl.
        random: Generator states, see :func:`all_random_states`.
        scaler: Gradient scaler's state, for fp16.
        plain, buffers: Of :class:`~contrastill.core.plain_state.PlainState`: attributes, and non-persistent buffers.
    """

    position: Position
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    running: dict[str, Tensor] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)


def random_state() -> dict[str, Tensor]:
    """States of the global generators in this process (dropout and the like): (1, n) bytes of torch's ``cpu`` and, if
    there is one, of its ``cuda`` device, of Python's and of NumPy's.
    """
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    _, words, spare = random.getstate()
    states[_PYTHON] = _bytes_of([*words, math.nan if spare is None else spare])
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    if kind == _MERSENNE:
        states[_NUMPY] = _bytes_of([*keys.tolist(), *rest])
    return {name: state[None] for name, state in states.items()}


def _bytes_of(numbers: Sequence[float]) -> Tensor:
    """(n,) bytes of numbers that a float64 holds exactly, as it does 32 bits."""
    return torch.tensor(numbers, dtype=torch.float64).view(torch.uint8)


def all_random_states(device: torch.device) -> dict[str, Tensor]:
    """:func:`random_state` of all ranks, a row each: they part where shares of a batch differ in size. To be called on
    every rank.
    """
    return {name: all_gather_ragged(state, device) for name, state in random_state().items()}


def set_random_state(states: dict[str, Tensor]) -> None:
    """Put back this rank's row of what :func:`random_state` or :func:`all_random_states` gave.

    The first row stands for ranks that were not there; states of devices that are not there are passed over.
    """
    # torch reads from the beginning of a tensor's storage, whatever part of it the tensor is.
    own = {name: state[rank() if rank() < len(state) else 0].cpu().clone() for name, state in states.items()}
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])
    # Checkpoints of older versions have neither.
    if _PYTHON in own:
        *words, spare = own[_PYTHON].view(torch.float64).tolist()
        version, *_ = random.getstate()
        random.setstate((version, tuple(map(int, words)), None if math.isnan(spare) else spare))
    if _NUMPY in own:
        *words, place, has_spare, spare = own[_NUMPY].view(torch.float64).tolist()
        np.random.set_state((_MERSENNE, np.array(words, dtype=np.uint32), int(place), int(has_spare), spare))


def save_checkpoint(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Write ``step-00000042`` under ``folder``: in a temporary folder first, then renamed; older ones are pruned.

    Args:
        folder: The run's ``checkpoints``.
        snapshot: What to write.
        keep: How many of the newest to keep.

    Raises:
        FullDisk: There is no room for it; those before are as they were.
    """
    final = folder / _name(snapshot.position)
    for leftover in folder.glob(".step-*.tmp"):  # of a save that a kill cut off: its room is needed now
        shutil.rmtree(leftover, ignore_errors=True)
    with room_for(f"checkpoint {final.name}", folder, folder, _bytes(snapshot)), atomic_write(final) as temporary:
        temporary.mkdir(parents=True)
        _write(temporary, snapshot)
    prune(folder, snapshot.position, keep)
    return final


def prune(folder: Path, position: Position, keep: int) -> None:
    """Remove what is older than the ``keep`` newest up to ``position``, which is known to be whole; what is newer may
    be damaged, and stays.
    """
    whole = [path for path in checkpoints(folder) if path.name <= _name(position)]
    for old in whole[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _name(position: Position) -> str:
    return f"step-{position.step:08d}"


def _write(temporary: Path, snapshot: Snapshot) -> None:
    """Write the files of a checkpoint."""
    optimizer_tensors, optimizer_rest = _split_tensors(snapshot.optimizer)
    for name, tensors in (
        ("model", snapshot.model),
        ("optimizer", optimizer_tensors),
        ("running", snapshot.running),
        ("random", snapshot.random),
        (_BUFFERS, snapshot.buffers),
    ):
        if name == _BUFFERS and not tensors:
            continue
        save_file(
            {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()},
            temporary / f"{name}.safetensors",
        )
    state = {"position": vars(snapshot.position), "optimizer": optimizer_rest, "scaler": snapshot.scaler}
    state["plain"] = snapshot.plain
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    # The digests are written last: a file that was cut off afterwards is found out when it is read.
    digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
    (temporary / "digests.json").write_text(json.dumps(digests), encoding="utf-8")


def _bytes(snapshot: Snapshot) -> int:
    """About how large it is on the disk."""
    optimizer, _ = _split_tensors(snapshot.optimizer)
    return sum(
        value.nbytes
        for tensors in (snapshot.model, optimizer, snapshot.running, snapshot.random, snapshot.buffers)
        for value in tensors.values()
    )


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints under ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_newest(folder: Path) -> Snapshot | None:
    """The newest checkpoint that is whole; None if there was never one.

    A damaged one is named in a warning and the one before is taken.

    Raises:
        ContrastillError: There are checkpoints, but none is whole.
    """
    paths = checkpoints(folder)
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except ContrastillError as error:
            log.warning("%s; going back to the one before", error)
    if paths:
        raise ContrastillError(
            f"none of the {len(paths)} checkpoints in {folder} is whole: remove the folder to start again"
        )
    return None


def load_checkpoint(path: Path) -> Snapshot:
    """Read one checkpoint.

    Raises:
        ContrastillError: A file is missing, cut off or changed.
    """
    try:
        digests = json.loads((path / "digests.json").read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if _digest(path / name) != digest:
                raise ContrastillError(f"checkpoint {path} is damaged: {name} is not what was written")
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = {
            name: load_file(path / f"{name}.safetensors") for name in ("model", "optimizer", "running", "random")
        }
        # Most networks have none.
        buffers = load_file(path / f"{_BUFFERS}.safetensors") if f"{_BUFFERS}.safetensors" in digests else {}
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise ContrastillError(f"checkpoint {path} is damaged ({type(error).__name__})") from error
    return Snapshot(
        position=Position(**state["position"]),
        model=tensors["model"],
        optimizer=_join_tensors(state["optimizer"], tensors["optimizer"]),
        running=tensors["running"],
        random=tensors["random"],
        scaler=state["scaler"],
        plain=state.get("plain", {}),
        buffers=buffers,
    )


def check_same_start(folder: Path, position: Position, device: torch.device) -> None:
    """Complain where the ranks found different checkpoints: each would wait for what the others never do.

    Args:
        folder: Where this rank looked.
        position: Of the checkpoint that it found; the start where there was none.
        device: Of the processes' communication.

    Raises:
        ContrastillError: They are at different steps.
    """
    steps = all_gather_ragged(torch.tensor([[position.step]]), device).flatten().tolist()
    if len({*steps}) > 1:
        starts = ", ".join(f"{number}: step {step}" if step else f"{number}: none" for number, step in enumerate(steps))
        raise ContrastillError(
            f"the processes find different checkpoints in {folder} (process {starts}): put out=… on a disk that all "
            "of them share"
        )


def _split_tensors(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors (``3.momentum_buffer``) and what JSON can hold."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for number, entry in optimizer["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                rest.setdefault(str(number), {})[name] = _plain(value, f"{number}.{name}", tensors)
    groups = [
        {name: _plain(value, f"group.{number}.{name}", tensors) for name, value in group.items()}
        for number, group in enumerate(optimizer["param_groups"])
    ]
    return tensors, {"rest": rest, "param_groups": groups}


def _join_tensors(rest: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The inverse of :func:`_split_tensors`."""
    inner: set[str] = set()
    state: dict[int, dict[str, Any]] = {
        int(number): {name: _restored(value, tensors, inner) for name, value in entry.items()}
        for number, entry in rest["rest"].items()
    }
    groups = [
        {name: _restored(value, tensors, inner) for name, value in group.items()} for group in rest["param_groups"]
    ]
    for key, value in tensors.items():
        if key not in inner:
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": groups}


_TENSOR, _DTYPE = "tensor:", "dtype:"
"""Keys of what stands in JSON for a tensor inside a list or a parameter group, and for a dtype."""


def _plain(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON holds it; the tensors in it are put among ``tensors``, under names that begin with ``key``."""
    if isinstance(value, Tensor):
        tensors[key] = value
        return {_TENSOR: key}
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{key}.{place}", tensors) for place, entry in enumerate(value)]
    return value


def _restored(value: Any, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    """The inverse of :func:`_plain`; names of the tensors are added to ``used``."""
    if isinstance(value, list):
        return [_restored(entry, tensors, used) for entry in value]
    if isinstance(value, dict) and _TENSOR in value:
        used.add(value[_TENSOR])
        return tensors[value[_TENSOR]]
    if isinstance(value, dict) and _DTYPE in value:
        return getattr(torch, value[_DTYPE])
    return value


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
