"""Measures the networks of runs on their test splits: their own accuracy, and what their representation is worth for
other tasks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.classes import apply_class_map
from ..core.config.loading import load_config, validate
from ..core.config.schema import RunConfig
from ..core.errors import UsageError, unknown_name
from ..core.run import Run, no_run
from ..datasets.io.values import check_splits
from ..probe.features import features_of
from ..probe.linear import fit_probe
from ..probe.segmentation import segment
from ..training.assemble import (
    check_modality,
    check_scale,
    measure_statistics,
    open_loader,
    open_split,
    prepare_accelerator,
)
from ..training.class_order import answer_for, check_same_classes
from ..training.engine import evaluate
from .gallery import Gallery
from .networks import BASELINES, EvaluatedNetwork, EvaluatedNetworks

LABELS = "semantics"
"""The modality of the label maps."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation came to: its rows, and the picture of segmentations if there were any."""

    rows: list[dict[str, Any]]
    picture: Path | None


def measure_run(path: str | os.PathLike, overrides: Sequence[str], *, teachers: bool = False) -> list[dict[str, Any]]:
    """The rows of :func:`measure_runs` for one run."""
    return measure_runs([path], overrides, teachers=teachers).rows


def measure_runs(
    paths: Sequence[str | os.PathLike],
    overrides: Sequence[str],
    *,
    teachers: bool = False,
    baselines: Collection[str] = (),
    picture: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Measure the students of runs, and other networks beside them, at the tasks that the configs name under
    ``evaluation``.

    Args:
        paths: The runs' folders.
        overrides: ``key=value`` changes of their configs, such as ``data.path=other.h5`` or
            ``evaluation.mode=fine_tuned``.
        teachers: Whether to measure all their teachers too.
        baselines: Out of ``random``, ``scratch``, ``teacher``; those that several runs share are measured once.
        picture: Where to draw segmentations; None is ``predictions.png`` in the first run's folder.
        say: Told what begins.

    Returns:
        A row for each network, task and share of the labels: ``run``, ``role``, ``model``, ``parameters``, ``weights``,
            ``images``, ``task``, and
        of the task ``accuracy``, where the network tells the data's classes apart, ``top1`` and ``top5``; of
        ``segmentation`` ``mode``, ``head``, ``labels``, ``train_images``, ``pixel_accuracy``, ``mean_accuracy``,
        ``miou``, ``per_class_iou``, ``seconds``; of ``classification`` ``labels``, ``train_images`` and for each of
        ``layers`` ``top1``, ``top5`` and ``weight_decay``; all in per cent but ``labels``. Each run's rows are also
        written to its ``evaluation.json``.

    Raises:
        UsageError: A folder is no run, an unknown baseline, or data that do not fit the networks or the tasks.
        ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
    """
    for name in baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    gallery, rows = Gallery(), []
    seen: set[str] = set()
    common = os.path.commonpath([os.path.abspath(path) for path in paths])
    for path in paths:
        name = "student" if len(paths) == 1 else os.path.relpath(path, common)
        measuring = _Measuring(Run(path), list(overrides), name=name, gallery=gallery, say=say)
        own = list(measuring.rows(teachers, baselines, seen))
        if measuring.accelerator.is_main_process:
            found = {
                "data": measuring.data.data.model_dump(mode="json"),
                "evaluation": measuring.options.model_dump(mode="json"),
                "rows": own,
            }
            write_text(measuring.run.path / "evaluation.json", json.dumps(found, indent=1) + "\n")
        rows += own
    drawn = (
        gallery.draw(picture or Path(paths[0]) / "predictions.png") if measuring.accelerator.is_main_process else None
    )
    return Measured(rows, drawn)


@dataclass(frozen=True)
class _Source:
    """A split that is read with more modalities than are stored."""

    split: Any
    modalities: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        return self.split.num_samples

    @property
    def targets(self) -> Any:
        return self.split.targets

    def loader(self, **options: Any) -> Any:
        return open_loader(self.split, self.modalities, **options)


class _Measuring:
    """The evaluation of one run."""

    def __init__(
        self, run: Run, overrides: list[str], *, name: str, gallery: Gallery, say: Callable[[str], None]
    ) -> None:
        if not run.config.is_file():
            raise no_run(run.path)
        self.run, self.name, self.gallery, self.say = run, name, gallery, say
        self.config = load_config(str(run.config), overrides)
        self.options = self.config.evaluation
        self.data = evaluation_data(self.config)
        self._own_data = self.data.data.model_dump(mode="json") == load_config(str(run.config)).data.model_dump(
            mode="json"
        )
        self.accelerator = prepare_accelerator(self.config.model_copy(update={"trackers": []}))
        self.test = self._open("test")
        self.train = self._open("train") if {*self.options.tasks} - {"accuracy"} else None
        self._check()

    def rows(self, teachers: bool, baselines: Collection[str], seen: set[str]) -> Iterator[dict[str, Any]]:
        """The rows of every network; ``seen`` remembers the baselines that another run has had measured."""
        untaught = {"random", "scratch"} & {*baselines}
        if untaught and self.train is None:
            raise UsageError(
                f"{' and '.join(sorted(untaught))} of --baselines has nothing to do: add "
                "evaluation.tasks=[segmentation] or [classification]"
            )
        for contender in EvaluatedNetworks(self.run, self.config)(teachers=teachers, baselines=baselines):
            if contender.role != "student":
                key = json.dumps(
                    [contender.role, self.config.seed, contender.entry.model_dump(mode="json"), self._settings()]
                )
                if key in seen:
                    continue
                seen.add(key)
            check_modality(contender.entry, self.test)
            self._check_scale(contender)
            network = contender.network.freeze().to(self.accelerator.device)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            common = {
                "run": str(self.run.path),
                "role": contender.role,
                "model": contender.model,
                "parameters": parameters,
            }
            for task in self.options.tasks:
                for row in getattr(self, f"_{task}")(contender):
                    yield {**common, **row, "images": self.test.num_samples, "weights": contender.weights, "task": task}

    def _accuracy(self, contender: EvaluatedNetwork) -> Iterator[dict[str, Any]]:
        if contender.role in ("random", "scratch"):
            return
        network = contender.network
        shares = {"rank": self.accelerator.process_index, "world": self.accelerator.num_processes}
        loader = self._source(self.test, contender).loader(
            batch_size=256, device=self.accelerator.device, seed=self.config.seed, train=False, **shares
        )
        # A teacher of other classes (ImageNet's, say) has embeddings to give, and no accuracy here.
        yield evaluate(network, loader, self.accelerator) if self._answers(contender) else {}

    def _answers(self, contender: EvaluatedNetwork) -> bool:
        """Whether a network can name the classes of the test split; its logits are brought into their order.

        Raises:
            UsageError: They are others than the student's, and its accuracy is all that is asked for.
        """
        network, student = contender.network, contender.role == "student"
        who = f"{contender.role} {contender.model} of {self.run.path}"
        if student and (given := self.config.student.class_map) is not None:
            apply_class_map(network, given, self.test.num_classes, self.test.classes, who)
        way = (
            "say with student.class_map={ITS CLASS: CLASS OF THE DATA} which is which, or name data of its "
            "classes with data.path=…"
        )
        try:
            note = answer_for(network, self.test, who, self._where(), way)
        except UsageError:
            if student and self.options.tasks == ("accuracy",):
                raise
            return False
        if note and (network.recipe.get("classes") is not None and self.test.classes is not None or not self._own_data):
            self.say(note)
        return True

    def _segmentation(self, contender: EvaluatedNetwork) -> Iterator[dict[str, Any]]:
        mode = {"student": self.options.mode, "scratch": "scratch"}.get(contender.role, "frozen")
        train, test = (self._source(split, contender) for split in (self.train, self.test))
        shares: dict[str, Any] = {
            "head": self.options.head,
            "epochs": self.options.epochs,
            "batch_size": self.options.batch_size,
            "lr": self.options.lr,
        }
        best: tuple[float, Any, float] | None = None
        for fraction in self.options.label_fractions:
            self.say(
                f"{self.run.path}: segmentation, {contender.role} {contender.model}, {mode}, {100 * fraction:g} % "
                "of the labels"
            )
            result, model = segment(
                contender.network, train, test, num_classes=self._pixel_classes, mode=mode, label_fraction=fraction,
                seed=self.config.seed,
                device=self.accelerator.device, labels=LABELS, progress=True, **shares,
            )  # fmt: skip
            if best is None or fraction > best[0]:
                best = (fraction, model, result.miou)
            ious = [None if math.isnan(iou) else round(iou, 4) for iou in result.per_class_iou]
            measures = {name: round(getattr(result, name), 4) for name in ("pixel_accuracy", "mean_accuracy", "miou")}
            yield {"mode": mode, "head": self.options.head, "labels": fraction, "train_images": result.num_train,
                **measures, "per_class_iou": ious,
                   "seconds": result.seconds}  # fmt: skip
        whose = self.name if contender.role == "student" else contender.role
        how = "trained along" if mode == "scratch" else mode.replace("_", "-")
        name = f"{whose}\n{how}\nmIoU {best[2]:.1f} %"
        if not self.gallery.add(contender.role, name, best[1], test, LABELS, self.accelerator.device):
            self.say(f"{self.run.path}: its test frames are not those of the runs before it: it is not in the picture")

    def _classification(self, contender: EvaluatedNetwork) -> Iterator[dict[str, Any]]:
        if (
            contender.role == "scratch"
        ):  # what is trained on classes end to end is a training of its own: contrastill train
            return
        self.say(f"{self.run.path}: classification, {contender.role} {contender.model}")
        options, device = self.options, self.accelerator.device
        train, test = (
            features_of(
                contender.network,
                self._source(split, contender).loader(batch_size=64, device=device, seed=0, train=False),
                options.layers,
                options.spatial,
            )
            for split in (self.train, self.test)
        )
        for fraction in options.label_fractions:
            layers, used = {}, 0
            for layer in options.layers:
                result = fit_probe(
                    train[layer], test[layer], layer, fraction, self.config.seed, device=device, unseen="wrong"
                )
                layers[layer], used = (
                    {"top1": result.top1, "top5": result.top5, "weight_decay": result.weight_decay},
                    result.num_train,
                )
            yield {"mode": "frozen", "labels": fraction, "train_images": used, "layers": layers}

    def _open(self, name: str) -> Any:
        split = open_split(self.data, name)
        if split is None:
            raise UsageError(f"{self._where()} has no {name} split: name one with evaluation.data.splits.{name}=…")
        return split

    def _source(self, split: Any, contender: EvaluatedNetwork) -> _Source:
        return _Source(split, (contender.network.modality,))

    def _check(self) -> None:
        """Complain where the data lack what a task needs."""
        for name, split in (("test", self.test), ("train", self.train)):
            if split is None:
                continue
            for task in self.options.tasks:
                if task == "segmentation" and LABELS not in split.modalities:
                    there = ", ".join(split.modalities)
                    raise UsageError(
                        f"the {name} split of {self._where()} has no label maps: segmentation needs the modality "
                        f"{LABELS}, and it has {there}"
                    )
                if task != "segmentation" and split.targets is None and (task, name) != ("accuracy", "train"):
                    raise UsageError(
                        f"the {name} split of {self._where()} has no classes to compare with: {task} needs them; "
                        "choose others with evaluation.tasks"
                    )
        check_splits(self.train, self.test)
        if "segmentation" in self.options.tasks:
            self._pixel_classes  # noqa: B018 - complains by itself
        if "classification" in self.options.tasks and self.train.num_classes != self.test.num_classes:
            raise UsageError(
                f"the train split of {self._where()} has {self.train.num_classes} classes, the test split "
                f"{self.test.num_classes}"
            )
        if "classification" in self.options.tasks:
            check_same_classes({"train": self.train, "test": self.test})

    def _check_scale(self, contender: EvaluatedNetwork) -> None:
        """Complain where other data than the run's have a network's modality in another unit."""
        modality = contender.entry.modality
        if self.options.data and modality != "rgb" and contender.entry.mean is None:
            check_scale(contender.network, contender.model, measure_statistics(self.test, modality))

    @cached_property
    def _pixel_classes(self) -> int:
        """How many classes the label maps have: by their names, else the highest that occurs."""
        names = [split.semantic_classes for split in (self.train, self.test)]
        if names[0] != names[1]:
            counts = [0 if part is None else len(part) - 1 for part in names]
            raise UsageError(
                f"the label maps of {self._where()} have {counts[0]} named classes in the train split and "
                f"{counts[1]} in the test split"
            )
        if names[0] is not None:
            return len(names[0]) - 1
        loaders = [split.loader(batch_size=64, device="cpu", seed=0, train=False) for split in (self.train, self.test)]
        return max(1, *(int(batch[LABELS].max()) for loader in loaders for batch in loader.epoch(0)))

    def _where(self) -> str:
        return self.data.data.path or self.data.data.name

    def _settings(self) -> list[Any]:
        return [self.data.data.model_dump(mode="json"), self.options.model_dump(mode="json")]


def evaluation_data(config: RunConfig) -> RunConfig:
    """The config with ``evaluation.data`` merged over ``data``; alone, where it names another kind of data set."""
    changes = config.evaluation.data
    if not changes:
        return config
    own = config.data.model_dump(mode="json")
    merged = dict(changes) if changes.get("name", own["name"]) != own["name"] else _merged(own, changes)
    return validate({**config.model_dump(mode="json"), "data": merged})


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**tree, **both}
