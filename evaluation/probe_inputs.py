"""Networks and data sets by the names that the command line and Python's functions take."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from pydantic import BaseModel
from torch import Tensor, nn

from ..core.classes import listed
from ..core.config.loading import dataset_options, load_config
from ..core.config.schema import NetworkConfig
from ..core.errors import UsageError, names_beside, nearest, unknown_name
from ..core.home import expanded
from ..core.label_vectors import lacks_classes
from ..core.loaded_network import as_network
from ..core.plugins import import_plugins, imports_of
from ..core.recognition import check_path_given, recognised, unknown_layout
from ..core.registry import DATASETS, PRETRAINED, model_builder
from ..core.representation import Network, Taps
from ..core.run import Run
from ..core.run_names import TEACHER, is_file_of_run, no_run, runs_beside
from ..core.split_checks import dataset_of
from ..core.weights import find_weights
from ..probe.features import Features
from ..training.modality_scale import trained_modality
from ..training.networks import build
from .networks import EvaluatedNetwork, EvaluatedNetworks

_OTHERS = "or of a package of yours (--import MY_PACKAGE)"


@dataclass(frozen=True)
class NetworkName:
    """A network that was named, not built yet.

    Attributes:
        text: The name.
        run: The run it is of; None for other networks.
        teacher: Which of the run's teachers it is; None: its student.
        entry: Its config, of a registered network or of one that is built already.
        network: A network that is built already.
    """

    text: str
    run: Path | None = None
    teacher: int | None = None
    entry: NetworkConfig | None = None
    network: Network | None = None

    def build(self, classes: int, seed: int) -> EvaluatedNetwork:
        """The network itself, on the CPU.

        Args:
            classes: Length of the logits where neither weights nor a run determine it.
            seed: Of weights that are random.

        Raises:
            UsageError: No such teacher, or weights of another network.
            ContrastillError: The run has neither a student nor a checkpoint yet, or a file is damaged.
        """
        if self.run is not None:
            run = Run(self.run)
            networks = EvaluatedNetworks(run, load_config(str(run.config), trains=False))
            return networks.student() if self.teacher is None else networks.teacher(self.teacher)
        if self.entry is None:
            raise UsageError(f"{self.text} names neither a run nor a network")
        if self.network is not None:
            return EvaluatedNetwork("network", self.entry.model, self.network, "in memory", self.entry)
        set_seed(seed)
        return EvaluatedNetwork(
            "network", self.entry.model, build(self.entry, classes), self.entry.weights or "none", self.entry
        )


def network_named(network: str | os.PathLike | Network | NetworkName) -> NetworkName:
    """Understand ``RUN``, ``RUN:teacher``, ``RUN:teachers.1``, ``MODEL`` or ``MODEL@WEIGHTS``, or a network itself.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(network, NetworkName):
        return network
    if isinstance(network, nn.Module) and isinstance(getattr(network, "taps", None), Taps):  # of load_student
        network = as_network(network)
    if isinstance(network, Network):
        model = type(network.module).__name__
        return NetworkName(model, entry=NetworkConfig(model=model, modality=network.modality), network=network)
    if isinstance(network, nn.Module):
        raise UsageError(
            f"{type(network).__name__} does not say how it reads images: wrap it in contrastill.Network(module, "
            "taps=…, preprocess=…), or pass a student of contrastill.load_student"
        )
    if not isinstance(network, (str, os.PathLike)):
        raise UsageError(f"networks holds {network!r}: pass runs, names of networks, or contrastill.Network objects")
    text = os.fspath(expanded(network))
    match = None if Run(text).config.is_file() else TEACHER.fullmatch(text)
    run = Path(match["run"] if match else text)
    if Run(run).config.is_file():
        # The packages that it was trained with may also know the data that are named beside it.
        # What a run's own package lacks here is missed where one of its names is looked up.
        with suppress(UsageError):
            import_plugins(imports_of(run))
        return NetworkName(text, run, int(match["number"] or 0) if match else None)
    if Path(text).is_dir() or is_file_of_run(text):
        raise no_run(text, best=f", or MODEL@{text} for this file")
    model, at, weights = text.partition("@")
    weights = expanded(weights)
    if at and not weights:
        raise UsageError(
            f"{text} names no weights after @: write {model}@{PRETRAINED}, {model}@FILE, or {model} for random ones"
        )
    try:
        model_builder(model, weights or None)
    except UsageError as error:
        hint = nearest(text, runs_beside(text), str(error))
        raise UsageError(f"{text} is neither the folder of a run nor a network that can be had: {hint}") from error
    if weights not in ("", PRETRAINED):
        find_weights(weights)
    entry = NetworkConfig(model=model, weights=weights or None)
    # No key says what it reads: what it was trained on.
    return NetworkName(text, entry=entry.model_copy(update={"modality": trained_modality(entry)}))


@dataclass(frozen=True)
class DataName:
    """A data set that was named, not opened yet.

    Attributes:
        text: The name that was given.
        name: Of the registered data set.
        path: Its file or folder, if it has one.
        options: Its options.
        folds: Whether the probe is repeated on each of its official folds.
        classes: Names or numbers of the classes that are used; None: all.
    """

    text: str
    name: str
    path: str | None
    options: BaseModel
    folds: bool = False
    classes: tuple[str, ...] | None = None

    @property
    def short(self) -> str:
        """The name of the data set; of packed files and folders that of the file or folder."""
        return (
            Path(self.path).stem
            if self.path and self.name in ("packed", "image_folder", "paired_folder")
            else self.name
        )

    def check_whole(self, what: str) -> None:
        """Complain of a choice that a probe alone makes.

        Args:
            what: Uses all samples.

        Raises:
            UsageError: Classes or folds were chosen.
        """
        options = {f"classes={','.join(self.classes or ())}": self.classes is not None, "fold=all": self.folds}
        if given := [option for option, is_given in options.items() if is_given]:
            raise UsageError(
                f"{self.text}: {' and '.join(given)} chooses what a probe measures, and {what} takes all samples of "
                "the data: leave it out"
            )

    def open(self) -> OpenData:
        """Both splits.

        Raises:
            UsageError: A split is missing, has no classes, or has others than the other one; files of another layout.
            ContrastillError: A file is damaged.
        """
        dataset = dataset_of(self.name, self.options)
        splits = {name: dataset.open(name) for name in ("train", "test")}
        for name, split in splits.items():
            if split is None:
                raise UsageError(f"{self.text} has no {name} split: name one with splits={{train: …, test: …}}")
            if split.targets is None:
                raise UsageError(f"the {name} split of {self.text} {lacks_classes(split, 'a probe')}")
        train, test = splits["train"], splits["test"]
        named = train.classes is not None and test.classes is not None
        if train.num_classes != test.num_classes or (named and [*train.classes] != [*test.classes]):
            called = {name: f" ({listed(split.classes)})" if split.classes else "" for name, split in splits.items()}
            counts = [
                f"{split.num_classes} classes{called[name]} in its {name} split" for name, split in splits.items()
            ]
            raise UsageError(f"{self.text} has {' and '.join(counts)}: number both splits by one list of classes")
        data = OpenData(self, train, test, dataset.folds() if self.folds else None, self._chosen(train))
        data.check()
        return data

    def _chosen(self, split: Any) -> Tensor:
        """Numbers of the classes that are used."""
        names = [str(name) for name in split.classes or range(split.num_classes)]
        if self.classes is None:
            return torch.arange(split.num_classes)
        for name in self.classes:
            if (count := names.count(name)) > 1:
                places = ", ".join(str(place) for place, other in enumerate(names) if other == name)
                way = "rename them" if name.isdecimal() else "give the numbers in place of the name"
                raise UsageError(f"{self.text} has {count} classes called {name}, numbers {places}: {way}")
            if name not in names and not (name.isdecimal() and int(name) < split.num_classes):
                message = str(unknown_name(f"in {self.text}, the class", name, names))
                quoted = any("," in other for other in names)
                raise UsageError(message + " A name with a comma is written in quotes." * quoted)
        by_place = [name for name in self.classes if name not in names]
        if by_place and (called := [name for name in self.classes if name in names and name.isdecimal()]):
            raise UsageError(
                f"classes={','.join(self.classes)} of {self.text} has {called[0]}, the name of class "
                f"{names.index(called[0])}, and {by_place[0]}, which is no name and would be a number counted from 0: "
                f"give names alone, of {listed(names)}"
            )
        chosen = sorted({names.index(name) if name in names else int(name) for name in self.classes})
        if len(chosen) < 2:
            raise UsageError(
                f"classes={','.join(self.classes)} of {self.text} leaves nothing to tell apart: name two at least"
            )
        return torch.tensor(chosen)


@dataclass(frozen=True)
class OpenData:
    """The splits of a data set, its folds (places in the train split) and the numbers of the classes that are used."""

    name: DataName
    train: Any
    test: Any
    folds: list[Tensor] | None
    chosen: Tensor

    def check(self) -> None:
        """Complain about classes that can be tested and not learnt."""
        parts = [None] if self.folds is None else self.folds
        for rows in parts:
            known = torch.as_tensor(self.train.targets).cpu()
            known = known if rows is None else known[rows]
            for number in sorted({*self.chosen.tolist()} - {*known.tolist()}):
                called = f"class {number}" + (f" ({self.train.classes[number]})" if self.train.classes else "")
                tested = bool((torch.as_tensor(self.test.targets).cpu() == number).any())
                what = "has samples in the test split and none in" if tested else "has no sample in"
                raise UsageError(
                    f"{called} of {self.name.text} {what} the train split: take more samples, or leave it out "
                    "with classes=[…]"
                )

    def picked(self, features: Features, rows: Tensor | None = None) -> Features:
        """The samples of the chosen classes, which are numbered anew, out of ``rows`` or of all."""
        targets = features.targets
        assert targets is not None, "both splits have classes"
        rows = torch.arange(len(targets)) if rows is None else rows
        if len(self.chosen) < self.train.num_classes:
            rows = rows[torch.isin(targets[rows], self.chosen)]
        return Features(features.values[rows], torch.searchsorted(self.chosen, targets[rows]))

    def count(self, split: Any) -> int:
        """Samples of a split that are of the chosen classes."""
        return int(torch.isin(torch.as_tensor(split.targets).cpu(), self.chosen).sum())


def data_named(data: str | os.PathLike | DataName) -> DataName:
    """Understand ``NAME:PATH``, a path, or a NAME that needs none, each with ``,key=value`` options.

    Raises:
        UsageError: It is none of these, or an option that the data set has not.
    """
    if isinstance(data, DataName):
        return data
    text = os.fspath(expanded(data))
    head, *options = re.split(r",(?=[A-Za-z_][\w.]*=)", text)
    name, path = _located(head)
    dataset = DATASETS[name]
    known = dataset.Options.model_fields
    check_path_given(text, name, path is not None)
    folds, classes = "fold=all" in options, None
    if folds and not hasattr(dataset, "folds"):
        raise UsageError(f"{text}: {name} has no official folds, as stl10 has; leave out fold=all")
    if folds and any(option.startswith("limit=") for option in options):
        raise UsageError(f"{text}: folds are of the whole training split; leave out limit or fold=all")
    if "classes" not in known:
        chosen = [option.partition("=")[2] for option in options if option.startswith("classes=")]
        classes = _listed(chosen[-1]) if chosen else None
    own = [
        option
        for option in options
        if option != "fold=all" and ("classes" in known or not option.startswith("classes="))
    ]
    # Not augmented: a border around the images would only take memory.
    plain = {key: value for key, value in {"crop_padding": 0, "flip": False}.items() if key in known}
    return DataName(
        text,
        name,
        path,
        dataset_options(name, {**plain, **({"path": path} if path is not None else {})}, own),
        folds,
        classes,
    )


def short_names(names: Sequence[Any], shorten: Any) -> dict[str, str]:
    """Text -> a short name, where no two have the same one; else the text."""
    short = [shorten(name) for name in names]
    return {
        name.text: brief if short.count(brief) == 1 else name.text for name, brief in zip(names, short, strict=True)
    }


def _listed(text: str) -> tuple[str, ...]:
    """Names by commas, in brackets or without; one in quotes may hold commas itself."""
    inner = text.strip().removeprefix("[").removesuffix("]")
    parts = re.findall(r"""\s*('[^']*'|"[^"]*"|[^,]*)\s*(?:,|$)""", inner)
    return tuple(name for part in parts if (name := part.strip().strip("'\"")))


def _located(head: str) -> tuple[str, str | None]:
    """Name of the data set and its path."""
    if head in DATASETS:
        return head, None
    if Path(head).exists():
        names = recognised(head)
        if len(names) != 1:
            why = f"could be {' or '.join(names)}" if names else unknown_layout(head)
            known = ", ".join(names) if names else f"{', '.join(DATASETS)}, {_OTHERS}"
            raise UsageError(f"{head} {why}: write NAME:{head} with NAME one of {known}")
        return names[0], head
    name, colon, path = head.partition(":")
    if not colon or not path:
        hint = nearest(head, [*DATASETS, *names_beside(head)], f"NAME is one of {', '.join(DATASETS)}, {_OTHERS}")
        raise UsageError(f"{head} is neither a file nor a folder nor NAME:PATH: {hint}")
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS, "and those of a package of yours (--import MY_PACKAGE)")
    if not Path(path).expanduser().exists():
        raise UsageError(
            f"{head}: {path} does not exist: "
            f"{nearest(path, names_beside(path), 'name a file or a folder that is there')}"
        )
    return name, path
