"""Measures the students of runs, and other networks beside them, at the tasks that their configs name."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from pathlib import Path

from ..core.arguments import Paths, checked, path_list
from ..core.atomic import write_text
from ..core.errors import UsageError, unknown_name
from ..core.generators import own_generators
from ..core.run import Run, writable_folder
from ..core.torch_settings import own_settings
from ..training.processes import parting
from .evaluation_result import EvaluationResult, EvaluationRow
from .gallery import Gallery
from .networks import BASELINES
from .run_evaluation import RunEvaluation
from .teacher_space import file_suffix
from .train import Overrides, overrides_as_text
from .unread_options import check_options

log = logging.getLogger(__name__)


@checked
@own_settings()
@own_generators()
def evaluate_runs(
    runs: Paths,
    overrides: Overrides = (),
    *,
    teachers: bool = False,
    baselines: Collection[str] = (),
    picture: str | os.PathLike | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Measure the students of runs, and other networks beside them, at the tasks that the configs name under
    ``evaluation``.

    Each run's rows are also written to its ``evaluation.json``; those of other data than the run's own to
    ``evaluation-DATA.json`` beside it, as a report compares the former with the run's own numbers. Data at the run's
    own path that are no longer those of its training are other data too. Rows of other networks than the run's, such as
    ``student.weights=RUN/student_best.safetensors``, are in ``evaluation-networks-….json``, those of another ``seed``
    in ``evaluation-seed-….json``, and those of ``evaluation.head_of`` in ``evaluation-head-of-teacher.json``, as those
    are of a head that was trained on another network.

    Args:
        runs: The runs' folders.
        overrides: Changes of their configs, such as ``data.path=other.h5`` or ``evaluation.mode=fine_tuned``.
        teachers: Whether to measure all their teachers too.
        baselines: Out of ``random``, ``scratch``, ``teacher``; those that several runs share are measured once.
        picture: Where to draw segmentations; None is ``predictions.png`` in the first run's folder, named as
            its rows are.
        progress: Whether to show progress on standard error.

    Raises:
        UsageError: A folder is no run, an unknown baseline, a picture that is no PNG or of no segmentation, or data
            that do not fit the networks or the tasks.
        ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
    """
    runs = path_list(runs, "runs", "run folder", "runs/crd")
    texts = overrides_as_text(overrides)
    if picture is not None and Path(picture).suffix.lower() != ".png":
        raise UsageError(f"picture is {str(picture)!r}: give the name of a file that ends in .png")
    for name in baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    for line in check_options(runs, texts, teachers=teachers, picture=picture, baselines=baselines):
        log.warning("%s", line)
    if picture is not None:
        writable_folder(Path(picture).parent)
    gallery, measured = Gallery(), set[str]()
    rows: list[EvaluationRow] = []
    notes: list[str] = []
    inputs: dict[str, str] = {}
    suffix = ""
    common = os.path.commonpath([os.path.abspath(path) for path in runs])
    for path in runs:
        name = "student" if len(runs) == 1 else os.path.relpath(path, common)
        with parting():  # each run has its own precision
            evaluation = RunEvaluation(Run(path), texts, name=name, gallery=gallery, progress=progress)
            main = evaluation.accelerator.is_main_process
            own = list(evaluation.rows(teachers, baselines, measured))
            if not own:
                continue
            notes += [evaluation.replaced] if evaluation.replaced else []
            inputs |= {str(path): evaluation.inputs["student"]} if "student" in evaluation.inputs else {}
            if main:
                contents = {
                    "data": evaluation.data.data.model_dump(mode="json"),
                    "evaluation": evaluation.options.model_dump(mode="json"),
                    "rows": [row.to_dict() for row in own],
                }
                file = evaluation.run.path / f"evaluation{_suffix(evaluation)}.json"
                write_text(file, json.dumps(contents, indent=1) + "\n")
                if evaluation.suffix and evaluation.replaced:
                    evaluation.say(f"the rows are in {file}")
                elif evaluation.suffix:
                    evaluation.say(f"these are other samples than the run's own: the rows are in {file}")
                elif evaluation.networks.suffix():
                    evaluation.say(f"these are other networks than the run's own: the rows are in {file}")
                elif evaluation.networks.seed_suffix():
                    evaluation.say(f"heads and baselines are of another seed than the run's: the rows are in {file}")
            suffix = suffix if rows else _suffix(evaluation)
            rows += own
    if not rows:
        raise UsageError(f"nothing of {', '.join(map(str, runs))} can be measured by evaluation.tasks: see above why")
    if len({*inputs.values()}) > 1:
        each = ", ".join(f"{run}: {what}" for run, what in inputs.items())
        notes.append(f"these students read different inputs, which their numbers depend on ({each})")
        log.warning("%s", notes[-1])
    drawn = _drawn(gallery, Path(picture or Path(runs[0]) / f"predictions{suffix}.png")) if main else None
    return EvaluationResult(tuple(rows), drawn, tuple(notes))


def _drawn(gallery: Gallery, path: Path) -> Path | None:
    """The picture; None where there is nothing to show, or where it fails: what was measured is worth more."""
    try:
        return gallery.draw(path)
    except Exception as error:  # of matplotlib, or of the disk
        log.warning(
            "the picture %s could not be drawn (%s): the rows are complete without it",
            path,
            error or type(error).__name__,
        )
        return None


def _suffix(evaluation: RunEvaluation) -> str:
    """What stands in the names of an evaluation's files, once its networks were built."""
    networks = evaluation.networks
    return f"{file_suffix(evaluation.options)}{networks.suffix()}{networks.seed_suffix()}{evaluation.suffix}"
