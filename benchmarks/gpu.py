"""The GPU check: what only a GPU can show and what was never measured on one, in at most eight minutes, without a
download.

    python benchmarks/gpu.py                           # on a machine with a GPU; rows go to results/gpu.jsonl
    python benchmarks/gpu.py --cpu-rehearsal           # all of it, small, on a CPU
    python benchmarks/gpu.py --table                   # the rows as Markdown tables
    pip download --dest wheels -r benchmarks/gpu_requirements.txt      # where there is a network, and then
    pip install --no-index -f wheels -r benchmarks/gpu_requirements.txt

Each part runs in a process of its own under a time limit of its own, and each of its rows is in the file as soon as it
is measured: what fails or takes too long costs its own rows alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "gpu_requirements.txt"
# Seconds that each part may take; together they are less than eight minutes.
LIMITS = {"loss": 110, "step": 190, "processes": 60, "tests": 110}
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}


def missing() -> list[str]:
    """The packages of gpu_requirements.txt that this interpreter lacks."""
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    names = [line.split(">")[0].split("=")[0] for line in lines if line]
    return [name for name in names if importlib.util.find_spec(MODULES.get(name, name.replace("-", "_"))) is None]


def run_part(part: str, arguments: argparse.Namespace, facts: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """The rows of one part, each appended to a file as it comes; the last one says how the part ended."""
    command = [sys.executable, str(HERE / "gpu_parts.py"), part, *(["--cpu-rehearsal"] * arguments.cpu_rehearsal)]
    # A rehearsal on a busy CPU only has to end.
    limit = LIMITS[part] * arguments.patience * (10 if arguments.cpu_rehearsal else 1)
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment()
        )

        def stop() -> None:
            stopped.set()
            os.killpg(process.pid, signal.SIGKILL)

        stopped, timer = threading.Event(), threading.Timer(limit, stop)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                rows.append({**facts, "part": part, **json.loads(line)})
                append(out, rows[-1])
                print(f"{part}: {shown(rows[-1])}", flush=True)
        process.wait()
        timer.cancel()
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:]
    end = "time limit" if stopped.is_set() else "" if process.returncode == 0 else f"exit code {process.returncode}"
    row = {**facts, "part": part, "ended": end or "complete", "seconds": round(time.perf_counter() - began, 1)}
    if end and last:
        row["error"] = last[0][:900]
    append(out, row)
    print(f"{part}: {row['ended']} after {row['seconds']:.0f} s {row.get('error', '')}", flush=True)
    return [*rows, row]


def environment() -> dict[str, str]:
    """That of the parts: the package is this checkout, under its name, also where it is not installed."""
    folder = Path(tempfile.gettempdir()) / f"contrastill-gpu-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    link = folder / "contrastill"
    if not link.is_symlink() or link.resolve() != HERE.parent:
        link.unlink(missing_ok=True)
        link.symlink_to(HERE.parent)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "passive"}


def append(out: Path, row: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def shown(row: dict[str, Any]) -> str:
    """A row in a line, without what all rows have."""
    return ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("part", "device", "torch", "time"))


def tables(rows: list[dict[str, Any]]) -> str:
    """The rows of each part as a Markdown table."""
    written = []
    for part in LIMITS:
        chosen = [row for row in rows if row["part"] == part and "ended" not in row]
        ends = [row for row in rows if row["part"] == part and "ended" in row]
        if ends:
            written.append(f"**{part}**, {ends[-1]['ended']} after {ends[-1]['seconds']:.0f} s")
        if chosen:
            columns = [key for key in dict.fromkeys(key for row in chosen for key in row) if key != "part"]
            columns = [key for key in columns if key not in ("device", "torch", "time")]
            lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines += [f"| {' | '.join(str(row.get(key, '')) for key in columns)} |" for row in chosen]
            written.append("\n".join(lines))
    return "\n\n".join(written)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-rehearsal", action="store_true", help="small, on a CPU")
    parser.add_argument("--parts", nargs="*", choices=LIMITS, default=list(LIMITS), help="only these, in this order")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on every time limit")
    parser.add_argument("--out", type=Path, help="file of rows; default: results/gpu.jsonl, or gpu_rehearsal.jsonl")
    parser.add_argument("--table", action="store_true", help="print the tables and measure nothing")
    arguments = parser.parse_args()
    name = "gpu_rehearsal.jsonl" if arguments.cpu_rehearsal else "gpu.jsonl"
    out = arguments.out or HERE / "results" / name
    if arguments.table:
        print(tables([json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]))
        return 0
    if lacking := missing():
        print(f"this Python lacks {', '.join(lacking)}: pip install -r {REQUIREMENTS}", file=sys.stderr)
        return 1
    import torch

    if not arguments.cpu_rehearsal and not torch.cuda.is_available():
        print("there is no GPU that PyTorch can use: --cpu-rehearsal runs all parts small", file=sys.stderr)
        return 1
    device = "cpu" if arguments.cpu_rehearsal else torch.cuda.get_device_name()
    facts = {"device": device, "torch": torch.__version__, "time": time.strftime("%Y-%m-%d %H:%M")}
    rows = [row for part in arguments.parts for row in run_part(part, arguments, facts, out)]
    print(f"\n{device}, torch {torch.__version__}\n\n{tables(rows)}")
    failed = [row for row in rows if row.get("ended", "complete") != "complete" or row.get("failed")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
