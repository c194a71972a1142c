"""Agglomeration on real images: several unlike teachers into one student without labels, then linear probes elsewhere;
a resumable grid.

    python benchmarks/agglomerate.py --images tiny-imagenet-100 --cifar cifar100_subset.h5 --teacher
    runs/grid/teacher_resnet20-0 python benchmarks/agglomerate.py --table

5 000 images of TinyImageNet (50 a class, the first ones) are what the student sees. Probes: 50 images a class of each
set for training, 25 for testing; of TinyImageNet others than those the student saw. A row of
benchmarks/results/agglomerate.jsonl is one network; a second call does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "agglomerate.jsonl"
CONFIG = HERE / "configs" / "agglomerate_32.yaml"
ONE = "teachers=[{model: efficientnet_lite0, weights: pretrained, resolution: 64, maps: [blocks.4]}]"

# Cell -> overrides of the training; None is the untaught student, a string a teacher.
CELLS: dict[str, list[str] | None | str] = {
    "untaught": None,
    "three teachers, PHI-S": [],
    "three teachers, not balanced": ["objectives.agglomerate.balance=none"],
    "three teachers, PHI-S, and CRD": ["objectives.crd.weight=0.1"],
    "Lite0 alone, PHI-S": [ONE],
    "teacher resnet20": "resnet20",
    "teacher Lite0": "efficientnet_lite0",
    "teacher Lite2": "efficientnet_lite2",
    "three teachers, balanced per channel": ["objectives.agglomerate.balance=per_channel"],
}


def rows_of() -> dict[str, dict[str, Any]]:
    """Finished rows by cell."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {row["cell"]: row for row in rows}


def prepare(folder: Path, images: str, cifar: str) -> dict[str, Path]:
    """The three packed files: what is looked at, and the two sets that are probed."""
    import h5py
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.h5" for name in ("seen", "tiny_imagenet", "cifar100")}
    stored = folder / "whole.h5"
    if not stored.exists():
        subprocess.run(
            [sys.executable, "-m", "contrastill", "data", "pack", f"tiny_imagenet:{images}", str(stored)], check=True
        )

    def part(source: h5py.Group, first: int, count: int) -> dict[str, np.ndarray]:
        """``count`` images of each class, from the ``first`` on."""
        target = source["target"][()]
        rows = np.sort(
            np.concatenate([np.flatnonzero(target == label)[first : first + count] for label in np.unique(target)])
        )
        return {"rgb": source["rgb"][()][rows], "target": target[rows]}

    for name, path, seen in (("tiny_imagenet", stored, 50), ("cifar100", Path(cifar), 0)):
        with h5py.File(path) as source, h5py.File(files[name], "w") as file:
            for split, first, count in (("train", seen, 50), ("test", 0, 25)):
                for field, values in part(source[split], first, count).items():
                    file[f"{split}/{field}"] = values
            file.attrs["classes"] = list(source.attrs["classes"])
            if seen:
                with h5py.File(files["seen"], "w") as other:
                    other["train/rgb"] = part(source["train"], 0, seen)["rgb"]
    return files


def train(cell: str, overrides: list[str], files: dict[str, Path], teacher: str, runs: Path) -> tuple[Path, str, float]:
    """One training; returns its folder, its command and its seconds."""
    run = runs / cell.replace(" ", "_").replace(",", "")
    third = [] if ONE in overrides else [f"teachers.2.weights={teacher}"]
    cache = f"train.teacher_cache={runs / 'said'}"
    command = [
        "contrastill",
        "train",
        str(CONFIG),
        f"data.path={files['seen']}",
        *third,
        cache,
        *overrides,
        f"out={run}",
    ]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command, "-q"], check=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    shown = (
        " ".join(command)
        .replace(f"{runs}/", "runs/")
        .replace(f"{HERE.parent}/", "")
        .replace(str(files["seen"].parent) + "/", "")
    )
    return run, shown, time.perf_counter() - began


def probes(network: Any, files: dict[str, Path]) -> dict[str, float]:
    """Top-1 of linear probes of a network's embedding, per cent, by data set."""
    from contrastill.core.registry import DATASETS
    from contrastill.probe.linear import linear_probe

    packed, results = DATASETS["packed"], {}
    for name in ("cifar100", "tiny_imagenet"):
        data = packed(packed.Options(path=str(files[name])))
        results[name] = round(linear_probe(network, data.open("train"), data.open("test")).top1, 2)
    return results


def network_of(cell: str, entry: list[str] | None | str, run: Path | None, teacher: str) -> Any:
    import torch

    from contrastill.models.build import build_network

    torch.manual_seed(0)
    if entry is None:
        return build_network("resnet20", num_classes=100, resolution=32).freeze()
    if isinstance(entry, list):
        return build_network("resnet20", weights=str(run)).freeze()
    weights, resolution = (teacher, 32) if entry == "resnet20" else ("pretrained", 64)
    return build_network(entry, weights=weights, resolution=resolution).freeze()


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| network | n | linear probe, CIFAR-100 | TinyImageNet |", "|---|---|---|---|"]
    lines += [
        f"| {cell} | 1 | {rows[cell]['cifar100']:.1f} | {rows[cell]['tiny_imagenet']:.1f} |"
        for cell in CELLS
        if cell in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="folder of TinyImageNet")
    parser.add_argument("--cifar", default=os.environ.get("CONTRASTILL_DATA", "../shared/data") + "/cifar100_subset.h5")
    parser.add_argument("--teacher", help="run of a resnet20 trained on CIFAR-100")
    parser.add_argument("--runs", default="runs/agglomerate")
    parser.add_argument("--cells", nargs="*", help="only these")
    parser.add_argument("--table", action="store_true", help="print the table and train nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        if not (arguments.images and arguments.teacher):
            sys.exit("name the images and the teacher: --images FOLDER --teacher RUN")
        runs = Path(arguments.runs).resolve()
        teacher = str(Path(arguments.teacher).resolve())
        files = prepare(runs / "data", arguments.images, arguments.cifar)
        for cell, entry in CELLS.items():
            if cell in rows_of() or (arguments.cells and cell not in arguments.cells):
                continue
            run, command, seconds = (
                train(cell, entry, files, teacher, runs) if isinstance(entry, list) else (None, "", 0.0)
            )
            row = {
                "cell": cell,
                "command": command,
                "train_seconds": round(seconds, 1),
                **probes(network_of(cell, entry, run, teacher), files),
            }
            with open(RESULTS, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    print(table(rows_of()))


if __name__ == "__main__":
    main()
