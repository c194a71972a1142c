"""How time and memory of the CRD loss grow: rows M, negatives K, batch B, processes n, and the placement and precision
of the bank.

    python benchmarks/scaling.py                       # every case that is not in the results yet
    python benchmarks/scaling.py --cases M --rounds 5
    python benchmarks/scaling.py --draw                # the figure alone

Each case runs in processes of its own, unlabelled, D = 128, features of 256 and 256 values at random: forward, backward
and the bank's update. Time is the median over rounds of the slowest rank; memory the largest resident size of a rank
beyond that of a process that has only imported the library and joined the others, so it holds banks, tables and all
temporaries. Ranks share this machine's cores: more of them show the memory and what is sent, not a speed-up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling.jsonl"
BASE = {"M": 100_000, "K": 4096, "B": 64, "n": 1, "negatives": "shared", "placement": "replicated", "dtype": "fp32"}
CASES = {
    "M": [
        {"M": M, "negatives": negatives}
        for M in (10_000, 100_000, 1_000_000, 10_000_000)
        for negatives in ("shared", "sampled", "all")
    ],
    "K": [
        {"K": K, "negatives": negatives} for K in (256, 1024, 4096, 16384, 65536) for negatives in ("shared", "sampled")
    ],
    "B": [{"B": B} for B in (16, 64, 256, 1024)],
    "n": [
        {"M": 1_000_000, "n": n, "placement": placement} for placement in ("replicated", "sharded") for n in (1, 2, 4)
    ],
    "dtype": [{"M": 1_000_000, "dtype": dtype} for dtype in ("fp32", "fp16", "bf16")],
    "17M": [{"M": 17_000_000, "K": 16384, "dtype": dtype} for dtype in ("fp32", "fp16")],
}


def measure(case: dict, rank: int, folder: str, rounds: int) -> None:
    """One rank of one case; writes times, sizes and what it took to set up."""
    import resource
    import time

    import torch

    from contrastill.core.crd.loss import CRDLoss

    if case["n"] > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=case["n"]
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    crd = CRDLoss(
        256,
        256,
        num_samples=case["M"],
        num_negatives=case["K"],
        negatives=case["negatives"],
        bank_placement=case["placement"],
        bank_dtype=case["dtype"],
    )
    built = time.perf_counter() - began
    share, times = case["B"] // case["n"], []
    generator = torch.Generator().manual_seed(rank)
    for _ in range(rounds + 2):
        student, teacher = (torch.randn(share, 256, generator=generator, requires_grad=True) for _ in range(2))
        index = torch.randint(case["M"], (share,), generator=generator)
        if case["n"] > 1:
            torch.distributed.barrier()
        began = time.perf_counter()
        crd(student, teacher, index).backward()
        times.append(1e3 * (time.perf_counter() - began))
    row = {
        "times": times[2:],
        "built": built,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
        "rows": crd.bank.memory.nbytes,
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(row))
    if case["n"] > 1:
        torch.distributed.destroy_process_group()


def run(case: dict, rounds: int) -> dict:
    """A case in its processes."""
    with tempfile.TemporaryDirectory() as folder:
        threads = max(1, (os.cpu_count() or 1) // case["n"])
        environment = {
            **os.environ,
            "OMP_WAIT_POLICY": "passive",
            "OMP_NUM_THREADS": str(threads),
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONWARNINGS": "ignore",
        }
        command = [
            sys.executable,
            __file__,
            "--rounds",
            str(rounds),
            "--case",
            json.dumps(case),
            "--folder",
            folder,
            "--rank",
        ]
        ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(case["n"])]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            return case | {"failed": codes}
        results = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(case["n"])]
    slowest = [max(times) for times in zip(*(result["times"] for result in results), strict=True)]
    return case | {
        "ms": round(statistics.median(slowest), 2),
        "rounds": rounds,
        "seconds_to_build": round(max(result["built"] for result in results), 2),
        "mb": round(max(result["memory"] for result in results) / 1e6, 1),
        "mb_of_rows": round(max(result["rows"] for result in results) / 1e6, 1),
        "threads": threads,
    }


def draw(rows: list[dict], path: Path) -> None:
    """Time and memory against M, K, B and the number of processes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {
        "shared": ("#0072b2", "o"),
        "sampled": ("#d55e00", "s"),
        "all": ("#009e73", "^"),
        "replicated": ("#0072b2", "o"),
        "sharded": ("#cc79a7", "D"),
    }
    names = {"M": "rows M", "K": "negatives K", "B": "batch B", "n": "processes n"}
    figure, axes = plt.subplots(2, 4, figsize=(15, 6.4), sharey="row", layout="constrained")
    for column, (key, label) in enumerate(names.items()):
        by = "placement" if key == "n" else "negatives"
        cases = [BASE | case for case in CASES[key]]
        for kind in dict.fromkeys(case[by] for case in cases):
            line = sorted(
                (
                    row
                    for row in rows
                    if row[by] == kind and any(all(row[k] == v for k, v in case.items()) for case in cases)
                ),
                key=lambda row: row[key],
            )
            colour, marker = styles[kind]
            for axis, what in zip(axes[:, column], ("ms", "mb"), strict=True):
                axis.plot(
                    [row[key] for row in line], [row[what] for row in line], color=colour, marker=marker, label=kind
                )
        fixed = {k: v for k, v in (BASE | CASES[key][0]).items() if k in names and k != key}
        axes[0, column].set_title(", ".join(f"{k} = {v:,}".replace(",", " ") for k, v in fixed.items()), fontsize=9)
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2 if key == "n" else 10)
            axis.set_yscale("log")
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
            if key == "n":
                axis.set_xticks([1, 2, 4], ["1", "2", "4"])
        axes[0, column].legend(fontsize=8)
    axes[0, 0].set_ylabel("time of a step's loss, ms")
    axes[1, 0].set_ylabel("memory of a rank, MB")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--draw", action="store_true", help="only draw what is there")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "scaling.png")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        return measure(json.loads(arguments.case), arguments.rank, arguments.folder, arguments.rounds)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for name in () if arguments.draw else arguments.cases.split(","):
        for case in (BASE | changes for changes in CASES[name]):
            if any(all(row[key] == value for key, value in case.items()) for row in rows):
                continue
            row = run(case, arguments.rounds)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            if "failed" not in row:
                rows.append(row)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    draw(rows, arguments.figure)
    print(f"written: {arguments.figure}")


if __name__ == "__main__":
    main()
