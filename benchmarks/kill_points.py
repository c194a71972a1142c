"""Kills a run with SIGKILL at many points, resumes it, and compares every tensor with a run that was never killed.

    python benchmarks/kill_points.py
    python benchmarks/kill_points.py --points 50 --seed 1

Each point is one run of its own: killed once at a random step, between the files of a checkpoint, before or after anything gets
its final name, or after a row of metrics.jsonl; then the same command is given again. The data are random pixels.
"""

from __future__ import annotations

import argparse
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
# How often each of tests/dying.py's events happens in the run below.
EVENTS = {"step": 15, "file": 36, "replace": 12, "replaced": 12, "row": 3}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def train(folder: Path, out: Path, point: str | None = None) -> int:
    """Run the training, killed at ``point``; the exit code."""
    arguments = ["train", "compression/cifar100_crd", f"data.path={folder / 'data.h5'}", "teachers.0.model=resnet8", f"teachers.0.weights={folder / 'teacher'}",
                 "student.model=resnet8", "objectives.crd.num_negatives=16", "objectives.crd.negatives=sampled", "train.epochs=3", "train.batch_size=16",
                 "train.checkpoint_every_steps=2", f"out={out}", "-q"]  # fmt: skip
    program = [str(ROOT / "tests" / "dying.py"), point] if point else ["-m", "contrastill"]
    return subprocess.run([sys.executable, *program, *arguments], env=ENVIRONMENT, cwd=folder, stderr=subprocess.DEVNULL, check=False).returncode


def differences(one: Path, other: Path) -> list[str]:
    """Files and tensors in which two runs differ."""
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    found = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    different = [str(path) for path in set(files) ^ set(found)]
    for name in (file for file in files if file.suffix == ".safetensors" and file in found):
        expected, given = load_file(one / name), load_file(other / name)
        different += [f"{name}:{key}" for key, value in expected.items() if key not in given or not value.equal(given[key])]
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, failed = random.Random(options.seed), 0
    everything = [f"{event}:{count}" for event, times in EVENTS.items() for count in range(1, times + 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0)
        with h5py.File(folder / "data.h5", "w") as file:
            for split, count in (("train", 80), ("test", 16)):
                file[f"{split}/rgb"] = pixels.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
                file[f"{split}/target"] = np.arange(count) % 4
        made = ["train", "teachers/cifar100", f"data.path={folder / 'data.h5'}", "student.model=resnet8", "train.epochs=1", f"out={folder / 'teacher'}", "-q"]
        subprocess.run([sys.executable, "-m", "contrastill", *made], env=ENVIRONMENT, cwd=folder, check=True)
        if train(folder, folder / "whole"):
            raise SystemExit("the run that is never killed failed: run it by hand")
        for number, point in enumerate(draw.sample(everything, min(options.points, len(everything))), 1):
            out = folder / f"killed-{number}"
            killed, resumed = train(folder, out, point), train(folder, out)
            different = differences(folder / "whole", out)
            good = killed == -signal.SIGKILL and resumed == 0 and not different
            failed += not good
            said = "the same bits" if good else f"killed {killed}, resumed {resumed}, different: {', '.join(different[:5]) or 'nothing'}"
            print(f"{number:2d} {point:12s} {said}", flush=True)
    print(f"{failed} of {options.points} differ" if failed else f"all {options.points} ended in the same bits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
