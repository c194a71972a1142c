"""From a validated config to the objects of a run: data, teachers, student, objectives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed

from ..core.config import NetworkConfig, RunConfig
from ..core.engine import Loader
from ..core.errors import UsageError, unknown_name
from ..core.objective import Setting
from ..core.registry import DATASETS, OBJECTIVES
from ..core.representation import Network, RepresentationSpec, describe
from ..core.transfer import Term, Transfer
from ..models.build import build_network


@dataclass
class Assembly:
    """The objects of a run, on the accelerator's device."""

    transfer: Transfer
    train: Loader
    test: Loader
    accelerator: Accelerator


def assemble(config: RunConfig) -> Assembly:
    """Build what a config describes.

    Raises:
        UsageError: The parts do not fit: a modality the data lacks, labels it lacks, weights of another network.
        ContrastillError: A file is missing or damaged.
    """
    accelerator = prepare_accelerator(config)
    splits = {name: open_split(config, name) for name in ("train", "test")}
    shares = {"device": accelerator.device, "seed": config.seed, "rank": accelerator.process_index, "world": accelerator.num_processes}
    train = splits["train"].loader(batch_size=config.train.batch_size, train=True, **shares)
    test = splits["test"].loader(batch_size=max(256, config.train.batch_size), train=False, **shares)
    classes = splits["train"].num_classes
    for network in [*config.teachers, config.student]:
        _check_modality(network, splits["train"].modalities)
    # The student comes first, so that one seed gives every objective and every teacher the same untaught student.
    set_seed(config.seed)
    student = build(config.student, classes, student=True)
    teachers = [build(teacher, classes) for teacher in config.teachers]
    batch = {name: value[:2].cpu() for name, value in next(test.epoch(0)).items()}
    student_spec = describe(student, batch)
    teacher_specs = [describe(teacher, batch) for teacher in teachers]

    def setting(teacher: RepresentationSpec | None) -> Setting:
        return Setting(student_spec, teacher, splits["train"].num_samples, splits["train"].targets, config.seed)

    terms = {}
    for label, entry in config.objectives.items():
        objective = OBJECTIVES[entry.name]
        specs = teacher_specs if objective.needs_teacher else [None]
        terms[label] = Term([objective.build(objective.Options(**entry.options()), setting(spec)) for spec in specs], entry.weight)
    return Assembly(Transfer(teachers, student, terms), train, test, accelerator)


def prepare_accelerator(config: RunConfig) -> Accelerator:
    """Device, precision and trackers as the config asks for; nothing is written before a training starts its trackers.

    Raises:
        UsageError: A tracker that Accelerate does not know or that is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = {str(tracker) for tracker in get_available_trackers()}
    for name in config.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown_name("tracker", name, LOGGER_TYPE_TO_CLASS)
        if name not in there:
            raise UsageError(f"tracker {name!r} is not installed: pip install {name}, or take it out of trackers")
    project = ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out) / "trackers"))
    precision = "no" if config.train.precision == "fp32" else config.train.precision
    return Accelerator(mixed_precision=precision, log_with=list(config.trackers) or None, project_config=project)


def open_split(config: RunConfig, name: str) -> Any:
    """The split ``"train"`` or ``"test"`` of the config's data."""
    dataset = DATASETS[config.data.name]
    options = config.data.options()
    if "path" in dataset.Options.model_fields:
        options["path"] = config.data.path
    return dataset(dataset.Options(**options)).open(name)


def _check_modality(network: NetworkConfig, modalities: dict[str, Any]) -> None:
    if network.modality not in modalities:
        raise UsageError(f"{network.model} reads {network.modality}, and the data has {', '.join(modalities)}: set its modality to one of them")


def build(config: NetworkConfig, classes: int | None, *, student: bool = False) -> Network:
    """One network of the config; a teacher with weights keeps the classifier they came with."""
    options = config.model_dump(exclude={"model", "num_classes"})
    num_classes = config.num_classes or (classes if student or config.weights is None else None)
    if num_classes is None and (student or config.weights is None):
        raise UsageError(f"the data has no classes: say how long the logits of {config.model} are with num_classes")
    return build_network(config.model, num_classes=num_classes, new_classifier=student, **options)
