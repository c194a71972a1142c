"""The benchmark as trainings: from pairs of networks and names of objectives to one command of `contrastill train`
each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ..core.config.loading import find_config
from ..core.errors import UsageError, unknown_name
from ..core.registry import MODELS, OBJECTIVES
from .published import COMBINED, LEARNING_RATES, ORDER, PAIRS, WEIGHTS

STUDENT, TEACHER = "student", "teacher"
"""What stands in an objective's place for networks that learn from the labels alone: baseline students, and
teachers.
"""
_CROSS_ENTROPY = "cross_entropy"
# Settings that a training has from the grid, and how the user says them.
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
_STAGE = ("train.initial_epochs", "train.initial_lr")


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
        settings: Overrides that say what is learnt; with ``given`` last.
        given: Those of them that the user asked for.
        paths: Overrides that say where things are.
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
        """As a line of progress says it."""
        varied = f" {self.vary[0]}={self.vary[1]}" if self.vary else ""
        return f"{self.pair} {self.objective}{varied} seed {self.seed}"


@dataclass(frozen=True)
class Request:
    """What a user asked for.

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
    """Every objective that compares one student with one teacher: those of the objectives package, in the tables'
    order.
    """
    package = __package__.rpartition(".")[0]
    names = [
        name
        for name, entry in OBJECTIVES.items()
        if entry.needs_teacher and not entry.joint and entry.__module__.startswith(f"{package}.objectives.")
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
    weights_by_term = {_CROSS_ENTROPY: 1.0, **{term: OBJECTIVES[term].default_weight for term in terms}}
    if len(terms) > 1:
        weights_by_term |= {term: COMBINED[term] for term in terms if term in COMBINED}
    return weights_by_term | WEIGHTS.get((objective, ""), {}) | WEIGHTS.get((objective, student), {})


def trainings(request: Request) -> list[Training]:
    """Every training of a request: teachers that are missing, then one seed of everything before the second of
    anything.

    Raises:
        UsageError: A setting that no training would have.
    """
    teachers = [
        _teacher(request, name)
        for name in dict.fromkeys(teacher for teacher, _ in request.pairs)
        if name not in request.teacher_files
    ]
    students = []
    for seed in range(request.seeds):
        for student in dict.fromkeys(student for _, student in request.pairs):
            students += [_training(request, None, student, STUDENT, vary, seed) for vary in _values(request, STUDENT)]
        for objective in request.objectives:
            for teacher, student in request.pairs:
                students += [
                    _training(request, teacher, student, objective, vary, seed) for vary in _values(request, objective)
                ]
    for override in request.given:
        if not any(override in training.given for training in [*teachers, *students]):
            raise UsageError(
                f"--set {override} belongs to none of these trainings: --objectives are "
                f"{', '.join(request.objectives) or STUDENT}"
            )
    if request.vary and not any(training.vary for training in students):
        raise UsageError(
            f"--vary {request.vary[0]} belongs to none of these trainings: --objectives are "
            f"{', '.join(request.objectives) or STUDENT}"
        )
    return [*teachers, *students]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _values(request: Request, objective: str) -> list[tuple[str, str] | None]:
    """Those of an ablation where it changes this objective's training; a single None where it does not."""
    if request.vary is None or not _applies(request.vary[0], objective):
        return [None]
    return [(request.vary[0], value) for value in request.vary[1]]


def _applies(key: str, objective: str) -> bool:
    """Whether a setting means anything to a training."""
    terms = [] if objective in (STUDENT, TEACHER) else objective.split("+")
    section, _, rest = key.partition(".")
    if key in _STAGE:
        return any(OBJECTIVES[term].initial_epochs for term in terms)
    if objective == TEACHER:
        # Views are few so that what a teacher says about them can be kept; nobody needs a teacher that saw few.
        return section in ("train", "data") and key != "train.views"
    if section == "objectives":
        return rest.split(".")[0] in (_CROSS_ENTROPY, *terms)
    return bool(terms) or section not in ("teachers", "ensemble")


def _rate(network: str) -> list[str]:
    return [f"train.lr={LEARNING_RATES[network]}"] if network in LEARNING_RATES else []


def _path(request: Request) -> str:
    return f"data.path={os.path.abspath(request.data)}"


def _teacher(request: Request, name: str) -> Training:
    given = (
        *(override for override in request.given if _applies(override.partition("=")[0], TEACHER)),
        *request.teacher_given,
    )
    settings = (f"student.model={name}", *_rate(name), *given)
    return Training(
        name,
        TEACHER,
        None,
        0,
        trained_teacher(request, name),
        request.benchmark.baseline,
        settings,
        given,
        (_path(request),),
    )


def trained_teacher(request: Request, name: str) -> Path:
    """Where a teacher that is not among ``teachers`` is trained."""
    return request.out.resolve() / "teachers" / quote(name, safe="")


def _training(
    request: Request, teacher: str | None, student: str, objective: str, vary: tuple[str, str] | None, seed: int
) -> Training:
    given = tuple(override for override in request.given if _applies(override.partition("=")[0], objective))
    varied = (f"{vary[0]}={vary[1]}",) if vary else ()
    # A baseline is the same whoever would have been its teacher.
    folder = request.out.resolve() / ("students" if teacher is None else "")
    out = (
        folder
        / quote(student if teacher is None else f"{teacher}-{student}", safe="")
        / ("" if teacher is None else objective)
    )
    out = out / (quote(varied[0], safe="=") if varied else "") / f"seed-{seed}"
    own = [f"student.model={student}", *_rate(student)]
    if teacher is None:
        return Training(
            student,
            STUDENT,
            vary,
            seed,
            out,
            request.benchmark.baseline,
            (*own, *given, *varied),
            given,
            (_path(request),),
        )
    weighed = weights(objective, student)
    absent = [f"objectives.{name}=null" for name in _objectives_in(request.benchmark.distilled) if name not in weighed]
    own += [
        f"teachers.0.model={teacher}",
        *absent,
        *(f"objectives.{term}.weight={weight:g}" for term, weight in weighed.items()),
    ]
    file = request.teacher_files.get(teacher)
    paths = [_path(request), f"teachers.0.weights={(file or trained_teacher(request, teacher)).resolve()}"]
    if any(
        override.startswith("train.views=") and not override.endswith(("=", "=null")) for override in [*given, *varied]
    ):
        paths.append(f"train.teacher_cache={request.out.resolve() / 'teacher_said'}")
    after = None if file else trained_teacher(request, teacher)
    return Training(
        f"{teacher}:{student}",
        objective,
        vary,
        seed,
        out,
        request.benchmark.distilled,
        (*own, *given, *varied),
        given,
        tuple(paths),
        after,
    )


def _objectives_in(config: str) -> Iterable[str]:
    """Objectives that a shipped config has by itself."""
    from omegaconf import OmegaConf

    return OmegaConf.load(find_config(config)).objectives
