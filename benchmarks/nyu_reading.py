"""Reading NYU-Depth V2's .mat: memory and frames a second while two workers read it, against the same frames after
`data pack`.

    python benchmarks/nyu_reading.py
    python benchmarks/nyu_reading.py --frames 300 --size 480 640
    python benchmarks/nyu_reading.py --data FOLDER      # the official files

Without --data it writes a file of the official layout: rows of 3×640×480 bytes and 640×480 floats, a chunk a frame,
gzip. Each way of reading runs in a process of its own: training batches of rgb and depth, views cut out at random,
    flipped. Memory is what
this process and its workers hold at most while they iterate, above what it held when the package had been imported:
PSS, which counts what processes share once, and RSS, which counts it in each. A rate is the median over epochs after
the first. Linux only.
"""

from __future__ import annotations

import os

# Threads that spin while they wait distort whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from contrastill.core.registry import DATASETS  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, BATCH, WORKERS, EPOCHS = 480, 640, 32, 2, 4
LIMIT_MIB = 1024


def write_set(folder: Path, frames: int) -> None:
    """Both files; pictures of several octaves of noise, as large under gzip as photographs and depth maps are."""
    import cv2
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        stored = {"chunks": True, "compression": "gzip", "compression_opts": 3}
        images = file.create_dataset(
            "images", (frames, 3, WIDTH, HEIGHT), np.uint8, **{**stored, "chunks": (1, 3, WIDTH, HEIGHT)}
        )
        depths = file.create_dataset(
            "depths", (frames, WIDTH, HEIGHT), np.float32, **{**stored, "chunks": (1, WIDTH, HEIGHT)}
        )
        for frame in range(frames):
            noise = [
                cv2.resize(rng.random((cells * 3 // 4, cells, 4), dtype=np.float32), (WIDTH, HEIGHT))
                for cells in (4, 16, 60)
            ]
            mixed = sum(octave * share for octave, share in zip(noise, (0.6, 0.3, 0.1), strict=True))
            picture = (255 * mixed[..., :3] + rng.normal(0, 2, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8)
            images[frame] = picture.transpose(2, 1, 0)
            depths[frame] = (1 + 8 * mixed[..., 3].round(3)).T
    with open(folder / "nyu_depth_v2_labeled.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    numbers = np.arange(1, frames + 1, dtype=np.uint16)[:, None]
    savemat(folder / "splits.mat", {"trainNdxs": numbers[: frames * 3 // 4], "testNdxs": numbers[frames * 3 // 4 :]})


def held_mib() -> dict[str, float]:
    """PSS and RSS of this process and its children, MiB."""
    total = {"pss": 0.0, "rss": 0.0}
    children = [
        child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    ]
    for process in ["self", *children]:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name = line.partition(":")[0].lower()
            if name in total:
                total[name] += int(line.split()[1]) / 1024
    return total


class Peak(threading.Thread):
    """The most that is held, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._done = held_mib(), threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.1):
            self.most = {name: max(value, self.most[name]) for name, value in held_mib().items()}

    def stop(self) -> dict[str, float]:
        self._done.set()
        self.join()
        return self.most


def measure(kind: str, path: str, size: list[int]) -> dict[str, float]:
    """Iterate over the training split in this process and its workers."""
    import cv2  # noqa: F401  of the imports, which are not counted

    dataset = DATASETS[kind]
    before = held_mib()
    peak, began = Peak(), time.perf_counter()
    own = {"size": size, "workers": WORKERS} if kind == "nyu_depth_v2" else {"fields": {"rgb": "rgb", "depth": "depth"}}
    split = dataset(dataset.Options(path=path, **own)).open("train")
    loader, rates, first = split.loader(batch_size=BATCH, device="cpu", train=True), [], 0.0
    for epoch in range(EPOCHS):
        start = time.perf_counter()
        seen = sum(len(batch["index"]) for batch in loader.epoch(epoch))
        if epoch:
            rates.append(seen / (time.perf_counter() - start))
        else:
            # With it the opening: what is kept in memory is read there.
            first = seen / (time.perf_counter() - began)
    most = peak.stop()
    return {"first": first, "rate": statistics.median(rates), **{name: most[name] - before[name] for name in most}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=96, help="of the file that is written")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[240, 320],
        metavar=("H", "W"),
        help="of what is handed out, and of the packed frames",
    )
    parser.add_argument("--data", type=Path, help="the folder of the official files")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child, arguments.size)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.data or Path(temporary)
        if arguments.data is None:
            write_set(folder, arguments.frames)
        packed = Path(temporary) / "packed.h5"
        began = time.perf_counter()
        size = f"size=[{arguments.size[0]},{arguments.size[1]}]"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "contrastill",
                "data",
                "pack",
                f"nyu_depth_v2:{folder}",
                packed,
                size,
                f"workers={WORKERS}",
                "-q",
            ],
            check=True,
        )
        packing = time.perf_counter() - began
        ways = {}
        for kind, path in (("nyu_depth_v2", folder), ("packed", packed)):
            command = [sys.executable, __file__, "--child", kind, str(path), "--size", *map(str, arguments.size)]
            ways[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r") as file:
            frames = len(file["images"])
            stored = (file["images"].id.get_storage_size() + file["depths"].id.get_storage_size()) / frames
    report(arguments, ways, {"frames": frames, "bytes_a_frame": round(stored), "pack_s": round(packing, 1)})


def report(arguments: argparse.Namespace, ways: dict[str, dict[str, float]], about: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    height, width = arguments.size
    print(
        f"{about['frames']} frames of 480×640, rgb and depth handed out at {height}×{width} in batches of "
        f"{BATCH}; {WORKERS} workers for the .mat"
    )
    table = Table(box=box.SIMPLE)
    for column in ("", "frames/s", "with opening, first epoch", "PSS MiB", "RSS MiB"):
        table.add_column(column, justify="right" if column else "left")
    for kind, result in ways.items():
        table.add_row(
            kind, f"{result['rate']:.0f}", f"{result['first']:.0f}", f"{result['pss']:.0f}", f"{result['rss']:.0f}"
        )
    Console().print(table)
    most = ways["nyu_depth_v2"]["pss"]
    print(
        f"packing {about['pack_s']} s; the .mat's {most:.0f} MiB {'stay under' if most < LIMIT_MIB else 'EXCEED'} "
        f"{LIMIT_MIB}"
    )
    out = ROOT / "benchmarks" / "results" / "nyu_reading.jsonl"
    rounded = {kind: {name: round(value, 1) for name, value in result.items()} for kind, result in ways.items()}
    row = {
        "source": "official" if arguments.data else "synthetic",
        **about,
        "size": arguments.size,
        "batch": BATCH,
        "workers": WORKERS,
    }
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "cpus": os.cpu_count(), "torch": torch.__version__, **rounded}) + "\n")


if __name__ == "__main__":
    main()
