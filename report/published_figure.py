"""The published figure of a run of one of the benchmark's pairs, and how the run differs from its settings."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..compress.benchmark import STUDENT, TEACHER, weights
from ..compress.published import LEARNING_RATES, PAIRS, Figure, published
from ..core.config.loading import load_config
from ..core.config.marks import changes_results
from ..core.config.schema import RunConfig
from ..core.registry import DATASETS, OBJECTIVES
from ..core.run import Run
from ..core.run_data import recorded_size
from ..models.resnet import CIFAR100_MEAN, CIFAR100_STD
from .references import NOT_OF_BASELINES, sides, student_recipe, text_of, training_differences
from .runs import RunSeries, objective_name, reads_teacher

_RECIPE = "compression/cifar100_crd"
_CLASSES = 100
_IMAGES = {"train": 50_000, "test": 10_000}  # of the published figures
_SIZE = (32, 32)
# Options of data that say where the samples are, or how many, which the folder's counts say.
_WHERE = (
    *("path", "download", "fields", "target", "splits", "modalities", "folders", "channel", "train", "test", "image"),
    *("label", "config", "revision", "limit", "train_samples", "test_samples", "train_split", "fold", "size"),
    *("test_fraction", "skip_corrupted", "folders_are_classes", "semantic_names", "num_classes", "scale"),
)


def published_figure(group: RunSeries, config: RunConfig) -> tuple[Figure | None, list[str]]:
    """The published figure of a training, and what sets the training apart from it."""
    facts: Any = next((data for run in group.runs if (data := run.read_json("checkpoints/data.json"))), {})
    facts = facts if isinstance(facts, dict) else {}
    if len(config.teachers) > 1 or _classes(group, config, facts) != _CLASSES:
        return None, []
    if any(objective_name(entry) not in OBJECTIVES for entry in config.objectives.values()):
        return None, []  # of a package that is not installed here, or one's own: none was published
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
    return figure, _reasons(config, group.runs[0], facts, objectives) if figure else []


def _classes(group: RunSeries, config: RunConfig, facts: dict[str, Any]) -> int | None:
    """How many classes the data of a training have: of a run without facts of its data those that its config or its
    student names; None where nothing says it.
    """
    recorded = _fact(facts, "train", "classes")
    if recorded is not None:
        return recorded
    chosen = config.data.options().get("num_classes") or config.student.num_classes
    if isinstance(chosen, int):
        return chosen
    recipe = next((recipe for run in group.runs if (recipe := student_recipe(run))), {})
    return recipe.get("num_classes")


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


def _reasons(config: RunConfig, run: Run, facts: dict[str, Any], objectives: str) -> list[str]:
    reasons = []
    size = recorded_size(run, config.student.modality)
    if size not in (None, _SIZE):
        reasons.append(f"images of {size[0]}×{size[1]} instead of {_SIZE[0]}×{_SIZE[1]}")
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
    # Without a teacher some settings have no use.
    unread = ("epochs",) if config.teachers else NOT_OF_BASELINES
    reasons += training_differences(config, usual_training, "instead of", unread)
    reasons += [*_of_data(config), *_of_networks(config), *_of_warmups(config)]
    reasons += [] if config.teachers else _of_baselines(config)
    if objectives:
        usual = weights(objectives, config.student.model)
        own = {entry.name: entry.weight for entry in config.objectives.values()}
        reasons += [
            f"a weight of {own.get(name, 0):g} instead of {weight:g} for {name}"
            for name, weight in usual.items()
            if own.get(name) != weight
        ]
    return reasons


def _of_baselines(config: RunConfig) -> list[str]:
    """What sets the objectives of a training without teachers apart from cross-entropy with the labels alone."""
    names = [objective_name(entry) for entry in config.objectives.values()]
    reasons = [f"the objective {name} too" for name in names if name != "cross_entropy"]
    if "cross_entropy" not in names:
        reasons.append("no cross_entropy")
    for entry in config.objectives.values():
        if objective_name(entry) != "cross_entropy":
            continue
        if entry.weight != 1:
            reasons.append(f"a weight of {entry.weight:g} instead of 1 for cross_entropy")
        fields = OBJECTIVES["cross_entropy"].Options.model_fields
        usual = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
        reasons += [
            f"objectives.cross_entropy.{key} {text_of(value)} instead of {text_of(usual.get(key))}"
            for key, value in entry.options().items()
            if value != usual.get(key)
        ]
    return reasons


def _of_data(config: RunConfig) -> list[str]:
    """What sets the data's options apart from those of CIFAR-100, and further ones from leaving them out."""
    name, options = config.data.name or "", config.data.options()
    if name not in DATASETS:
        return []
    fields = DATASETS[name].Options.model_fields
    usual = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    views = DATASETS["cifar100"].Options.model_fields
    usual |= {key: views[key].default for key in ("crop_padding", "flip")} | {"crop": "by crop_padding"}
    return [
        f"data.{key} {text_of(value)} instead of {text_of(usual.get(key))}"
        for key, value in options.items()
        if key not in _WHERE and changes_results(f"data.{key}", name) and sides(value) != sides(usual.get(key))
    ]


def _of_networks(config: RunConfig) -> list[str]:
    """The settings of student and teacher that are not the benchmark's: RGB at 32×32 with CIFAR-100's own mean and
    deviation, a student with random weights and a teacher that was trained.
    """
    usual = {
        "weights": None,
        "modality": "rgb",
        "num_classes": None,
        "mean": CIFAR100_MEAN,
        "std": CIFAR100_STD,
        "resolution": _SIZE,
        "embedding": None,
        "maps": None,
    }
    reasons = []
    for role, network in [("student", config.student), *(("teachers.0", teacher) for teacher in config.teachers)]:
        keys = [key for key in usual if role == "student" or key not in ("weights", "num_classes")]
        reasons += [
            f"{role}.{key} {text_of(value)} instead of {text_of(usual[key])}"
            for key in keys
            if (value := getattr(network, key)) is not None and sides(value) != sides(usual[key])
        ]
        if role != "student" and network.weights is None:
            reasons.append("a teacher with random weights instead of a trained one")
    return reasons


def _of_warmups(config: RunConfig) -> list[str]:
    return [
        f"objectives.{name}.warmup {text_of(entry.warmup)} instead of {text_of(OBJECTIVES[name].default_warmup)}"
        for entry in config.objectives.values()
        if (name := objective_name(entry)) in OBJECTIVES and entry.warmup not in (None, OBJECTIVES[name].default_warmup)
    ]


def _fact(facts: dict[str, Any], split: str, name: str) -> int | None:
    split_facts = facts.get(split)
    value = split_facts.get(name) if isinstance(split_facts, dict) else None
    return value if isinstance(value, int) else None
