"""The published figure of a run of one of the benchmark's pairs, and how the run differs from its settings."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..compress.benchmark import STUDENT, TEACHER, weights
from ..compress.published import LEARNING_RATES, PAIRS, Figure, published
from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..core.registry import OBJECTIVES
from .references import training_differences
from .runs import RunSeries, objective_name, reads_teacher

_RECIPE = "compression/cifar100_crd"
_IMAGES = {"train": 50_000, "test": 10_000}  # of the published figures


def published_figure(group: RunSeries, config: RunConfig) -> tuple[Figure | None, list[str]]:
    """The published figure of a training, and what sets the training apart from it."""
    facts: Any = next((data for run in group.runs if (data := run.read_json("checkpoints/data.json"))), {})
    if not isinstance(facts, dict) or len(config.teachers) > 1 or _fact(facts, "train", "classes") not in (100, None):
        return None, []
    student, objectives = config.student.model, _objectives(config)
    if not config.teachers:
        pair = next(
            (pair for pair in PAIRS if student == pair[1]), next((pair for pair in PAIRS if student == pair[0]), None)
        )
        figure = published(*pair, STUDENT if student == pair[1] else TEACHER) if pair else None
    else:
        options = _options(config)
        figure = (
            published(config.teachers[0].model, student, objectives, options[0] if options else "")
            if len(options) < 2
            else None
        )
    return figure, _reasons(config, facts, objectives) if figure else []


def _objectives(config: RunConfig) -> str:
    """As the benchmark calls them: by the alphabet, kd last."""
    names = {objective_name(entry) for entry in config.objectives.values() if reads_teacher(entry)}
    return "+".join(sorted(names, key=lambda name: (name == "kd", name)))


def _options(config: RunConfig) -> list[str]:
    """Options of objectives that are neither the class's nor the recipe's."""
    recipe, options = _recipe().objectives, []
    for entry in config.objectives.values():
        name = objective_name(entry)
        fields = OBJECTIVES[name].Options.model_fields
        usual = (
            recipe[name].options()
            if name in recipe
            else {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
        )
        options += [
            f"objectives.{name}.{key}={str(value).lower()}"
            for key, value in entry.options().items()
            if usual.get(key) != value
        ]
    return options


@cache
def _recipe() -> RunConfig:
    return load_config(_RECIPE, ["data.name=rooms", "data.path=null", "teachers.0.weights=none"])


def _reasons(config: RunConfig, facts: dict[str, Any], objectives: str) -> list[str]:
    reasons = []
    for split, expected in _IMAGES.items():
        count = _fact(facts, split, "samples")
        if count != expected:
            reasons.append(
                f"{'an unknown number of' if count is None else format(count, ',')} {split} images instead of "
                f"{expected:,}"
            )
    if config.train.epochs != 240:
        reasons.append(f"{config.train.epochs} epochs instead of 240")
    recipe = _recipe()
    rate = LEARNING_RATES.get(config.student.model, recipe.train.lr)
    usual_training = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": rate})})
    reasons += training_differences(config, usual_training, "instead of")
    if objectives:
        usual = weights(objectives, config.student.model)
        own = {entry.name: entry.weight for entry in config.objectives.values()}
        reasons += [
            f"a weight of {own.get(name, 0):g} instead of {weight:g} for {name}"
            for name, weight in usual.items()
            if own.get(name) != weight
        ]
    return reasons


def _fact(facts: dict[str, Any], split: str, name: str) -> int | None:
    split_facts = facts.get(split)
    value = split_facts.get(name) if isinstance(split_facts, dict) else None
    return value if isinstance(value, int) else None
