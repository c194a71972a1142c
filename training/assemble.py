"""From a validated config to the objects of a run: data, teachers, student, objectives."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from ..core.classes import apply_class_map
from ..core.config.schema import DataConfig, NetworkConfig, RunConfig
from ..core.config.validation import of_another_kind
from ..core.data import Loader, Split, ViewLoader
from ..core.errors import ContrastillError, UsageError
from ..core.objective import Setting
from ..core.preprocess import Preprocess
from ..core.registry import DATASETS, PRETRAINED
from ..core.representation import Network, RepresentationSpec, describe
from ..core.teachers.cache import CachedTeachers
from ..core.teachers.seal import sealed_spec
from ..core.transfer import Transfer
from ..datasets.io.scale import Statistics, check_same_scale, check_scale, scale_of
from ..datasets.io.values import check_splits
from ..ensemble.batched import BatchedTeachers
from ..models.build import build_network
from ..xmodal.derive import DerivedLoader, check
from .accelerator import prepare_accelerator
from .class_order import compares_classes, order_classes
from .folding import fold_batchnorm
from .modality_scale import check_trained_modality
from .output_checks import check_logits, embedding_notes
from .smallest_pass import FullBatches
from .terms import build_term

log = logging.getLogger(__name__)


@dataclass
class Assembly:
    """The objects of a run, on the accelerator's device; ``test`` is None where the student cannot be tested by its
    logits.

    ``splits`` are the opened splits of the data by name, None where it has no such split.
    """

    transfer: Transfer
    train: Loader
    test: Loader | None
    accelerator: Accelerator
    splits: Mapping[str, Any]


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
    train = open_loader(
        splits["train"], modalities, batch_size=config.train.batch_size, train=True, views=config.train.views, **shares
    )
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
    batch = {
        name: value[:2].cpu()
        for name, value in next(
            iter(open_loader(splits["train"], modalities, batch_size=2, train=False, device="cpu").epoch(0))
        ).items()
    }
    for entry, built in zip(networks, [*teachers, student], strict=True):
        if entry.mean is None:
            check_same_scale(built, entry.model, splits["train"])
        if built is student or entry.mean is not None:
            built.preprocess = _of_data(built, splits["train"], statistics, {} if entry.mean is None else batch)
    student_spec = describe(student, batch)
    teacher_specs = [
        sealed_spec(config.train.teacher_cache, teacher, batch) or describe(teacher, batch) for teacher in teachers
    ]
    for teacher in teachers:
        if config.train.fold_teachers:
            fold_batchnorm(teacher, batch)
        teacher.compute_in(config.train.teacher_precision)

    def setting(teacher: RepresentationSpec | None) -> Setting:
        passes = accelerator.num_processes * config.train.accumulation_steps
        return Setting(
            student_spec,
            teacher,
            splits["train"].num_samples,
            splits["train"].targets,
            config.seed,
            -(-min(config.train.batch_size, splits["train"].num_samples) // passes),
        )

    settings = [setting(spec) for spec in teacher_specs]
    terms = {label: build_term(config, label, settings or [setting(None)]) for label in config.objectives}
    transfer = Transfer(teachers, student, terms, source=BatchedTeachers(teachers) if config.ensemble.batched else None)
    transfer.remarks = order.notes if compares_classes(config) else []
    transfer.details = embedding_notes(transfer, config, student_spec, teacher_specs)
    check_logits(transfer, config, student_spec, teacher_specs)
    # A classifier that nothing trains keeps the classes of its weights.
    if "logits" in transfer.student_needs:
        known = order.names is not None and len(order.names) == student.recipe["num_classes"]
        student.recipe = {**student.recipe, "classes": order.names if known else None}
    test = None
    # Logits that no objective reads are of a classifier that never learns.
    if "logits" in transfer.student_needs and splits["test"] is not None and splits["test"].targets is not None:
        outputs, known = student.recipe["num_classes"], splits["test"].num_classes
        if outputs != known:
            log.warning(
                "the student has %s outputs and the data %s classes, so no top-1 is measured: give the student "
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
        origin |= {f"data.{name}": value for name, value in config.data.options().items()}
        folder = config.train.teacher_cache
        cache = CachedTeachers(
            train, transfer.source, transfer.teacher_needs, folder, config.cache, origin, filling=filling
        )
        transfer.source = cache
        if cache.complete and not filling:
            transfer.drop_teachers()
    return Assembly(transfer, train, test, accelerator, splits)


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


def open_split(config: RunConfig, name: str) -> Any:
    """The split ``"train"`` or ``"test"`` of the config's data; None where the data says that it has no such split."""
    return _open_data(config.data, name)


def open_splits(data: DataConfig) -> dict[str, Any]:
    """Both splits of a config's data by their names.

    Raises:
        UsageError: Their values mean different things, see :func:`~contrastill.datasets.io.values.check_splits`.
    """
    splits = {name: _open_data(data, name) for name in ("train", "test")}
    check_splits(splits["train"], splits["test"])
    return splits


def _open_data(data: DataConfig, split: str) -> Any:
    assert data.name is not None, "the validation recognised it"
    dataset = DATASETS[data.name]
    options = data.options()
    if "path" in dataset.Options.model_fields:
        options["path"] = data.path
    try:
        return dataset(dataset.Options(**options)).open(split)
    except ContrastillError as error:
        raise of_another_kind(data) or error from error


def open_loader(split: Split, modalities: Collection[str], **options: Any) -> ViewLoader:
    """Batches of a split with these modalities, stored or derived on the device."""
    loader = split.loader(**options)
    derived = {name for name in modalities if name not in split.modalities}
    # A stored depth is made anew too: in metres, and NaN where nothing was measured.
    return DerivedLoader(loader, derived, split.camera) if derived or "depth" in split.modalities else loader


def check_modality(network: NetworkConfig, split: Split) -> None:
    """Complain where a network's modality is neither in the data nor can be made from it."""
    try:
        check(network.modality, split.modalities, split.camera)
    except UsageError as error:
        raise UsageError(f"{network.model} cannot read this data: {error}") from error


def measure_statistics(split: Split, modality: str, samples: int = 128) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A modality's mean and standard deviation for each channel over evenly spaced samples of a split, as they are
    handed out; NaN and infinite values are left out.

    A channel that does not vary has a deviation of 1.

    Args:
        split: The training split.
        modality: Stored or derived.
        samples: How many samples to read.
    """
    loader = open_loader(split, [modality], batch_size=8, train=False, device="cpu")
    step = max(1, len(loader) // max(1, samples // 8))
    count = total = square = torch.zeros((), dtype=torch.float64)
    for place in range(0, len(loader), step):
        values = next(iter(loader.epoch(0, place)))[modality]
        # As Preprocess takes them: bytes are those of colours, 0 … 1.
        values = values.double() / 255 if values.dtype == torch.uint8 else values.double()
        there = values.isfinite()
        values = values.nan_to_num(0.0, 0.0, 0.0)
        count, total, square = (
            count + there.sum((0, 2, 3)),
            total + values.sum((0, 2, 3)),
            square + values.square().sum((0, 2, 3)),
        )
    if int(count.min()) == 0:
        raise ContrastillError(
            f"{modality} has no valid value in any of the samples looked at: nothing can be learnt from it"
        )
    mean = total / count
    std = (square / count - mean.square()).clamp_min(0).sqrt()
    # What is left of the difference of two squares, or of values in single precision, is rounding.
    constant = std <= 1e-6 * mean.abs()
    if constant.all():
        shown = ", ".join(f"{value:g}" for value in mean.tolist())
        raise ContrastillError(f"{modality} is {shown} in all samples looked at: nothing can be learnt from it")
    std = torch.where(constant, 1.0, std)
    # Figures, not decimals: a modality's unit may be small.
    return tuple(float(f"{value:.7g}") for value in mean.tolist()), tuple(
        float(f"{value:.7g}") for value in std.tolist()
    )


def check_other_data(network: Network, name: str, split: Split, *, chosen: bool = False) -> None:
    """Complain where data have a network's modality in another scale than those of its training, see
    :func:`~contrastill.datasets.io.scale.check_same_scale`.

    Args:
        network: What it reads is in the data.
        name: What it is called.
        split: Of the data.
        chosen: Whether its mean and std were set for these data, so that they are not compared with theirs.
    """
    compared = network.modality != "rgb" and not chosen
    check_same_scale(network, name, split, measure_statistics(split, network.modality) if compared else None)


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
