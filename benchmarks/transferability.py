"""What the students of `grid.py cifar100_subset_cosine` (or `contrast_probe`) and their teacher are worth on other
data: linear probes, of the first seed of every layer; a resumable grid.

    python benchmarks/transferability.py --runs runs/grid --data tiny-imagenet-100
    python benchmarks/transferability.py --grid contrast_probe --runs runs/grid --data tiny-imagenet-100
    python benchmarks/transferability.py --table
    python benchmarks/transferability.py --anchor --data cifar100_subset.h5

A row of benchmarks/results/transferability.jsonl (transferability_contrast_probe.jsonl) is one layer of one network
under one protocol; for the embedding it holds which test images were classified correctly, so that two cells can be
compared image by image. --anchor probes EfficientNet-Lite0 with its ImageNet weights on CIFAR-100 instead.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from grid import paired

from contrastill.compress.results import pack_bits
from contrastill.core.statistics import mean_std

HERE = Path(__file__).resolve().parent
ANCHOR = HERE / "results" / "anchor.jsonl"
# The results' file of each grid, and its cells with their seeds.
GRIDS = {
    "cifar100_subset_cosine": ("transferability", {"teacher": 1, "untaught": 3, "kd": 3, "crd": 3, "crd_kd": 3}),
    "contrast_probe": (
        "transferability_contrast_probe",
        {"teacher": 1, "baseline": 3, "kd": 3, "whitened": 3, "whitened_wttm": 3},
    ),
}
BASELINES = ("untaught", "baseline", "kd", "teacher")
LAYERS = ("maps.0", "maps.1", "maps.2", "maps.3", "embedding")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Finished rows."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(
    network: Any, train: Any, test: Any, protocol: str, layers: tuple[str, ...], seed: int
) -> list[dict[str, Any]]:
    """A row for each layer."""
    from contrastill.probe.linear import linear_probes

    began = time.perf_counter()
    rows = []
    for layer, result in linear_probes(
        network, train, test, layers=layers, protocol=protocol, seed=seed, spatial=2
    ).items():
        row = {
            "layer": layer,
            "protocol": protocol,
            "top1": round(result.top1, 3),
            "low": round(result.low, 2),
            "high": round(result.high, 2),
        }
        row |= {"weight_decay": result.weight_decay, "num_train": result.num_train, "images": result.num_test}
        if layer == "embedding":
            row["correct"] = pack_bits(result.correct.numpy())
        rows.append(row)
    return [row | {"seconds_of_all_layers": round(time.perf_counter() - began, 1)} for row in rows]


def probe_runs(runs: Path, data: str, size: int, results: Path, cells: dict[str, int]) -> None:
    """Probe every run that is there and not measured yet: the protocol of CRD on the embedding, the exact one too, of
    the first seed on every layer.
    """
    from contrastill.core.registry import DATASETS
    from contrastill.models.build import build_network

    done = {(row["cell"], row["seed"], row["protocol"]) for row in rows_of(results)}
    images = DATASETS["tiny_imagenet"](DATASETS["tiny_imagenet"].Options(path=data, size=size))
    train, test = images.open("train"), images.open("test")
    for cell, seeds in cells.items():
        for seed in range(seeds):
            run = runs / f"{cell}-{seed}"
            if not (run / "student.safetensors").exists():
                continue
            network = build_network("resnet20" if cell == "teacher" else "resnet8", weights=str(run)).freeze()
            for protocol, layers in (("crd", ("embedding",)), ("exact", ("embedding",) if seed else LAYERS)):
                if (cell, seed, protocol) not in done:
                    for row in measure(network, train, test, protocol, layers, seed):
                        _append(results, {"cell": cell, "seed": seed, "data": Path(data).name, **row})


def probe_anchor(data: str) -> None:
    """EfficientNet-Lite0's ImageNet features on CIFAR-100 at two resolutions, beside random weights."""
    import torch

    from contrastill.core.registry import DATASETS
    from contrastill.models.build import build_network

    packed = DATASETS["packed"](DATASETS["packed"].Options(path=data))
    train, test = packed.open("train"), packed.open("test")
    done = {(row["weights"], row["resolution"]) for row in rows_of(ANCHOR)}
    for weights, resolution in ((None, 32), ("pretrained", 32), ("pretrained", 64)):
        if (weights, resolution) in done:
            continue
        torch.manual_seed(0)
        network = build_network("efficientnet_lite0", num_classes=1000, weights=weights, resolution=resolution).freeze()
        for row in measure(network, train, test, "exact", ("embedding",), 0):
            row.pop("correct")
            _append(
                ANCHOR,
                {
                    "model": "efficientnet_lite0",
                    "weights": weights,
                    "resolution": resolution,
                    "data": Path(data).name,
                    **row,
                },
            )


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print({key: value for key, value in row.items() if key != "correct"}, flush=True)


def table(rows: list[dict[str, Any]], cells: dict[str, int]) -> str:
    """Accuracy of each cell's embedding, its difference to teacher and KD over the same images, and the accuracies by
    layer.
    """
    lines, baselines = [], [cell for cell in BASELINES if cell in cells]
    for protocol in ("crd", "exact"):
        here = {
            (row["cell"], row["seed"]): row
            for row in rows
            if row["protocol"] == protocol and row["layer"] == "embedding"
        }
        # The one teacher stands beside every seed.
        here |= {("teacher", seed): here["teacher", 0] for seed in range(3) if ("teacher", 0) in here}
        lines += [
            f"\nprotocol {protocol}, embedding\n",
            f"| cell | n | top-1 | {' | '.join(f'− {cell}' for cell in baselines)} |",
            "|---|---|---|" + "---|" * len(baselines),
        ]
        for cell in cells:
            values = [row["top1"] for (name, seed), row in here.items() if name == cell and seed < cells[cell]]
            if values:
                pairs = [
                    paired(here, cell, against) if cell not in (against, "teacher") else None for against in baselines
                ]
                shown = " | ".join(f"{pair.mean:+.2f} (SE {pair.error:.2f})" if pair else "" for pair in pairs)
                lines.append(f"| {cell} | {len(values)} | {mean_std(values)} | {shown} |")
    lines += [
        "\nprotocol exact, by layer (maps averaged to 2×2)\n",
        f"| cell | n | {' | '.join(LAYERS)} |",
        "|---|---|" + "---|" * len(LAYERS),
    ]
    for cell in cells:
        by_layer = [
            [row["top1"] for row in rows if (row["cell"], row["protocol"], row["layer"]) == (cell, "exact", layer)]
            for layer in LAYERS
        ]
        if all(by_layer):
            shown = [f"{mean_std(values):.1f}" for values in by_layer]
            lines.append(f"| {cell} | {len(by_layer[0])} | {' | '.join(shown)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], cells: dict[str, int], path: Path) -> None:
    """The accuracies by layer of each cell's first seed, with their intervals over test images."""
    from contrastill.plots.chart import Chart, series_at_places
    from contrastill.plots.png import draw_charts

    lines = []
    for cell in cells:
        here = {row["layer"]: row for row in rows if (row["cell"], row["seed"], row["protocol"]) == (cell, 0, "exact")}
        if set(LAYERS) <= set(here):
            ends = ([here[layer][key] for layer in LAYERS] for key in ("top1", "low", "high"))
            lines.append(series_at_places(cell, *ends, len(lines)))
    chart = Chart(rows[0]["data"], "layer", "top-1, %", lines, LAYERS, (0, 100), log=False)
    draw_charts([chart], path, title="linear probes of every layer; bars: 95 % intervals", legend="shared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=GRIDS, default="cifar100_subset_cosine")
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"))
    parser.add_argument("--data", default="../shared/data/tiny-imagenet-100")
    parser.add_argument("--size", type=int, default=32, help="side in pixels of the images that are probed")
    parser.add_argument("--anchor", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the table and measure nothing")
    parser.add_argument("--picture", type=Path, help="draw the accuracies by layer there")
    arguments = parser.parse_args()
    if arguments.anchor:
        return probe_anchor(arguments.data)
    name, cells = GRIDS[arguments.grid]
    results = HERE / "results" / f"{name}.jsonl"
    if not arguments.table:
        probe_runs(arguments.runs, arguments.data, arguments.size, results, cells)
    print(table(rows_of(results), cells))
    if arguments.picture:
        draw(rows_of(results), cells, arguments.picture)


if __name__ == "__main__":
    main()
