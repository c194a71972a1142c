"""What a run's folder records of its data and teachers: whether those of two runs are alike, and the size of images."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from .data_facts import VALUES
from .registry import MODALITIES
from .run import Run
from .run_weights import RANDOM, WeightsRecord

# They are of the modalities that a run reads.
_OF_MODALITIES = ("modalities", "contents", "names or sizes of files", VALUES)


def compared_splits(validation: float | None) -> tuple[str, ...]:
    """Splits that are the same for every seed: not the training split that ``train.validation`` takes a part from."""
    return ("train", "test") if validation is None else ("test",)


def other_data(first: Run, second: Run, splits: Collection[str]) -> str:
    """What tells the data of two runs apart, in words, as they may be replaced under one path; empty where nothing does
    or a run records nothing.
    """
    before, now = first.data_facts(), second.data_facts()
    for split in splits:
        if fact := differing_fact(before.get(split) or {}, now.get(split) or {}):
            return f"{fact} of {split}"
    return ""


def differing_fact(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first fact that tells a split from another one, where both have it; empty where none does."""
    read_alike = before.get("modalities") == now.get("modalities")
    differ = (name for name, value in before.items() if value != now.get(name, value))
    return next((name for name in differ if read_alike or name not in _OF_MODALITIES), "")


def other_teachers(first: Run, second: Run) -> str:
    """``weights of teachers.0``, the first whose weights differ between two runs, but for those that each run's seed
    gives a teacher without; empty where none does.
    """
    before, now = WeightsRecord(first).read(), WeightsRecord(second).read()
    shared = [key for key in before if key.startswith("teachers.") and key in now]
    others = [key for key in shared if before[key].hash != now[key].hash]
    return next((f"weights of {key}" for key in others if {before[key].source, now[key].source} != {RANDOM}), "")


def recorded_size(run: Run, modality: str) -> tuple[int, int] | None:
    """Height and width of a run's training images, as its folder records them; None where it does not.

    Args:
        run: The run.
        modality: Stored, or derived from a stored one.
    """
    facts = run.data_facts().get("train")
    shapes = re.findall(r"(\S+) \[\d+, (\d+), (\d+)\]", str(facts.get("modalities")) if isinstance(facts, dict) else "")
    sizes = {name: (int(height), int(width)) for name, height, width in shapes}
    if modality not in sizes and modality in MODALITIES:
        modality = MODALITIES[modality].of
    return sizes.get(modality)
