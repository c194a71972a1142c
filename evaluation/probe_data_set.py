"""The probes of networks on one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ..core.classes import match_classes
from ..core.errors import UsageError, nearest
from ..core.representation_spec import describe
from ..core.statistics import mean_std
from ..core.value_scale import note_once
from ..models.trained_logits import untrained_logits
from ..probe.cka import linear_cka
from ..probe.class_correlation import correlation_difference
from ..probe.features import Features, features_of
from ..probe.few_shot import few_shot
from ..probe.linear import fit_probe
from ..probe.logme import logme
from ..probe.neighbours import knn
from ..training.data import check_modality, open_loader
from ..training.networks import check_other_data
from .messages import print_message
from .networks import EvaluatedNetwork
from .probe_inputs import NetworkName, OpenData
from .probe_report import CkaResult, CorrelationResult, FewShotScore, ProbeAccuracy, ProbeRow, ProbeSpec

_BATCH = 128


@dataclass(frozen=True)
class NetworkMeasures:
    """All measures of one network on one data set."""

    rows: list[ProbeRow]
    cka: list[CkaResult]
    correlation: list[CorrelationResult]


class DataSetProbe:
    """The probes on one data set.

    Args:
        data: The open data set.
        networks: Names of the networks that are probed.
        built: All networks by name.
        spec: What is measured.
        others: Networks of the keys ``cka`` and ``correlation`` that the others are compared with.
        accelerator: Its device computes, and its processes share the features.
    """

    def __init__(
        self,
        data: OpenData,
        networks: Sequence[str],
        built: Mapping[str, EvaluatedNetwork],
        spec: ProbeSpec,
        others: Mapping[str, NetworkName],
        accelerator: Accelerator,
    ) -> None:
        self.data, self.networks, self.built, self.spec, self.accelerator = data, networks, built, spec, accelerator
        self.source = data.name.text
        self.cka_network = others["cka"].text if "cka" in others else None
        self.teacher = others["correlation"].text if "correlation" in others else None
        self.layers: dict[str, list[str]] = {}
        self._compared = {name.text for name in others.values()}
        self._probabilities: set[str] = set()
        self._cached: dict[str, dict[str, Features]] = {}

    def check(self) -> None:
        """Ask each network for its layers before any is probed, so that what cannot work shows at once.

        Raises:
            UsageError: A network lacks a layer, gives no logits where they are compared, or has other classes.
        """
        count = self.data.count(self.data.train)
        if self.spec.knn is not None and self.spec.knn > count:
            print_message(
                f"{self.source}: knn={self.spec.knn} is more than its {count} training samples: all of them vote"
            )
        for text in dict.fromkeys([*self.networks, *self._compared]):
            self.layers[text] = self._layers_of(text)
        for text in self.networks:
            known = self.layers[text]
            for layer in self.spec.layers or ():
                if layer not in known:
                    near = nearest(layer, {"embedding", "logits"} & {*known}, "")
                    raise UsageError(
                        f"{text} has no layer {layer}: it has {', '.join(known)}{'; ' if near else ''}{near}"
                    )
        if self.teacher is not None:
            for text in (*self.networks, self.teacher):
                if "logits" not in self.layers[text]:
                    raise UsageError(
                        f"{text} gives no logits, so its classes have no correlations: leave out --correlation, "
                        "or the network"
                    )
                if text in self._probabilities:
                    raise UsageError(
                        f"{text} returns probabilities (they sum to 1), and --correlation compares logits: leave the "
                        "softmax at its end out"
                    )
                if self._places(text, self.teacher) is None and text != self.teacher:  # complains of other classes
                    self._note_numbers(text, self.teacher)
                self._note_untrained(text)

    def measure(self, text: str) -> NetworkMeasures:
        """All measures of one network."""
        layers = self._probed_layers(text)
        train, test = self._features(text, "train", layers), self._test_features(text)
        rows = [self._row(text, layer, train[layer], test[layer]) for layer in layers]
        return NetworkMeasures(rows, self._cka(text, test), self._correlation(text, test))

    def _cka(self, text: str, test: dict[str, Features]) -> list[CkaResult]:
        other = self.cka_network
        if other is None:
            return []
        rows, columns = (self._representation_layers(name) for name in (text, other))
        own, others = self._picked(test), self._picked(self._test_features(other))
        values = [[linear_cka(own[row], others[column]) for column in columns] for row in rows]
        return [CkaResult(text, other, self.source, rows, columns, values)]

    def _correlation(self, text: str, test: dict[str, Features]) -> list[CorrelationResult]:
        teacher = self.teacher
        if teacher is None or text == teacher:
            return []
        logits = [self._picked(features)["logits"] for features in (self._test_features(teacher), test)]
        if logits[0].shape[1] != logits[1].shape[1]:
            counts = [value.shape[1] for value in logits]
            raise UsageError(
                f"{teacher} tells {counts[0]} classes apart and {text} {counts[1]}: --correlation compares "
                "networks of the same classes"
            )
        if places := self._places(text, teacher):
            logits[1] = logits[1][:, places]
        # Those of networks without names are taken for the data's where there are as many.
        names = self.built[teacher].network.recipe.get("classes") or self.data.test.classes
        classes = [*names] if names and len(names) == logits[0].shape[1] else None
        return [CorrelationResult(text, teacher, self.source, correlation_difference(*logits), classes)]

    def _picked(self, features: dict[str, Features]) -> dict[str, Tensor]:
        """Layer -> its values on the samples of the chosen classes."""
        return {layer: self.data.picked(value).values for layer, value in features.items()}

    def _note_untrained(self, text: str) -> None:
        """Say that the logits whose correlations are measured are those of a classifier that nothing trained."""
        # The name of a run's student is its folder; another name is that of none.
        if untrained := untrained_logits(text, self.built[text].network.recipe):
            note_once(f"{untrained}: their correlations are those of random weights")

    def _note_numbers(self, text: str, teacher: str) -> None:
        """Say that classes are compared by their numbers, where nothing names them on both sides."""
        unnamed = [name for name in (text, teacher) if not self.built[name].network.recipe.get("classes")]
        if unnamed:
            print_message(
                f"--correlation compares the classes of {text} and {teacher} by their numbers, as "
                f"{' and '.join(unnamed)} {'has' if len(unnamed) == 1 else 'have'} no names for them: it says nothing "
                "where they are numbered otherwise"
            )

    def _places(self, text: str, teacher: str) -> list[int] | None:
        """Where a network has the classes of the teacher; None where either has no names for them."""
        own, others = (self.built[name].network.recipe.get("classes") for name in (text, teacher))
        if not own or not others or len(own) != len(others):
            return None
        return match_classes(own, others, text, teacher, "--correlation compares networks of the same classes")

    def _row(self, text: str, layer: str, train: Features, test: Features) -> ProbeRow:
        """All measures of one layer."""
        spec, data = self.spec, self.data
        folds: list[Tensor | None] = [*data.folds] if data.folds else [None]
        parts, tested = [data.picked(train, rows) for rows in folds], data.picked(test)
        device = self.accelerator.device
        results = [
            fit_probe(part, tested, layer, seed=spec.seed, device=device, protocol=spec.protocol) for part in parts
        ]
        first, single = results[0], len(results) == 1
        top5 = [result.top5 for result in results if result.top5 is not None]
        nearest_neighbours, neighbours = None, spec.knn
        if spec.knn is not None:
            votes = [knn(part, tested, k=spec.knn) for part in parts]
            nearest_neighbours, neighbours = _accuracy(votes), min(vote.k for vote in votes)
        complete = data.picked(train)
        shots: list[FewShotScore] = []
        estimate = None
        if spec.logme and complete.targets is not None:
            estimate = logme(complete.values, complete.targets)
        if spec.shots:
            curve = few_shot(complete, tested, shots=spec.shots, seed=spec.seed)
            shots = [FewShotScore(point.shots, point.mean, point.std, point.draws) for point in curve]
        return ProbeRow(
            text,
            self.source,
            layer,
            first.protocol,
            first.num_train,
            first.num_test,
            _accuracy(results),
            round(fmean(top5), 4) if top5 else None,
            fmean(result.loss for result in results),
            first.weight_decay if single else None,
            first.learning_rate if single else None,
            neighbours,
            nearest_neighbours,
            estimate,
            tuple(shots),
        )

    def _layers_of(self, text: str) -> list[str]:
        """What a network gives on this data, in the order of its forward pass."""
        built = self.built[text]
        check_modality(built.entry, self.data.test)
        modality = built.network.modality
        if built.role != "network" or built.entry.weights is not None or built.network.preprocess.scale is not None:
            check_other_data(built.network, text, self.data.test, chosen=built.entry.mean is not None)
        loader = open_loader(self.data.test, [modality], batch_size=2, device="cpu", seed=0, train=False)
        spec = describe(built.network, next(iter(loader.epoch(0))))
        if spec.probabilities:
            self._probabilities.add(text)
        ends = [name for name, size in (("embedding", spec.embedding_dim), ("logits", spec.num_classes)) if size]
        return [*(f"maps.{number}" for number in range(len(spec.map_shapes))), *ends]

    def _probed_layers(self, text: str) -> list[str]:
        return list(self.spec.layers or self._representation_layers(text))

    def _representation_layers(self, text: str) -> list[str]:
        """Its layers but the logits."""
        return [layer for layer in self.layers[text] if layer != "logits"]

    def _test_features(self, text: str) -> dict[str, Features]:
        """All features of a network on the test samples, by one pass; cached where others are compared with them."""
        if text in self._cached:
            return self._cached[text]
        probed = text in self.networks
        layers = self._probed_layers(text) if probed else []
        if self.cka_network is not None and (probed or text == self.cka_network):
            layers = layers + self._representation_layers(text)
        if self.teacher is not None and (probed or text == self.teacher):
            layers = [*layers, "logits"]
        features = self._features(text, "test", list(dict.fromkeys(layers)))
        if text in self._compared:
            self._cached[text] = features
        return features

    def _features(self, text: str, split: str, layers: Sequence[str]) -> dict[str, Features]:
        accelerator = self.accelerator
        network = self.built[text].network.freeze().to(accelerator.device)
        loader = open_loader(
            getattr(self.data, split),
            [network.modality],
            batch_size=_BATCH,
            device=accelerator.device,
            seed=0,
            train=False,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        try:
            return features_of(network, loader, list(layers), self.spec.spatial, cache=self.spec.cache)
        finally:
            network.cpu()


def _accuracy(results: Sequence[Any]) -> ProbeAccuracy:
    """One result with its interval, or the mean and spread over folds."""
    values = [result.top1 for result in results]
    if len(values) == 1:
        return ProbeAccuracy(values[0], results[0].low, results[0].high)
    over_folds = mean_std(values)
    return ProbeAccuracy(over_folds.mean, None, None, over_folds.std, values)
