"""Speed of reading image files: `image_folder` against torchvision's ImageFolder in a DataLoader, images a second.

    python benchmarks/files.py
    python benchmarks/files.py --data FOLDER        # FOLDER/CLASS/*.jpg
    CONTRASTILL_DATA=/data python benchmarks/files.py --source real     # /data/tiny-imagenet-100.tar, enlarged

All cut RandomResizedCrop(224, scale 0.35 to 1), antialiased, and flip, in batches of 64 on the CPU. Two comparisons:

- `uint8`: up to a batch of bytes, where normalising is left to the device: ImageFolder with PILToTensor against ours;
- `normalised`: up to a normalised float batch: ImageFolder with ToTensor and Normalize for each image, as its examples
  are written, against ours with the network's own normalisation of the batch, in the training process.

All take turns in one process; a turn is an epoch, its first batch excluded, and with it the start of the workers, which
stay for all rounds. `v2` is ImageFolder with torchvision's own decoder and its transforms of tensors. `cached` reads
the pictures from `data.decoded_cache`, which the first round filled. A ratio is the median over rounds of (ours /
ImageFolder) of the same round.
"""

from __future__ import annotations

import os

# Threads that spin while they wait distort whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import tarfile  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets, transforms  # noqa: E402
from torchvision.io import ImageReadMode, decode_image  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from contrastill.core.representation import Preprocess  # noqa: E402
from contrastill.datasets.image_folder import ImageFolder  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, SCALE, BATCH, CLASSES = 224, (0.35, 1.0), 64, 4
QUALITY = 87


def textures(count: int, width: int, height: int) -> Iterator[Image.Image]:
    """Random textures of several octaves, as much detail at each as photographs have, so that their JPEGs are as
    long.
    """
    rng = np.random.default_rng(0)
    for _ in range(count):
        picture = np.zeros((height, width, 3))
        for cells, strength in ((4, 70), (12, 40), (36, 22), (100, 12), (300, 7)):
            noise = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
            picture += (
                strength
                / 74
                * (
                    np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), np.float64)
                    - 128
                )
            )
        yield Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8))


def photographs(archive: Path, count: int, width: int, height: int) -> Iterator[Image.Image]:
    """Photographs of 64×64, enlarged."""
    with tarfile.open(archive) as tar:
        members = [
            member for member in tar if member.isfile() and "/train/" in member.name and member.name.endswith(".JPEG")
        ]
        for place in range(count):
            encoded = tar.extractfile(members[place * len(members) // count]).read()
            yield Image.open(io.BytesIO(encoded)).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def write(pictures: Iterator[Image.Image], folder: Path) -> Path:
    for k, picture in enumerate(pictures):
        path = folder / f"class{k % CLASSES}" / f"{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=QUALITY)
    return folder


def reference(folder: Path, workers: int, *, normalised: bool) -> Callable[[int], Iterator[torch.Tensor]]:
    """Epochs of ImageFolder in a DataLoader."""
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)] if normalised else [transforms.PILToTensor()]
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE, scale=SCALE), transforms.RandomHorizontalFlip(), *last]
    )
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(datasets.ImageFolder(folder, transform), batch_size=BATCH, shuffle=True, **options)
    return lambda _: (images for images, _ in loader)


def _torchvision_pixels(path: str) -> torch.Tensor:
    return decode_image(path, mode=ImageReadMode.RGB)


def torchvision_v2(folder: Path, workers: int, *, normalised: bool) -> Callable[[int], Iterator[torch.Tensor]]:
    """The same with torchvision's own decoder, and its transforms of tensors."""
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)] if normalised else []
    transform = v2.Compose([v2.RandomResizedCrop(SIZE, scale=SCALE, antialias=True), v2.RandomHorizontalFlip(), *last])
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    files = datasets.ImageFolder(folder, transform, loader=_torchvision_pixels)
    loader = DataLoader(files, batch_size=BATCH, shuffle=True, **options)
    return lambda _: (images for images, _ in loader)


def ours(
    folder: Path, workers: int, *, normalised: bool, cache: str | None = None
) -> Callable[[int], Iterator[torch.Tensor]]:
    # Next to nothing is held out: all read the same files.
    options = {"size": SIZE, "scale": SCALE, "workers": workers, "test_fraction": 0.01, "decoded_cache": cache}
    split = ImageFolder(ImageFolder.Options(path=str(folder), **options)).open("train")
    loader = split.loader(batch_size=BATCH, device="cpu", train=True)
    normalise = Preprocess(MEAN, STD) if normalised else lambda images: images
    return lambda k: (normalise(batch["rgb"]) for batch in loader.epoch(k))


def turn(batches: Iterator[torch.Tensor]) -> float:
    """Images a second after the first batch."""
    next(batches)
    began, seen = time.perf_counter(), 0
    for images in batches:
        seen += len(images)
    return seen / (time.perf_counter() - began)


def measure(folder: Path, workers: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """What comes out -> who read -> images a second in each round."""
    kinds = {"uint8": False, "normalised": True}
    cached = partial(ours, cache=f"{folder}-decoded")
    ways = {"ImageFolder": reference, "v2": torchvision_v2, "ours": ours, "decoded_cache": cached}
    readers = {
        (kind, name): make(folder, workers, normalised=kinds[kind]) for kind in kinds for name, make in ways.items()
    }
    speeds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in ways} for kind in kinds}
    # The first round starts the workers and fills the cache of files and that of decoded pictures.
    for k in range(rounds + 1):
        for (kind, name), epoch in readers.items():
            speed = turn(epoch(k))
            if k:
                speeds[kind][name].append(speed)
    return speeds


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def report(source: str, folder: Path, rounds: int, all_workers: list[int]) -> list[dict]:
    """Measure, print a table, and return its rows."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    about = {
        "source": source,
        "files": len(sizes),
        "mean_bytes": round(statistics.fmean(sizes)),
        "batch": BATCH,
        "rounds": rounds,
    }
    about |= {"cpus": os.cpu_count(), "torch": torch.__version__}
    print(
        f"{source}: {len(sizes)} files of {about['mean_bytes'] / 1e3:.0f} kB; torch {torch.__version__}, "
        f"{os.cpu_count()} CPUs; {rounds} rounds"
    )
    print(
        f"{'images a second':24} {'ImageFolder':>12} {'v2':>8} {'ours':>8} {'ratio':>7}  least to most  cached, to ours"
    )
    rows = []
    for workers in all_workers:
        for kind, speeds in measure(folder, workers, rounds).items():
            ratios = [own / theirs for own, theirs in zip(speeds["ours"], speeds["ImageFolder"], strict=True)]
            row = {
                "workers": workers,
                "batch_of": kind,
                **{name: round(statistics.median(values), 1) for name, values in speeds.items()},
            }
            row |= {
                "ratio": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
                "cached": round(_ratio(speeds["decoded_cache"], speeds["ours"]), 2),
            }
            rows.append({**about, **row})
            name = f"{workers} workers, {kind}"
            print(
                f"{name:24} {row['ImageFolder']:12.0f} {row['v2']:8.0f} {row['ours']:8.0f} {row['ratio']:6.2f}×  "
                f"{row['least']:.2f} to {row['most']:.2f}  {row['decoded_cache']:8.0f} {row['cached']:6.2f}×",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of classes to read instead of what is made")
    parser.add_argument("--source", choices=("textures", "real"), default="textures")
    parser.add_argument("--count", type=int, default=640, help="images that are made")
    parser.add_argument("--picture", type=int, nargs=2, default=(400, 300), help="width and height of those made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "files.jsonl",
        help="a line is added for each comparison",
    )
    options = parser.parse_args()
    # ImageFolder's DataLoader has no say in this of its own: a thread in this process, as in each worker.
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with tempfile.TemporaryDirectory() as temporary:
        shape = "×".join(map(str, options.picture))
        if options.data:
            source, folder = options.data.name, options.data
        elif options.source == "real":
            archive = (
                Path(os.environ.get("CONTRASTILL_DATA", ROOT.parent / "shared" / "data")) / "tiny-imagenet-100.tar"
            )
            source, folder = (
                f"{archive.stem}, enlarged to {shape}",
                write(photographs(archive, options.count, *options.picture), Path(temporary) / "made"),
            )
        else:
            source = f"textures of {shape}"
            folder = write(textures(options.count, *options.picture), Path(temporary) / "made")
        rows = report(source, folder, options.rounds, options.workers)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
