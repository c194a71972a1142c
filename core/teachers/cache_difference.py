"""Why a cache folder does not have what a training reads, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .cache_shard import CacheShard, read_origin
from .source import OutputKey

_NAMES = {
    "kept": "cache.logits and cache.precision",
    "tap": "the tapped modules",
    "content": "the samples as the views show them",
    "samples": "the number of samples",
    "format": "the layout",
}
_OF_TEACHER = ("weights", "architecture", "preprocessing", "modality", "precision", "class_map", "tap")


def difference(root: Path, shard: CacheShard, key: OutputKey) -> str:
    """How the nearest shard that a folder holds differs from the expected one.

    Args:
        root: The cache's folder.
        shard: The expected one.
        key: What it is of.
    """
    shards = [pair for folder in sorted(root.glob(f"{key.part}-*")) if (pair := read_origin(folder)) is not None]
    if not shards:
        return f"holds nothing about {key.part}"

    def differing(fingerprint: Mapping[str, str]) -> list[str]:
        names = [name for name, value in shard.fingerprint.items() if fingerprint.get(name) != value]
        # Another view has other content, too.
        return [name for name in names if name != "content" or "view" not in names]

    fingerprint, origin = min(shards, key=lambda pair: ("view" in differing(pair[0]), len(differing(pair[0]))))
    names = differing(fingerprint)
    if names == ["view"]:
        views = sorted({int(other["view"]) for other, _ in shards if not set(differing(other)) - {"view"}})
        return (
            f"holds view{'s' * (len(views) > 1)} {', '.join(map(str, views))} and "
            f"train.views={shard.fingerprint['view']} or more are asked for"
        )
    changed = [
        f"{name}: {origin.get(name)}, now {value}" for name, value in shard.origin.items() if origin.get(name) != value
    ]
    shown = [
        _described(name, fingerprint.get(name), shard.fingerprint[name], key.teacher)
        for name in names
        if name != "content" or not changed
    ]
    explained = changed if {"content", "samples", "weights", "precision"} & set(names) else []
    return f"was made for something else ({'; '.join([*shown, *explained])})"


def _described(name: str, cached: str | None, now: str, number: int) -> str:
    """A difference in words."""
    if name in _OF_TEACHER:
        whose = f"{_NAMES.get(name, f'the {name}')} of teacher {number}"
        return f"{whose} are others" if name == "weights" else f"{whose}: {cached}, now {now}"
    return f"{_NAMES[name]} are others" if name == "content" else f"{_NAMES[name]}: {cached}, now {now}"
