"""The card of a run's student: what it was trained by and for, and what was measured of these weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.config.yaml_values import read_resolved
from ..core.errors import UsageError
from ..core.metric_names import ERRORS, METRICS
from ..core.predicted_quantity import quantity_in_words
from ..core.registry import short_name
from ..core.representation import Taps
from ..core.run import Run
from ..core.value_scale import ValueScale
from ..models.trained_logits import untrained_logits
from .validation import PREFIX

log = logging.getLogger(__name__)


def card(recipe: dict[str, Any], trained: dict[str, Any] | None, changed: bool) -> str:
    """The card's text below its header; without the figures of the run where the weights changed since."""
    name, preprocess = short_name(recipe["model"]), recipe["preprocess"]
    seen = (
        f"{recipe['modality']}, normalised with mean {list(preprocess['mean'])} and std "
        f"{list(preprocess['std'])} inside"
    )
    of_positions = dense(recipe)
    what = f"answers with a {answers(recipe)}" if of_positions else f"{recipe['num_classes']} classes"
    lines = [f"# {name}", "", f"Reads {seen}; {what}.", ""]
    if (scale := ValueScale.from_recipe(recipe)) is not None and recipe["modality"] != "rgb":
        takes = "Give metres as floats, NaN where not measured." if scale.metres else "Give values of that scale."
        lines += [f"Trained on {scale}. {takes}", ""]
    if recipe.get("classes"):
        lines += [
            f"Classes, in the order of the {'channels' if of_positions else 'logits'}: {', '.join(recipe['classes'])}.",
            "",
        ]
    if trained is not None:
        origin = f"distilled from {', '.join(trained['teachers'])}" if trained["teachers"] else "trained on labels"
        objectives = ", ".join(f"{name} (weight {weight:g})" for name, weight in sorted(trained["objectives"].items()))
        measured = ", ".join(_measured(name, value) for name, value in trained["measured"].items())
        when, nothing = trained.get("when", "after the last epoch"), "nothing"
        if trained.get("untrained_logits"):
            nothing = "nothing: no objective trained its logits"
        elif not when:
            nothing = "nothing: these weights are neither of the last epoch nor of the best validated one"
        lines += [
            f"A student {origin}, made by contrastill."
            + (" Its weights were changed after that training, so what it measured is left out." if changed else ""),
            "",
            "| | |",
            "|---|---|",
            f"| objectives | {objectives} |",
            f"| data | {trained['data']} |",
            f"| training | {trained['epochs']} epochs, seed {trained['seed']} |",
            *([] if changed else [f"| measured on the test split{when and f' {when}'} | {measured or nothing} |"]),
            f"| versions | {', '.join(f'{name} {version}' for name, version in sorted(trained['versions'].items()))} |",
            "",
        ]
    return "\n".join(
        [
            *lines,
            "```python",
            "import contrastill",
            "",
            'student = contrastill.Student.from_pretrained("…")',
            f"{'prediction' if of_positions else 'logits'} = student(images)",
            "```",
            "",
        ]
    )


def _epoch_of(run: Run, file: str, history: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], str]:
    """The row of the epoch that a file of a run has the weights of, and that epoch in words; of a file that no training
    writes nothing.
    """
    if file == run.student.name:
        return history[-1], "after the last epoch"
    names = {name for row in history for name in row if name.startswith(PREFIX)}
    if file == run.best_student.name and names:
        # Of equal ones the first is saved; an epoch has one such measure.
        name = min(names)
        measured = [row for row in history if not math.isnan(row.get(name, math.nan))]
        row = max(measured, key=lambda row: row[name], default={})
        if not row:
            return {}, ""
        best = _measured(name.removeprefix(PREFIX), row[name])
        return row, f"after epoch {row['epoch'] + 1} of {history[-1]['epoch'] + 1}, the best validated one ({best})"
    return {}, ""


def training_of(run: Run, file: str, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run's folder says of the training of a file in it; None where there is no more than the weights."""
    history = run.history()
    if not run.config.is_file() or not history:
        return None
    try:
        config = read_resolved(run.config)
    except UsageError as error:
        log.warning("%s, so the student's card says nothing of its training", error)
        return None
    row, when = _epoch_of(run, file, history)
    return {
        "teachers": [f"{short_name(teacher['model'])} ({teacher['modality']})" for teacher in config["teachers"]],
        "objectives": {name: entry["weight"] for name, entry in config["objectives"].items()},
        "untrained_logits": bool(untrained_logits(run.path, recipe)),
        "data": short_name(config["data"]["name"]),
        "epochs": row.get("epoch", history[-1]["epoch"]) + 1,
        "seed": config["seed"],
        "measured": {name: row[name] for name in (*METRICS, *ERRORS) if name in row},
        "when": when,
        "versions": run.latest_versions(),
    }


def dense(recipe: Mapping[str, Any]) -> bool:
    """Whether a student answers for each position."""
    return Taps(**(recipe.get("taps") or {})).dense


def answers(recipe: Mapping[str, Any]) -> str:
    """What a student returns, in words."""
    count = recipe.get("num_classes")
    if not dense(recipe):
        return f"logits (B, {count})"
    if count == 1:
        return f"prediction (B, 1, H, W), {quantity_in_words(recipe)}"
    return (
        f"prediction (B, {count}, H, W), logits at each position, whose channel c, from 0 on, is class c + 1 of the "
        "label maps"
    )


def _measured(name: str, value: float) -> str:
    return f"{METRICS[name]} {value:.2f} %" if name in METRICS else f"{ERRORS[name]} {value:.3g}"
