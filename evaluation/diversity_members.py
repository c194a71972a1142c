"""The networks that a measure of diversity compares: a run's teachers with its student, or the students of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.classes import gives_places
from ..core.config.loading import load_config
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.errors import UsageError
from ..core.representation import Network
from ..core.run import Run
from ..models.trained_logits import untrained_logits
from .class_match import match_classes_of
from .messages import print_message
from .networks import EvaluatedNetworks


@dataclass
class Member:
    """A network to measure.

    Attributes:
        key: Its name on a small axis.
        name: Its name in a table.
        location: Its name in errors.
        weights: Their origin.
        network: It.
        entry: Its part of the config.
        run: That trained it, where it is a run's own student.
        placed: Whether it has a class_map of places other than that of the training, so for the data that is measured.
    """

    key: str
    name: str
    location: str
    weights: str
    network: Network
    entry: NetworkConfig
    run: Path | None = None
    placed: bool = False

    @property
    def who(self) -> str:
        """It in messages."""
        return f"{self.location} ({self.entry.model}, weights {self.weights})"


def members_of_run(
    folder: Path, config: RunConfig, test: Any, where: str, own_data: bool
) -> tuple[Member | None, list[Member], str]:
    """A run's student, if its logits are worth comparing, its teachers, and the suffix of other networks' files."""
    if not config.teachers:
        raise UsageError(f"{folder} has no teachers to compare: name a run that was distilled, or a folder of seeds")
    built = EvaluatedNetworks(Run(folder), config)
    first, *others = built(teachers=True, baselines=())
    # Of a training that goes on the numbers are soon others.
    name = f"student {first.model}" + (f", {first.weights}" if first.is_early else "")
    student = Member("student", name, "student", first.weights, first.network, first.entry, folder)
    why = untrained_logits(folder, first.network.recipe) if built.has_own_student else ""
    if first.network.taps.dense:
        why = f"the student of {folder} answers for each position"
    if not why:
        try:
            match_member(student, test, where, own_data)
        except UsageError as error:
            why = str(error)
    if why:
        print_message(f"{why}: it is left out")
    before = [*(teacher.class_map for teacher in built.own.teachers), *[None] * len(others)]
    placed = [
        gives_places(one.entry.class_map) and one.entry.class_map != own
        for one, own in zip(others, before, strict=False)
    ]
    keys = [f"teachers.{number}" for number in range(len(others))]
    teachers = [
        Member(f"T{number}", f"{key} {one.model}", key, one.weights, one.network, one.entry, placed=placed[number])
        for number, (key, one) in enumerate(zip(keys, others, strict=True))
    ]
    return (None if why else student), teachers, built.suffix()


def members_of_seeds(runs: Sequence[Path], overrides: Sequence[str]) -> tuple[list[Member], str]:
    """The students of a folder of seeds, and the suffix of other networks' files."""
    networks, suffix = [], ""
    for run in runs:
        built = EvaluatedNetworks(Run(run), load_config(str(Run(run).config), overrides, trains=False))
        (student,) = built(teachers=False, baselines=())
        if built.has_own_student and (why := untrained_logits(run, student.network.recipe)):
            raise UsageError(f"{why}: there is nothing to compare")
        name = f"{run.name} {student.model}"
        networks.append(Member(run.name, name, str(run), str(run), student.network, student.entry, run))
        suffix = suffix or built.suffix()
    return networks, suffix


def match_member(member: Member, test: Any, where: str, own_data: bool) -> None:
    """Let a network's logits be those of the data's classes, and of no others.

    Raises:
        UsageError: It has other classes, or they are numbered in another way.
    """
    if member.network.taps.dense:
        raise answers_densely_error(member.who)
    teacher = member.location.startswith("teachers.")
    match_classes_of(
        member.network,
        test,
        member.who,
        where,
        print_message,
        option=f"{member.location if teacher else 'student'}.class_map",
        class_map=None if teacher else member.entry.class_map,  # a teacher's was applied as it was built
        placed=member.placed,
        own_data=own_data,
        others=False,
    )


def answers_densely_error(who: str) -> UsageError:
    return UsageError(
        f"{who} answers for each position, and what is compared here are classes of the whole sample: contrastill "
        "evaluate says how good each network's prediction is"
    )
