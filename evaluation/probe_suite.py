"""Probes networks on data sets: features once for each network and data set, and every measure on them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..core.arguments import checked, listed
from ..core.atomic import write_text
from ..core.config.fields import LARGEST_SEED
from ..core.errors import UsageError, unknown_name
from ..core.generators import own_generators
from ..core.run import writable_folder
from ..core.torch_settings import own_settings
from ..probe.layers import spatial_note
from ..probe.linear import PROTOCOLS
from ..training.processes import accelerator_of, parting
from .messages import print_message, printer
from .network_names import networks_named
from .networks import EvaluatedNetwork
from .probe_data_set import DataSetProbe
from .probe_figures import draw_all
from .probe_inputs import DataName, NetworkName, data_named, short_names
from .probe_report import (
    CkaResult,
    CorrelationResult,
    NetworkLike,
    ProbedData,
    ProbedNetwork,
    ProbeReport,
    ProbeRow,
    ProbeSpec,
)
from .probe_tables import markdown
from .trained_size import size_keys, size_note

DataLike = str | os.PathLike | DataName
"""``NAME:PATH[,key=value…]``, a path that is recognised, or a NAME that needs none, such as ``rooms``."""


@checked
@own_settings()
@own_generators()
@parting()
def probe_networks(
    networks: NetworkLike | NetworkName | Sequence[Any],
    data: DataLike | Sequence[DataLike],
    spec: ProbeSpec | None = None,
    *,
    out: str | os.PathLike | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> ProbeReport | None:
    """Train a linear classifier on frozen layers of every network and every data set, and measure what ``spec`` names.

    Args:
        networks: Runs, their teachers, names of networks, or networks themselves, which go by their class:
            ``Sequential``, ``Sequential 2``.
        data: The data sets.
        spec: What is measured; None: a linear probe of the embedding.
        out: Folder for probe.json, probe.md and figures; None: nothing is written.
        accelerator: Its device computes, and its processes share the features; None: a new one.
        progress: Whether to show progress on standard error.

    Returns:
        The report; all accuracies are in per cent. None on a process that is not the main one.

    Raises:
        UsageError: Networks, layers and data that do not fit each other, or no such network, data or protocol.
        ContrastillError: A run has neither a student nor a checkpoint yet, or a file is damaged.
    """
    spec = spec or ProbeSpec()
    if not 0 <= spec.seed <= LARGEST_SEED:
        raise UsageError(f"seed is {spec.seed}: give a whole number from 0 to {LARGEST_SEED}")
    if spec.protocol not in PROTOCOLS:
        raise unknown_name("protocol", spec.protocol, PROTOCOLS)
    # A comparison by CKA is of all layers.
    if spec.cka is None and (note := spatial_note(spec.layers or ("maps.0",), spec.spatial)):
        print_message(note)
    networks, data = listed(networks, "networks", "runs/crd"), listed(data, "data", "data.h5")
    # First, as a run's config may import the data's package.
    named, others = _named(networks, spec)
    names = list({name.text: name for name in named}.values())
    sources = list({source.text: source for source in map(data_named, data)}.values())
    if not names or not sources:
        raise UsageError("a probe needs a network and data: name one of each at least")
    folder = None if out is None else writable_folder(out)
    accelerator = accelerator or accelerator_of()
    report = _probed(names, sources, spec, others, accelerator, progress)
    if not accelerator.is_main_process:
        return None
    return report if folder is None else _written(report, names, sources, folder)


def _named(
    networks: Sequence[NetworkLike | NetworkName], spec: ProbeSpec
) -> tuple[list[NetworkName], dict[str, NetworkName]]:
    """The networks, and by the key of ``spec`` those that they are compared with."""
    compared = {key: network for key in ("cka", "correlation") if (network := getattr(spec, key)) is not None}
    every = networks_named([*networks, *compared.values()])
    return every[: len(networks)], dict(zip(compared, every[len(networks) :], strict=True))


def _probed(
    names: Sequence[NetworkName],
    sources: Sequence[DataName],
    spec: ProbeSpec,
    others: dict[str, NetworkName],
    accelerator: Accelerator,
    progress: bool,
) -> ProbeReport:
    """Every network on every data set, one data set after the other."""
    say = printer(progress)
    built: dict[str, EvaluatedNetwork] = {}
    short = short_names(sources, lambda source: source.short)
    rows: list[ProbeRow] = []
    cka: list[CkaResult] = []
    correlation: list[CorrelationResult] = []
    data: list[ProbedData] = []
    for source in sources:
        say(f"{source.text}: reading")
        opened = source.open()
        for name in [*names, *others.values()]:
            if name.text not in built:
                built[name.text] = name.build(opened.train.num_classes, spec.seed)
                if built[name.text].is_early:
                    print_message(f"{name.text} has not ended: its {built[name.text].weights} is measured")
        folds = len(opened.folds) if opened.folds else None
        train, test = opened.count(opened.train), opened.count(opened.test)
        data.append(ProbedData(source.text, short[source.text], len(opened.chosen), train, test, folds))
        probe = DataSetProbe(opened, [name.text for name in names], built, spec, others, accelerator)
        probe.check()
        for name in [*names, *others.values()]:
            run = None if name.teacher is not None else name.run
            keys = size_keys(source.name, "the data's size=…")
            if note := size_note(built[name.text].network, opened.train, run, name.text, source.text, keys):
                print_message(note)
        for name in names:
            say(f"{source.text}: {name.text}")
            measures = probe.measure(name.text)
            rows += measures.rows
            cka += measures.cka
            correlation += measures.correlation
    networks = [_described(name.text, built[name.text]) for name in names]
    return ProbeReport(spec, tuple(networks), tuple(data), tuple(rows), tuple(cka), tuple(correlation))


def _described(text: str, built: EvaluatedNetwork) -> ProbedNetwork:
    parameters = sum(parameter.numel() for parameter in built.network.parameters())
    return ProbedNetwork(text, built.role, built.model, built.weights, built.network.modality, parameters)


def _written(
    report: ProbeReport, names: Sequence[NetworkName], sources: Sequence[DataName], folder: Path
) -> ProbeReport:
    """Draw the figures and write probe.json and probe.md."""
    report = replace(report, pictures=tuple(draw_all(report, names, sources, folder)))
    values = report.to_dict()
    write_text(folder / "probe.json", json.dumps(values, indent=1) + "\n")
    write_text(folder / "probe.md", markdown(values))
    return replace(report, written=(folder / "probe.json", folder / "probe.md"))
