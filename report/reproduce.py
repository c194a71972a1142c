"""The report's last chapters: costs of the networks, maps of their embeddings, and the commands to reproduce them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError
from ..core.run import Run
from ..core.run_weights import WeightsRecord
from .markup import Markup, element, join, number
from .page import Section
from .page_parts import Cell, copyable, folded, measured, table, warning
from .runs import RunFolders, RunSeries

_SAMPLES = 400
_AT_ONCE = 50
_CLASSES = 12  # that a map tells apart


def costs(runs: RunFolders, *, latency: bool) -> Section:
    """Parameters and operations of each student beside its teachers; with ``latency`` also the time of a forward."""
    from ..evaluation.cost import measure_cost

    rows, notes, seen, listed = [], [], set(), set()
    for group in runs.groups:
        finished = group.first_finished()
        if finished is None:
            notes.append(warning(f"{group.name}: its networks are not counted, as it has no finished run."))
            continue
        path, config = finished
        names = [str(path), *(f"{path}:teachers.{place}" for place in range(1, len(config.teachers)))]
        kind = _kind(path, config)
        if kind in seen:
            continue
        seen.add(kind)
        try:
            measures = measure_cost(names, rounds=30 if latency else 1).to_dict()
            # Teachers of other weights may have cost the same.
            counted = json.dumps([[row[key] for key in _COUNTED] for row in measures])
            if counted not in listed:
                listed.add(counted)
                rows += [_cost(row, group.name, latency) for row in measures]
        except (ContrastillError, OSError, RuntimeError) as error:
            notes.append(warning(f"{group.name}: its networks are not counted: {' '.join(str(error).split())}"))
    columns = ["run", "role", "network", "input", "parameters", "MFLOPs an image", "MB"]
    columns += ["latency of one image, ms", "images/s"] if latency else []
    caption_notes = [
        "Networks that cost the same are listed once. FLOPs are 2 for each multiply-add; beside a number is its share "
        "of the first teacher's."
    ]
    if latency:
        caption_notes.append("Latency is the median of 30 forwards; student and teachers took turns on this machine.")
    cost_table = table("What the networks cost", columns, rows, notes=caption_notes) if rows else None
    return Section("cost", "Costs", join(cost_table, notes))


_COUNTED = ("role", "model", "input_shape", "parameters", "flops", "bytes")


def _kind(path: Path, config: RunConfig) -> str:
    """What the costs of a run's networks follow from: their settings, their data, and what modules are built of."""
    networks = [network.model_dump(mode="json") for network in [config.student, *config.teachers]]
    modules = {key: weights.modules for key, weights in WeightsRecord(Run(path)).read().items()}
    return json.dumps([networks, modules, config.data.model_dump(mode="json")], sort_keys=True)


def _cost(row: dict[str, Any], name: str, latency: bool) -> list[Any]:
    shares = {key: f" ({number(100 * share, '.1f')} %)" for key, share in row.get("of_teacher", {}).items()}
    cells = [
        name,
        row["role"],
        row["model"],
        "×".join(map(str, row["input_shape"])),
        Cell(f"{row['parameters']:,}{shares.get('parameters', '')}", row["parameters"]),
        Cell(f"{row['flops'] / 1e6:,.1f}{shares.get('flops', '')}", row["flops"]),
        measured(row["bytes"] / 1e6),
    ]
    return cells + (
        [
            Cell(f"{row['latency_ms']:.2f}{shares.get('latency', '')}", row["latency_ms"]),
            measured(row["images_per_second"], ",.0f"),
        ]
        if latency
        else []
    )


def embeddings(runs: RunFolders) -> Section:
    """A map of each student's embeddings of a few hundred test samples."""
    return Section(
        "embeddings",
        "Embeddings",
        join(element("p", _MAPS), element("div", [_map(group) for group in runs.groups], class_="charts")),
    )


_MAPS = (
    "Each dot is a test sample, placed by the two directions in which the student's embeddings vary most (PCA) "
    "and coloured by its class, where the data has one class for each. "
    "Two directions show little of a space of many: nearness here is a hint, the tables show what can be told apart."
)


def _map(group: RunSeries) -> Markup:
    from .scatter import Scatter, scatter

    finished = group.first_finished()
    if finished is None:
        return warning(f"{group.name}: there is no student to map the embeddings of.")
    try:
        points, classes, names, shares = _embedded(*finished)
    except (ContrastillError, OSError, RuntimeError) as error:
        return warning(f"{group.name}: no map of its embeddings: {' '.join(str(error).split())}")
    title = (
        f"{group.name}: {len(points)} test samples; the axes hold {number(100 * shares[0], '.0f')} % and "
        f"{number(100 * shares[1], '.0f')} % of the variance"
    )
    if classes is None:
        title += "; not coloured, as the data has no single class for each sample"
    return scatter(Scatter(title, points, classes, names))


def _embedded(path: Path, config: RunConfig) -> tuple[list[list[float]], list[int] | None, list[str], list[float]]:
    """Places (n, 2), classes, or None where a sample has none or several, their names, and the axes' shares of the
    variance.
    """
    import torch

    from ..evaluation.evaluation_data import evaluation_data
    from ..evaluation.networks import EvaluatedNetworks
    from ..probe.projection import principal_axes
    from ..training.data import check_modality, open_loader, open_split, spaced_batches

    contender = EvaluatedNetworks(Run(path), config).student()
    split = open_split(evaluation_data(config), "test")
    if split is None:
        raise ContrastillError("the data has no test split")
    check_modality(contender.entry, split)
    network = contender.network.freeze()
    loader = open_loader(split, [network.modality], batch_size=_AT_ONCE, device="cpu", seed=0, train=False)
    values, targets = [], []
    with torch.no_grad():
        for batch in spaced_batches(loader, _SAMPLES, _AT_ONCE):
            embedding = network(batch, frozenset({"embedding"})).embedding
            assert embedding is not None, "the embedding is what the network computes"
            values.append(embedding.float())
            targets += [batch["target"]] if "target" in batch else []
    projection = principal_axes(torch.cat(values), 2)
    classes = torch.cat(targets).tolist() if len(targets) == len(values) else None
    return projection.points.tolist(), classes, [*map(str, split.classes or ())], projection.shares.tolist()


def reproduction(runs: RunFolders) -> Section:
    """The command of every training, and what it ran on."""
    parts = [
        element(
            "p",
            "Paths in the commands are as they were given: relative ones count from the folder in which the "
            "training was started.",
        )
    ]
    parts += (
        [_reproduction(group) for group in runs.groups]
        if len(runs.groups) < 4
        else [folded(group.name, _reproduction(group)) for group in runs.groups]
    )
    return Section("reproduce", "How to reproduce", join(parts))


def _reproduction(group: RunSeries) -> Markup:
    entries = {run.path: run.version_entries() for run in group.runs}
    # Several seeds that one command trained have recorded that command each.
    commands = dict.fromkeys(_command(path, entries[path]) for path in entries)
    parts = [element("h3", group.name), *(copyable(command, f"The command of {group.name}") for command in commands)]
    rows = [
        [path.name, *(str(entry.get(key, "–")) for key in _VERSIONS)] for path in entries for entry in entries[path]
    ]
    if rows:
        parts.append(table(f"{group.name}: versions, from versions.json", ["run", *_VERSIONS], rows))
    else:
        parts.append(
            warning(f"{group.name}: there is no readable versions.json, so what it was trained with is not known.")
        )
    return join(parts)


_VERSIONS = ("contrastill", "torch", "python", "platform", "date")


def _command(path: Path, entries: Sequence[Mapping[str, Any]]) -> str:
    """The command that the training was started with; of a run that recorded none, the one that trains its config."""
    recorded = (entry["command"] for entry in entries if isinstance(entry.get("command"), str))
    return next(recorded, shlex.join(["contrastill", "train", f"{path.as_posix()}/config.yaml"]))
