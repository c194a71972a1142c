"""From a validated config to the objects of a run: data, teachers, student, objectives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ..core.config.schema import RunConfig
from ..core.data import Loader, Split, ViewLoader
from ..core.epochs import default_epochs
from ..core.errors import UsageError
from ..core.label_vectors import several_classes
from ..core.objective import Setting
from ..core.predicted_quantity import scale_note
from ..core.registry import MODALITIES
from ..core.representation import Network
from ..core.representation_spec import RepresentationSpec, describe
from ..core.run import Run
from ..core.run_weights import InitialWeights
from ..core.teachers.cache import CachedTeachers
from ..core.teachers.seal import sealed_spec
from ..core.transfer import Transfer
from ..datasets.io.scale import Statistics
from ..datasets.io.stored_values import values_hash
from ..ensemble.batched import BatchedTeachers
from .accelerator import prepare_accelerator
from .cached_parts import check_cached_parts
from .checkpoint import checkpoints
from .class_order import compares_classes
from .data import (
    check_modality,
    check_test_colours,
    check_test_scale,
    measure_statistics,
    open_loader,
    open_splits,
    split_notes,
    training_loader,
)
from .folding import fold_batchnorm
from .freezing import freeze_modules
from .held_out import without_validation
from .mixing import check_mixing, mixing_facts
from .networks import Networks, build_networks, compare_scales, initial_weights, random_teacher_notes
from .non_finite import POSITIONS
from .output_checks import check_logits, check_output_lengths, embedding_notes
from .pixel_labels import (
    LABELS,
    PixelLabels,
    answers_for_positions,
    check_pixel_validation,
    check_some_label,
    pixel_labels,
    zero_hint,
)
from .smallest_pass import FullBatches
from .terms import build_term
from .unread_keys import unread_data_keys, unread_keys, unread_teacher_keys

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
    splits = splits or open_splits(config.data)
    data = _RunData.open(config, splits, accelerator)
    dense = answers_for_positions(config.student.model)
    # Of all samples, those for validation too: a rare class may be in these alone.
    labels = pixel_labels(splits) if dense else data.splits
    if dense and not config.teachers:
        check_some_label(data.split)
    networks = build_networks(config, labels, data.statistics)
    # Before BatchNorm is folded, and on the process that records them.
    weights = initial_weights(config, networks, lambda: data.samples(1)) if accelerator.is_main_process else {}
    student_spec, teacher_specs = _describe(config, data, networks)
    begun = Run(config.out).student.is_file() or bool(checkpoints(Run(config.out).checkpoints))
    check_test_scale(data.splits["test"], data.statistics, data.split, refuse=not begun)
    if "rgb" in data.modalities:
        check_test_colours(data.splits["test"], data.split, refuse=not begun)
    settings = _settings(config, data, student_spec, teacher_specs, accelerator.num_processes)
    if dense and LABELS in data.split.modalities:
        settings = [replace(setting, pixel_classes=labels["train"].num_classes) for setting in settings]
    terms = {label: build_term(config, label, settings) for label in config.objectives}
    source = BatchedTeachers(networks.teachers) if config.ensemble.batched else None
    transfer = Transfer(networks.teachers, networks.student, terms, source=source)
    if config.train.mixup or config.train.cutmix:
        check_mixing(transfer, config.train)
    epochs = config.train.epochs or default_epochs(data.split.num_samples)
    transfer.remarks = [*random_teacher_notes(config), *unread_keys(config.train, epochs), *unread_teacher_keys(config)]
    transfer.remarks += unread_data_keys(config, data.split.modalities)
    transfer.remarks += [] if dense else split_notes(data.splits, networks.student)
    transfer.remarks += networks.order.notes if compares_classes(config) else []
    transfer.details = embedding_notes(transfer, config, student_spec, teacher_specs)
    check_logits(transfer, config, student_spec, teacher_specs)
    _name_classes(transfer, networks, labels["train"])
    test = _test_loader(transfer, data, labels["test"])
    if config.train.views and transfer.teacher_needs:
        _cache_outputs(config, transfer, data, filling)
    if networks.student.recipe.get("num_classes") == 1 and (test is not None or data.validation is not None):
        transfer.remarks += filter(None, [scale_note(config)])
    validation = None if data.validation is None else data.evaluating(data.validation)
    return Assembly(transfer, data.train, test, accelerator, data.splits, weights, validation)


@dataclass
class _RunData:
    """The data of a run: its splits without the samples of ``train.validation``, and the loaders of them.

    ``modalities`` are those that its networks read, ``statistics`` the mean and standard deviation of each but rgb,
    ``validation`` those samples; ``evaluating`` opens a loader of a split by which the student is tested.
    """

    splits: dict[str, Any]
    modalities: list[str]
    statistics: dict[str, Statistics]
    train: ViewLoader
    validation: Split | None
    evaluating: Callable[[Split], Loader]

    @property
    def split(self) -> Any:
        """The training split."""
        return self.splits["train"]

    @classmethod
    def open(cls, config: RunConfig, splits: Mapping[str, Any], accelerator: Accelerator) -> _RunData:
        networks = [*config.teachers, config.student]
        for network in networks:
            check_modality(network, splits["train"])
        shares = {
            "device": accelerator.device,
            "seed": config.seed,
            "rank": accelerator.process_index,
            "world": accelerator.num_processes,
        }

        def evaluating(split: Split) -> Loader:
            batch_size = max(256, config.train.batch_size)
            return open_loader(split, [config.student.modality], batch_size=batch_size, train=False, **shares)

        rest, validation = without_validation(splits["train"], config)
        splits = {**splits, "train": rest}
        modalities = [network.modality for network in networks]
        train = training_loader(splits["train"], modalities, config.train, shares)
        train = FullBatches(train) if config.train.drop_last else train
        if (positions := getattr(rest, "positions", None)) is not None:
            # The index of a batch is that of a bank's row; messages name samples by these.
            setattr(train, POSITIONS, positions)
        statistics = {name: measure_statistics(splits["train"], name) for name in sorted({*modalities} - {"rgb"})}
        return cls(dict(splits), modalities, statistics, train, validation, evaluating)

    def samples(self, count: int) -> dict[str, Tensor]:
        """The first samples of the training split as networks read them."""
        loader = open_loader(self.split, self.modalities, batch_size=count, train=False, device="cpu")
        return {name: value[:count].cpu() for name, value in next(iter(loader.epoch(0))).items()}


def _describe(
    config: RunConfig, data: _RunData, networks: Networks
) -> tuple[RepresentationSpec, list[RepresentationSpec]]:
    """What student and teachers put out, after their scales were compared and teachers made ready to be asked."""
    freeze_modules(networks.student, config.train.freeze)
    batch = data.samples(2)
    compare_scales(config, networks, data.split, data.statistics, batch)
    for network in networks:
        network.preprocess.compared()  # two samples may be unlike the others
    student = describe(networks.student, batch)
    folder = config.train.teacher_cache
    teachers = [sealed_spec(folder, teacher, batch) or describe(teacher, batch) for teacher in networks.teachers]
    check_output_lengths(config, [*networks], [*teachers, student])
    for teacher in networks.teachers:
        if config.train.fold_teachers:
            fold_batchnorm(teacher, batch)
        teacher.compute_in(config.train.teacher_precision)
    return student, teachers


def _settings(
    config: RunConfig,
    data: _RunData,
    student: RepresentationSpec,
    teachers: Sequence[RepresentationSpec],
    num_processes: int,
) -> list[Setting]:
    """What an objective is built for, for each teacher; one without a teacher where there is none."""
    split = data.split
    vectors = getattr(split, "label_vectors", None)
    each: Sequence[RepresentationSpec | None] = teachers or [None]
    passes = num_processes * config.train.accumulation_steps
    return [
        Setting(
            student,
            teacher,
            split.num_samples,
            split.targets,
            config.seed,
            -(-min(config.train.batch_size, split.num_samples) // passes),
            None if vectors is None else vectors.shape[1],
        )
        for teacher in each
    ]


def _name_classes(transfer: Transfer, networks: Networks, split: Split | PixelLabels) -> None:
    """Let the student know what its logits stand for; a classifier that nothing trains keeps the classes of its
    weights.
    """
    if not transfer.student_needs & {"logits", "prediction"}:
        return
    student, names = networks.student, networks.order.names
    known = names is not None and len(names) == student.recipe["num_classes"]
    student.recipe = {**student.recipe, "classes": names if known else None}
    student.recipe.pop("several_classes", None)
    student.recipe |= {"several_classes": True} if several_classes(split) else {}


def _test_loader(transfer: Transfer, data: _RunData, labels: Any) -> Loader | None:
    """Of the samples by which the student's answers are tested; None where they cannot be.

    Args:
        transfer: With the student.
        data: Of the run.
        labels: The test split, or the classes of its label maps where the student answers for each position.

    Raises:
        UsageError: ``train.validation`` is to measure an accuracy that nobody can.
    """
    student, split = transfer.student, data.splits["test"]
    # Answers that no objective reads are of a classifier that never learns.
    learns = bool(transfer.student_needs & {"logits", "prediction"})
    outputs = student.recipe["num_classes"]
    if student.taps.prediction is not None:
        if data.validation is not None:
            check_pixel_validation(data.validation, outputs if learns else None, labels.num_classes)
        return _dense_test_loader(student, data, labels) if learns and split is not None else None
    if data.validation is not None and (not learns or outputs != data.split.num_classes):
        raise UsageError(
            "train.validation measures accuracy, and no objective trains logits of the student for the data's classes: "
            "leave it out"
        )
    if not learns or split is None or (split.targets is None and not _marked(split)):
        return None
    if outputs != split.num_classes:
        log.warning(
            "the student has %s outputs and the data %s classes, so no accuracy is measured: give the student "
            "as many outputs",
            outputs,
            split.num_classes,
        )
        return None
    return data.evaluating(split)


def _dense_test_loader(student: Network, data: _RunData, labels: Any) -> Loader | None:
    """The same of a student that answers for each position: with classes where there are label maps, with a quantity
    where there is depth.
    """
    outputs, split = student.recipe["num_classes"], data.splits["test"]
    if outputs == 1:
        return data.evaluating(split) if "depth" in split.modalities else None
    if labels.num_classes is None:
        if LABELS in data.split.modalities:
            log.warning("the test split has no %s, so no mIoU is measured: give its samples that field too", LABELS)
        return None
    if outputs != labels.num_classes:
        log.warning(
            "the student answers with %s classes and the label maps have %s, so no mIoU is measured: %sgive it as many",
            outputs,
            labels.num_classes,
            zero_hint(split, outputs, labels.num_classes),
        )
        return None
    return data.evaluating(split)


def _cache_outputs(config: RunConfig, transfer: Transfer, data: _RunData, filling: bool) -> None:
    """Let the transfer read its teachers' outputs of the views from memory or a folder, see
    :class:`~contrastill.core.teachers.cache.CachedTeachers`.
    """
    check_cached_parts(transfer.terms, config.cache)
    origin = {"seed": config.seed, "train.fold_teachers": config.train.fold_teachers, "data.name": config.data.name}
    origin |= mixing_facts(config.train)
    origin |= {f"data.{name}": value for name, value in config.data.options().items()}
    cache = CachedTeachers(
        data.train,
        transfer.source,
        transfer.teacher_needs,
        config.train.teacher_cache,
        config.cache,
        origin,
        filling=filling,
        values=_stored_values(config, data.split) if config.train.teacher_cache else {},
    )
    transfer.source = cache
    # Of mixed samples they are asked once more, by :meth:`~contrastill.core.transfer.Transfer.prepare`.
    if cache.complete and not filling and not cache.mixed:
        transfer.drop_teachers()


def _stored_values(config: RunConfig, split: Any) -> dict[str, str | None]:
    """By modality of a teacher, what stands for all samples of it, or of the one that it is made from."""
    names = {teacher.modality for teacher in config.teachers}
    return {name: values_hash(split, name if name in split.modalities else MODALITIES[name].of) for name in names}


def _marked(split: Split) -> bool:
    """Whether labels that mark any number of classes mark any."""
    if not several_classes(split):
        return False
    marked = bool(split.label_vectors.any())  # type: ignore[attr-defined]
    if not marked:
        log.warning("no sample of the test split is marked with a class, so no mAP is measured")
    return marked
