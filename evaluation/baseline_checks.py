"""Whether the baselines of an evaluation can be measured by its tasks."""

from __future__ import annotations

from collections.abc import Collection

from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.run import Run
from ..training.pixel_labels import answers_for_positions
from .teacher_space import head_obstacles


def check_baselines(run: Run, config: RunConfig, baselines: Collection[str], *, measured: bool) -> None:
    """Refuse the baselines and the mode that cannot be measured, all in one sentence.

    Args:
        run: Its folder.
        config: Its config, with ``evaluation``.
        baselines: Out of ``random``, ``scratch``, ``teacher``.
        measured: Whether a task trains a head, which ``random`` is measured by.

    Raises:
        UsageError: There is one.
    """
    options = config.evaluation
    obstacles = head_obstacles(options, baselines)
    if options.mode == "fine_tuned" and "segmentation" not in options.tasks:
        obstacles.append(
            "evaluation.mode=fine_tuned is for evaluation.tasks=[segmentation], whose head the network is trained "
            "along with: add that task, or leave it out"
        )
    if "teacher" in baselines and not config.teachers:
        obstacles.append(f"{run.path} has no teacher: leave teacher out of --baselines")
    if "scratch" in baselines and "segmentation" not in options.tasks:
        if not answers_for_positions(config.student.model):
            labels, objective = "classes", "cross_entropy"
        elif config.student.num_classes == 1:
            labels, objective = "depth", "scale_invariant"
        else:
            labels, objective = "label maps", "pixel_cross_entropy"
        obstacles.append(
            f"the baseline scratch is for evaluation.tasks=[segmentation]; trained on {labels} it is a run of "
            f"its own: contrastill train with objectives.{objective} alone"
        )
    if "random" in baselines and not measured:
        head = "add evaluation.tasks=[segmentation] or [classification]"
        obstacles.append(f"the baseline random has no head to be measured by: {head}")
    if obstacles:
        raise UsageError("; and ".join(obstacles))
