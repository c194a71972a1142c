"""``contrastill bench``: published tables from your own trainings."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Quiet, json_option
from .tables import print_json, show

HELP = """
Make a published table from your own trainings: pairs of networks by objectives, over several seeds, beside the
published figures.

BENCHMARK is cifar100: the paper's 13 pairs, its recipe (240 epochs, the last one counts), and its figures. The
baseline, the student without a teacher, is always trained too. Every training is a `contrastill train` in a process
of its own, in OUT/TEACHER-STUDENT/OBJECTIVE/seed-K; baselines are in OUT/students, teachers that --teachers does not
have are trained first, into OUT/teachers. The same command again trains only what is missing, and further pairs,
objectives and seeds join the table. OUT receives results.jsonl (one row per training), table.md, table.png and, of an
ablation, vary_KEY.png.

Objectives joined by + are added up. FOLDER of --teachers holds runs (FOLDER/resnet32x4), files
(FOLDER/resnet32x4.pth) or the benchmark authors' checkpoints (FOLDER/resnet32x4_vanilla/ckpt_epoch_240.pth).

Examples:

    contrastill bench cifar100 --data cifar100.h5 --pairs resnet32x4:resnet8x4,vgg13:vgg8 --objectives kd,crd,crd+kd
    --seeds 3

    contrastill bench cifar100 --data cifar100.h5 --pairs all --objectives all --seeds 5 --jobs 4 --teachers teachers

    contrastill bench cifar100 --data cifar100.h5 --pairs resnet20:resnet8 --objectives all --set train.epochs=12
    --set data.limit=10000 --out runs/quick

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
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of every training, such as train.epochs=12."),
    ] = None,
    teacher_overrides: Annotated[
        list[str] | None, typer.Option("--teacher-set", metavar="KEY=VALUE", help="One of teachers that are trained.")
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option("--vary", metavar="KEY=V1,V2,…", help="Train with each value of a setting, for one pair."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings at a time; GPUs are shared among them.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of each training on a CPU; default: the cores are shared."),
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
    from ..core.errors import ContrastillError
    from ..evaluation.benchmark import run_benchmark

    result = run_benchmark(
        benchmark,
        data=data,
        pairs=pairs,
        objectives=objectives,
        seeds=seeds,
        out=out,
        teachers=teachers,
        overrides=overrides or (),
        teacher_overrides=teacher_overrides or (),
        vary=vary,
        jobs=jobs,
        threads=threads,
        train_missing=not table,
        markdown=markdown,
        progress=not quiet,
    )
    if as_json:
        print_json(result)
    else:
        show(result)
    if result.failed:
        errors = "; ".join(f"{name}: {error}" for name, error in result.failed.items())
        count = len(result.failed)
        raise ContrastillError(
            f"{count} training{'s' * (count > 1)} failed, and the same command tries again: {errors}"
        )
