"""Writes the outputs of a config's teachers for all its views, once for all the trainings that read them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.arguments import checked
from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.generators import own_generators
from ..core.memory_layout import channels_last
from ..core.teachers.cache import CachedTeachers
from ..core.teachers.cache_store import CacheStore
from ..core.torch_settings import own_settings
from ..training.assemble import assemble
from ..training.processes import parting
from .messages import printer, progress_bar
from .train import ConfigLike, Overrides, overrides_as_text, resolve_config


@dataclass(frozen=True)
class CacheResult:
    """A cache of teachers' outputs.

    Attributes:
        out: Its folder.
        views: Views of each sample.
        samples: Training samples.
        teachers: Number of teachers.
        parts: Part of a teacher's outputs -> how it is stored.
        train_with: Overrides by which a training reads it.
        bytes: Size of all files.
        files: Number of all files.
        missing: Number of files that were missing or damaged before.
        written: Number of files that this process wrote; None for a dry run.
    """

    out: Path
    views: int
    samples: int
    teachers: int
    parts: Mapping[str, str]
    train_with: str
    bytes: int
    files: int
    missing: int
    written: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill cache --json`` prints them."""
        values = {**vars(self), "out": str(self.out), "parts": dict(self.parts)}
        if self.written is None:
            del values["written"]
        return values

    def __str__(self) -> str:
        parts = ", ".join(f"{part} ({storage})" for part, storage in self.parts.items())
        views, teachers = (
            f"{count:,} {name}{'s' * (count > 1)}" for name, count in (("view", self.views), ("teacher", self.teachers))
        )
        present = self.files - self.missing
        return (
            f"{views} of {self.samples:,} samples, {teachers}: {parts}; {self.bytes / 1e6:,.1f} MB in "
            f"{self.files:,} files in {self.out}" + (f", of which {present:,} are there" if present else "")
        )


@checked
@own_settings()
@own_generators()
@parting()
def cache_teachers(
    config: ConfigLike,
    overrides: Overrides = (),
    *,
    out: str | os.PathLike | None = None,
    views: int | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> CacheResult | None:
    """Write the teachers' outputs for every view of a config; files that are there and sound are kept.

    Args:
        config: A YAML file, the name of a shipped config, or a config; the same as the training's.
        overrides: ``"key=value"`` strings, or values by dotted keys.
        out: The folder; None: ``train.teacher_cache`` of the config.
        views: Views of each sample; None: ``train.views`` of the config.
        dry_run: Whether to compute sizes alone and write nothing.
        progress: Whether to show progress on standard error.

    Returns:
        What there is in the folder; None on a process that is not the main one.

    Raises:
        UsageError: No teachers, views or folder, several seeds, or a folder of another cache.
        ContrastillError: A file cannot be read or written.
    """
    texts = [*overrides_as_text(overrides), *([f"train.views={views}"] if views else [])]
    resolved = resolve_config(config, texts)
    folder = resolved.train.teacher_cache if out is None else os.fspath(out)
    resolved = resolved.model_copy(update={"train": resolved.train.model_copy(update={"teacher_cache": folder})})
    _check(resolved)
    assembly = assemble(resolved, filling=True)
    cached = assembly.transfer.source
    if not isinstance(cached, CachedTeachers) or cached.store is None:
        raise UsageError(
            f"none of {', '.join(resolved.objectives)} reads a teacher: add an objective that does, such as "
            "objectives.kd.weight=1"
        )
    main, device = assembly.accelerator.is_main_process, assembly.accelerator.device
    # As in a training, so that the numbers are the same.
    for teacher in assembly.transfer.teachers:
        channels_last(teacher.to(device))
    result, shown = _planned(resolved, cached, cached.store), progress and main
    if not dry_run:
        printer(shown)(str(result))
        with progress_bar(
            "teachers' outputs", cached.store.own_samples(), "views of a sample", progress=shown
        ) as advance:
            result = replace(result, written=cached.fill(advance))
    return result if main else None


def _check(config: RunConfig) -> None:
    """Complain about settings that are missing."""
    if not config.teachers:
        raise UsageError(
            "the config has no teachers, so there is nothing to cache: add teachers.0.model=… teachers.0.weights=…"
        )
    if config.train.views is None:
        raise UsageError(
            "the number of views of each sample is not set: add --views, such as --views 4 (train.views=4)"
        )
    if config.train.teacher_cache is None:
        raise UsageError("the folder to write to is not set: add --out FOLDER (train.teacher_cache=FOLDER)")
    if config.seeds:
        raise UsageError(
            "seeds trains several times, and each seed has views of its own: give one seed, such as seeds=null seed=0"
        )


def _planned(config: RunConfig, cached: CachedTeachers, store: CacheStore) -> CacheResult:
    """What the folder will hold, and how much of it is missing."""
    views = cached.loader.views
    parts = sorted({key.part for key in store.shards(0)})
    folders = {shard.folder: shard for view in range(views) for shard in store.shards(view).values()}
    folder = str(config.train.teacher_cache)
    return CacheResult(
        Path(folder),
        views,
        cached.loader.num_samples,
        len(config.teachers),
        {part: store.codec_name(part) for part in parts},
        " ".join([f"train.views={views}", f"train.teacher_cache={folder}", *_changed(config)]),
        store.size(),
        sum(shard.count for shard in folders.values()),
        sum(len(shard.missing(damaged=True)) for shard in folders.values()),
    )


def _changed(config: RunConfig) -> list[str]:
    """How values are stored, as overrides, where it is not the default."""
    defaults = type(config.cache)()
    return [
        f"cache.{name}={value}"
        for name in ("logits", "prediction", "precision")
        if (value := getattr(config.cache, name)) != getattr(defaults, name)
    ]
