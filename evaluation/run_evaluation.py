"""The evaluation of one run: accuracy of its networks on the test split, and probes of their representations."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

from ..core.config.loading import load_config
from ..core.errors import UsageError
from ..core.fingerprint import weights_hash
from ..core.label_vectors import several_classes
from ..core.run import Run
from ..core.run_names import no_run
from ..datasets.io.split_agreement import check_splits
from ..models.trained_logits import untrained_logits
from ..probe.segmentation import segment
from ..training.accelerator import prepare_accelerator
from ..training.accuracy import evaluate
from ..training.class_order import check_same_classes
from ..training.data import check_modality, open_split
from ..training.networks import check_other_data
from ..training.pixel_labels import LABELS, answers_for_positions, pixel_classes
from .baseline_checks import check_baselines
from .class_match import match_classes_of, places_fit
from .dense_evaluation import answers_densely, check_dense_data, dense_scores, lacks_dense_data
from .dense_predictor import DensePredictor
from .evaluation_data import (
    carried_settings,
    data_keys,
    evaluation_data,
    input_text,
    location,
    replaced_data,
    share_of_maps,
    suffix_of,
    training_samples,
)
from .evaluation_result import (
    Accuracy,
    ClassificationScores,
    DenseScores,
    EvaluationRow,
    Scores,
    SegmentationScores,
)
from .evaluation_split import EvaluationSplit
from .gallery import Gallery
from .head_options import head_options
from .layer_probes import classification_scores
from .messages import printer
from .networks import EvaluatedNetwork, EvaluatedNetworks
from .teacher_space import HEAD_TASKS, head_rows, retrieval_rows
from .trained_size import other_size, size_keys, trained_size

log = logging.getLogger(__name__)


class RunEvaluation:
    """The evaluation of one run.

    Args:
        run: Its folder.
        overrides: ``key=value`` changes of its config.
        name: Of its student in the picture.
        gallery: Collects segmentations for the picture.
        progress: Whether to show progress on standard error.

    Attributes:
        suffix: In the names of the files that it writes, for other data than the run's own; else empty.
        replaced: A sentence, where the data at the run's own path are others than in its training; else empty.
        inputs: ``student``, ``teacher 0`` … -> what the networks that were measured read, as ``rgb 32×32``.

    Raises:
        UsageError: The folder is no run, or the data do not fit the tasks.
    """

    def __init__(self, run: Run, overrides: Sequence[str], *, name: str, gallery: Gallery, progress: bool) -> None:
        if not run.config.is_file():
            raise no_run(run.path)
        self.run, self.name, self.gallery, self.progress = run, name, gallery, progress
        self.say = printer(progress)
        # What a number depends on is told without progress too.
        self.warn = self.say if progress else log.warning
        self.inputs: dict[str, str] = {}
        self._size_notes: set[str] = set()
        self.config = load_config(str(run.config), overrides, trains=False)
        self.options = self.config.evaluation
        self.data = evaluation_data(self.config)
        own = load_config(str(run.config), trains=False)
        self._own_data = self.data.data.model_dump(mode="json") == own.data.model_dump(mode="json")
        self.accelerator = prepare_accelerator(self.config.model_copy(update={"trackers": []}))
        self.networks = EvaluatedNetworks(run, self.config, wrong_answers=True)
        self.test = self._open("test")
        self.train = self._open("train") if {*self.options.tasks} - {"accuracy", "retrieval"} else None
        self._check()
        before, splits = evaluation_data(own).data, {"test": self.test, "train": self.train}
        self.replaced = replaced_data(run, own, self.data.data, splits)
        self.suffix = suffix_of(
            run, own, self.data.data, splits, tasks=self.options.tasks, replaced=bool(self.replaced)
        )
        for line in filter(None, (self.replaced, training_samples(run, own.data, self.data.data))):
            self.warn(line)
        if carried := carried_settings(before, self.data.data, {*data_keys(overrides), *self.options.data}):
            self.warn(f"{self._where()} is read with {run.path}'s {', '.join(carried)}: set it where it differs")

    def rows(self, teachers: bool, baselines: Collection[str], measured: set[str]) -> Iterator[EvaluationRow]:
        """The rows of every network.

        Args:
            teachers: Whether to measure the teachers too.
            baselines: Further networks.
            measured: Keys of the other networks that a run before has had measured; grows.
        """
        check_baselines(self.run, self.config, baselines, measured=self.train is not None)
        tasks: dict[str, Callable[[EvaluatedNetwork], Iterator[Scores]]] = {
            "accuracy": self._accuracy,
            "segmentation": self._segmentation,
            "classification": self._classification,
        }
        names = [name for name in self.options.tasks if self.options.head_of is None or name not in HEAD_TASKS]
        if len(names) < len(self.options.tasks):
            yield from head_rows(self)
        for candidate in self.networks(teachers=teachers, baselines=baselines) if names else ():
            if candidate.role != "student":
                entry = candidate.entry
                # Random weights of one seed are others for each teacher.
                values = weights_hash(candidate.network.module) if entry.weights is None else ""
                of = [candidate.role, self.config.seed, entry.model_dump(mode="json"), values]
                key = json.dumps([*of, self._settings()])
                if key in measured:
                    continue
                measured.add(key)
            self.prepare(candidate)
            for task in names:
                if task == "retrieval":  # of the student with an adaptor
                    yield from retrieval_rows(self, candidate)
                    continue
                for scores in tasks[task](candidate):
                    yield self.row(candidate, task, scores)

    def prepare(self, candidate: EvaluatedNetwork) -> None:
        """Freeze a network and bring it to the device, once it is clear that it can read the data.

        Raises:
            UsageError: It cannot, or the data have its modality in another scale than its training.
        """
        check_modality(candidate.entry, self.test)
        who = f"{candidate.title} {candidate.model} of {self.run.path}"
        if (line := self._size_note(candidate, who)) and line not in self._size_notes:
            self._size_notes.add(line)
            self.warn(line)
        if not self._own_data:
            check_other_data(candidate.network, who, self.test, chosen=candidate.entry.mean is not None)
        self.inputs[candidate.title] = input_text(candidate.network, self.test)
        candidate.network.freeze().to(self.accelerator.device)

    def _size_note(self, candidate: EvaluatedNetwork, who: str) -> str:
        """A sentence about images of another size than those of a network's training; else empty."""
        own = candidate.role == "student" and self.networks.has_own_student
        # Of the run's own data its training said so; what is not trained yet has no size.
        if (own and self._own_data) or candidate.role not in ("student", "teacher"):
            return ""
        trained = trained_size(candidate.network, (self.run, self.networks.own) if own else None)
        keys = size_keys(self.data.data.name, "data.size", f"{candidate.key}.resolution")
        return other_size(candidate.network, self.test, trained, who, self._where(), keys)

    def row(self, candidate: EvaluatedNetwork, task: str, scores: Scores) -> EvaluationRow:
        """The row of a network at a task."""
        parameters = sum(parameter.numel() for parameter in candidate.network.parameters())
        return EvaluationRow(
            str(self.run.path),
            candidate.role,
            candidate.model,
            parameters,
            self.test.num_samples,
            candidate.weights,
            task,
            scores,
            candidate.number,
        )

    def _accuracy(self, candidate: EvaluatedNetwork) -> Iterator[Scores]:
        if candidate.role in ("random", "scratch"):
            return
        own = candidate.role == "student" and self.networks.has_own_student
        if own and (untrained := untrained_logits(self.run.path, candidate.network.recipe)):
            log.warning(
                "%s, so it has no accuracy: evaluation.tasks=[classification] measures its representation", untrained
            )
            return
        loader = self.source(self.test, candidate).loader(
            batch_size=256,
            device=self.accelerator.device,
            seed=self.config.seed,
            train=False,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        if answers_densely(candidate.network):
            yield from self._positions(candidate, loader)
            return
        if candidate.network.recipe.get("several_classes") and not several_classes(self.test):
            self.warn(
                f"{self._where()} has one class for each sample, and the {candidate.title} of {self.run.path} was "
                "trained with any number of them: mAP is measured"
            )
        # A teacher of other classes, such as ImageNet's, has no accuracy here.
        yield Accuracy(**(evaluate(candidate.network, loader, self.accelerator) if self._answers(candidate) else {}))

    def _positions(self, candidate: EvaluatedNetwork, loader: Any) -> Iterator[Scores]:
        who = f"{candidate.title} {candidate.model} of {self.run.path}"
        student = candidate.role == "student"
        class_map, option = (self.config.student.class_map if student else None), f"{candidate.key}.class_map"
        if not student and lacks_dense_data(self.test, candidate.network.recipe.get("num_classes")):
            yield Accuracy()  # of a classifier's data
            return
        scores = dense_scores(
            candidate.network, self.test, loader, self.accelerator, who, self._where(), self.warn, class_map, option,
            applied=candidate.applied_map, train=lambda: open_split(self.data, "train"),
            note=self.networks.scale_note(candidate),
        )  # fmt: skip
        if scores is None:
            return
        yield scores
        if isinstance(scores, DenseScores) and self.accelerator.is_main_process:
            name = self.name if student else candidate.title
            shown = DensePredictor(candidate.network)
            source = self.source(self.test, candidate)
            self.gallery.add(
                candidate.role, f"{name}\nmIoU {scores.miou:.1f} %", shown, source, LABELS, self.accelerator.device
            )

    def _answers(self, candidate: EvaluatedNetwork) -> bool:
        """Whether a network can name the classes of the test split; its logits are brought into their order.

        Raises:
            UsageError: They are others than the student's, and its accuracy is all that is asked for.
        """
        network, student = candidate.network, candidate.role == "student"
        who = f"{candidate.title} {candidate.model} of {self.run.path}"
        class_map = self.config.student.class_map if student else None
        try:
            match_classes_of(
                network, self.test, who, self._where(), self.warn, class_map=class_map, own_data=self._own_data,
                placed=places_fit(network, candidate.applied_map, self.test),
            )  # fmt: skip
        except UsageError:
            if class_map is not None or (student and self.options.tasks == ("accuracy",)):
                raise
            return False
        return True

    def _segmentation(self, candidate: EvaluatedNetwork) -> Iterator[SegmentationScores]:
        mode = {"student": self.options.mode, "scratch": "scratch"}.get(candidate.role, "frozen")
        train, test = (self.source(split, candidate) for split in (self.train, self.test))
        best: tuple[float, Any, float] | None = None
        for fraction in self.options.label_fractions:
            self.say(
                f"{self.run.path}: segmentation, {candidate.title} {candidate.model}, {mode}, {100 * fraction:g} % "
                "of the labels"
            )
            result, model = segment(
                candidate.network, train, test, mode=mode, label_fraction=fraction, **self.head_options
            )
            if best is None or fraction > best[0]:
                best = (fraction, model, result.miou)
            yield SegmentationScores.of(result, mode, self.options.head, share_of_maps(self.data.data, fraction))
        if best is None:
            return
        whose = self.name if candidate.role == "student" else candidate.title
        how = "trained along" if mode == "scratch" else mode.replace("_", "-")
        name = f"{whose}\n{how}\nmIoU {best[2]:.1f} %"
        if not self.gallery.add(candidate.role, name, best[1], test, LABELS, self.accelerator.device):
            self.say(f"{self.run.path}: its test frames are not those of the runs before it: it is not in the picture")

    def _classification(self, candidate: EvaluatedNetwork) -> Iterator[ClassificationScores]:
        if candidate.role == "scratch":  # trained on classes end to end it is a training of its own
            return
        self.say(f"{self.run.path}: classification, {candidate.title} {candidate.model}")
        train, test = (self.source(split, candidate) for split in (self.train, self.test))
        yield from classification_scores(
            candidate.network, train, test, self.options, self.accelerator.device, self.config.seed
        )

    def _open(self, name: str) -> Any:
        split = open_split(self.data, name)
        if split is None:
            raise UsageError(f"{self._where()} has no {name} split: name one with evaluation.data.splits.{name}=…")
        return split

    def source(self, split: Any, candidate: EvaluatedNetwork) -> EvaluationSplit:
        return EvaluationSplit(split, (candidate.network.modality,))

    def _check(self) -> None:
        """Complain where the data lack what a task needs."""
        for name, split in (("test", self.test), ("train", self.train)):
            if split is None:
                continue
            for task in self.options.tasks:
                if task == "segmentation" and LABELS not in split.modalities:
                    stored = ", ".join(split.modalities)
                    raise UsageError(
                        f"the {name} split of {self._where()} has no label maps: segmentation needs the modality "
                        f"{LABELS}, and it has {stored}"
                    )
                if task == "accuracy" and (name == "train" or several_classes(split)):
                    continue
                if task == "accuracy" and answers_for_positions(self.config.student.model):
                    check_dense_data(split, None, self._where())
                    continue
                if task not in ("segmentation", "retrieval") and split.targets is None:
                    raise UsageError(
                        f"the {name} split of {self._where()} has no classes to compare with, one for each sample: "
                        f"{task} needs them; choose others with evaluation.tasks"
                    )
        check_splits(self.train, self.test)
        if "segmentation" in self.options.tasks:
            self.pixel_classes  # noqa: B018 - complains by itself
        if "classification" in self.options.tasks:
            train = self._labelled_train()
            if train.num_classes != self.test.num_classes:
                raise UsageError(
                    f"the train split of {self._where()} has {train.num_classes} classes, the test split "
                    f"{self.test.num_classes}"
                )
            check_same_classes({"train": train, "test": self.test})

    def _labelled_train(self) -> Any:
        """The train split, which is open where a task needs it."""
        assert self.train is not None, "a task other than accuracy opened it"
        return self.train

    @cached_property
    def pixel_classes(self) -> int:
        return pixel_classes(self._labelled_train(), self.test, self._where())

    @cached_property
    def head_options(self) -> dict[str, Any]:
        return head_options(self)

    def _where(self) -> str:
        return location(self.data)

    def _settings(self) -> list[Any]:
        return [self.data.data.model_dump(mode="json"), self.options.model_dump(mode="json")]
