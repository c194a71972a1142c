"""A resumable grid of trainings: every finished run is one JSON row; a second call trains only what is missing.

    python benchmarks/grid.py cifar100_subset --data ../shared/data/cifar100_subset.h5 --jobs 2
    python benchmarks/grid.py cifar100_subset --table

Each cell is one `contrastill train` command, run in a process of its own. A row holds the command, the metrics of the
last epoch and, packed into hexadecimal digits, which test images the network got right, so that two cells can be
compared image by image.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from cells import fill, parser, rows_of, timed
from grids import GRIDS

from contrastill.compress.results import bits_of, pack_bits
from contrastill.core.statistics import PairedDifference, mean_std, paired_difference

HERE = Path(__file__).resolve().parent


def correct_bits(run: Path, data: str) -> np.ndarray:
    """(N,) bool: which test images the run's student gets right."""
    import torch

    from contrastill.core.registry import DATASETS
    from contrastill.models.build import build_network

    packed = DATASETS["packed"]
    split = packed(packed.Options(path=data)).open("test")
    student = _config(run)["student"]
    network = build_network(
        student["model"], num_classes=split.num_classes, weights=str(run), resolution=student["resolution"]
    ).freeze()
    right = []
    for batch in split.loader(batch_size=500, device="cpu", train=False).epoch(0):
        right.append((network(batch, frozenset({"logits"})).logits.argmax(1) == batch["target"]).cpu())
    return torch.cat(right).numpy()


def _config(run: Path) -> dict:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))


def train_cell(name: str, cell: str, seed: int, data: str, runs: Path, threads: int) -> dict:
    """Train one cell and return its row."""
    grid = GRIDS[name]
    config, overrides, _ = grid["cells"][cell]
    run = runs / f"{cell}-{seed}"
    overrides = [override.replace("{runs}", str(runs)) for override in overrides]
    command = [
        "contrastill",
        "train",
        config,
        f"data.path={data}",
        *overrides,
        *grid["schedule"],
        f"seed={seed}",
        f"out={run}",
    ]
    began = time.perf_counter()
    answer, cpu_seconds = timed([*command, "--json"], threads)
    last = json.loads(answer.splitlines()[-1])
    bits = correct_bits(run, data)
    shown = " ".join(command).replace(f"{runs}/", "runs/").replace(data, Path(data).name)
    return {
        "cell": cell, "seed": seed, "command": shown, "top1": round(100 * float(bits.mean()), 4),
        "logged_top1": last["top1"], "images": len(bits),
        "epochs": last["epoch"] + 1, "loss": last["loss"], "samples_per_second": last["samples_per_second"],
        "wall_seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(cpu_seconds, 1),
        "threads": threads, "correct": pack_bits(bits),
    }  # fmt: skip


def paired(rows: dict, cell: str, baseline: str) -> PairedDifference | None:
    """Difference in points over the same images and seeds; None where no seed is in both."""
    seeds = sorted({s for c, s in rows if c == cell} & {s for c, s in rows if c == baseline})
    if not seeds:
        return None
    correct, other = (100 * np.stack([bits_of(rows[name, seed]) for seed in seeds]) for name in (cell, baseline))
    return paired_difference(correct, other)


def table(name: str, rows: dict) -> str:
    """The grid as a Markdown table."""
    cells = GRIDS[name]["cells"]
    baselines = [
        cell for cell in ("untaught", "baseline", "kd", "kd_1", "crd_1", "infonce", "wttm") if cell in cells
    ] or [next(iter(cells))]
    lines = [
        f"| cell | n | top-1, last epoch | {' | '.join(f'− {cell}' for cell in baselines)} |",
        "|---|---|---|" + "---|" * len(baselines),
    ]
    for cell in cells:
        values = [row["top1"] for (c, _), row in sorted(rows.items()) if c == cell]
        if not values:
            continue
        columns = []
        for against in baselines:
            pair = paired(rows, cell, against) if cell != against and not cell.startswith("teacher") else None
            columns.append(f"{pair.mean:+.2f} (SE {pair.error:.2f})" if pair else "")
        lines.append(f"| {cell} | {len(values)} | {mean_std(values)} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    known = parser(__doc__, GRIDS, "runs/grid")
    known.add_argument("--data", default=os.environ.get("CONTRASTILL_DATA", "../shared/data") + "/cifar100_subset.h5")
    arguments = known.parse_args()
    results = HERE / "results" / f"{arguments.grid}.jsonl"
    runs, data = Path(arguments.runs).resolve(), str(Path(arguments.data).resolve())
    cells = {cell: min(seeds, arguments.seeds) for cell, (_, _, seeds) in GRIDS[arguments.grid]["cells"].items()}
    for first in (True, False):  # the teachers, then their students
        selected = {
            cell: seeds
            for cell, seeds in cells.items()
            if cell.startswith("teacher") == first and cell in (arguments.cells or cells)
        }
        if not arguments.table:
            fill(
                results,
                selected,
                lambda cell, seed: train_cell(arguments.grid, cell, seed, data, runs, arguments.threads),
                lambda row: f"{row['top1']:.2f} % in {row['wall_seconds']:.0f} s",
                jobs=arguments.jobs,
            )
    print(table(arguments.grid, rows_of(results)))


if __name__ == "__main__":
    main()
