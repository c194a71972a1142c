"""The report's last chapters: what the networks cost, maps of their embeddings, and how everything is made again."""

from __future__ import annotations

import json
from typing import Any

from ..core.config.command import command_of
from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError
from .markup import Markup, element, join, number
from .page import Section
from .page_parts import Cell, copyable, folded, measured, table, warning
from .runs import Found, Group

_SAMPLES = 400
_AT_ONCE = 50
_CLASSES = 12  # that a map tells apart


def costs(found: Found, *, latency: bool) -> Section:
    """Parameters and operations of each student beside its teachers; with ``latency`` also the time of a forward."""
    from ..evaluation.cost import measure_cost

    rows, notes, seen = [], [], set()
    for group in found.groups:
        run = next((run for run in group.runs if run.finished and run.config is not None), None)
        if run is None:
            notes.append(warning(f"{group.name}: its networks are not counted, as it has no finished run."))
            continue
        names = [str(run.path), *(f"{run.path}:teachers.{place}" for place in range(1, len(run.config.teachers)))]
        kind = json.dumps([_networks(run.config), run.config.data.model_dump(mode="json")], sort_keys=True)
        if kind in seen:
            continue
        seen.add(kind)
        try:
            rows += [
                _cost(row, group.name, latency) for row in measure_cost(names, rounds=30 if latency else 1).to_dict()
            ]
        except (ContrastillError, OSError, RuntimeError) as error:
            notes.append(warning(f"{group.name}: its networks are not counted: {' '.join(str(error).split())}"))
    columns = ["run", "role", "network", "input", "parameters", "MFLOPs an image", "MB"]
    columns += ["latency of one image, ms", "images/s"] if latency else []
    said = [
        "Networks of one kind are listed once. FLOPs are 2 for each multiply-add; beside a number is its share "
        "of the first teacher's."
    ]
    if latency:
        said.append("Latency is the median of 30 forwards; student and teachers took turns on this machine.")
    made = table("What the networks cost", columns, rows, notes=said) if rows else None
    return Section("cost", "Cost of teacher and student", join(made, notes))


def _networks(config: RunConfig) -> list[list[Any]]:
    return [[one.model, one.modality, one.resolution] for one in [config.student, *config.teachers]]


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


def embeddings(found: Found) -> Section:
    """A map of what each student says of a few hundred test samples."""
    return Section(
        "embeddings",
        "Maps of the embeddings",
        join(element("p", _MAPS), element("div", [_map(group) for group in found.groups], class_="charts")),
    )


_MAPS = (
    "Each dot is a test sample, placed by the two directions in which the student's embeddings vary most (PCA) "
    "and coloured by its class. "
    "Two directions show little of a space of many: nearness here is a hint, the tables say what can be told apart."
)


def _map(group: Group) -> Markup:
    from .scatter import Scatter, scatter

    run = next((run for run in group.runs if run.finished and run.config is not None), None)
    if run is None:
        return warning(f"{group.name}: there is no student to look at its embeddings.")
    try:
        points, classes, names, shares = _embedded(run.path, run.config)
    except (ContrastillError, OSError, RuntimeError) as error:
        return warning(f"{group.name}: no map of its embeddings: {' '.join(str(error).split())}")
    title = (
        f"{group.name}: {len(points)} test samples; the axes hold {number(100 * shares[0], '.0f')} % and "
        f"{number(100 * shares[1], '.0f')} % of the variance"
    )
    return scatter(Scatter(title, points, classes, names))


def _embedded(path: Any, config: RunConfig) -> tuple[list[list[float]], list[int], list[str], list[float]]:
    """Places (n, 2), classes and their names, and the axes' shares of the variance."""
    import torch

    from ..core.run import Run
    from ..evaluation.evaluation_data import evaluation_data
    from ..evaluation.networks import EvaluatedNetworks
    from ..probe.projection import principal_axes
    from ..training.assemble import check_modality, open_loader, open_split

    contender = EvaluatedNetworks(Run(path), config).student()
    split = open_split(evaluation_data(config), "test")
    if split is None:
        raise ContrastillError("the data has no test split")
    check_modality(contender.entry, split)
    network = contender.network.freeze()
    loader = open_loader(split, [network.modality], batch_size=_AT_ONCE, device="cpu", seed=0, train=False)
    step = max(1, len(loader) * _AT_ONCE // _SAMPLES)
    values, targets = [], []
    with torch.no_grad():
        for place in list(range(0, len(loader), step))[: _SAMPLES // _AT_ONCE]:
            batch = next(iter(loader.epoch(0, place)))
            values.append(network(batch, frozenset({"embedding"})).embedding.float())
            targets.append(batch["target"] if "target" in batch else torch.zeros(len(values[-1]), dtype=torch.int64))
    found = principal_axes(torch.cat(values), 2)
    classes = torch.cat(targets).tolist()
    names = [str(name) for name in (split.classes or [f"class {number_}" for number_ in range(max(classes) + 1)])]
    return found.points.tolist(), classes, names, found.shares.tolist()


def made(found: Found) -> Section:
    """The command of every training, and what it ran on."""
    parts = [
        element(
            "p",
            "Paths in the commands are as they were given: relative ones count from the folder in which the "
            "training was started.",
        )
    ]
    parts += (
        [_made(group) for group in found.groups]
        if len(found.groups) < 4
        else [folded(group.name, _made(group)) for group in found.groups]
    )
    return Section("made", "How to make it again", join(parts))


def _made(group: Group) -> Markup:
    parts: list[Markup | None] = [element("h3", group.name)]
    for config, name in _configs(group):
        command = command_of(config)
        parts.append(copyable(command or f"contrastill train {name}/config.yaml", f"The command of {group.name}"))
        parts.append(
            None
            if command
            else element("p", "No shipped config leads to these settings, so the run's own is named.", class_="small")
        )
    rows = []
    for run in group.runs:
        held = run.read_json("versions.json")
        for one in held if isinstance(held, list) else []:
            if isinstance(one, dict):
                rows.append([run.path.name, *(str(one.get(key, "–")) for key in _VERSIONS)])
    if rows:
        parts.append(table(f"{group.name}: versions, from versions.json", ["run", *_VERSIONS], rows))
    else:
        parts.append(
            warning(f"{group.name}: there is no readable versions.json, so what it was trained with is not known.")
        )
    return join(parts)


_VERSIONS = ("contrastill", "torch", "python", "platform", "date")


def _configs(group: Group) -> list[tuple[RunConfig, str]]:
    """The configs that make a group: one with ``seeds`` where a folder holds seeds in a row, else each run's own."""
    known = [(run.config, run.path.as_posix()) for run in group.runs if run.config is not None]
    seeds = sorted(config.seed for config, _ in known)
    members = all(
        run.path != group.path and run.path.name == f"seed-{run.config.seed}"
        for run in group.runs
        if run.config is not None
    )
    if len(known) > 1 and members and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        first = min(known, key=lambda one: one[0].seed)
        out = first[0].out.rstrip("/").rpartition("/")[0]
        return [(first[0].model_copy(update={"out": out or ".", "seed": seeds[0], "seeds": len(seeds)}), first[1])]
    return known
