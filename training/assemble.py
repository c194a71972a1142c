"""From a validated config to the objects of a run: data, teachers, student, objectives."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from ..core.classes import apply_class_map
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.data import Loader, Split
from ..core.errors import UsageError
from ..core.label_vectors import several_classes
from ..core.objective import Setting
from ..core.preprocess import Preprocess
from ..core.registry import PRETRAINED, PYTHON_PREFIX
from ..core.representation import Network, RepresentationSpec, describe
from ..core.run_weights import InitialWeights
from ..core.teachers.cache import CachedTeachers
from ..core.teachers.seal import sealed_spec
from ..core.transfer import Transfer
from ..core.value_scale import ValueScale
from ..datasets.io.scale import Statistics, check_chosen_scale, check_same_scale, check_scale, scale_of
from ..datasets.io.subset import split_off
from ..ensemble.batched import BatchedTeachers
from ..models.build import build_network
from .accelerator import prepare_accelerator
from .class_order import compares_classes, order_classes
from .data import check_modality, measure_statistics, open_loader, open_splits, training_loader
from .folding import fold_batchnorm
from .freezing import freeze_modules
from .mixing import check_mixing
from .modality_scale import check_trained_modality, trained_scale
from .output_checks import check_logits, check_output_lengths, embedding_notes
from .schedule import default_epochs
from .smallest_pass import FullBatches
from .terms import build_term
from .unread_keys import unread_keys, unread_teacher_keys

log = logging.getLogger(__name__)


@dataclass
class Assembly:
    """The objects of a run, on the accelerator's device; ``test`` is None where the student cannot be tested by its
    logits.

    ``splits`` are the opened splits of the data by name, None where it has no such split; ``weights`` are those that
    networks brought along, by the network's key in the config; random ones follow from the seed; ``validation`` are the
    samples of ``train.validation``.
    """

    transfer: Transfer
    train: Loader
    test: Loader | None
    accelerator: Accelerator
    splits: Mapping[str, Any]
    weights: Mapping[str, InitialWeights]
    validation: Loader | None = None


def assemble(config: RunConfig, *, splits: Mapping[str, Any] | None = None, filling: bool = False) -> Assembly:
    """Build what a config describes.

    Args:
        config: Of a run.
        splits: What :func:`open_splits` gave, where the data are open already.
        filling: Whether the folder of its teacher cache is about to be filled: what it lacks is no error then.

    Raises:
        UsageError: The parts do not fit: a modality the data lacks, labels it lacks, weights of another network.
        ContrastillError: A file is missing or damaged.
    """
    accelerator = prepare_accelerator(config)
    networks = [*config.teachers, config.student]
    splits = splits or open_splits(config.data)
    for network in networks:
        check_modality(network, splits["train"])
    shares = {
        "device": accelerator.device,
        "seed": config.seed,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
    }
    modalities = [network.modality for network in networks]
    validation = None
    if config.train.validation is not None:
        rest, part = split_off(splits["train"], config.train.validation, config.seed)
        splits = {**splits, "train": rest}
        validation = open_loader(
            part,
            [config.student.modality],
            batch_size=max(256, config.train.batch_size),
            train=False,
            **shares,
        )
    train = training_loader(splits["train"], modalities, config.train, shares)
    train = FullBatches(train) if config.train.drop_last else train
    statistics = {name: measure_statistics(splits["train"], name) for name in sorted({*modalities} - {"rgb"})}
    classes, names = splits["train"].num_classes, splits["train"].classes
    set_seed(config.seed)
    teachers = [build(teacher, classes, statistics, names=names) for teacher in config.teachers]
    order = order_classes(teachers, config, splits, config.student.num_classes or classes)
    if order.refusal is not None and compares_classes(config):
        raise order.refusal
    # Seeded again, so that one seed gives every objective and every teacher the same untrained student.
    set_seed(config.seed)
    student = build(
        config.student,
        classes or next((teacher.recipe["num_classes"] for teacher in teachers), None),
        statistics,
        names=names,
        student=True,
    )
    # Before BatchNorm is folded, and on the process that records them.
    weights = _initial_weights(config, [*teachers, student]) if accelerator.is_main_process else {}
    freeze_modules(student, config.train.freeze)
    batch = {
        name: value[:2].cpu()
        for name, value in next(
            iter(open_loader(splits["train"], modalities, batch_size=2, train=False, device="cpu").epoch(0))
        ).items()
    }
    for entry, built in zip(networks, [*teachers, student], strict=True):
        measured = statistics.get(entry.modality)
        if entry.mean is None:
            check_same_scale(built, entry.model, splits["train"])
        elif measured is not None:
            check_other_data(built, entry.model, splits["train"], measured, chosen=True, trained=trained_scale(entry))
        if built is student or entry.mean is not None:
            built.preprocess = _of_data(built, splits["train"], statistics, {} if entry.mean is None else batch)
    student_spec = describe(student, batch)
    teacher_specs = [
        sealed_spec(config.train.teacher_cache, teacher, batch) or describe(teacher, batch) for teacher in teachers
    ]
    check_output_lengths(config, [*teachers, student], [*teacher_specs, student_spec])
    for teacher in teachers:
        if config.train.fold_teachers:
            fold_batchnorm(teacher, batch)
        teacher.compute_in(config.train.teacher_precision)

    vectors = getattr(splits["train"], "label_vectors", None)

    def setting(teacher: RepresentationSpec | None) -> Setting:
        passes = accelerator.num_processes * config.train.accumulation_steps
        return Setting(
            student_spec,
            teacher,
            splits["train"].num_samples,
            splits["train"].targets,
            config.seed,
            -(-min(config.train.batch_size, splits["train"].num_samples) // passes),
            None if vectors is None else vectors.shape[1],
        )

    settings = [setting(spec) for spec in teacher_specs]
    terms = {label: build_term(config, label, settings or [setting(None)]) for label in config.objectives}
    transfer = Transfer(teachers, student, terms, source=BatchedTeachers(teachers) if config.ensemble.batched else None)
    if config.train.mixup or config.train.cutmix:
        check_mixing(transfer)
    epochs = config.train.epochs or default_epochs(splits["train"].num_samples)
    transfer.remarks = [*unread_keys(config.train, epochs), *unread_teacher_keys(config)]
    transfer.remarks += order.notes if compares_classes(config) else []
    transfer.details = embedding_notes(transfer, config, student_spec, teacher_specs)
    check_logits(transfer, config, student_spec, teacher_specs)
    # A classifier that nothing trains keeps the classes of its weights.
    if "logits" in transfer.student_needs:
        known = order.names is not None and len(order.names) == student.recipe["num_classes"]
        student.recipe = {**student.recipe, "classes": order.names if known else None}
        student.recipe.pop("several_classes", None)
        student.recipe |= {"several_classes": True} if several_classes(splits["train"]) else {}
    if validation is not None and (
        "logits" not in transfer.student_needs or student.recipe["num_classes"] != splits["train"].num_classes
    ):
        raise UsageError(
            "train.validation measures accuracy, and no objective trains logits of the student for the data's classes: "
            "leave it out"
        )
    test = None
    # Logits that no objective reads are of a classifier that never learns.
    labelled = splits["test"] is not None and (splits["test"].targets is not None or _marked(splits["test"]))
    if "logits" in transfer.student_needs and labelled:
        outputs, known = student.recipe["num_classes"], splits["test"].num_classes
        if outputs != known:
            log.warning(
                "the student has %s outputs and the data %s classes, so no accuracy is measured: give the student "
                "as many outputs",
                outputs,
                known,
            )
        else:
            test = open_loader(
                splits["test"],
                [config.student.modality],
                batch_size=max(256, config.train.batch_size),
                train=False,
                **shares,
            )
    if config.train.views and transfer.teacher_needs:
        origin = {"seed": config.seed, "train.fold_teachers": config.train.fold_teachers, "data.name": config.data.name}
        # Of samples that are not mixed they are not among the facts, as in caches of releases that could not mix.
        origin |= {f"train.{name}": value for name in ("mixup", "cutmix") if (value := getattr(config.train, name))}
        origin |= {f"data.{name}": value for name, value in config.data.options().items()}
        folder = config.train.teacher_cache
        cache = CachedTeachers(
            train, transfer.source, transfer.teacher_needs, folder, config.cache, origin, filling=filling
        )
        transfer.source = cache
        if cache.complete and not filling:
            transfer.drop_teachers()
    return Assembly(transfer, train, test, accelerator, splits, weights, validation)


def _marked(split: Split) -> bool:
    """Whether labels that mark any number of classes mark any."""
    if not several_classes(split):
        return False
    marked = bool(split.label_vectors.any())  # type: ignore[attr-defined]
    if not marked:
        log.warning("no sample of the test split is marked with a class, so no mAP is measured")
    return marked


def _initial_weights(config: RunConfig, networks: Sequence[Network]) -> dict[str, InitialWeights]:
    """Those of the teachers and then the student that are from a file, published or a module's."""
    keys = [*(f"teachers.{number}" for number in range(len(config.teachers))), "student"]
    return {
        key: InitialWeights.of(network.module, entry.weights)
        for key, entry, network in zip(keys, [*config.teachers, config.student], networks, strict=True)
        if entry.weights is not None or entry.model.startswith(PYTHON_PREFIX)
    }


def _of_data(
    network: Network, split: Split, statistics: Mapping[str, Statistics], batch: Mapping[str, Tensor]
) -> Preprocess:
    """A network's preprocessing, with what is known of the values that it is trained on.

    Args:
        network: Of this training.
        split: The training split.
        statistics: Mean and std of each modality but rgb.
        batch: Of the split, where mean and std were set for its values: normalised colours are right then.
    """
    scale = scale_of(split, network.modality, statistics.get(network.modality))
    images = batch.get(network.modality)
    if network.modality == "rgb" and scale.low is None and images is not None and images.is_floating_point():
        low, high = (float(value) for value in images.aminmax())
        scale = replace(scale, low=low, high=high)
    return replace(network.preprocess, scale=scale)


def check_other_data(
    network: Network,
    name: str,
    split: Split,
    measured: Statistics | None = None,
    *,
    chosen: bool = False,
    trained: ValueScale | None = None,
) -> None:
    """Complain where data have a network's modality in another scale than those of its training, see
    :func:`~contrastill.datasets.io.scale.check_same_scale`, or than the mean and std that were set for it.

    Args:
        network: What it reads is in the data.
        name: What it is called.
        split: Of the data.
        measured: Mean and std of its modality there; None: they are measured.
        chosen: Whether its mean and std were set, so that it may have been for these data.
        trained: The scale of the training of its weights, where other mean and std were set.
    """
    if measured is None and network.modality != "rgb":
        measured = measure_statistics(split, network.modality)
    if chosen and network.preprocess.scale is None and measured is not None:
        check_chosen_scale(network, name, split, measured, trained)
    else:
        check_same_scale(network, name, split, measured)


def build(
    config: NetworkConfig,
    classes: int | None,
    statistics: Mapping[str, tuple] | None = None,
    *,
    names: Sequence[str] | None = None,
    student: bool = False,
) -> Network:
    """One network of the config; a teacher with weights keeps the classifier they came with.

    Args:
        config: The network.
        classes: Of the data.
        statistics: Mean and standard deviation of modalities for which no network has its own.
        names: Names of the data's classes, for a class_map.
        student: Whether it is the student.

    Raises:
        UsageError: Its length is not known, or its class_map does not fit, or a teacher was trained on another
            modality than rgb, which it is to read.
    """
    if student and config.class_map is not None:
        raise UsageError("class_map is for teachers: a student has the data's classes, or those of student.num_classes")
    if not student and config.mean is None and config.weights not in (None, PRETRAINED):
        check_trained_modality(config)
    options = config.model_dump(exclude={"model", "num_classes", "class_map"})
    num_classes = config.num_classes or (classes if student or config.weights is None else None)
    if num_classes is None and (student or config.weights is None):
        where = "student.num_classes" if student else "teachers.NUMBER.num_classes (NUMBER from 0)"
        raise UsageError(f"the data has no classes: say how long the logits of {config.model} are with {where}")
    measured = (statistics or {}).get(config.modality)
    network = build_network(
        config.model,
        num_classes=num_classes,
        new_classifier=student,
        classes=names if student else None,
        statistics=measured,
        **options,
    )
    if config.mean is None and measured is not None:
        check_scale(network, config.model, measured)
    if config.class_map is not None:
        apply_class_map(network, config.class_map, classes, names, config.model)
    return network
