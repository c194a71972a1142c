"""``contrastill bench``: the published tables from one's own trainings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Quiet, json_option, progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..compress.benchmark import Request, Training
    from ..compress.results import Summary
    from ..plots.benchmark import Score

HELP = """
Make a published table from your own trainings: pairs of networks by objectives, over several seeds, beside the published figures.

BENCHMARK is cifar100: the paper's 13 pairs, its recipe (240 epochs, the last one counts), and its figures. The untaught student is always
trained too. Every training is a `contrastill train` in a process of its own, in OUT/TEACHER-STUDENT/OBJECTIVE/seed-K; untaught students are in
OUT/students, teachers that --teachers does not have are trained first, into OUT/teachers. The same command again trains only what is missing, and
further pairs, objectives and seeds join the table. OUT receives results.jsonl (a row a training), table.md, table.png and, of an ablation, vary_KEY.png.

Objectives joined by + are added up. FOLDER of --teachers holds runs (FOLDER/resnet32x4), files (FOLDER/resnet32x4.pth) or the benchmark authors'
checkpoints (FOLDER/resnet32x4_vanilla/ckpt_epoch_240.pth).

Examples:

    contrastill bench cifar100 --data cifar100.h5 --pairs resnet32x4:resnet8x4,vgg13:vgg8 --objectives kd,crd,crd+kd --seeds 3

    contrastill bench cifar100 --data cifar100.h5 --pairs all --objectives all --seeds 5 --jobs 4 --teachers teachers

    contrastill bench cifar100 --data cifar100.h5 --pairs resnet20:resnet8 --objectives all --set train.epochs=12 --set data.limit=10000 --out runs/quick

    contrastill bench cifar100 --table --out runs/quick --markdown table.md

The paper's four ablations, each on a pair of your choice (--pairs P --data D):

    number of negatives: --objectives crd --vary objectives.crd.num_negatives=16,64,256,1024,4096,16384

    temperature: --objectives crd --vary objectives.crd.temperature=0.02,0.05,0.07,0.1,0.2,0.3

    which samples are negatives: --objectives crd --vary objectives.crd.negatives_from=other_class,other_sample

    the contrastive loss itself: --objectives crd,infonce
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(bench)


def bench(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="cifar100.")],
    data: Annotated[
        str | None, typer.Option("--data", help="A packed .h5 file, or the folder that holds cifar-100-python.")
    ] = None,
    pairs: Annotated[
        str, typer.Option("--pairs", metavar="TEACHER:STUDENT,…", help="Networks; all: the published pairs.")
    ] = "",
    objectives: Annotated[
        str,
        typer.Option("--objectives", metavar="NAME,…", help="Such as kd,crd,crd+kd; all: each that needs one teacher."),
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each.")] = 1,
    out: Annotated[str, typer.Option("--out", help="The folder to write.")] = "runs/bench",
    teachers: Annotated[
        str | None, typer.Option("--teachers", metavar="FOLDER", help="Where trained teachers are.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of every training, such as train.epochs=12."),
    ] = None,
    teacher_given: Annotated[
        list[str] | None, typer.Option("--teacher-set", metavar="KEY=VALUE", help="One of teachers that are trained.")
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option("--vary", metavar="KEY=V1,V2,…", help="Train with each value of a setting, for one pair."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings at a time; GPUs are dealt out to them.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of each training on a CPU; left out: the cores are shared out."),
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Show what is finished (of --pairs and --objectives, if given) and train nothing."
        ),
    ] = False,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE", help="Write the table there too.")
    ] = None,
    as_json: Annotated[bool, json_option("Print the table's numbers as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from pathlib import Path

    from ..compress.benchmark import BENCHMARKS, Request, parse_objectives, parse_pairs
    from ..core.errors import ContrastillError, UsageError, unknown_name

    if benchmark not in BENCHMARKS:
        raise unknown_name("benchmark", benchmark, BENCHMARKS)
    chosen = BENCHMARKS[benchmark]
    networks = parse_pairs(pairs, chosen) if pairs or not table else []
    named = parse_objectives(objectives)
    folder = Path(out)
    failed: dict[str, str] = {}
    if table:
        if not (folder / "results.jsonl").is_file():
            raise UsageError(
                f"{out} holds no results of a benchmark yet: name the folder with --out, or train without --table"
            )
    else:
        if data is None:
            raise UsageError("--data is not set: name a packed .h5 file, or the folder that holds cifar-100-python")
        request = Request(
            chosen,
            data,
            folder,
            networks,
            named,
            seeds,
            given or (),
            teacher_given or (),
            _varied(vary, networks),
            teachers,
        )
        failed = _train(request, jobs, threads, progress(quiet))
    summary = _summary(chosen, folder, [":".join(pair) for pair in networks] if table else [], named if table else [])
    written = _write(summary, folder, markdown)
    if as_json:
        from ..compress.results import as_json as cells

        print(
            json.dumps(
                {
                    "table": cells(summary),
                    "comparable": summary.comparable,
                    "notes": summary.notes,
                    "failed": failed,
                    "written": written,
                }
            )
        )
    else:
        _show(summary, written)
    if failed:
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise ContrastillError(
            f"{len(failed)} training{'s' * (len(failed) > 1)} failed, and the same command tries again: {told}"
        )


def _varied(text: str | None, pairs: list[Any]) -> tuple[str, list[str]] | None:
    """Key and values of --vary."""
    from ..core.errors import UsageError

    if text is None:
        return None
    key, _, values = text.partition("=")
    found = list(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
    if not key or not found:
        raise UsageError(
            f"--vary {text} names no values: write KEY=V1,V2,…, such as objectives.crd.num_negatives=64,256,1024"
        )
    if len(pairs) > 1:
        raise UsageError(f"--vary is for one pair, and --pairs names {len(pairs)}: choose one of them")
    return key, found


def _train(request: Request, jobs: int, threads: int | None, say: Callable[[str], None]) -> dict[str, str]:
    """Train what is missing; name and error of what failed."""
    from ..compress.benchmark import trainings
    from ..compress.run_grid import Grid, check
    from ..core.run import writable_folder

    asked = trainings(request)
    check(asked)
    results = writable_folder(request.out) / "results.jsonl"
    grid = Grid(asked, results, jobs=jobs, threads=threads, say=say)
    _measure_teachers(request, asked, results, say)
    grid.run()
    return grid.failed


def _measure_teachers(request: Request, asked: list[Training], results: Path, say: Callable[[str], None]) -> None:
    """Write the rows of teachers that were there already."""
    from ..compress.benchmark import TEACHER
    from ..compress.results import append_row, read_rows
    from ..compress.run_grid import teacher_row

    rows = read_rows(results)
    for name, weights in request.teacher_files.items():
        say(f"teacher {name}: {weights}")
        taught = next((one for one in asked if one.pair.startswith(f"{name}:")), None)
        if taught and (name, TEACHER, None, 0) not in rows and (row := teacher_row(name, weights, taught)):
            append_row(results, row)


def _summary(benchmark: Any, folder: Path, pairs: list[str], objectives: list[str]) -> Summary:
    """The table of everything in a folder, or of some pairs and objectives of it."""
    from ..compress.benchmark import STUDENT, TEACHER
    from ..compress.results import read_rows, summarise

    rows = list(read_rows(folder / "results.jsonl").values())
    if objectives:
        rows = [row for row in rows if row["objective"] in (*objectives, STUDENT, TEACHER)]
    if pairs:
        names = {*pairs, *(name for pair in pairs for name in pair.split(":"))}
        rows = [row for row in rows if row["pair"] in names]
    return summarise(rows, benchmark)


def _write(summary: Summary, folder: Path, markdown: str | None) -> list[str]:
    """Write the table and its pictures; their paths."""
    from pathlib import Path

    from ..compress import results
    from ..core.run import writable_folder, write_text
    from ..plots.benchmark import draw_ablation, draw_table

    text = results.markdown(summary)
    files = [folder / "table.md", *([Path(markdown)] if markdown else [])]
    for file in files:
        writable_folder(file.parent)
        write_text(file, text)
    titles = {pair: pair.replace(":", " → ", 1) for pair in summary.pairs}
    drawn = {
        titles[pair]: {
            results.label(line): _score(summary, line, pair)
            for line in summary.lines
            if (line, pair) in summary.entries
        }
        for pair in summary.pairs
    }
    if any(drawn.values()):
        draw_table(drawn, folder / "table.png")
        files.append(folder / "table.png")
    for key in dict.fromkeys(vary[0] for _, vary in summary.lines if vary):
        draw_ablation(_ablations(summary, key), key, folder / f"vary_{key}.png")
        files.append(folder / f"vary_{key}.png")
    return [str(file) for file in files]


def _score(summary: Summary, line: Any, pair: str) -> Score:
    from ..plots.benchmark import Score

    entry = summary.entries[line, pair]
    figure = entry.published.top1 if entry.published and summary.comparable else None
    return Score(entry.top1.mean, entry.top1.std, entry.top1.count, figure)


def _ablations(summary: Summary, key: str) -> list[Any]:
    """A panel for each pair that an ablation was made with."""
    from ..compress.benchmark import TEACHER
    from ..plots.benchmark import Ablation

    panels = []
    for pair in summary.pairs:
        curves: dict[str, dict[str, Any]] = {}
        lines = {}
        for objective, vary in [line for line in summary.lines if (line, pair) in summary.entries]:
            if vary is None and objective != TEACHER:
                lines[objective] = _score(summary, (objective, None), pair)
            elif vary and vary[0] == key:
                curves.setdefault(objective, {})[vary[1]] = _score(summary, (objective, vary), pair)
        if curves:
            panels.append(Ablation(pair.replace(":", " → ", 1), curves, lines))
    return panels


def _show(summary: Summary, written: list[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..compress.results import tables_of
    from .tables import table_console

    console, at_once = table_console(), 3
    for begin in range(0, len(summary.pairs), at_once):
        for title, columns, lines in tables_of(summary, summary.pairs[begin : begin + at_once]):
            table = Table(title=title, title_justify="left")
            for number, column in enumerate(columns):
                table.add_column(escape(column), justify="right" if number else "left", overflow="fold")
            for line in lines:
                table.add_row(*map(escape, line))
            console.print(table)
    for note in [*summary.notes, *(f"written: {path}" for path in written)]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
