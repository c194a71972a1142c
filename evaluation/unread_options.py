"""What an evaluation was asked for and that, beside the rest, changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ..core.config.loading import load_config
from ..core.config.schema import TrainConfig
from ..core.errors import UsageError
from ..core.run import Run
from ..core.run_names import no_run
from ..probe.layers import spatial_note
from .evaluation_data import objectives_read_prediction

_OF_TASKS = {
    "head_of": ("segmentation", "classification"),
    "head": ("segmentation",),
    "epochs": ("segmentation",),
    "batch_size": ("segmentation",),
    "lr": ("segmentation",),
    "layers": ("classification",),
    "spatial": ("classification",),
    "label_fractions": ("segmentation", "classification"),
}
"""Keys of ``evaluation``, and the tasks that read them; a mode that no task reads is refused."""

_OF_TRAIN = ("precision", "timeout_minutes")
"""Keys of ``train`` that an evaluation reads."""


def check_options(
    runs: Sequence[str],
    overrides: Sequence[str],
    *,
    teachers: bool,
    picture: str | os.PathLike | None,
    baselines: Collection[str] = (),
) -> list[str]:
    """A line about each override and option that none of the runs reads.

    Args:
        runs: Their folders.
        overrides: Changes of their configs.
        teachers: Whether their teachers are to be measured.
        baselines: Further networks that are measured.
        picture: Where segmentations are to be drawn.

    Raises:
        UsageError: A folder is no run, or a picture that nothing would be drawn in.
    """
    for path in runs:
        if not Run(path).config.is_file():
            best = f", and student.weights={path} to measure this file"
            teachers_too = ", with --teachers (in Python teachers=True) to measure its teachers too"
            raise no_run(Path(path), best=best, teacher=teachers_too)
    configs = [load_config(str(Run(path).config), overrides, trains=False) for path in runs]
    tasks: set[str] = {task for config in configs for task in config.evaluation.tasks}
    own = "accuracy" in tasks and any(objectives_read_prediction(config) for config in configs)
    if picture is not None and "segmentation" not in tasks and not own:
        raise UsageError(
            f"picture={str(picture)!r} shows segmentations, and evaluation.tasks is {', '.join(sorted(tasks))}: leave "
            "it out, or add evaluation.tasks=[segmentation]"
        )
    lines = [line for override in overrides if (line := _unread(override, tasks))]
    probes = [config.evaluation for config in configs if "classification" in config.evaluation.tasks]
    lines += dict.fromkeys(f"evaluation.{note}" for each in probes if (note := spatial_note(each.layers, each.spatial)))
    heads = any(config.evaluation.head_of for config in configs)
    if not (teachers or heads or "teacher" in baselines or "retrieval" in tasks):
        lines += [
            f"{override} changes nothing, as no teacher is measured: add --teachers"
            for override in overrides
            if override.startswith("teachers")
        ]
    if teachers and not any(config.teachers for config in configs):
        lines.append(f"there are no teachers to measure: {', '.join(map(str, runs))} had none")
    return lines


def _unread(override: str, tasks: set[str]) -> str | None:
    """A line about an override that these tasks do not read."""
    key = override.partition("=")[0]
    section, _, name = key.partition(".")
    readers = _OF_TASKS.get(name, ()) if section == "evaluation" else ()
    if readers and not tasks & {*readers}:
        needed = " or ".join(f"[{task}]" for task in readers)
        return f"{override} changes nothing, as it is of evaluation.tasks={needed}: leave it out, or add one"
    known = section == "train" and name in TrainConfig.model_fields
    if known and name not in _OF_TRAIN:
        return f"{override} changes nothing, as an evaluation does not train the student: leave it out"
    return None
