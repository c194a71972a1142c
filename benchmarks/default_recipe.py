"""What contrastill.distill trains by default, beside each single objective, on any packed data: a resumable grid.

    python benchmarks/default_recipe.py fashion --data fashion.h5 --teacher-data fashion_all.h5 --epochs 3 6 20
    python benchmarks/default_recipe.py fashion --epochs 3 6 20 --table

Cells of a length and a seed have the same teacher, student at the start, views, order and schedule, those of the
default; single objectives stand beside cross-entropy with their published weights. The baseline sees new views in every
epoch. A row holds which test images the student got right, so that cells are compared image by image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from cells import fill, rows_of
from grid import correct_bits

import contrastill
from contrastill.compress.results import bits_of, pack_bits
from contrastill.core.statistics import mean_std, paired_difference
from contrastill.training.recipe import default_training

HERE = Path(__file__).resolve().parent
LABELS = {"cross_entropy": {"weight": 1.0}}
OBJECTIVES = {
    "default": None,
    "baseline": None,
    "default_and_maps": LABELS
    | {"fresh_crd": {"weight": 0.8}, "wttm": {"weight": 1.0, "full_doubt": 0.02}, "dense_crd": {"weight": 1.0}},
    "kd": {"cross_entropy": {"weight": 0.1}, "kd": {"weight": 0.9}},
    "crd": LABELS | {"crd": {"weight": 0.8, "num_negatives": 4096, "negatives": "shared"}},
    "infonce": LABELS | {"infonce": {"weight": 0.8}},
    "fresh_crd": LABELS | {"fresh_crd": {"weight": 0.8}},
    "wttm": LABELS | {"wttm": {"weight": 1.0}},
    "dist": LABELS | {"dist": {"weight": 1.0}},
    "dkd": LABELS | {"dkd": {"weight": 1.0}},
}


def train(arguments: argparse.Namespace, cell: str, seed: int) -> dict:
    """Train one cell and return its row."""
    objective, epochs = cell.split()[0], int(cell.split()[1])
    data = str(Path(arguments.data).resolve())
    teacher = runs_of(arguments) / f"teacher-{arguments.teacher}"
    if not (teacher / "student.safetensors").is_file():
        source = str(Path(arguments.teacher_data or data).resolve())
        contrastill.distill(None, arguments.teacher, source, out=teacher, epochs=arguments.teacher_epochs, quiet=True)
    settings = {}
    if OBJECTIVES[objective] is not None:
        with h5py.File(data) as file:
            settings = default_training(len(file["train/rgb"]), epochs=epochs)
            settings.pop("epochs")
    run = runs_of(arguments) / f"{objective}-{epochs}-{seed}"
    began = time.perf_counter()
    result = contrastill.distill(
        None if objective == "baseline" else str(teacher),
        arguments.student,
        data,
        out=run,
        objectives=OBJECTIVES[objective],
        epochs=epochs,
        seed=seed,
        student_modality=arguments.student_modality,
        evaluate_every=epochs,
        quiet=True,
        **settings,
    )
    bits = correct_bits(run, data)
    return {
        "cell": cell, "seed": seed, "teacher": arguments.teacher, "student": arguments.student,
        "modality": arguments.student_modality,
        "objectives": {name: entry.model_dump(exclude_unset=True) for name, entry in result.config.objectives.items()},
        "top1": round(100 * float(bits.mean()), 4), "images": len(bits),
        "wall_seconds": round(time.perf_counter() - began, 1), "correct": pack_bits(bits),
    }  # fmt: skip


def runs_of(arguments: argparse.Namespace) -> Path:
    """The folder of a grid's runs."""
    return Path(arguments.runs).resolve() / arguments.grid


def table(rows: dict, epochs: list[int]) -> str:
    """For each length the cells, with the default's difference to each over the same images and seeds."""
    lines = ["| cell | n | top-1, last epoch | default − cell |", "|---|---|---|---|"]
    for cell in (f"{objective} {length}" for length in epochs for objective in OBJECTIVES):
        seeds = sorted(seed for name, seed in rows if name == cell)
        if not seeds:
            continue
        default = f"default {cell.split()[1]}"
        both = [seed for seed in seeds if (default, seed) in rows]
        difference = ""
        if cell != default and both:
            ours, theirs = (100 * np.stack([bits_of(rows[name, seed]) for seed in both]) for name in (default, cell))
            pair = paired_difference(ours, theirs)
            difference = f"{pair.mean:+.2f} (SE {pair.error:.2f})"
        top1 = mean_std([rows[cell, seed]["top1"] for seed in seeds])
        lines.append(f"| {cell} epochs | {len(seeds)} | {top1} | {difference} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", help="name of the file of rows, results/default_GRID.jsonl")
    parser.add_argument("--data", help="packed file of the students' images and of the test images")
    parser.add_argument("--teacher-data", help="packed file of the teacher's images; default: the students'")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--student-modality", help="another than the teacher's, such as chrominance")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 6, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", nargs="*", choices=OBJECTIVES, default=[*OBJECTIVES])
    parser.add_argument("--runs", default="runs/default_recipe")
    parser.add_argument("--table", action="store_true", help="print the table and train nothing")
    arguments = parser.parse_args()
    results = HERE / "results" / f"default_{arguments.grid}.jsonl"
    if not arguments.table:
        torch.set_num_threads(1)
        cells = [f"{objective} {length}" for length in arguments.epochs for objective in arguments.objectives]
        fill(
            results,
            dict.fromkeys(cells, arguments.seeds),
            lambda cell, seed: train(arguments, cell, seed),
            lambda row: f"{row['top1']:.2f} % in {row['wall_seconds']:.0f} s",
            jobs=1,
        )
    print(table(rows_of(results), arguments.epochs))


if __name__ == "__main__":
    main()
