"""Speed of the data: a batch of 64 CIFAR views and its negatives, against torchvision on PIL images and
np.random.choice.

    python benchmarks/data.py
    CONTRASTILL_DATA=/data python benchmarks/data.py --rounds 100      # /data/cifar100_subset.h5 instead of random
    pixels

The reference is what the released CRD code does for each sample: RandomCrop(32, padding=4), flip, ToTensor, Normalize,
and K of the rows of other classes without replacement. Ours: a batch of the loader, the network's own normalisation,
    and the
rule that picks the rows (offset and mask of the own class for `shared`; the marks of all drawn rows for `sampled`; the
scores themselves are the loss's and in neither time). What an epoch draws at its beginning is shared out over its
batches. All run in turn in one process; a ratio is the median over rounds of (reference / ours) of the same round. A
turn of ours is eight batches, for one is too short to time; "first" is the first of the eight alone, right after the
reference has emptied the caches.
"""

from __future__ import annotations

import os

# Threads that spin while they wait distort whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import transforms  # noqa: E402

from contrastill.core.atomic import write_text  # noqa: E402
from contrastill.core.crd.loss import CRDLoss  # noqa: E402
from contrastill.core.representation import Preprocess  # noqa: E402
from contrastill.datasets.io.in_memory import TensorSplit  # noqa: E402
from contrastill.datasets.io.views import PaddedImages, draw_views, epoch_order  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
BATCH, K, M, CLASSES = 64, 16384, 50_000, 100
TURN = 8


def load_images(folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """M images and classes: the real ones repeated where they are at hand, else random pixels."""
    path = folder / "cifar100_subset.h5"
    if path.is_file():
        with h5py.File(path) as file:
            rows = np.arange(M) % len(file["train/rgb"])
            return file["train/rgb"][()][rows], file["train/target"][()][rows], path.name
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (M, 32, 32, 3), dtype=np.uint8), rng.integers(0, CLASSES, M), "random pixels"


class Reference:
    """A sample at a time, as a Dataset's __getitem__ does it, then stacked."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets
        self.eligible = [np.flatnonzero(targets != target) for target in range(CLASSES)]
        steps = [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
        self.transform = transforms.Compose(steps)

    def views(self, index: np.ndarray) -> torch.Tensor:
        return torch.stack([self.transform(Image.fromarray(self.images[row])) for row in index])

    def negatives(self, index: np.ndarray) -> torch.Tensor:
        drawn = [np.random.choice(self.eligible[self.targets[row]], K, replace=False) for row in index]
        return torch.stack([torch.from_numpy(np.hstack(([row], rows))) for row, rows in zip(index, drawn, strict=True)])


class Marks:
    """Stands where the loss sums: lets a rule pick its rows and mark them, and has no scores to apply the marks to."""

    dtype, device = torch.float32, torch.device("cpu")
    chunk = 4096

    def __init__(self) -> None:
        self._scratch = torch.empty(BATCH, self.chunk)
        self._buffers: dict[str, torch.Tensor] = {}

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return ((low, min(low + self.chunk, stop)) for low in range(start, stop, self.chunk))

    def scratch(self, columns: int) -> torch.Tensor:
        return self._scratch[:, :columns]

    def buffer(self, name: str, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        if name not in self._buffers:
            self._buffers[name] = torch.empty(shape, dtype=dtype)
        return self._buffers[name]

    def add(self, rows: torch.Tensor, exclude=None, counts=None) -> None:
        if exclude is not None:
            exclude(self)

    def mul_(self, marks: torch.Tensor) -> None:
        pass


class Ours:
    """The loader, the normalisation and the rules of the loss."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        padded = PaddedImages.zeros(M, 32, 32, 3, dtype=torch.uint8, padding=4)
        padded.interior[:] = torch.from_numpy(images)
        labels = torch.from_numpy(targets.astype(np.int64))
        self.loader = TensorSplit({"rgb": padded}, targets=labels, num_classes=CLASSES, flip=True).loader(
            batch_size=BATCH, device="cpu", train=True
        )
        self.preprocess = Preprocess(MEAN, STD)
        self.losses = {
            name: CRDLoss(256, 256, targets=labels, num_negatives=K, negatives=name) for name in ("shared", "sampled")
        }
        self.marks = Marks()
        self.batches, self.steps = iter(()), 0

    def batch(self) -> dict[str, torch.Tensor]:
        """The next full batch; an epoch's beginning is timed by itself."""
        batch = next(self.batches, None)
        if batch is None or len(batch["index"]) < BATCH:
            self.batches = self.loader.epoch(self.steps)
            batch = next(self.batches)
        self.steps += 1
        return batch

    def negatives(self, name: str, index: torch.Tensor) -> None:
        bank, rule = self.losses[name].bank, self.losses[name].rule
        rule(rule.anchors(index, bank.places(index)), bank.rows.detach(), self.marks, self.steps)

    def epoch_share(self) -> float:
        """Seconds a batch of what an epoch draws at its beginning."""
        draw = timed(lambda: draw_views(0, 0, epoch_order(0, 0, M), padding=4, flip=True))
        return min(draw() for _ in range(5)) / len(self.loader)


def timed(call):
    def run(*arguments) -> float:
        began = time.perf_counter()
        call(*arguments)
        return time.perf_counter() - began

    return run


def one_batch(ours: Ours, share: float) -> dict[str, float]:
    """Seconds of each part of one batch of ours."""
    began = time.perf_counter()
    batch = ours.batch()
    cut = time.perf_counter()
    ours.preprocess(batch["rgb"])
    row = {"crop and flip": cut - began + share, "normalise": time.perf_counter() - cut}
    return row | {name: timed(ours.negatives)(name, batch["index"]) for name in ours.losses}


def measure(reference: Reference, ours: Ours, rounds: int) -> dict[str, np.ndarray]:
    """Seconds a batch of each part in each round."""
    share = ours.epoch_share()
    rng = np.random.default_rng(1)
    rows = []
    ours.batch()
    for _ in range(rounds + 3):
        index = rng.permutation(M)[:BATCH]
        row = {"PIL views": timed(reference.views)(index), "choice": timed(reference.negatives)(index)}
        turn = [one_batch(ours, share) for _ in range(TURN)]
        row |= {f"{name}, first": value for name, value in turn[0].items()}
        rows.append(row | {name: statistics.fmean(batch[name] for batch in turn) for name in turn[0]})
    return {name: np.array([row[name] for row in rows[3:]]) for name in rows[0]}


def compare(parts: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is set against what: name -> seconds of the reference, seconds of ours."""
    both = parts["PIL views"] + parts["choice"]
    compared = {}
    for when in ("", ", first"):
        views = parts[f"crop and flip{when}"] + parts[f"normalise{when}"]
        compared[f"views{when}"] = parts["PIL views"], views
        compared |= {f"views + {rule}{when}": (both, views + parts[rule + when]) for rule in ("shared", "sampled")}
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "data.json")
    parser.add_argument("--threads", type=int, default=1, help="of ours; PIL and np.random.choice use one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, targets, source = load_images(Path(os.environ.get("CONTRASTILL_DATA", ROOT.parent / "shared" / "data")))
    parts = measure(Reference(images, targets), Ours(images, targets), options.rounds)
    print(
        f"{BATCH} views and {K} negatives of M={M}; {source}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; {options.rounds} rounds"
    )
    for name, values in parts.items():
        print(f"{name:24} {1e3 * np.median(values):8.3f} ms")
    print(f"\n{'':24} {'reference':>12} {'ours':>12} {'ratio':>8}")
    ratios = {}
    for name, (theirs, own) in compare(parts).items():
        ratios[name] = float(np.median(theirs / own))
        print(f"{name:24} {1e3 * np.median(theirs):9.2f} ms {1e3 * np.median(own):9.2f} ms {ratios[name]:7.0f}×")
    result = {
        "source": source,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "median_ms": {name: 1e3 * float(np.median(values)) for name, values in parts.items()},
        "ratio": ratios,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
