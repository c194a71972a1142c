"""The runs that a run is compared with: which one its teacher is, and how its baseline was trained otherwise."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..core.config.schema import NetworkConfig, ObjectiveConfig, RunConfig
from ..core.errors import ContrastillError
from ..core.fingerprint import state_hash
from ..core.registry import OBJECTIVES
from ..core.run import Run
from ..core.run_data import recorded_size
from ..core.run_weights import WeightsRecord
from ..core.weights import STUDENT, load_state_dict
from ..models.recipe import TRAINED_SIZE, read_recipe
from .runs import RunSeries, objective_name, settings

# Compared on their own, or meaning nothing to a training without teachers.
NOT_OF_BASELINES = ("epochs", "views", "fold_teachers", "teacher_precision", "initial_epochs", "initial_lr")
_OF_SCHEDULE = {"milestones": "step", "gamma": "step"}
_OF_OPTIMIZER = {"momentum": "sgd", "nesterov": "sgd"}


def teacher_of(groups: Sequence[RunSeries], config: RunConfig, student: Run) -> tuple[RunSeries, int] | None:
    """The group that a run's first teacher is of, and its place there: the run in its weights' folder; of folders that
    were moved, the one whose path ends most alike. A run with other weights than those that the student was trained
    from is none.

    Args:
        groups: Those to search.
        config: Of the student.
        student: Its run, which records a digest of the teacher's weights.
    """
    teacher = config.teachers[0]
    parts = Path(teacher.weights or "").parts
    parts = parts[:-1] if parts and parts[-1] == STUDENT else parts
    lengths = {
        (number, place): len(os.path.commonprefix([run.path.resolve().parts[::-1], parts[::-1]]))
        for number, group in enumerate(groups)
        for place, (run, of_run) in enumerate(zip(group.runs, group.configs, strict=True))
        if of_run is not None and (of_run.student.model, of_run.student.modality) == (teacher.model, teacher.modality)
    }
    recorded = WeightsRecord(student).read().get("teachers.0")
    for number, place in sorted((key for key in lengths if lengths[key]), key=lambda key: -lengths[key]):
        run = groups[number].runs[place]
        if recorded is None or not run.finished or _hash(run) in (recorded.hash, None):
            return groups[number], place
    return None


def changed_input(teacher: NetworkConfig, run: Run) -> list[str]:
    """What sets a teacher apart from the student of the run that it is from, which was tested on the samples as that
    one reads them: ``resolution``.

    Args:
        teacher: As the run that was trained from it names it.
        run: Its own.
    """
    recipe = student_recipe(run)
    own = dict(recipe.get("preprocess") or {})
    if own.get("resolution") is None:
        own["resolution"] = recipe.get(TRAINED_SIZE) or recorded_size(run, teacher.modality)
    named = {"resolution": teacher.resolution, "mean": teacher.mean, "std": teacher.std, "class_map": teacher.class_map}
    return [
        name.replace("_", " ")
        for name, value in named.items()
        if value is not None and sides(value) != sides(own.get(name))
    ]


def student_recipe(run: Run) -> dict[str, Any]:
    """That of a run's student; of an unreadable file or an older one nothing."""
    try:
        return read_recipe(run.student) or {}
    except ContrastillError:
        return {}


def sides(value: Any) -> Any:
    """Height and width of one side; other values, as a list."""
    return [value, value] if isinstance(value, int) else list(value) if isinstance(value, Sequence) else value


def _hash(run: Run) -> str | None:
    """That of the weights in a run's folder; None where they cannot be read."""
    try:
        return state_hash(load_state_dict(run.student))
    except ContrastillError:
        return None


def baseline_differences(config: RunConfig, baseline: RunConfig) -> list[str]:
    """The settings that a student and one without a teacher were trained with differently: of the training, and the
    options of the objectives that both have.
    """
    both = [{objective_name(entry): entry for entry in of.objectives.values()} for of in (config, baseline)]
    differences = training_differences(config, baseline)
    for key in ("mean", "std", "num_classes"):
        one, other = (getattr(of.student, key) for of in (config, baseline))
        differences += [f"student.{key} {text_of(one)} and {text_of(other)}"] if one != other else []
    for name in (name for name in both[0] if name in both[1]):
        its, others = (_options(entries[name]) for entries in both)
        # The weight beside a teacher's terms is part of what is compared; a baseline's has its usual value.
        if both[1][name].weight == (OBJECTIVES[name].default_weight if name in OBJECTIVES else 1):
            del its["weight"], others["weight"]
        differences += [
            f"objectives.{name}.{key} {text_of(its.get(key))} and {text_of(others.get(key))}"
            for key in {**its, **others}
            if its.get(key) != others.get(key)
        ]
    return differences


def _options(entry: ObjectiveConfig) -> dict[str, Any]:
    """Those of an objective, without the rule that combines teachers."""
    return {"weight": entry.weight, "warmup": entry.warmup} | entry.options()


def training_differences(
    config: RunConfig, baseline: RunConfig, between: str = "and", own: Collection[str] = NOT_OF_BASELINES
) -> list[str]:
    """The settings of the training, but its epochs, that two runs differ in, where both have a use for them: ``train.lr
    0.1 and 0.05``.

    Args:
        config: Of the one.
        baseline: Of the other.
        between: Their values.
        own: Settings of the training that do not count.
    """
    one, other = settings(config), settings(baseline)
    schedules, optimizers = ({getattr(of.train, key) for of in (config, baseline)} for key in ("schedule", "optimizer"))
    keys = [
        key
        for key in dict.fromkeys([*one, *other])
        if key.startswith("train.")
        and key.split(".")[1] not in own
        and _OF_SCHEDULE.get(key.split(".")[1]) in (None, *schedules)
        and _OF_OPTIMIZER.get(key.split(".")[1]) in (None, *optimizers)
    ]
    return [
        f"{key} {text_of(one.get(key))} {between} {text_of(other.get(key))}"
        for key in keys
        if one.get(key) != other.get(key)
    ]


def text_of(value: object) -> str:
    """A setting in a sentence."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(text_of, value))}]"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
