"""Results of a benchmark: one row a finished training, and the numbers of the table that they make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config.marks import changes_results
from ..core.registry import OBJECTIVES
from ..core.statistics import MeanStd, PairedDifference, mean_std, paired_difference
from ..core.table import Table
from .benchmark import STUDENT, TEACHER, Benchmark, rank
from .published import Figure, published

Line = tuple[str, tuple[str, str] | None]
"""A row of the table: the objective, and (key, value) of an ablation or None."""


@dataclass(frozen=True)
class Entry:
    """A cell of the table.

    Attributes:
        top1: Of the last epoch over the seeds, per cent.
        published: The published figure, if there is one.
        against: Paired differences to ``student`` and ``kd`` in points, where those are there.
    """

    top1: MeanStd
    published: Figure | None
    against: dict[str, PairedDifference]


@dataclass(frozen=True)
class Summary:
    """The table: columns, rows, cells by (row, pair), and the notes below."""

    pairs: list[str]
    lines: list[Line]
    entries: dict[tuple[Line, str], Entry]
    comparable: bool
    notes: list[str] = field(default_factory=list)


def key_of(row: Mapping[str, Any]) -> tuple:
    """What no two rows share; a later row replaces an earlier one."""
    return row["pair"], row["objective"], tuple(row["vary"]) if row["vary"] else None, row["seed"]


def read_rows(path: Path) -> dict[tuple, dict[str, Any]]:
    """Rows by :func:`key_of`; a line that was cut off is left out."""
    rows: dict[tuple, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[key_of(row)] = row
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row behind the others, on a line of its own even where the last one was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def pack_bits(right: np.ndarray) -> str:
    """(N,) bool as hexadecimal digits, eight a pair of them.

    Example:
        >>> pack_bits(np.array([True, False, True]))
        'a0'
    """
    return np.packbits(right).tobytes().hex()


def bits_of(row: Mapping[str, Any]) -> np.ndarray:
    """(N,) floats, 1 for each test image that the row's network gets right."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["correct"]), dtype=np.uint8))[: row["images"]].astype(float)


def paired(rows: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]]) -> PairedDifference | None:
    """Difference in points of two lists of results on the same test images and seeds.

    Args:
        rows: By seed.
        others: What is subtracted, by seed.

    Returns:
        None where no seed is in both, or the images are others.
    """
    seeds = [seed for seed in sorted(rows.keys() & others.keys()) if _same_images(rows[seed], others[seed])]
    if not seeds or len({rows[seed]["images"] for seed in seeds}) > 1:
        return None
    # (seeds, images)
    correct, baseline = (100 * np.stack([bits_of(by_seed[seed]) for seed in seeds]) for by_seed in (rows, others))
    return paired_difference(correct, baseline)


def _same_images(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    tests = {row.get("test"), other.get("test")} - {None}  # rows of older versions do not say it
    return row["images"] == other["images"] and len(tests) < 2


def summarise(rows: Iterable[Mapping[str, Any]], benchmark: Benchmark) -> Summary:
    """The numbers of the table.

    Args:
        rows: Finished trainings; those of students and teachers alone belong to every pair that has them.
        benchmark: Says which figures were published, and on how many images.
    """
    rows = list(rows)
    places = {f"{teacher}:{student}": place for place, (teacher, student) in enumerate(benchmark.pairs)}
    pairs = sorted(
        dict.fromkeys(row["pair"] for row in rows if ":" in row["pair"]), key=lambda pair: places.get(pair, len(places))
    )
    if not pairs:  # nothing but students yet
        students = {row["pair"] for row in rows if row["objective"] == STUDENT}
        pairs = [pair for pair in places if pair.partition(":")[2] in students] or sorted(
            f":{student}" for student in students
        )
    cells: dict[tuple[Line, str], dict[int, Mapping[str, Any]]] = {}
    for pair in pairs:
        teacher, _, student = pair.partition(":")
        for row in rows:
            if row["pair"] == {STUDENT: student, TEACHER: teacher}.get(row["objective"], pair):
                line = row["objective"], tuple(row["vary"]) if row["vary"] else None
                cells.setdefault((line, pair), {})[row["seed"]] = row
    entries = {(line, pair): _entry(cells, line, pair) for line, pair in cells}
    lines = sorted(
        dict.fromkeys(line for line, _ in cells), key=lambda line: (rank(line[0]), line[0], line[1] is not None)
    )
    reasons = _reasons(rows, benchmark)
    notes = []
    if reasons:
        notes.append(f"published figures do not compare with these, which had {', '.join(reasons)}")
    figures = {entry.published: None for entry in entries.values() if entry.published}
    for source in dict.fromkeys(figure.source for figure in figures):
        remark = next((figure.note for figure in figures if figure.source == source and figure.note), "")
        notes.append(f"published: {source}{f' ({remark})' if remark else ''}")
    return Summary(pairs, lines, entries, not reasons, notes)


def label(line: Line) -> str:
    """A row's name.

    Example:
        >>> label(("crd", ("objectives.crd.num_negatives", "64")))
        'crd, num_negatives=64'
    """
    objective, vary = line
    return objective if vary is None else f"{objective}, {short(vary[0], objective)}={vary[1]}"


def short(key: str, objective: str) -> str:
    """A setting without its objective's prefix."""
    return key.removeprefix(f"objectives.{objective}.").removeprefix("objectives.").removeprefix("train.")


def _entry(cells: Mapping[tuple[Line, str], Mapping[int, Mapping[str, Any]]], line: Line, pair: str) -> Entry:
    mine = cells[line, pair]
    top1 = [row["top1"] for row in mine.values()]
    against = {}
    for baseline in (STUDENT, "kd"):
        # Where an ablation changes the baseline too, the one with the same value.
        others = cells.get(((baseline, line[1]), pair)) or cells.get(((baseline, None), pair))
        if others and line[0] not in (baseline, TEACHER, STUDENT) and (difference := paired(mine, others)):
            against[baseline] = difference
    return Entry(mean_std(top1), _published(line, mine, pair), against)


def _published(line: Line, rows: Mapping[int, Mapping[str, Any]], pair: str) -> Figure | None:
    """The figure of this objective with the options it has; none for options without a published figure."""
    overrides = [*next(iter(rows.values()))["given"], *(["=".join(line[1])] if line[1] else [])]
    options = [override for override in overrides if override.startswith("objectives.") and not _is_default(override)]
    teacher, _, student = pair.partition(":")
    return published(teacher, student, line[0], options[0] if options else "") if len(options) < 2 else None


def _is_default(override: str) -> bool:
    """Whether an objective's option was given the value that it has anyway."""
    key, _, value = override.partition("=")
    _, name, *option = key.split(".")
    fields = OBJECTIVES[name].Options.model_fields if name in OBJECTIVES else {}
    return len(option) == 1 and option[0] in fields and str(fields[option[0]].default).lower() == value.lower()


def _reasons(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> list[str]:
    """What sets these trainings apart from the published ones."""
    overrides = dict.fromkeys(
        override for row in rows for override in [*row["given"], *(["=".join(row["vary"])] if row["vary"] else [])]
    )
    reasons = [
        override
        for override in overrides
        if not override.startswith("objectives.") and changes_results(override.split("=")[0])
    ]
    for name, place, kind in (("train_images", 0, "training"), ("images", 1, "test")):
        counts = sorted({row[name] for row in rows if row[name] is not None} - {benchmark.images[place]})
        if counts:
            reasons.append(
                f"{' or '.join(f'{count:,}' for count in counts)} {kind} images instead of {benchmark.images[place]:,}"
            )
    return reasons


def tables_of(summary: Summary, pairs: Sequence[str] | None = None) -> list[Table]:
    """The table of accuracies and that of differences."""
    pairs = summary.pairs if pairs is None else pairs
    columns = ["objectives"]
    columns += [pair.replace(":", " → ", 1) if pair.partition(":")[0] else pair[1:] for pair in pairs]
    accuracy, difference = [], []
    for line in summary.lines:
        cells = [summary.entries.get((line, pair)) for pair in pairs]
        if any(cells):
            accuracy.append([label(line), *("" if entry is None else _accuracy(entry) for entry in cells)])
        if any(entry and entry.against for entry in cells):
            difference.append([label(line), *("" if entry is None else _differences(entry) for entry in cells)])
    tables = [Table("top-1 of the last epoch, %: mean ± standard deviation (seeds)", columns, accuracy)]
    if difference:
        title = "points to the baseline and to KD: mean ± standard error, paired by test image and seed"
        tables.append(Table(title, columns, difference))
    return tables


def _accuracy(entry: Entry) -> str:
    figure = entry.published
    published = "" if figure is None else f", published {figure.top1:.2f}{'†' if figure.note else ''}"
    return f"{entry.top1} ({entry.top1.count}){published}"


def _differences(entry: Entry) -> str:
    return ", ".join(
        f"{difference.mean:+.2f} ± {difference.error:.2f} to {baseline}"
        for baseline, difference in entry.against.items()
    )


def markdown(summary: Summary) -> str:
    """The tables and the notes below them, as Markdown."""
    notes = "".join(f"- {note[0].upper()}{note[1:]}.\n" for note in summary.notes)
    return "\n".join([*(table.to_markdown() for table in tables_of(summary)), *([notes] if notes else [])])


def as_json(summary: Summary) -> list[dict[str, Any]]:
    """The cells, one after the other."""
    return [
        {
            "pair": pair,
            "objective": line[0],
            "vary": list(line[1]) if line[1] else None,
            "top1": entry.top1.mean,
            "std": entry.top1.std,
            "n": entry.top1.count,
            "published": None if entry.published is None else entry.published._asdict(),
            "against": {baseline: vars(difference) for baseline, difference in entry.against.items()},
        }
        for (line, pair), entry in summary.entries.items()
    ]
