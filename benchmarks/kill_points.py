"""Kills runs with SIGKILL at random points, resumes them, and compares every tensor with a run that was never killed.

    python benchmarks/kill_points.py --points 100
    python benchmarks/kill_points.py --points 5 --seed 1

Each point is a run of its own, killed one to three times in a row before the same command is given a last time. Half of
the kills are at an event of tests/helpers/dying.py (after a step, between the files of a checkpoint, before or after
anything gets its final name, after a row of metrics.jsonl); the others before the N-th call of a function of `core`, N
being drawn from all calls of a whole run. A run that ends before its kill comes is compared as it is. The data are
random pixels. Each point is a row of benchmarks/results/kill_points.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
# How often each of tests/helpers/dying.py's events happens in the run below.
EVENTS = {"step": 15, "file": 36, "replace": 13, "replaced": 13, "row": 3}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def call(at: int, arguments: list[str]) -> int:
    """Run a command in this process and kill it before the ``at``-th call of a function of `core`; 0: say how many
    there were.
    """
    import contrastill
    from contrastill.cli.main import main

    # As its modules are named, which may be through a link to this checkout.
    folder, calls = os.path.join(os.path.dirname(contrastill.__file__), "core") + os.sep, 0

    def count(frame, event, _):
        nonlocal calls
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    code = main(arguments)
    sys.setprofile(None)
    if not at:
        print(calls)
    return code


def train(folder: Path, out: Path, point: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the training, killed at ``point``."""
    arguments = ["train", "compression/cifar100_crd", f"data.path={folder / 'data.h5'}", "teachers.0.model=resnet8",
        f"teachers.0.weights={folder / 'teacher'}",
                 "student.model=resnet8", "objectives.crd.num_negatives=16", "objectives.crd.negatives=sampled",
                 "train.epochs=3", "train.batch_size=16",
                 "train.checkpoint_every_steps=2", f"out={out}", "-q"]  # fmt: skip
    what, _, at = (point or "").partition(":")
    program = ["-m", "contrastill"] if point is None else [str(Path(__file__).resolve()), "--call",
        at] if what == "call" else [
        str(ROOT / "tests" / "dying.py"), point]  # fmt: skip
    return subprocess.run(
        [sys.executable, *program, *arguments], env=ENVIRONMENT, cwd=folder, capture_output=True, text=True
    )


def differences(folder: Path, other: Path) -> list[str]:
    """Files, tensors and rows in which two runs differ."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    other_files = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    different = [str(path) for path in set(files) ^ set(other_files)]
    for name in (file for file in files if file.suffix == ".safetensors" and file in other_files):
        expected, actual = load_file(folder / name), load_file(other / name)
        different += [
            f"{name}:{key}" for key, value in expected.items() if key not in actual or not value.equal(actual[key])
        ]
    rows = [_rows(path / "metrics.jsonl") for path in (folder, other)]
    return different + ([] if rows[0] == rows[1] else ["metrics.jsonl"])


def _rows(path: Path) -> list[dict]:
    """Without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [{key: value for key, value in row.items() if key not in ("seconds", "samples_per_second")} for row in rows]


def draw_point(draw: random.Random, calls: int) -> str:
    """Where a run is killed."""
    if draw.random() < 0.5:
        return f"call:{draw.randint(1, calls)}"
    return draw.choice([f"{event}:{count}" for event, times in EVENTS.items() for count in range(1, times + 1)])


def prepare(folder: Path) -> int:
    """Data, teacher and the run that is never killed; how many calls there are in one."""
    pixels = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        for split, count in (("train", 80), ("test", 16)):
            file[f"{split}/rgb"] = pixels.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(count) % 4
    command = [
        "train",
        "teachers/cifar100",
        f"data.path={folder / 'data.h5'}",
        "student.model=resnet8",
        "train.epochs=1",
        f"out={folder / 'teacher'}",
        "-q",
    ]
    subprocess.run([sys.executable, "-m", "contrastill", *command], env=ENVIRONMENT, cwd=folder, check=True)
    uninterrupted, counted = train(folder, folder / "whole"), train(folder, folder / "counted", "call:0")
    if uninterrupted.returncode or counted.returncode or differences(folder / "whole", folder / "counted"):
        raise SystemExit(
            f"the run that is never killed failed: {(uninterrupted.stderr + counted.stderr).strip()[-500:]}"
        )
    return int(counted.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kill_points.jsonl")
    options = parser.parse_args()
    draw, failed, kills = random.Random(options.seed), 0, 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, open(options.out, "w", encoding="utf-8") as results:
        folder = Path(name)
        calls = prepare(folder)
        for number in range(1, options.points + 1):
            out = folder / f"killed-{number}"
            points = [draw_point(draw, calls) for _ in range(draw.choice([1, 1, 2, 3]))]
            codes = [train(folder, out, point).returncode for point in points]
            last = train(folder, out)
            different = differences(folder / "whole", out)
            kills += codes.count(-signal.SIGKILL)
            same = last.returncode == 0 and not different and set(codes) <= {0, -signal.SIGKILL}
            failed += not same
            row = {
                "point": number,
                "seed": options.seed,
                "kills": points,
                "codes": codes,
                "resumed": last.returncode,
                "same": same,
                "different": different[:5],
            }
            results.write(json.dumps(row) + "\n")
            results.flush()
            summary = (
                "the same bits"
                if same
                else f"resumed {last.returncode}, different: {', '.join(different[:5]) or 'nothing'}"
            )
            print(
                f"{number:3d} "
                f"{' '.join(f'{point}({code})' for point, code in zip(points, codes, strict=True)):40s} {summary}",
                flush=True,
            )
    print(
        f"{failed} of {options.points} differ"
        if failed
        else f"all {options.points} runs, killed {kills} times, ended in the same bits"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        sys.exit(call(int(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
