"""The data of a run: its splits, and loaders of them with the modalities that networks read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.config.schema import DataConfig, NetworkConfig, RunConfig, TrainConfig
from ..core.config.validation import of_another_kind
from ..core.data import Split, ViewLoader
from ..core.errors import ContrastillError, UsageError
from ..core.label_vectors import several_classes
from ..core.registry import DATASETS, MODALITIES
from ..core.representation import Network
from ..core.split_checks import dataset_of
from ..core.teachers.views import evenly_spaced
from ..core.user_code import is_own, origin
from ..core.value_scale import BYTES, SIGNED_BYTES, compare_colours, compare_splits, note_once, shown_percent
from ..datasets.io.file_splits import read_here
from ..datasets.io.scale import Statistics
from ..datasets.io.shared_samples import warn_of_shared_images
from ..datasets.io.split_agreement import check_splits
from ..xmodal.derive import DerivedLoader, available, check
from .balancing import BalancedLoader, check_balanced
from .mixing import MixedLoader, mixing_seed

_TEST_SAMPLES = 64  # read to compare the test split's scale
_FEW = 8  # of fewer test samples, all may be alike
_BRIGHT = 0.5  # hardly any images are all darker, but those that somebody scaled


def training_loader(
    split: Split, modalities: Collection[str], config: TrainConfig, shares: Mapping[str, Any]
) -> ViewLoader:
    """Batches of the training samples, with classes balanced and samples mixed where the config asks for it."""
    options = {"batch_size": config.batch_size, "train": True, "views": config.views}

    def opened(seed: int) -> ViewLoader:
        loader = open_loader(split, modalities, **{**shares, **options, "seed": seed})
        if not config.class_balanced:
            return loader
        targets = check_balanced(split.targets)
        return BalancedLoader(loader, targets, seed=seed, rank=shares["rank"], world=shares["world"])

    seed = shares["seed"]
    loader = opened(seed)
    if config.mixup is None and config.cutmix is None:
        return loader
    targets = check_balanced(split.targets) if config.class_balanced else None
    partners = opened(mixing_seed(seed))
    return MixedLoader(loader, partners, seed=seed, mixup=config.mixup, cutmix=config.cutmix, targets=targets)


def open_split(config: RunConfig, name: str) -> Any:
    """The split ``"train"`` or ``"test"`` of the config's data; None where the data says that it has no such split."""
    return _open_data(config.data, name)


def open_splits(data: DataConfig) -> dict[str, Any]:
    """Both splits of a config's data by their names.

    Raises:
        UsageError: There is no training split; their values mean different things, see
            :func:`~contrastill.datasets.io.split_agreement.check_splits`.
    """
    splits = {name: _open_data(data, name) for name in ("train", "test")}
    if splits["train"] is None:
        raise UsageError(
            f"data.splits says that {data.path} has no training split, and a training learns from it: name its group, "
            "as data.splits.train=NAME"
        )
    check_splits(splits["train"], splits["test"])
    warn_of_shared_images(splits["train"], splits["test"])
    return splits


def _open_data(data: DataConfig, split: str) -> Any:
    assert data.name is not None, "the validation recognised it"
    dataset = DATASETS[data.name]
    options = data.options()
    if "path" in dataset.Options.model_fields:
        options["path"] = data.path
    try:
        return dataset_of(data.name, dataset.Options(**options)).open(split)
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
        reason: str | None = getattr(split, "unreadable", {}).get(network.modality)
        if reason is not None:
            raise UsageError(f"{network.model} cannot read this data: {reason}") from error
        fields: dict[str, str] | None = getattr(split, "unread", {}).get(network.modality)
        if fields is None:
            raise UsageError(f"{network.model} cannot read this data: {error}") from error
        named = ", ".join(f"{name}: {field}" for name, field in fields.items())
        raise UsageError(
            f"{network.model} cannot read this data: the file has a field {network.modality}, which data.fields does "
            f"not name: set 'data.fields={{{named}}}', or for a probe --data 'FILE,fields={{{named}}}'"
        ) from error


def measure_statistics(split: Split, modality: str, samples: int = 128) -> Statistics:
    """A modality's mean and standard deviation for each channel over evenly spaced samples of a split, as they are
    handed out; NaN and infinite values are left out.

    A channel that does not vary has a deviation of 1.

    Args:
        split: The training split.
        modality: Stored or derived.
        samples: How many samples to read.
    """
    mean, std, there = _moments(split, modality, samples)
    if not there:
        raise ContrastillError(
            f"{modality} has no valid value in any of the samples looked at: nothing can be learnt from it"
        )
    # What is left of the difference of two squares, or of values in single precision, is rounding.
    constant = std <= 1e-6 * mean.abs()
    if constant.all():
        shown = ", ".join(f"{value:g}" for value in mean.tolist())
        raise ContrastillError(f"{modality} is {shown} in all samples looked at: nothing can be learnt from it")
    return _figures(mean), _figures(torch.where(constant, 1.0, std))


def check_test_scale(test: Split | None, statistics: Mapping[str, Statistics], train: Split, *, refuse: bool) -> None:
    """Complain where the test split has a modality in another scale than the training split, see
    :func:`~contrastill.core.value_scale.compare_splits`.

    Args:
        test: What it lacks is not compared.
        statistics: Mean and std of each modality but rgb, of the training split.
        train: The training split.
        refuse: Whether nothing has been trained yet; else a line stands for the error.

    Raises:
        UsageError: They are in two units beyond doubt.
    """
    if test is None:
        return
    for name, measured in statistics.items():
        if name not in available(test.modalities, test.camera):
            continue
        source = name if name in test.modalities else MODALITIES[name].of
        mean, std, there = _moments(test, name, _TEST_SAMPLES, notes=False)
        if not there or len(mean) != len(measured[0]):
            continue
        # A byte has one scale, whatever it shows.
        kinds = {getattr(split, "kinds", {}).get(source) for split in (train, test)}
        certain = refuse and test.num_samples >= _FEW and not kinds & {BYTES, SIGNED_BYTES}
        compare_splits(measured, (_figures(mean), _figures(std)), name, refuse=certain, dark=source != "depth")


def check_test_colours(test: Split | None, train: Split, *, refuse: bool) -> None:
    """The same of ``rgb``, by the highest value of samples of each, see
    :func:`~contrastill.core.value_scale.compare_colours`.
    """
    if test is None or not all("rgb" in split.modalities for split in (train, test)):
        return
    ours, theirs = _highest_colour(train), _highest_colour(test)
    if ours is not None and theirs is not None:
        compare_colours(ours, theirs, refuse=refuse and min(train.num_samples, test.num_samples) >= _FEW)


def _highest_colour(split: Split) -> float | None:
    """The highest value of ``rgb`` in evenly spaced samples, of bytes in 0 … 1; None where one is negative, as those
    of normalised images are. Of images that are no darker than most, few are read.
    """
    high = 0.0
    for batch in _spaced(read_here(split), "rgb", _TEST_SAMPLES):
        values = batch["rgb"]
        if float(values.min()) < 0:
            return None
        high = max(high, float(values.max()) / (255 if values.dtype == torch.uint8 else 1))
        if high > _BRIGHT:
            break
    return high


def _spaced(split: Split, modality: str, samples: int) -> Iterator[dict[str, Tensor]]:
    """Evenly spaced samples, not augmented, in batches of eight on the CPU: neighbours on the disk are often alike."""
    yield from spaced_batches(open_loader(split, [modality], batch_size=8, train=False, device="cpu"), samples, 8)


def spaced_batches(loader: ViewLoader, samples: int, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Evenly spaced samples of a loader that does not train. Of a loader of a user's own, which may lack ``in_order``,
    evenly spaced batches.

    Args:
        loader: In this process alone.
        samples: How many; all where there are no more.
        batch_size: That the loader was opened with.
    """
    if is_own(type(getattr(loader, "loader", loader))):
        yield from loader.in_order(0, evenly_spaced(loader.num_samples, samples), batch_size)
        return
    for place in evenly_spaced(len(loader), -(-samples // batch_size)).tolist():
        yield next(iter(loader.epoch(0, place)))


def _figures(values: Tensor) -> tuple[float, ...]:
    """Figures, not decimals: a modality's unit may be small."""
    return tuple(float(f"{value:.7g}") for value in values.tolist())


def _moments(split: Split, modality: str, samples: int, *, notes: bool = True) -> tuple[Tensor, Tensor, bool]:
    """Mean and standard deviation of each channel, and whether each has a valid value; ``notes``: a line where a
    modality of one's own makes values that are not.
    """
    count = total = square = torch.zeros((), dtype=torch.float64)
    derived = None if modality in split.modalities else MODALITIES[modality]
    missing: list[tuple[float, float]] = []
    for batch in _spaced(split, modality, samples):
        values = batch[modality]
        if derived is not None and not is_own(derived):
            missing.append((_missing(values), _missing(batch[derived.of])))
        # As Preprocess takes them: bytes that are no colours are values like any others.
        values = values.double() / 255 if values.dtype == torch.uint8 and modality == "rgb" else values.double()
        there = values.isfinite()
        values = values.nan_to_num(0.0, 0.0, 0.0)
        count, total, square = (
            count + there.sum((0, 2, 3)),
            total + values.sum((0, 2, 3)),
            square + values.square().sum((0, 2, 3)),
        )
    if notes and int(count.min()) and derived is not None and missing:
        share, before = (sum(shares) / len(missing) for shares in zip(*missing, strict=True))
        if share > before:
            note_once(
                f"modality {modality} ({origin(derived)}) is NaN or infinite in {shown_percent(share)} of the pixels "
                f"looked at, and {derived.of} in {shown_percent(before)}: they are taken for not measured, and "
                "networks see the mean there"
            )
    mean = total / count
    return mean, (square / count - mean.square()).clamp_min(0).sqrt(), int(count.min()) > 0


def _missing(values: Tensor) -> float:
    """Share of the pixels of a batch of which a channel is NaN or infinite."""
    return 1 - float(values.isfinite().all(1).double().mean())


def split_notes(splits: Mapping[str, Any], student: Network) -> list[str]:
    """A line about each thing that the test split has otherwise than the training split.

    Args:
        splits: The opened splits; ``test`` is None where there is none.
        student: Reads them.
    """
    train, test = splits["train"], splits.get("test")
    if test is None:
        return []
    labelled, lines = [part.targets is not None or several_classes(part) for part in (train, test)], []
    if labelled == [True, False]:
        lines.append("the test split has no labels, and the training split has: no accuracy is measured")
    if labelled == [False, True]:
        lines.append("the training split has no labels, and the test split has: nothing learns from labels")
    modality = student.modality
    if modality not in train.modalities and modality in MODALITIES:
        modality = MODALITIES[modality].of
    ours, theirs = (tuple(part.modalities.get(modality, ())[1:]) for part in (train, test))
    if ours and theirs and ours != theirs and student.preprocess.resolution is None:
        lines.append(
            f"{modality} is {ours[0]}×{ours[1]} in the training split and {theirs[0]}×{theirs[1]} in the test split, "
            "so the student is tested at another size than it trains on: bring both to one size where that is not meant"
        )
    return lines
