"""The scale in which some data have a modality, and whether a network was trained on it in that scale."""

from __future__ import annotations

from typing import Any

from ...core.errors import UsageError
from ...core.representation import Network
from ...core.value_scale import ValueScale, compare_statistics, note_once

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def scale_of(split: Any, modality: str, measured: Statistics | None = None) -> ValueScale:
    """What is known of the values of a modality of some data.

    Args:
        split: Of the data.
        modality: Stored or derived.
        measured: Mean and std of it, see :func:`~contrastill.training.assemble.measure_statistics`.
    """
    stored = modality in split.modalities
    kind = getattr(split, "kinds", {}).get(modality) if stored else None
    unit = split.camera.unit if stored and modality == "depth" and split.camera is not None else None
    mean, std = (None, None) if measured is None else measured
    # Of a dataset of the user's own, which may hand out normalised colours.
    samples = getattr(split, "samples", None) if modality == "rgb" else None
    colours = getattr(samples, "rgb_range", None)
    low, high = (None, None) if colours is None else (colours.low, colours.high)
    return ValueScale(kind, unit, mean, std, low, high)


def check_scale(network: Network, name: str, measured: Statistics, *, notes: bool = False) -> None:
    """Complain where a network was trained on its modality in another unit than the data's.

    Args:
        network: Has the mean and std that it was trained with.
        name: What it is called.
        measured: Mean and std of the data, see :func:`~contrastill.training.assemble.measure_statistics`.
        notes: Whether to log a line where they are far apart and may be right all the same.

    Raises:
        UsageError: All channels are further off, wider or narrower than other scenes of one sensor make them.
    """
    own, scale = network.preprocess, network.preprocess.scale
    expected = (scale.statistics if scale is not None else None) or (own.mean, own.std)
    if len(expected[0]) != len(measured[0]):
        return  # said elsewhere, where the images are read
    compare_statistics(expected, measured, name, network.modality, notes=notes, narrow=True)


def check_chosen_scale(
    network: Network, name: str, split: Any, measured: Statistics, trained: ValueScale | None = None
) -> None:
    """Complain where mean and std that were set for a network are not in the unit of the data, or log one line where
    they may be right; none, 0 and 1, leave values as they are and are right of all.

    Args:
        network: Whose mean and std were set.
        name: What it is called.
        split: Of the data.
        measured: Mean and std of its modality there.
        trained: The scale of the training of its weights, where that is known.

    Raises:
        UsageError: They are of another unit, or the weights are of depth in metres and the data has none, or the
            reverse, and mean and std are not those of the data.
    """
    own = network.preprocess
    if len(own.mean) != len(measured[0]) or (not any(own.mean) and all(value == 1 for value in own.std)):
        return
    unit, data = None if trained is None else trained.unit, scale_of(split, network.modality)
    other = trained is not None and None not in (unit, data.unit) and (trained.metres is None) != (data.metres is None)
    compare_statistics(
        (own.mean, own.std),
        measured,
        name,
        network.modality,
        notes=True,
        narrow=True,
        takes="is set to take",
        close=other,
    )


def check_same_scale(network: Network, name: str, split: Any, measured: Statistics | None = None) -> None:
    """Complain where other data than those of a network's training have its modality in another scale, or log one line
    where they may be right.

    Args:
        network: What is not recorded of its training, as in older runs, is not compared.
        name: What it is called.
        split: Of the data.
        measured: Mean and std of its modality there; None: they are not compared.

    Raises:
        UsageError: Depth in metres and depth without a unit; statistics of another unit.
    """
    own, data = network.preprocess.scale, scale_of(split, network.modality, measured)
    if own is not None:
        if own.unit is not None and data.unit is not None and (own.metres is None) != (data.metres is None):
            raise UsageError(
                f"{name} was trained on {network.modality}, {own}, and that of this data is {data}: no factor brings "
                "one to the other, so name data of the same kind, or set data.depth_unit if it is not as it says"
            )
    if measured is not None:
        check_scale(network, name, measured, notes=own is not None)
    if own is not None and None not in (own.kind, data.kind) and own.kind != data.kind:
        # Metres are metres, however they are stored, and colours come to 0 … 1.
        if network.modality != "rgb" and own.metres is None:
            note_once(
                f"{name} was trained on {network.modality}, {own}, and that of this data is {data}: it is right only "
                "if both are in one unit"
            )
