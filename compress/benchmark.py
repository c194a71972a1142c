"""The published benchmark: its pairs of networks, the names of its objectives, and a request for trainings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import UsageError, unknown_name
from ..core.registry import MODELS, OBJECTIVES
from .published import COMBINED, ORDER, PAIRS, WEIGHTS

STUDENT, TEACHER = "student", "teacher"
"""What stands in an objective's place for networks that learn from the labels alone: baseline students, and
teachers.
"""
CROSS_ENTROPY = "cross_entropy"
# Settings that a training has from the grid, and the option that sets them.
_RESERVED = {
    "out": "--out",
    "seed": "--seeds",
    "seeds": "--seeds",
    "data.path": "--data",
    "student.model": "--pairs",
    "teachers.0.model": "--pairs",
    "teachers.0.weights": "--teachers",
    "train.teacher_cache": "--out, in which it lies",
}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        distilled: The config of a student with a teacher.
        baseline: The config of a teacher, or of a student without one.
        pairs: (teacher, student) of the published tables.
        images: How many images the published figures were trained on and tested on.
    """

    distilled: str
    baseline: str
    pairs: tuple[tuple[str, str], ...]
    images: tuple[int, int]


BENCHMARKS = {"cifar100": Benchmark("compression/cifar100_crd", "teachers/cifar100", PAIRS, (50_000, 10_000))}


@dataclass(frozen=True)
class Training:
    """One `contrastill train` command, and the place of its result in the table.

    Attributes:
        pair: ``TEACHER:STUDENT``; of a network that learns alone its name.
        objective: Such as ``crd+kd``; ``student`` or ``teacher`` for a network that learns alone.
        vary: (key, value) of an ablation, or None.
        seed: Its seed.
        out: Its run folder.
        config: The shipped config.
        settings: Overrides that change what is learnt; with ``given`` last.
        given: Those of them that the user asked for.
        paths: Overrides that are paths.
        after: The run folder of a teacher that has to be trained before.
    """

    pair: str
    objective: str
    vary: tuple[str, str] | None
    seed: int
    out: Path
    config: str
    settings: tuple[str, ...]
    given: tuple[str, ...]
    paths: tuple[str, ...]
    after: Path | None = None

    @property
    def key(self) -> tuple:
        """What no two trainings share."""
        return self.pair, self.objective, self.vary, self.seed

    @property
    def overrides(self) -> list[str]:
        """All overrides of the config."""
        return [*self.settings, f"seed={self.seed}", *self.paths, f"out={self.out}"]

    @property
    def name(self) -> str:
        """As a line of progress shows it."""
        varied = f" {self.vary[0]}={self.vary[1]}" if self.vary else ""
        return f"{self.pair} {self.objective}{varied} seed {self.seed}"


@dataclass(frozen=True)
class Request:
    """The trainings that a user requests.

    Attributes:
        benchmark: The benchmark.
        data: File or folder of the data.
        out: The grid's folder.
        pairs: (teacher, student).
        objectives: Canonical names, such as ``crd+kd``.
        seeds: How many of each.
        given: ``key=value`` for every training.
        teacher_given: ``key=value`` for teachers that are trained.
        vary: Key and values of an ablation.
        teachers: Folder of teachers that are there.
    """

    benchmark: Benchmark
    data: str
    out: Path
    pairs: Sequence[tuple[str, str]]
    objectives: Sequence[str]
    seeds: int = 1
    given: Sequence[str] = ()
    teacher_given: Sequence[str] = ()
    vary: tuple[str, Sequence[str]] | None = None
    teachers: str | None = None
    teacher_files: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for override in [
            *self.given,
            *self.teacher_given,
            *([f"{self.vary[0]}={value}" for value in self.vary[1]] if self.vary else []),
        ]:
            key, equals, _ = override.partition("=")
            if not equals or not key:
                raise UsageError(f"{override!r} is no setting: write key=value, such as train.epochs=12")
            if key in _RESERVED:
                raise UsageError(
                    f"{key} differs from training to training of a benchmark: say it with {_RESERVED[key]}"
                )
        if self.teachers and not Path(self.teachers).is_dir():
            raise UsageError(
                f"--teachers {self.teachers} is no folder: name the one that holds runs or checkpoints called as "
                "their networks"
            )
        for teacher in dict.fromkeys(teacher for teacher, _ in self.pairs):
            if self.teachers and (path := find_teacher(self.teachers, teacher)):
                self.teacher_files[teacher] = path


def parse_pairs(text: str, benchmark: Benchmark) -> list[tuple[str, str]]:
    """Pairs from ``TEACHER:STUDENT,…``; ``all`` is those of the published tables.

    Raises:
        UsageError: No pair, or a network that does not exist.

    Example:
        >>> parse_pairs("resnet20:resnet8", BENCHMARKS["cifar100"])
        [('resnet20', 'resnet8')]
    """
    pairs: list[tuple[str, str]] = []
    for part in _parts(text):
        teacher, colon, student = part.partition(":")
        if part != "all" and not (colon and teacher and student):
            raise UsageError(
                f"--pairs: {part!r} is no pair: write TEACHER:STUDENT, such as resnet32x4:resnet8x4, or all"
            )
        pairs += benchmark.pairs if part == "all" else [(teacher, student)]
    for name in [name for pair in pairs for name in pair]:
        MODELS[name]
    if not pairs:
        raise UsageError("--pairs names no pair: write TEACHER:STUDENT, such as resnet32x4:resnet8x4, or all")
    return list(dict.fromkeys(pairs))


def all_objectives() -> list[str]:
    """Every objective that compares one student with one teacher as classifiers: those of the objectives package that
    read no prediction of each position, in the tables' order.
    """
    package = __package__.rpartition(".")[0]
    names = [
        name
        for name, entry in OBJECTIVES.items()
        if entry.needs_teacher
        and not entry.joint
        and "prediction" not in entry.needs
        and entry.__module__.startswith(f"{package}.objectives.")
    ]
    return sorted(names, key=lambda name: (rank(name), name))


def parse_objectives(text: str) -> list[str]:
    """Canonical names from ``kd,crd,crd+kd``: the terms of a sum by the alphabet, kd last. ``student`` may be named,
    and is always there anyway.

    Raises:
        UsageError: An objective that does not exist, or one that compares with no teacher.

    Example:
        >>> parse_objectives("kd,kd+crd")
        ['kd', 'crd+kd']
    """
    known, names = all_objectives(), []
    for part in _parts(text):
        if part == "all":
            names += known
        elif part != STUDENT:
            terms = part.split("+")
            for term in terms:
                if term not in known:
                    raise unknown_name("objective", term, [*known, STUDENT, "all"])
            if len(set(terms)) < len(terms):
                raise UsageError(
                    f"--objectives: {part} has one objective twice: give it another weight with --set "
                    f"objectives.{terms[0]}.weight=…"
                )
            names.append("+".join(sorted(terms, key=lambda term: (term == "kd", term))))
    return list(dict.fromkeys(names))


def rank(objective: str) -> int:
    """Place of an objective in the published tables; behind all of them for another one."""
    return ORDER.index(objective) if objective in ORDER else len(ORDER)


def find_teacher(folder: str | os.PathLike, name: str) -> Path | None:
    """A network's weights in a folder of teachers: a run, a file, or a checkpoint where the benchmark's authors have
    it; None where there is none.
    """
    folder = Path(folder)
    if (folder / name / "student.safetensors").is_file():
        return folder / name
    files = [folder / f"{name}.safetensors", folder / f"{name}.pth", folder / f"{name}_vanilla" / "ckpt_epoch_240.pth"]
    return next((file for file in files if file.is_file()), None)


def weights(objective: str, student: str) -> dict[str, float]:
    """Weights of the terms of the loss, as published.

    Example:
        >>> weights("kd", "resnet8"), weights("crd+kd", "resnet8")
        ({'cross_entropy': 0.1, 'kd': 0.9}, {'cross_entropy': 1.0, 'crd': 0.8, 'kd': 1.0})
    """
    terms = objective.split("+")
    weights_by_term = {CROSS_ENTROPY: 1.0, **{term: OBJECTIVES[term].default_weight for term in terms}}
    if len(terms) > 1:
        weights_by_term |= {term: COMBINED[term] for term in terms if term in COMBINED}
    return weights_by_term | WEIGHTS.get((objective, ""), {}) | WEIGHTS.get((objective, student), {})


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
