"""The report's table of results, beside the published figures, the baseline and the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..compress.published import Figure
from ..core.config.schema import RunConfig
from ..core.epochs import incomplete
from ..core.run import Run
from ..core.run_data import other_data, other_teachers
from ..core.statistics import MeanStd, gap_closed, mean_std
from .evaluations import is_early
from .likeness import evaluated_beside, same_test, shared_splits, training_setting
from .markup import is_number, join, number
from .measures import OWN, but_mode, evaluation_rows, measures_of
from .page import Section
from .page_parts import Cell, table
from .published_figure import published_figure
from .references import baseline_differences, changed_input, teacher_of
from .runs import RunFolders, RunSeries
from .transfers import resolution_text, teachers_of, weights_text


class Compared:
    """Every series' scores, and those to compare them with.

    Args:
        runs: The runs.
    """

    def __init__(self, runs: RunFolders) -> None:
        self.groups = runs.groups
        self.configs = [(group, group.config) for group in runs.groups if group.config is not None]
        self.notes: dict[str, None] = {}  # in their order, each once
        self.evaluated = {group.name: [self._rows(group, run) for run in group.runs] for group in runs.groups}
        self.ways: dict[str, dict[str, set[str]]] = {}  # series -> metric -> how its runs were measured
        self.scores = {group.name: self._scores(group) for group in runs.groups}
        self._note_ways()

    def _rows(self, group: RunSeries, run: Run) -> list[dict[str, Any]]:
        """Those of an evaluation; of a finished run not those that measured a checkpoint on the way, which is noted."""
        rows = evaluation_rows(run.read_json("evaluation.json"))
        early = [row for row in rows if row.get("role") == "student" and is_early(row)] if run.finished else []
        if early:
            self.notes[
                f"What evaluation.json of {group.name} measured is left out, as it is of a {early[0]['weights']}, "
                "before the training ended: evaluate it again"
            ] = None
        return [row for row in rows if row not in early]

    def _scores(self, group: RunSeries) -> dict[str, MeanStd]:
        """Metric -> its score: of the last epoch, else of what ``contrastill evaluate`` wrote of the student."""
        values = {name: group.last(name) for name in ("top1", "top5", "mAP", "miou", "delta1")}
        ways = {name: {OWN} for name, measured in values.items() if measured}
        trained = {*ways}
        for rows in self.evaluated[group.name]:
            for key, (value, way) in measures_of(rows, "student").items():
                if key not in trained:
                    values.setdefault(key, []).append(value)
                    ways.setdefault(key, set()).add(way)
        self.ways[group.name] = ways
        seeds = [config.seed for config in group.configs if config is not None]
        if again := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            self.notes[
                f"{group.name} has several runs of seed {', '.join(map(str, again))}, which all count, so its "
                "deviation is not that of seeds: train with another seed=…"
            ] = None
        for key, measured in values.items():
            if 0 < len(measured) < len(group.runs) and key in _COLUMNS and key not in trained:
                self.notes[
                    f"{_COLUMNS[key]} of {group.name} is of {len(measured)} of its {len(group.runs)} runs: evaluate "
                    "the others too"
                ] = None
        return {key: mean_std(measured) for key, measured in values.items() if measured}

    def metric(self, group: RunSeries) -> str | None:
        """The metric that a student is judged by."""
        return next((key for key in ("top1", "mAP", "miou", "delta1", "probe") if key in self.scores[group.name]), None)

    def baseline(self, group: RunSeries, metric: str) -> MeanStd | None:
        """The same student without a teacher, on the same data for as long; of several the one that was trained most
        alike; without any the one that an evaluation trained on the labels.
        """
        if group.config is None or not group.config.teachers:
            return None
        alike = [
            (baseline_differences(group.config, config), other, config)
            for other, config in self.configs
            if not config.teachers
            and metric in self.scores[other.name]
            and training_setting(config) == training_setting(group.config)
            and self.ways[group.name][metric] == self.ways[other.name][metric]
        ]
        for differences, other, config in sorted(alike, key=lambda entry: len(entry[0])):
            if not self._replaced(group, other, shared_splits(config, group.config)):
                self._note_students(group.name, group.config, other.name, config)
                if differences:
                    self.notes[
                        f"{group.name} and its baseline {other.name} were trained with different settings "
                        f"({', '.join(differences)}), which their difference depends on too"
                    ] = None
                return self.scores[other.name][metric]
        scratch = self._evaluated(group, group.config, "scratch", metric)
        if scratch is not None:
            self.notes[
                f"The baseline of {group.name} is of contrastill evaluate --baselines scratch: from random weights, "
                "trained along with its head on the labels"
            ] = None
        return scratch

    def _note_ways(self) -> None:
        """Note the metrics that are not measured alike: by one kind of head, trained alike, or by a network's own
        outputs.
        """
        for metric in ("miou", "delta1", "probe"):
            if len({way for of in self.ways.values() for way in of.get(metric, ())}) > 1:
                ways = {name: " and ".join(sorted(of[metric])) for name, of in self.ways.items() if metric in of}
                each = "; ".join(f"{name}: {way}" for name, way in ways.items())
                self.notes[f"The column {_COLUMNS[metric]} holds what was measured in different ways ({each})"] = None

    def _note_students(self, name: str, config: RunConfig, other: str, baseline: RunConfig) -> None:
        """Note a student that sees other sizes, or starts from other weights, than its baseline."""
        students = config.student, baseline.student
        for what, (one, two) in (
            ("read samples at different sizes", map(resolution_text, students)),
            ("start from different weights", map(weights_text, students)),
        ):
            if one != two:
                self.notes[
                    f"{name} and its baseline {other} {what} ({one} and {two}), which their difference depends on too"
                ] = None

    def _replaced(self, group: RunSeries, other: RunSeries, splits: Sequence[str]) -> bool:
        """Whether the data of two series differ, though their configs name the same; that is noted."""
        what = other_data(group.runs[0], other.runs[0], splits)
        if what:
            self.notes[f"{group.name} is not compared with {other.name}: the data differ ({what})"] = None
        return bool(what)

    def untrained(self, group: RunSeries, metric: str) -> MeanStd | None:
        """The student's architecture with random weights, evaluated beside it."""
        if group.config is None or not group.config.teachers:
            return None
        return self._evaluated(group, group.config, "random", metric)

    def teacher(self, group: RunSeries, metric: str) -> MeanStd | None:
        """Its only teacher, where it reads what the student reads, and is one of the runs and was tested on the same
        data, or was evaluated beside it.
        """
        config = group.config
        if config is None or len(config.teachers) != 1 or config.teachers[0].modality != config.student.modality:
            return None  # another modality may show more, or less: its score is no upper end of a gap
        place = teacher_of(self.groups, config, group.runs[0])
        if place is not None and metric == "top1":
            other, number = place
            of_teacher = other.configs[number]
            values = [row[metric] for row in other.runs[number].history() if is_number(row.get(metric))]
            # The epoch where a file is cut off is not that of the weights that taught.
            values = [] if incomplete(other.runs[number], of_teacher) else values
            recorded = all(run.data_facts().get("test") for run in (other.runs[number], group.runs[0]))
            # Of a folder of seeds it is the one that the student was trained from, not their mean.
            if (
                of_teacher is not None
                and values
                and same_test(of_teacher, config, recorded=recorded)
                and not self._replaced(group, other, ("test",))
            ):
                changed = changed_input(config.teachers[0], other.runs[number])
                if not changed:
                    return mean_std(values[-1:])
                return self._measured_beside(group, config, metric, other, changed)
        evaluated = self._evaluated(group, config, "teacher", metric)
        weights = config.teachers[0].weights
        named = Path(weights).resolve() if weights else None
        finished = {run.path.resolve() for each in self.groups for run in each.runs if run.finished}
        if place is None and evaluated is None and named is not None and named in finished:
            self.notes[
                f"{group.name} is not compared with the teacher that its config names, as the weights in {named.name} "
                "are others than those that it was trained from"
            ] = None
        return evaluated

    def _measured_beside(
        self, group: RunSeries, config: RunConfig, metric: str, other: RunSeries, changed: Sequence[str]
    ) -> MeanStd | None:
        """The score of a teacher that reads samples otherwise than in its own run, whose score is another's; without
        one that is noted.
        """
        evaluated = self._evaluated(group, config, "teacher", metric)
        if evaluated is None:
            self.notes[
                f"{group.name} is not compared with {other.name}, whose score is of another {' and '.join(changed)} "
                "than its teacher has: evaluate it with its teachers"
            ] = None
        return evaluated

    def _evaluated(self, group: RunSeries, config: RunConfig, role: str, metric: str) -> MeanStd | None:
        """The score of an evaluation beside the student of this series, or of another one that it was shared with."""
        shared = evaluated_beside(config, role)
        similar = [
            other
            for other, its in self.configs
            if evaluated_beside(its, role) == shared
            and not other_data(group.runs[0], other.runs[0], shared_splits(config, its))
            and not other_teachers(group.runs[0], other.runs[0])
        ]
        ways = self.ways[group.name][metric]
        measured = [
            measures[metric]
            for other in [group, *similar]
            for rows in self.evaluated[other.name]
            if metric in (measures := measures_of(rows, role))
        ]
        if role == "scratch":  # it is trained along, whether the student is frozen or not
            ways, measured = {*map(but_mode, ways)}, [(value, but_mode(way)) for value, way in measured]
        values = [value for value, way in measured if {way} == ways]
        return mean_std(values[:1]) if values else None


_COLUMNS = {
    "top1": "top-1, %",
    "mAP": "mAP, %",
    "miou": "mIoU, %",
    "delta1": "δ < 1.25, %",
    "probe": "linear probe, %",
}


def comparison(runs: RunFolders, compared: Compared) -> tuple[Section, list[dict[str, Any]]]:
    """The table, and its numbers."""
    rows = [_row(group, compared) for group in runs.groups]
    there = [key for key in _COLUMNS if any(key in row["scores"] for row in rows)]
    extra = {
        "points_to_baseline": "points to baseline",
        "points_to_untrained": "points to random weights",
        "gap_closed": "share of the teacher gap closed, %",
        "published": "published top-1, %",
        "seconds": "training, s",
    }
    extra = {key: title for key, title in extra.items() if any(row[key] is not None for row in rows)}
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    lines = []
    for row in rows:
        cells: list[Any] = [row["name"], row["networks"], Cell(str(row["n"]), row["n"])]
        cells += [_score(row["scores"].get(key)) for key in there]
        for key in extra:
            mark = " *" if key == "published" and row["note"] else ""
            form = {
                "points_to_baseline": "+.2f",
                "points_to_untrained": "+.2f",
                "gap_closed": ".0f",
                "published": ".2f",
                "seconds": ".0f",
            }[key]
            value = 100 * row[key] if key == "gap_closed" and row[key] is not None else row[key]
            cells.append(Cell(number(value, form) + (mark if row[key] is not None else ""), row[key]))
        lines.append(cells)
    columns = ["run", "teachers → student", "seeds", *(_COLUMNS[key] for key in there), *extra.values()]
    caption = "Results of the last epoch: mean ± standard deviation over seeds"
    below = [f"* {note}" for note in notes] + [f"{line}." for group in runs.groups for line in group.incomplete]
    below += [f"{line}." for line in compared.notes]
    if "points_to_baseline" in extra:
        below.append(
            "The baseline is the same student trained without a teacher; the teacher gap is the difference between it "
            "and a teacher that reads the same modality."
        )
    if "points_to_untrained" in extra:
        below.append("Random weights are the same architecture, frozen and never trained, under the same head.")
    answers = [
        {key: value for key, value in row.items() if key != "scores"}
        | {key: {"mean": score.mean, "std": score.std, "seeds": score.count} for key, score in row["scores"].items()}
        for row in rows
    ]
    return Section("comparison", "Results", join(table(caption, columns, lines, notes=below))), answers


def _row(group: RunSeries, compared: Compared) -> dict[str, Any]:
    config, scores, metric = group.config, compared.scores[group.name], compared.metric(group)
    points, share = (None, None) if metric is None else _against(group, metric, compared)
    untrained = None if metric is None or points is not None else compared.untrained(group, metric)
    figure, reasons = published_figure(group, config) if config is not None and "top1" in scores else (None, [])
    seconds = [sum(row["seconds"] for row in rows if is_number(row.get("seconds"))) for rows in group.histories if rows]
    return {
        "name": group.name,
        "networks": ""
        if config is None
        else " → ".join(part for part in (teachers_of(config), config.student.model) if part),
        "n": len(group.runs),
        "scores": scores,
        "points_to_baseline": points,
        "points_to_untrained": None if untrained is None or metric is None else scores[metric].mean - untrained.mean,
        "gap_closed": share,
        "published": figure.top1 if figure else None,
        "note": _note(figure, reasons) if figure else "",
        "seconds": mean_std(seconds).mean if seconds else None,
    }


def _against(group: RunSeries, metric: str, compared: Compared) -> tuple[float | None, float | None]:
    """The difference to the baseline, and the share of the teacher gap closed."""
    score, baseline, teacher = (
        compared.scores[group.name][metric].mean,
        compared.baseline(group, metric),
        compared.teacher(group, metric),
    )
    if baseline is None:
        return None, None
    return score - baseline.mean, None if teacher is None else gap_closed(score, baseline.mean, teacher.mean)


def _note(figure: Figure, reasons: Sequence[str]) -> str:
    note = f" ({figure.note})" if figure.note else ""
    differences = f"; these had {', '.join(reasons)}" if reasons else ""
    return f"{figure.source}{note}{differences}."


def _score(score: MeanStd | None) -> Cell:
    return Cell("–" if score is None else str(score), None if score is None else score.mean)
