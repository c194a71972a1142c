"""The trainings of a benchmark: from a request to one command of `contrastill train` each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from ..core.config.loading import find_config
from ..core.errors import UsageError
from ..core.registry import OBJECTIVES
from .benchmark import CROSS_ENTROPY, STUDENT, TEACHER, Request, Training, weights
from .published import LEARNING_RATES

_STAGE = ("train.initial_epochs", "train.initial_lr")


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
        # Views are few so that a teacher's outputs for them can be cached; a teacher itself trains on all.
        return section in ("train", "data") and key != "train.views"
    if section == "objectives":
        return rest.split(".")[0] in (CROSS_ENTROPY, *terms)
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
