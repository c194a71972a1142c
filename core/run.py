"""A run's folder: config.yaml, metrics.jsonl, checkpoints/, student.safetensors, curves.png."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it: it is there whole, or as it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Run:
    """The folder of a run.

    Args:
        path: The folder; made when the first thing is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student.safetensors"
        self.adaptors = self.path / "adaptors.safetensors"
        self.curves = self.path / "curves.png"

    def claim(self, config_yaml: str) -> None:
        """Make the folder this config's, or find that it is already.

        Raises:
            UsageError: It holds a run with another config, which is left as it is.
        """
        if self.config.exists():
            changed = _changed_lines(self.config.read_text(encoding="utf-8"), config_yaml)
            if changed:
                raise UsageError(f"{self.path} holds a run with other settings ({changed}): choose another out=…, or remove the folder")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config_yaml)
        for leftover in self.path.glob(".*.tmp"):  # of a write that a kill cut off
            leftover.unlink()

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that was cut off is left out."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def rewind(self, epoch: int) -> None:
        """Forget the rows from ``epoch`` on: they were written after the checkpoint that a run goes on from."""
        kept = [row for row in self.history() if row["epoch"] < epoch]
        if self.metrics.exists():
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _changed_lines(old: str, new: str) -> str:
    """The first key whose value differs between two resolved configs, as ``train.epochs: 240, now 15``."""
    from omegaconf import OmegaConf

    before, after = (flatten(OmegaConf.to_container(OmegaConf.create(text))) for text in (old, new))
    for key in [*before, *after]:
        if before.get(key) != after.get(key):
            return f"{key}: {before.get(key)}, now {after.get(key)}"
    return ""


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested tree as one level of dotted keys."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if pairs is None:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
