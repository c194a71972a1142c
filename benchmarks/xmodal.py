"""Transfers across modalities on real images: a resumable grid, each finished run a JSON row; a second call trains only
what is missing.

    python benchmarks/xmodal.py nyu --data ../shared/data/nyu_depth_v2_160x120.h5 --jobs 2
    python benchmarks/xmodal.py lab --data ../shared/data/cifar100_subset.h5 --teacher-data tiny-imagenet-100 --jobs 2
    python benchmarks/xmodal.py segmenters --data ../shared/data/nyu_depth_v2_160x120.h5 --jobs 2
    python benchmarks/xmodal.py rgb_segmenters --data ../shared/data/nyu_depth_v2_160x120.h5 --jobs 2
    python benchmarks/xmodal.py one_head --data ../shared/data/nyu_depth_v2_160x120.h5 --jobs 2
    python benchmarks/xmodal.py nyu --table

A cell is one `contrastill train`, then one `contrastill evaluate`; a row holds both commands and what the evaluation
printed. Baselines (the untrained network, one trained on the labels alone, the teacher) are measured beside the first
cell.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from cells import called, fill, parser, rows_of
from xmodal_grids import CONTRAST, GRIDS, OF_PAIRS

from contrastill.core.statistics import mean_std

HERE = Path(__file__).resolve().parent
DATA = os.environ.get("CONTRASTILL_DATA", "../shared/data")


def run_cell(name: str, cell: str, seed: int, data: str, teacher: str | None, runs: Path, threads: int) -> dict:
    """Train and measure one cell; returns its row."""
    overrides, _, baselines = GRIDS[name]["cells"][cell]
    run = runs / f"{re.sub('[^A-Za-z0-9+]+', '_', cell).strip('_')}-{seed}"
    config = HERE / "configs" / GRIDS[name]["config"]
    teachers = [f"teachers.0.weights={teacher}"] if teacher else []
    before: list[list[str]] = []
    if OF_PAIRS in overrides:
        encoder, command = encoder_of(data, runs, threads, seed)
        overrides = [encoder if override == OF_PAIRS else override for override in overrides]
        before = [command]
    if name in ("segmenters", "rgb_segmenters"):
        reads = any("dense_kd" in override or "cwd" in override for override in overrides)
        segmenter = segmenter_of(data, runs, threads) if reads else ""
        teachers = (
            [f"teachers=[{{model: fpn/efficientnet_lite0, weights: {segmenter}, maps: [features.3, features.4]}}]"]
            if reads
            else []
        )
    log = runs / f"{run.name}.log"
    began = time.perf_counter()
    train = [
        "contrastill",
        "train",
        str(config),
        f"data.path={data}",
        *teachers,
        *overrides,
        f"seed={seed}",
        f"out={run}",
    ]
    last = json.loads(called([*train, "--json"], threads, log).splitlines()[-1])
    trained = time.perf_counter() - began
    measure = ["contrastill", "evaluate", str(run), "--json"]
    measure += ["--baselines", ",".join(baselines[seed])] if seed < len(baselines) else []
    measure += ["--head-of", "teacher"] if name == "one_head" else []
    rows = json.loads(called(measure, threads, log).splitlines()[-1])
    for row in rows:
        row.pop("run"), row.pop("weights")
    shown = [
        " ".join(part).replace(f"{runs}/", "runs/").replace(f"{HERE.parent}/", "").replace(data, Path(data).name)
        for part in (*before, train, measure)
    ]
    return {
        "cell": cell,
        "seed": seed,
        "commands": shown,
        "loss": last["loss"],
        "epochs": last["epoch"] + 1,
        "train_seconds": round(trained, 1),
        "rows": rows,
    }


def lines(rows: dict) -> dict[str, list[list[dict]]]:
    """Name of a line -> for each seed its evaluation's rows; baselines are lines of their own."""
    evaluations: dict[str, list[list[dict]]] = {}
    for (cell, _), row in rows.items():
        for role in dict.fromkeys(entry["role"] for entry in row["rows"]):
            evaluations.setdefault(cell if role == "student" else role, []).append(
                [entry for entry in row["rows"] if entry["role"] == role]
            )
    return evaluations


def table(name: str, rows: dict) -> str:
    """The grid as a Markdown table: mean ± standard deviation over seeds."""
    grouped = lines(rows)
    order = [line for line in ("random", *GRIDS[name]["cells"], "scratch", "teacher") if line in grouped]
    columns: dict[str, dict[str, list[float]]] = {}
    for line in order:
        for seed in grouped[line]:
            for entry in seed:
                values = {
                    key: entry[key]
                    for key in ("pixel_accuracy", "mean_accuracy", "miou", "share_of_teacher")
                    if key in entry
                }
                values |= {f"R@{k}": value for k, value in entry.get("recall", {}).items()}
                values |= {f"probe of {layer}": measured["top1"] for layer, measured in entry.get("layers", {}).items()}
                for column, value in values.items():
                    columns.setdefault(column, {}).setdefault(line, []).append(value)
    written = [f"| | n | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for line in order:
        cells = []
        for column in columns.values():
            values = column.get(line, [])
            cells.append(f"{mean_std(values):.1f}" if values else "")
        written.append(f"| {line} | {len(grouped[line])} | {' | '.join(cells)} |")
    return "\n".join(written)


def teacher_of(data: str | None, runs: Path, threads: int) -> str:
    """The lightness teacher's run, trained on a part of TinyImageNet at 32 pixels where it is not there yet."""
    run = runs / "luminance"
    if not (run / "student.safetensors").is_file():
        if data is None:
            raise SystemExit("the grid lab needs --teacher-data, the folder of TinyImageNet, for its teacher")
        small = [
            "data.size=32",
            "data.crop_padding=4",
            "student.model=resnet8",
            "train.epochs=8",
            "train.batch_size=64",
            "train.lr=0.05",
        ]
        called(
            ["contrastill", "train", "teachers/tiny_imagenet_luminance", f"data.path={data}", *small, f"out={run}"],
            threads,
            runs / "luminance.log",
        )
    return str(run)


def segmenter_of(data: str, runs: Path, threads: int) -> str:
    """The run of the RGB segmenter, trained where it is not there yet."""
    run = runs / "rgb"
    if not (run / "student.safetensors").is_file():
        config = HERE / "configs" / "nyu_rgb_segmenter.yaml"
        called(["contrastill", "train", str(config), f"data.path={data}", f"out={run}"], threads, runs / "rgb.log")
    return str(run)


def encoder_of(data: str, runs: Path, threads: int, seed: int) -> tuple[str, list[str]]:
    """The override that takes the encoder of the unlabelled pairs over, and the command that trains it, which runs
    here where it is not there yet.
    """
    run = runs / f"encoder-{seed}"
    config = str(HERE / "configs" / GRIDS["nyu"]["config"])
    command = ["contrastill", "train", config, f"data.path={data}", *CONTRAST, f"seed={seed}", f"out={run}"]
    if not (run / "student.safetensors").is_file():
        called(command, threads, runs / f"{run.name}.log")
    return f"student.weights={run}", command


def main() -> None:
    known = parser(__doc__, GRIDS, "runs/xmodal")
    known.add_argument("--data")
    known.add_argument("--teacher-data", help="folder of TinyImageNet, for the teacher of lab")
    arguments = known.parse_args()
    results = HERE / "results" / f"xmodal_{arguments.grid}.jsonl"
    if not arguments.table:
        runs = Path(arguments.runs).resolve() / arguments.grid
        runs.mkdir(parents=True, exist_ok=True)
        grid = GRIDS[arguments.grid]
        data = str(Path(arguments.data or f"{DATA}/{grid['data']}").resolve())
        if not Path(data).is_file():
            raise SystemExit(f"{data} does not exist: name the file with --data")
        teacher = teacher_of(arguments.teacher_data, runs, arguments.threads) if arguments.grid == "lab" else None
        fill(
            results,
            {
                cell: min(seeds, arguments.seeds)
                for cell, (_, seeds, _) in grid["cells"].items()
                if cell in (arguments.cells or grid["cells"])
            },
            lambda cell, seed: run_cell(arguments.grid, cell, seed, data, teacher, runs, arguments.threads),
            lambda row: f"trained in {row['train_seconds']:.0f} s",
            jobs=arguments.jobs,
        )
    print(table(arguments.grid, rows_of(results)))


if __name__ == "__main__":
    main()
