"""What networks cost, a run's student beside its teacher."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import PartialState

from ..compress.cost import Cost, network_costs
from ..core.arguments import Positive, checked, listed
from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError, UsageError
from ..core.generators import own_generators
from ..core.representation import Network
from ..core.run import Run
from ..core.run_data import recorded_size
from ..core.table import Table, TabularResult
from ..core.torch_settings import own_settings
from ..training.data import open_loader, open_split
from ..training.processes import parting
from .messages import print_message
from .network_names import networks_named
from .networks import EvaluatedNetwork
from .probe_inputs import NetworkName, network_named
from .trained_size import is_shipped

_CLASSES = 1000  # of a network without weights, as ImageNet's
Size = int | tuple[int, int]
"""A side, or (height, width), in pixels."""


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs.

    Attributes:
        network: The network as it was named; of a run's teacher ``RUN:teacher``.
        role: ``student``, ``teacher``, or ``network`` of one that is of no run.
        model: Its architecture.
        cost: The measures.
        of_teacher: Shares of the first teacher's ``parameters``, ``flops``, ``latency`` and ``bytes``; None without.
    """

    network: str
    role: str
    model: str
    cost: Cost
    of_teacher: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {"network": self.network, "role": self.role, "model": self.model, **asdict(self.cost)}
        if values["flops_per_megapixel"] is None:
            del values["flops_per_megapixel"]
        return values if self.of_teacher is None else {**values, "of_teacher": dict(self.of_teacher)}


@dataclass(frozen=True)
class CostResult(TabularResult):
    """What networks cost: one row per network, a run's teacher behind its student."""

    rows: tuple[NetworkCost, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as plain values, as ``contrastill cost --json`` prints them."""
        return [row.to_dict() for row in self.rows]

    def tables(self) -> list[Table]:
        """One row per network."""
        first = self.rows[0].cost
        threads = f", {first.threads} thread{'s' * (first.threads > 1)}" if first.device == "cpu" else ""
        batch = f"{first.batch_size} image{'s' * (first.batch_size > 1)}"
        shares = "; beside a value, its share of the teacher's" if any(row.of_teacher for row in self.rows) else ""
        dense = any(row.cost.flops_per_megapixel is not None for row in self.rows)
        operations = ["MFLOPs", *(["GFLOPs/megapixel"] if dense else [])]
        columns = ("network", "model", "image", "parameters", *operations, "latency ms", "quartiles", "images/s", "MB")
        title = f"on {first.device}{threads}, batches of {batch}{shares}"
        return [Table(title, columns, [_cells(row, dense=dense) for row in self.rows])]


@checked
@own_settings()
@own_generators()
@parting()
def measure_cost(
    networks: str | os.PathLike | Network | Sequence[Any],
    *,
    size: Positive | None = None,
    classes: Positive | None = None,
    batch_size: Positive = 1,
    rounds: Positive = 30,
    device: str | None = None,
    threads: Positive | None = None,
) -> CostResult:
    """Parameters, operations, time of a forward and bytes of networks; they take turns, so that they compare.

    Args:
        networks: Runs (each with its first teacher), ``RUN:teacher``, names of networks (``resnet20``,
            ``timm/resnet18@pretrained``), or networks themselves, which go by their class: ``Sequential``,
            ``Sequential 2``.
        size: Side in pixels of the images, for networks without a resolution of their own; None: that of the run's
            data.
        classes: Of networks that are named without weights; None: those of the runs, or without
            runs of the other networks, where these agree, else 1000.
        batch_size: Images in a batch that is timed.
        rounds: Timed forwards of each network.
        device: Where to time; None: the accelerator, if there is one.
        threads: Threads of the CPU within an operation; None: torch's own number.

    Raises:
        UsageError: No such network or device, no size of its images, ``size`` or ``classes`` where no network reads
            it, or more than the machine can do.
        ContrastillError: A file is damaged.

    Example:
        >>> result = measure_cost(["resnet8"], size=32, classes=10, rounds=1)
        >>> result.rows[0].cost.parameters
        78042
    """
    entries = _entries(listed(networks, "networks", "resnet20"), classes)
    _check_read(entries, size, classes)
    sizes = [input_size(entry.text, entry.built.network, entry.config, size) for entry in entries]
    costs = network_costs(
        [entry.built.network for entry in entries],
        sizes,
        batch_size=batch_size,
        rounds=rounds,
        device=device or PartialState().device,
        threads=threads,
    )
    by_text = {entry.text: cost for entry, cost in zip(entries, costs, strict=True)}
    rows = []
    for entry, cost in zip(entries, costs, strict=True):
        teacher = by_text.get(f"{entry.text}:teacher") if entry.built.role == "student" else None
        shares = None if teacher is None else cost.relative_to(teacher)
        rows.append(NetworkCost(entry.text, entry.built.role, entry.built.model, cost, shares))
    return CostResult(tuple(rows))


@dataclass(frozen=True)
class _Entry:
    """A network to measure, and the config of its run."""

    text: str
    built: EvaluatedNetwork
    config: RunConfig | None
    free: bool = False
    """Whether its number of classes is free: it is named without weights."""


def _entries(networks: Sequence[str | os.PathLike | Network], classes: int | None) -> list[_Entry]:
    """The networks in their order, a run's teacher behind its student."""
    names = list({name.text: name for name in networks_named(networks)}.values())
    # Networks without weights come last, as they have as many classes as the others, in whatever order they are named.
    runs = {name.text: name.build(0, seed=0) for name in names if name.run is not None}
    known = _num_classes(runs.values())
    weighted = {
        name.text: name.build(classes or _the_only(known) or _CLASSES, seed=0)
        for name in names
        if name.run is None and not _is_free(name)
    }
    known = known or _num_classes(weighted.values())
    free = [name for name in names if _is_free(name)]
    built = runs | weighted
    for name in free:
        built[name.text] = name.build(classes or _the_only(known) or _CLASSES, seed=0)
    if free and classes is None and len(known) > 1:
        print_message(
            f"{', '.join(name.text for name in free)} without weights: counted with {_CLASSES} classes, as the numbers "
            f"of classes of the others differ ({', '.join(map(str, sorted(known)))}): give contrastill cost another "
            "with --classes"
        )
    entries: list[_Entry] = []
    for name in names:
        config = None if name.run is None else load_config(str(Run(name.run).config), trains=False)
        entries.append(_Entry(name.text, built[name.text], config, _is_free(name)))
        if config is not None and name.teacher is None and config.teachers and f"{name.text}:teacher" not in built:
            teacher = _teacher(name)
            entries += [_Entry(f"{name.text}:teacher", teacher, config)] if teacher else []
    return entries


def _is_free(name: NetworkName) -> bool:
    """Whether a network is named without weights, which would determine its number of classes."""
    return name.entry is not None and name.network is None and name.entry.weights is None


def _num_classes(networks: Iterable[EvaluatedNetwork]) -> set[int]:
    """The numbers of classes of networks; of one in memory it is not known."""
    return {built.network.recipe["num_classes"] for built in networks if built.network.recipe}


def _the_only(numbers: set[int]) -> int | None:
    return next(iter(numbers)) if len(numbers) == 1 else None


def _check_read(entries: Sequence[_Entry], size: int | None, classes: int | None) -> None:
    """Refuse a number that none of the networks reads."""
    names = ", ".join(entry.text for entry in entries)
    if classes is not None and not any(entry.free for entry in entries):
        raise UsageError(
            f"classes={classes} is of networks that are named without weights, and {names} has classes of its own: "
            "leave it out"
        )
    if size is not None and all(entry.built.network.preprocess.resolution for entry in entries):
        raise UsageError(
            f"size={size} is of networks without a resolution of their own, and {names} has one: leave it out"
        )


def _teacher(name: NetworkName) -> EvaluatedNetwork | None:
    """The first teacher of a run; None, with a message, where its weights are not there."""
    try:
        return replace(name, teacher=0).build(0, seed=0)
    except ContrastillError as error:
        print_message(f"the teacher of {name.text} is left out: {error}")
        return None


def input_size(text: str, network: Network, config: RunConfig | None, size: int | None) -> Size:
    """Of the images that a network takes: its own resolution, ``size``, or that of its run's data.

    Raises:
        UsageError: None of these is known.
    """
    run = None if config is None else network_named(text).run
    known = (
        network.preprocess.resolution or size or data_size(config, None if run is None else Run(run), network.modality)
    )
    if known is None:
        raise UsageError(
            f"{text} takes images of any size, and no data at hand says which: give contrastill cost a size (--size), "
            "such as 32"
        )
    return known


def data_size(config: RunConfig | None, run: Run | None, modality: str) -> Size | None:
    """Of the images of a run's data: as the run recorded it, else by its config, else by the data themselves; None
    where they are not there.
    """
    if config is None:
        return None
    if run is not None and (recorded := recorded_size(run, modality)):
        return recorded
    # In a data set of one's own an option of that name may be of something else.
    if is_shipped(config.data.name) and (size := config.data.options().get("size")):
        return tuple(size) if isinstance(size, list) else size
    try:
        split = open_split(config, "train")
        batch = next(iter(open_loader(split, [modality], batch_size=1, train=False, device="cpu").epoch(0)))
    except ContrastillError:
        return None
    height, width = batch[modality].shape[2:]
    return height, width


def _cells(row: NetworkCost, *, dense: bool) -> list[str]:
    """Those of a row, in the order of the columns.

    Args:
        row: Of the table.
        dense: Whether there is a column of the operations for a million pixels.
    """
    cost, (low, high) = row.cost, row.cost.latency_quartiles_ms
    shares = {name: f"  {100 * share:.1f} %" for name, share in (row.of_teacher or {}).items()}
    per_megapixel = "" if cost.flops_per_megapixel is None else f"{cost.flops_per_megapixel / 1e9:,.1f}"
    return [
        row.network,
        row.model,
        "×".join(map(str, cost.input_shape)),
        f"{cost.parameters:,}{shares.get('parameters', '')}",
        f"{cost.flops / 1e6:,.1f}{shares.get('flops', '')}",
        *([per_megapixel] if dense else []),
        f"{cost.latency_ms:.2f}{shares.get('latency', '')}",
        f"{low:.2f} – {high:.2f}",
        f"{cost.images_per_second:,.0f}",
        f"{cost.bytes / 1e6:,.2f}",
    ]
