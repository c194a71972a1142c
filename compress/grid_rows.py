"""Rows of a benchmark's results: made of finished runs, and held against what is to be trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config.loading import load_config
from ..core.config.schema import DataConfig, NetworkConfig
from ..core.epochs import incomplete
from ..core.errors import ContrastillError, UsageError
from ..core.fingerprint import weights_hash
from ..core.run import Run
from ..core.run_weights import WeightsRecord
from ..models.build import build_network
from .benchmark import TEACHER, Training
from .grid_data import num_train_images, split_hash
from .results import pack_bits, read_rows

Correct = Callable[[NetworkConfig, str | os.PathLike, DataConfig], np.ndarray]
"""Which test images a network gets right, of its entry in a config, its weights and the data."""

_SPLITS = {"train": "training images", "test": "test images"}


def check_rows(trainings: Sequence[Training], teachers: Mapping[str, Path], file: Path) -> None:
    """Hold the rows that are there against what is to be trained: they stand in one table.

    Args:
        trainings: What is requested.
        teachers: Teachers that are there -> their runs or files.
        file: Of the rows.

    Raises:
        UsageError: Rows of other settings, whose runs were removed, which would count as seeds of these trainings; of
            other test images; of another teacher of the same name.
    """
    rows, way = read_rows(file), f"remove {file}, or choose another --out"
    settings = {training.key[:-1]: {*training.settings} for training in trainings}
    for key, row in rows.items():
        other = {*row["overrides"]} ^ settings.get(key[:-1], {*row["overrides"]})
        if other:
            what = f"{row['pair']} {row['objective']} with other settings ({', '.join(sorted(other))})"
            raise UsageError(f"{file} has results of {what}: remove it, or choose another --out")
    if not rows:
        return
    plain = next((training for training in trainings if not _varies_data(training.vary)), None)
    if plain is not None:
        data = load_config(plain.config, plain.overrides).data
        hashes = {split: split_hash(data, split) for split in _SPLITS}
        for row in rows.values():
            for split, images in _SPLITS.items():
                if row.get(split) not in (None, hashes[split]) and not _varies_data(row["vary"]):
                    raise UsageError(
                        f"{file} has results of {row['pair']} with other {images} than those of {data.path}, which do "
                        f"not compare: {way}"
                    )
    for name, weights in teachers.items():
        if reason := other_teacher(rows, name, weights):
            raise UsageError(f"{reason}: put the former one back, or choose another --out")


def _varies_data(vary: Sequence[str] | None) -> bool:
    return vary is not None and vary[0].startswith("data.")


def other_teacher(rows: Mapping[tuple, Mapping[str, Any]], name: str, weights: Path) -> str | None:
    """What is wrong where rows are of another teacher of that name; of older versions they do not say which."""
    own = [row for row in rows.values() if row["pair"] == name and row["objective"] == TEACHER]
    own += [row for row in rows.values() if row["pair"].startswith(f"{name}:")]
    hashes = {row.get("teacher") for row in own} - {None}
    if not hashes or hashes == {weights_hash(build_network(name, weights=weights).module)}:
        return None
    return f"there are results of another teacher {name} than that in {weights}, and their students do not compare"


def row_of(training: Training, correct: Correct) -> dict[str, Any]:
    """The row of a finished run.

    Args:
        training: It.
        correct: Measures it.

    Raises:
        ContrastillError: Its test split has no classes, its metrics.jsonl is cut off, or a file is damaged.
    """
    run = Run(training.out)
    config, history = load_config(str(run.config)), run.history()
    if not history or "top1" not in history[-1]:
        raise ContrastillError(
            f"{training.out} has no top-1 of its last epoch: a benchmark needs a test split with classes"
        )
    if partial := incomplete(run, config):
        raise ContrastillError(
            f"{training.out} has no top-1 of its last epoch ({partial}): put the file back, or remove the folder, "
            "which is then trained anew"
        )
    right = correct(config.student, training.out, config.data)
    if training.objective == TEACHER:
        teacher: str | None = weights_hash(build_network(training.pair, weights=training.out).module)
    else:
        recorded = WeightsRecord(run).read().get("teachers.0")
        teacher = None if recorded is None else recorded.hash
    return {
        "pair": training.pair,
        "objective": training.objective,
        "vary": list(training.vary) if training.vary else None,
        "seed": training.seed,
        "overrides": list(training.settings),
        "given": list(training.given),
        "top1": history[-1]["top1"],
        "epochs": history[-1]["epoch"] + 1,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "samples_per_second": history[-1]["samples_per_second"],
        "train_images": num_train_images(config),
        "images": len(right),
        "correct": pack_bits(right),
        **{split: split_hash(config.data, split) for split in _SPLITS},
        "teacher": teacher,
    }


def teacher_row(name: str, weights: Path, training: Training, correct: Correct) -> dict[str, Any] | None:
    """The row of a teacher that was there already; None where its classes are not the data's.

    Args:
        name: The network.
        weights: Its run or file.
        training: One that it teaches; says which data.
        correct: Measures it.
    """
    config = load_config(training.config, training.overrides)
    try:
        right = correct(config.teachers[0].model_copy(update={"model": name}), weights, config.data)
    except UsageError:
        return None
    row: dict[str, Any] = {
        "pair": name,
        "objective": TEACHER,
        "vary": None,
        "seed": 0,
        "overrides": [],
        "given": [],
        "top1": 100 * float(right.mean()),
    }
    unknown = dict.fromkeys(("epochs", "seconds", "samples_per_second", "train_images"))
    return {
        **row,
        **unknown,
        "images": len(right),
        "correct": pack_bits(right),
        "test": split_hash(config.data, "test"),
        "teacher": weights_hash(build_network(name, weights=weights).module),
    }
