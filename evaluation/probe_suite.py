"""Probes networks on data sets: features once for each network and data set, and every measure that was asked for on
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from accelerate import Accelerator

from ..core.classes import match_classes
from ..core.errors import UsageError, nearest
from ..core.representation import describe
from ..core.statistics import mean_std
from ..probe.cka import linear_cka
from ..probe.class_correlation import CorrelationDifference, correlation_difference
from ..probe.features import Features, features_of
from ..probe.few_shot import few_shot
from ..probe.linear import fit_probe
from ..probe.logme import logme
from ..probe.neighbours import knn
from ..training.assemble import check_modality, open_loader
from .networks import EvaluatedNetwork
from .probe_inputs import DataName, NetworkName, OpenData, short_names

_BATCH = 128


@dataclass(frozen=True)
class ProbeSpec:
    """What is measured.

    Attributes:
        layers: Names of layers; None: all that a network gives but its logits.
        spatial: Maps are averaged to ``spatial`` × ``spatial`` positions.
        protocol: Of the linear probe: exact, grid or crd.
        shots: Labelled samples a class of the few-shot curve; empty: none.
        knn: Neighbours that vote; None: no such measure.
        logme: Whether LogME is estimated.
        cka: A network whose layers the others' are compared with.
        correlation: A network, the teacher, whose correlations between classes the others' are compared with.
        cache: Folder in which features are kept; None: in memory, until the data set is done.
        seed: Of what is held out, of the draws and of random weights.
    """

    layers: tuple[str, ...] | None = ("embedding",)
    spatial: int = 1
    protocol: str = "exact"
    shots: tuple[int, ...] = ()
    knn: int | None = None
    logme: bool = False
    cka: NetworkName | None = None
    correlation: NetworkName | None = None
    cache: str | None = None
    seed: int = 0

    @property
    def others(self) -> list[NetworkName]:
        return [name for name in (self.cka, self.correlation) if name is not None]


@dataclass(frozen=True)
class CkaResult:
    """CKA of the layers of a network (rows) with those of another one (columns), on the test samples of a data set."""

    network: str
    other: str
    data: str
    rows: list[str]
    columns: list[str]
    values: list[list[float]]


@dataclass(frozen=True)
class CorrelationResult:
    """How a network's correlations between classes differ from those of its teacher; ``classes`` are names, where they
    are the data's.
    """

    network: str
    teacher: str
    data: str
    found: CorrelationDifference
    classes: list[str] | None


@dataclass
class ProbeReport:
    """What was found: a row for each network, data set and layer, and what is drawn besides."""

    networks: list[dict[str, Any]] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    alike: list[CkaResult] = field(default_factory=list)
    apart: list[CorrelationResult] = field(default_factory=list)


def probe_networks(
    networks: Sequence[NetworkName],
    data: Sequence[DataName],
    wanted: ProbeSpec,
    *,
    accelerator: Accelerator,
    say: Callable[[str], None] = lambda text: None,
) -> ProbeReport:
    """Probe every network on every data set, one data set after the other.

    Args:
        networks: Which.
        data: On which.
        wanted: What is measured.
        accelerator: Its device computes; features are shared out over its processes.
        say: Told what begins.

    Returns:
        What was found. A row has ``network``, ``data``, ``layer``, ``top1``, ``top5``, ``low``, ``high``,
        ``num_train``, ``num_test``, ``protocol``, ``weight_decay``, ``learning_rate`` and ``loss``; on folds also
        ``std`` and ``folds``, each fold's top-1; where they were asked for ``knn``, ``logme`` and ``shots``. All
        accuracies are in per cent.

    Raises:
        UsageError: Networks, layers and data that do not fit each other.
        ContrastillError: A run has neither a student nor a checkpoint yet, or a file is damaged.
    """
    found, built, short = ProbeReport(), {}, short_names(data, lambda name: name.short)
    for source in data:
        say(f"{source.text}: reading")
        opened = source.open()
        for name in [*networks, *wanted.others]:
            if name.text not in built:
                built[name.text] = name.build(opened.train.num_classes, wanted.seed)
        found.data.append(
            {
                "name": source.text,
                "short": short[source.text],
                "classes": len(opened.chosen),
                "train": opened.count(opened.train),
                "test": opened.count(opened.test),
            }
            | ({"folds": len(opened.folds)} if opened.folds else {})
        )
        on = _On(opened, [name.text for name in networks], built, wanted, accelerator)
        on.check()
        for name in networks:
            say(f"{source.text}: {name.text}")
            on.measure(name.text, found)
    found.networks = [
        {
            "name": name.text,
            "role": one.role,
            "model": one.model,
            "weights": one.weights,
            "modality": one.network.modality,
        }
        | {"parameters": sum(parameter.numel() for parameter in one.network.parameters())}
        for name, one in ((name, built[name.text]) for name in networks)
    ]
    return found


class _On:
    """The work on one data set."""

    def __init__(
        self,
        data: OpenData,
        networks: Sequence[str],
        built: dict[str, EvaluatedNetwork],
        wanted: ProbeSpec,
        accelerator: Accelerator,
    ) -> None:
        self.data, self.networks, self.built, self.wanted, self.accelerator = data, networks, built, wanted, accelerator
        self.where = data.name.text
        self.layers: dict[str, list[str]] = {}
        self._kept: dict[str, dict[str, Features]] = {}

    def check(self) -> None:
        """Ask each network for its layers before any is looked at, so that what cannot work shows at once."""
        wanted = self.wanted
        for text in dict.fromkeys([*self.networks, *(name.text for name in wanted.others)]):
            self.layers[text] = self._layers_of(text)
        for text in self.networks:
            there = self.layers[text]
            for layer in wanted.layers or ():
                if layer not in there:
                    near = nearest(layer, {"embedding", "logits"} & {*there}, "")
                    raise UsageError(
                        f"{text} has no layer {layer}: it has {', '.join(there)}{'; ' if near else ''}{near}"
                    )
        if wanted.correlation is not None:
            for text in (*self.networks, wanted.correlation.text):
                if "logits" not in self.layers[text]:
                    raise UsageError(
                        f"{text} gives no logits, so its classes have no correlations: leave out --correlation, "
                        "or the network"
                    )
                self._places(text)  # complains of other classes

    def measure(self, text: str, found: ProbeReport) -> None:
        """Everything that was asked for of one network."""
        wanted = self.wanted
        layers = self._probed(text)
        train, test = self._look(text, "train", layers), self._tested(text)
        for layer in layers:
            found.rows.append(
                {"network": text, "data": self.where, "layer": layer, **self._row(train[layer], test[layer], layer)}
            )
        if wanted.cka is not None:
            other = wanted.cka.text
            rows, columns = (self._comparable(name) for name in (text, other))
            beside = self._tested(other)
            values = [[linear_cka(test[row].values, beside[column].values) for column in columns] for row in rows]
            found.alike.append(CkaResult(text, other, self.where, rows, columns, values))
        if wanted.correlation is not None and text != wanted.correlation.text:
            teacher = wanted.correlation.text
            logits = [self._tested(teacher)["logits"].values, test["logits"].values]
            if logits[0].shape[1] != logits[1].shape[1]:
                counts = [value.shape[1] for value in logits]
                raise UsageError(
                    f"{teacher} tells {counts[0]} classes apart and {text} {counts[1]}: --correlation compares "
                    "networks of the same classes"
                )
            if places := self._places(text):
                logits[1] = logits[1][:, places]
            # Those of networks without names are taken for the data's where there are as many.
            names = self.built[teacher].network.recipe.get("classes") or self.data.test.classes
            classes = [*names] if names and len(names) == logits[0].shape[1] else None
            found.apart.append(CorrelationResult(text, teacher, self.where, correlation_difference(*logits), classes))

    def _places(self, text: str) -> list[int] | None:
        """Where a network has the classes of the one that its correlations are compared with; None where either has no
        names for them.
        """
        teacher = self.wanted.correlation.text
        own, others = (self.built[name].network.recipe.get("classes") for name in (text, teacher))
        if not own or not others or len(own) != len(others):
            return None
        return match_classes(own, others, text, teacher, "--correlation compares networks of the same classes")

    def _row(self, train: Features, test: Features, layer: str) -> dict[str, Any]:
        """All measures of one layer."""
        wanted, data = self.wanted, self.data
        parts, asked = [data.picked(train, rows) for rows in data.folds or [None]], data.picked(test)
        device = self.accelerator.device
        results = [
            fit_probe(part, asked, layer, seed=wanted.seed, device=device, protocol=wanted.protocol) for part in parts
        ]
        first = results[0]
        row: dict[str, Any] = {
            "protocol": first.protocol,
            "num_train": first.num_train,
            "num_test": first.num_test,
            **_accuracy(results, "top1"),
        }
        row |= {
            "top5": None if first.top5 is None else round(fmean(one.top5 for one in results), 4),
            "loss": fmean(one.loss for one in results),
        }
        if len(results) == 1:
            row |= {"weight_decay": first.weight_decay, "learning_rate": first.learning_rate}
        if wanted.knn is not None:
            row["knn"] = {"k": wanted.knn, **_accuracy([knn(part, asked, k=wanted.knn) for part in parts], "top1")}
        whole = data.picked(train)
        if wanted.logme:
            row["logme"] = logme(whole.values, whole.targets)
        if wanted.shots:
            draws = few_shot(whole, asked, shots=wanted.shots, seed=wanted.seed)
            row["shots"] = [{"shots": one.shots, "mean": one.mean, "std": one.std, "draws": one.draws} for one in draws]
        return row

    def _layers_of(self, text: str) -> list[str]:
        """What a network gives on this data, in the order of its forward pass."""
        contender = self.built[text]
        check_modality(contender.entry, self.data.test)
        loader = open_loader(
            self.data.test, [contender.network.modality], batch_size=2, device="cpu", seed=0, train=False
        )
        spec = describe(contender.network, next(iter(loader.epoch(0))))
        ends = [name for name, there in (("embedding", spec.embedding_dim), ("logits", spec.num_classes)) if there]
        return [*(f"maps.{number}" for number in range(len(spec.map_shapes))), *ends]

    def _probed(self, text: str) -> list[str]:
        return list(self.wanted.layers or self._comparable(text))

    def _comparable(self, text: str) -> list[str]:
        """Its layers but the logits."""
        return [layer for layer in self.layers[text] if layer != "logits"]

    def _tested(self, text: str) -> dict[str, Features]:
        """All that is needed of a network on the test samples, by one look; of those that others are compared with it
        is kept.
        """
        if text in self._kept:
            return self._kept[text]
        wanted, probed = self.wanted, text in self.networks
        needed = self._probed(text) if probed else []
        if wanted.cka is not None and (probed or text == wanted.cka.text):
            needed = needed + self._comparable(text)
        if wanted.correlation is not None and (probed or text == wanted.correlation.text):
            needed = [*needed, "logits"]
        found = self._look(text, "test", list(dict.fromkeys(needed)))
        if text in {name.text for name in wanted.others}:
            self._kept[text] = found
        return found

    def _look(self, text: str, split: str, layers: Sequence[str]) -> dict[str, Features]:
        contender, accelerator = self.built[text], self.accelerator
        network = contender.network.freeze().to(accelerator.device)
        shares = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        source = getattr(self.data, split)
        loader = open_loader(
            source, [network.modality], batch_size=_BATCH, device=accelerator.device, seed=0, train=False, **shares
        )
        try:
            return features_of(network, loader, list(layers), self.wanted.spatial, cache=self.wanted.cache)
        finally:
            network.cpu()


def _accuracy(results: Sequence[Any], key: str) -> dict[str, Any]:
    """One result with its interval, or the mean and spread over folds."""
    values = [getattr(one, key) for one in results]
    if len(values) == 1:
        return {key: values[0], "low": results[0].low, "high": results[0].high}
    over_folds = mean_std(values)
    return {key: over_folds.mean, "low": None, "high": None, "std": over_folds.std, "folds": values}
