"""Whether a network is evaluated on images of another size than those of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError
from ..core.registry import DATASETS, MODALITIES
from ..core.representation import Network
from ..core.run import Run
from ..core.run_data import recorded_size
from ..models.recipe import TRAINED_SIZE
from ..training.data import open_split
from .evaluation_data import unlogged

Size = tuple[int, int]


def other_size(
    network: Network, split: Any, trained: Size | None, who: str, where: str, keys: Sequence[str] = ()
) -> str:
    """A sentence about images of another size than those that a network was trained on; empty where they are of the
    same one, where that of the training is not known, or where the network brings each to a resolution of its own.

    Args:
        network: With its preprocessing.
        split: That it is measured on.
        trained: (height, width) of its training.
        who: The network.
        where: The data.
        keys: That bring the images to that size.
    """
    now = _size_of(split.modalities, network.modality)
    if trained is None or now is None or now == trained or network.preprocess.resolution is not None:
        return ""
    shown = str(trained[0]) if trained[0] == trained[1] else f"[{trained[0]},{trained[1]}]"
    way = f": set {' or '.join(keys)} to {shown} where another size is not meant" if keys else ""
    return (
        f"{network.modality} is {now[0]}×{now[1]} in {where}, and {who} was trained on {trained[0]}×{trained[1]}{way}"
    )


def size_note(network: Network, split: Any, run: Path | None, who: str, where: str, keys: Sequence[str]) -> str:
    """:func:`other_size` of a network that is measured; ``run`` trained it, where it is that run's own student."""
    own = None if run is None else (Run(run), load_config(str(Run(run).config), trains=False))
    return other_size(network, split, trained_size(network, own), who, where, keys)


def size_keys(dataset: str | None, key: str, *others: str) -> list[str]:
    """``key`` where a data set of this package has an option ``size``, and the others.

    Args:
        dataset: Its name.
        key: Of that option.
        others: That are there for any data.
    """
    options = DATASETS[dataset].Options.model_fields if dataset is not None and is_shipped(dataset) else {}
    return [*([key] if "size" in options else []), *others]


def is_shipped(dataset: str | None) -> bool:
    """Whether a data set is of this package, whose option ``size`` is that of the images; in another's it may be of
    something else.
    """
    shipped = __name__.partition(".")[0]
    return dataset is not None and dataset in DATASETS and DATASETS[dataset].__module__.partition(".")[0] == shipped


def trained_size(network: Network, own: tuple[Run, RunConfig] | None) -> Size | None:
    """Height and width of the images that a network was trained on, by its recipe; else, of a run's own student whose
    file does not say so, by what the run recorded of its data, or by these themselves.

    Args:
        network: With a recipe.
        own: The run that trained it, and its own config; None: another did.
    """
    if (size := network.recipe.get(TRAINED_SIZE)) is not None:
        return size[0], size[1]
    if own is None:
        return None
    run, config = own
    if isinstance(run.data_facts().get("train"), Mapping):
        return recorded_size(run, network.modality)
    if config.data.path is None:  # to open it may be to download it
        return None
    with suppress(ContrastillError), unlogged():
        train = open_split(config, "train")
        return None if train is None else _size_of(train.modalities, network.modality)
    return None


def _size_of(modalities: Mapping[str, Sequence[int]], name: str) -> Size | None:
    """That of a modality, or of what it is derived from."""
    if name not in modalities and name in MODALITIES:
        name = MODALITIES[name].of
    shape = modalities.get(name, ())
    return (shape[1], shape[2]) if len(shape) == 3 else None
