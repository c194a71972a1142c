"""The networks that an evaluation compares: a run's student, its teachers, and baselines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accelerate.utils import set_seed

from ..core.classes import ClassMap, gives_places
from ..core.config.loading import load_config
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.errors import ContrastillError, UsageError
from ..core.fingerprint import text_hash, weights_hash
from ..core.predicted_quantity import KEY as QUANTITY
from ..core.predicted_quantity import scale_note, stated_quantity
from ..core.representation import Network
from ..core.run import Run
from ..core.run_weights import WeightsRecord
from ..core.weights import find_weights
from ..models.recipe import quantity_by
from ..training.checkpoint import load_newest
from ..training.data import measure_statistics, open_split
from ..training.held_out import without_validation
from ..training.modality_scale import another_modality, check_trained_modality
from ..training.moving_average import averaged
from ..training.networks import build, is_random
from ..training.pixel_labels import answers_for_positions, counted_with, pixel_labels

BASELINES = ("random", "scratch", "teacher")
"""The student's architecture with its initial weights; the same, trained on the labels alone; the first teacher."""


@dataclass
class EvaluatedNetwork:
    """One network of an evaluation.

    Attributes:
        role: student, teacher, random or scratch.
        model: Name of its architecture.
        network: It.
        weights: Where they are from.
        entry: Its part of the config, without weights where they are random.
        number: Of a teacher among several; else None.
    """

    role: str
    model: str
    network: Network
    weights: str
    entry: NetworkConfig
    number: int | None = None

    @property
    def title(self) -> str:
        """What it is called in tables and pictures: ``student``, ``teacher``, or ``teacher 1`` of several."""
        return self.role if self.number is None else f"{self.role} {self.number}"

    @property
    def applied_map(self) -> ClassMap | None:
        """The class_map with which it was built; a student's is for the data that it is evaluated on."""
        return None if self.role == "student" else self.entry.class_map

    @property
    def key(self) -> str:
        """Where a student or teacher stands in the config."""
        return "student" if self.role == "student" else f"teachers.{self.number or 0}"

    @property
    def is_early(self) -> bool:
        """Whether it is a run's student before its training ended."""
        return self.role == "student" and self.weights.startswith("checkpoint after")


class EvaluatedNetworks:
    """Builds the networks of one run, one after the other.

    Args:
        run: The run's folder.
        config: Its config; the data in it may be others than it was trained on.
        wrong_answers: Whether classes of a teacher that its class_map of places leaves out stay possible answers, as
            they do where it gives names.
    """

    def __init__(self, run: Run, config: RunConfig, *, wrong_answers: bool = False) -> None:
        self.run, self.config, self._wrong_answers = run, config, wrong_answers
        self.own = load_config(str(run.config), trains=False)
        self._data_config = self.own  # of the training data
        self.others: list[str] = []  # teachers that are not the run's, once they were built

    @property
    def has_own_student(self) -> bool:
        """Whether the student is the run's own, and not one that the caller names in its place."""
        return self.config.student.weights in (None, self.own.student.weights)

    def suffix(self) -> str:
        """What stands in the names of an evaluation's files for other networks than the run's own; of these nothing."""
        ours, own = (config.student.model_copy(update={"class_map": None}) for config in (self.config, self.own))
        changed = [*([ours.model_dump_json()] if ours != own else []), *self.others]
        return f"-networks-{text_hash(str(changed))[:6]}" if changed else ""

    def seed_suffix(self) -> str:
        """The same for heads and baselines of another seed than the run's."""
        return f"-seed-{self.config.seed}" if self.config.seed != self.own.seed else ""

    def __call__(self, *, teachers: bool, baselines: Collection[str]) -> Iterator[EvaluatedNetwork]:
        """The student, then its teachers and baselines.

        Raises:
            ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
        """
        student = self.student()
        yield student
        for number in range(len(self.config.teachers) if teachers else "teacher" in baselines):
            yield self.teacher(number)
        entry = student.entry
        for role in ("random", "scratch"):
            if role in baselines:
                yield EvaluatedNetwork(
                    role,
                    entry.model,
                    self._untrained(student.network),
                    "none",
                    entry.model_copy(update={"weights": None}),
                )

    def scale_note(self, candidate: EvaluatedNetwork) -> str:
        """A sentence about a network whose training left the scale of its prediction open; else empty."""
        return scale_note(self.own) if candidate.role == "student" and self.has_own_student else ""

    def student(self) -> EvaluatedNetwork:
        """The run's student alone.

        Raises:
            ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
        """
        network, weights = self._student()
        if self.has_own_student and network.recipe.get("num_classes") == 1:
            # A finished student's file says it; a checkpoint does not.
            network.recipe = {QUANTITY: self._stated_quantity(), **network.recipe}
        return EvaluatedNetwork("student", self.config.student.model, network, weights, self.config.student)

    def _stated_quantity(self) -> str | None:
        with suppress(ContrastillError):  # files of teachers may be gone
            return stated_quantity(self.own, (quantity_by(one.model, one.weights) for one in self.own.teachers))
        return stated_quantity(self.own)

    def teacher(self, number: int) -> EvaluatedNetwork:
        """One of the run's teachers, which needs no student.

        Raises:
            UsageError: There is no such teacher.
        """
        if number >= len(self.config.teachers):
            known = f"{len(self.config.teachers)} teacher(s), numbered from 0" if self.config.teachers else "no teacher"
            raise UsageError(f"{self.run.path} has no teachers.{number}: it has {known}")
        entry = self.config.teachers[number]
        among = number if len(self.config.teachers) > 1 else None
        return EvaluatedNetwork("teacher", entry.model, self._teachers[number], str(entry.weights), entry, among)

    @cached_property
    def _training_data(self) -> Any:
        """Of the run's own config; where that data is elsewhere now, of the config that was given."""
        try:
            return open_split(self.own, "train")
        except ContrastillError:
            self._data_config = self.config
            return open_split(self.config, "train")

    @cached_property
    def _trained_on(self) -> Any:
        """The same without the samples that the training did not see."""
        try:
            return without_validation(self._training_data, self.own)[0]
        except ContrastillError:  # other data, of which nothing can be set apart
            return self._training_data

    def _statistics(self, entry: NetworkConfig) -> dict[str, Any]:
        """What a network would be given in training for a modality that it has no mean and std of its own for."""
        if entry.modality == "rgb" or entry.mean is not None:
            return {}
        return {entry.modality: measure_statistics(self._trained_on, entry.modality)}

    @cached_property
    def _teachers(self) -> list[Network]:
        own, record = self.own.teachers, WeightsRecord(self.run)
        teachers = self._built(self.config.teachers)
        for number, (entry, teacher) in enumerate(zip(self.config.teachers, teachers, strict=True)):
            # One that the caller names in its place is another on purpose, or the same elsewhere.
            same = number < len(own) and own[number].weights == entry.weights
            if same and (entry.weights is not None or own[number].model == entry.model):
                record.check_teacher(number, teacher.module)
            elif number >= len(own) or not record.is_teacher(number, teacher.module):
                self.others.append(f"{number} {weights_hash(teacher.module)}")
            if number < len(own) and entry != own[number].model_copy(update={"weights": entry.weights}):
                self.others.append(entry.model_dump_json())
        return teachers

    def _built(self, entries: Sequence[NetworkConfig]) -> list[Network]:
        """Teachers in their order; those without weights as the training had them."""
        # Read before the seed is set, as this may draw numbers too.
        options: list[dict[str, Any]] = [
            {
                "classes": self._labels.num_classes if entry.weights is None else None,
                "statistics": self._statistics(entry),
                "names": self._names(entry),
                "key": f"teachers.{number}",
                "others": self._wrong_answers,
            }
            for number, entry in enumerate(entries)
        ]
        if any(map(is_random, entries)):
            # What a teacher draws follows from the seed and from the teachers that are built before it.
            set_seed(self.own.seed)
        teachers = [build(entry, **each) for entry, each in zip(entries, options, strict=True)]
        own = self.own.teachers
        for number, entry in enumerate(entries[: len(own)]):
            before = [other.model for other in entries[:number]]
            if is_random(entry) and before != [other.model for other in own[:number]]:
                teachers[number] = self._built([*own[:number], entry])[number]
        return teachers

    @cached_property
    def _labels(self) -> Any:
        """The classes of the training data: of the samples, or of the label maps where the student answers for each
        position.
        """
        if not answers_for_positions(self.config.student.model):
            return self._training_data
        labels = pixel_labels({"train": self._training_data})["train"]
        if labels.classes is not None or labels.num_classes is None:
            return labels
        # As its training counted them: without names, a class may be in the test samples alone.
        with suppress(ContrastillError):
            return counted_with(labels, open_split(self._data_config, "test"))
        return labels

    def _names(self, entry: NetworkConfig) -> Sequence[str] | None:
        """Names of the classes of the training data, which a teacher's class_map is for."""
        if entry.class_map is None:
            return None
        own = self._student()[0].recipe["classes"] if self.run.finished else None
        return own or self._labels.classes

    def _student(self) -> tuple[Network, str]:
        """The run's student, of its finished file or else of its newest checkpoint; and which."""
        # Its class_map is for the data that it is evaluated on.
        entry = self.config.student.model_copy(update={"class_map": None})
        if entry.weights not in (None, self.own.student.weights):
            file = find_weights(entry.weights)
            return build(entry.model_copy(update={"weights": str(file)}), None, key="student"), str(file)
        own = self.own.student
        # Mean and deviation of the config are for the modality of the training.
        other = entry.modality != own.modality and entry.mean == own.mean
        if self.run.finished:
            finished = entry.model_copy(update={"weights": str(self.run.path)})
            if other:
                check_trained_modality(finished, "student", learns=False)
            return build(finished, None), self.run.student.name
        if other:
            raise another_modality(f"{entry.model} of {self.run.path}", own.modality, entry.modality, "student")
        snapshot = load_newest(self.run.checkpoints)
        if snapshot is None:
            raise ContrastillError(
                f"{self.run.path} has neither {self.run.student.name} nor a checkpoint yet: give the training "
                "time, or start it again"
            )
        classes = (
            entry.num_classes
            or self._labels.num_classes
            or next(map(_taught_classes, self.config.teachers, self._teachers), None)
        )
        network = build(entry.model_copy(update={"weights": None}), classes, self._statistics(entry))
        if (names := self._labels.classes) is not None and len(names) == classes:
            network.recipe = {**network.recipe, "classes": tuple(names)}
        student = {
            name.removeprefix("student."): value
            for name, value in snapshot.model.items()
            if name.startswith("student.")
        }
        network.load_state_dict(averaged(snapshot.model) or student)
        return network, f"checkpoint after step {snapshot.position.step}"

    def _untrained(self, student: Network) -> Network:
        """The student's architecture with the weights that the run's seed gives it, and the student's own
        preprocessing.
        """
        same = {
            "weights": None,
            "class_map": None,
            "mean": student.preprocess.mean,
            "std": student.preprocess.std,
            "resolution": student.preprocess.resolution,
        }
        set_seed(self.config.seed)
        return build(self.config.student.model_copy(update=same), student.recipe["num_classes"], student=True)


def _taught_classes(entry: NetworkConfig, teacher: Network) -> int | None:
    """How many logits a training has of a teacher, of which a class_map of places leaves it some."""
    places = entry.class_map if gives_places(entry.class_map) else None
    return teacher.recipe["num_classes"] if places is None else len(places)
