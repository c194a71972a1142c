"""Small worlds drawn at random: a data set, a teacher, a student, two objectives and a tiny training, and what each
came to, recomputed by another path.

    python tests/helpers/worlds.py --worlds 500 --seed 0 --out build/worlds

A world ends right where its training and evaluation give numbers that a naive recomputation confirms, or where it is
refused in one sentence. Anything else
is a fault: ``bare``, an exception that is none of the package's; ``wrong``, a number that the recomputation does not
    confirm; ``wordy``, a refusal that is no
one sentence. tests/test_worlds.py draws a few of them by hypothesis.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import h5py
import numpy as np
import torch
from PIL import Image

from contrastill.core.errors import ContrastillError
from contrastill.core.registry import OBJECTIVES

NAMES = ("cat", "dog", "10", "2", "zebra crossing", "Ä", "train", "00", "a.b", "no")
SECOND = {"thermal": ("uint8", "uint16", "float32"), "depth": ("uint8", "uint16", "float32")}
LAYOUTS = ("packed", "packed", "image_folder", "dataset", "paired_folder")
TEACHERS = ("untrained", "untrained", "run", "run_of_other_order", "run_of_other_names")
STUDENTS = ("resnet8", "conv5", "module")
# fsp asks for networks of the same widths, which those of a world hardly ever have, and they classify whole samples.
OBJECTIVE_NAMES = sorted(
    {name for name, entry in OBJECTIVES.items() if "prediction" not in entry.needs} - {"agglomerate", "fsp"}
)
UNLABELLED = sorted({*OBJECTIVE_NAMES} - {"cross_entropy", "dkd"})


@dataclass(frozen=True)
class World:
    """What is tried.

    Attributes:
        layout: How the data is stored.
        names: Of the classes, in the order of their numbers; None: classes without names.
        train, test: How many samples each class has.
        size: (height, width) of the images.
        ragged: Whether image files differ in size.
        grey: Whether some image files are greyscale.
        second: A further modality that the student reads, and its dtype; of packed files and of folders of pairs, which
            have no classes.
        teacher, student: ``none`` or one of TEACHERS, one of STUDENTS.
        objectives: Names, cross_entropy among them or not.
        epochs, batch_size, views, accumulation_steps, drop_last: Of ``train``.
        seed: Of the pixels and the training.
    """

    layout: str
    names: tuple[str, ...] | None
    train: tuple[int, ...]
    test: tuple[int, ...]
    size: tuple[int, int]
    ragged: bool
    grey: bool
    second: tuple[str, str] | None
    teacher: str
    student: str
    objectives: tuple[str, ...]
    epochs: int
    batch_size: int
    views: int | None
    accumulation_steps: int
    drop_last: bool
    seed: int


def draw_world(choose) -> World:
    """A world.

    Args:
        choose: From a sequence to one of its elements: ``random.choice``, or
            ``lambda options: draw(sampled_from(options))``.
    """
    classes = choose((1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4))
    layout = choose(LAYOUTS)
    start = choose(range(len(NAMES)))
    names = tuple(NAMES[(start + 3 * number) % len(NAMES)] for number in range(classes))
    # A folder's classes are numbered in the order of their names.
    names = tuple(sorted(names)) if layout == "image_folder" else names if choose((True, True, False)) else None
    second = {"packed": (None, None, "thermal", "depth"), "paired_folder": ("thermal", "depth")}.get(layout, (None,))
    second = choose(second)
    if layout == "paired_folder":
        objectives = {choose(UNLABELLED), choose(UNLABELLED)}
    else:
        objectives = {choose(OBJECTIVE_NAMES), choose(OBJECTIVE_NAMES)} | (
            {"cross_entropy"} if layout != "paired_folder" and choose((True, True, False)) else set()
        )
    teacher = "none" if choose(range(10)) == 0 else choose(TEACHERS)
    if teacher == "none" and choose((True, True, False)):
        objectives = {"cross_entropy"}
    side = choose((8, 12, 16))
    return World(
        layout=layout,
        names=names,
        train=tuple(choose((1, 3, 4, 5, 6)) for _ in range(classes)),
        test=tuple(choose((1, 2, 3)) for _ in range(classes)),
        size=(side, side) if layout == "image_folder" else (side, choose((side, 11))),
        ragged=layout == "image_folder" and choose((False, False, True)),
        grey=layout == "image_folder" and choose((False, True)),
        second=None if second is None else (second, choose(SECOND[second])),
        teacher=teacher,
        student=choose(STUDENTS),
        objectives=tuple(sorted(objectives)),
        epochs=choose((1, 2)),
        batch_size=choose((1, 2, 3, 4, 4, 8, 8)),
        views=choose((None, 1, 2)),
        accumulation_steps=choose((1, 1, 1, 1, 1, 2)),
        drop_last=choose((False, True, True)),
        seed=choose(range(1000)),
    )


@dataclass
class Outcome:
    """What a world came to.

    Attributes:
        kind: ``right``, ``refused``, ``bare``, ``wrong`` or ``wordy``.
        message: The refusal, or what is wrong.
        stage: What was being done: teacher, student, evaluation.
    """

    kind: str
    message: str = ""
    stage: str = ""


class Wrong(AssertionError):
    """A number that the naive recomputation does not confirm."""


def try_world(world: World, folder: Path) -> Outcome:
    """Train and evaluate it in an empty folder."""
    stage = ["teacher"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _live(world, folder, stage)
    except Wrong as error:
        return Outcome("wrong", str(error), stage[0])
    except ContrastillError as error:
        message = str(error)
        plain = 20 <= len(message) <= 700 and "\n" not in message and "Traceback" not in message
        return Outcome("refused" if plain else "wordy", message, stage[0])
    except Exception:
        return Outcome("bare", traceback.format_exc(), stage[0])
    return Outcome("right")


@dataclass
class Pixels:
    """A split as arrays: rgb (N, H, W, 3), a further modality (N, H, W) or None, class numbers (N,)."""

    rgb: list[np.ndarray]
    second: np.ndarray | None
    target: np.ndarray


def make_split(world: World, counts: tuple[int, ...], seed: int) -> Pixels:
    """Noise round a colour of each class, so that little training tells them apart."""
    generator = np.random.default_rng(seed)
    target = np.repeat(np.arange(len(counts)), counts)
    rgb = []
    for number in target:
        stretch = generator.integers(0, 9, 2) if world.ragged else (0, 0)
        height, width = world.size[0] + stretch[0], world.size[1] + stretch[1]
        rgb.append(np.clip(60 * (number % 4) + generator.normal(30, 20, (height, width, 3)), 0, 255).astype(np.uint8))
    if world.second is None:
        return Pixels(rgb, None, target)
    name, dtype = world.second
    values = 20.0 + 30 * target[:, None, None] + generator.normal(0, 6, (len(target), *world.size))
    scale = {"uint8": 1.0, "uint16": 30.0, "float32": 0.03}[dtype]
    return Pixels(
        rgb,
        np.clip(
            values * scale, 1e-3 if dtype == "float32" else 1, {"uint8": 254, "uint16": 20000, "float32": 100.0}[dtype]
        ).astype(dtype),
        target,
    )


class OwnDataset(torch.utils.data.Dataset):
    """A user's own, of (image, label)."""

    def __init__(self, pixels: Pixels, names: tuple[str, ...] | None) -> None:
        self.pixels = pixels
        if names is not None:
            self.classes = list(names)

    def __len__(self) -> int:
        return len(self.pixels.target)

    def __getitem__(self, index: int):
        return torch.from_numpy(self.pixels.rgb[index]).permute(2, 0, 1), int(self.pixels.target[index])


def store(world: World, names: tuple[str, ...] | None, train: Pixels, test: Pixels, folder: Path):
    """The data as it is given to a training: a path, or a pair of datasets."""
    if world.layout == "dataset":
        return OwnDataset(train, names), OwnDataset(test, names)
    if world.layout == "packed":
        path = folder / "data.h5"
        with h5py.File(path, "w") as file:
            for split, pixels in (("train", train), ("test", test)):
                file[f"{split}/rgb"] = np.stack(pixels.rgb)
                file[f"{split}/target"] = pixels.target
                if pixels.second is not None:
                    file[f"{split}/{world.second[0]}"] = pixels.second
            if names is not None:
                file.attrs["classes"] = list(names)
        return path
    root = folder / "images"
    if world.layout == "paired_folder":
        for split, pixels in (("train", train), ("test", test)):
            for place, (image, values) in enumerate(zip(pixels.rgb, pixels.second, strict=True)):
                _save(image, root / split / "rgb" / f"{place:03}")
                _save(values, root / split / world.second[0] / f"{place:03}")
        return root
    for split, pixels in (("train", train), ("test", test)):
        for place, (image, number) in enumerate(zip(pixels.rgb, pixels.target, strict=True)):
            path = root / split / names[number] / f"{place:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if world.grey and place % 2:
                image[:] = image[:, :, :1]
                Image.fromarray(image[:, :, 0]).save(path)
            else:
                Image.fromarray(image).save(path)
    return root


def _save(values: np.ndarray, path: Path) -> None:
    """A file of these values: PNG, or .npy for floats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.dtype == np.float32:
        np.save(path.with_suffix(".npy"), values)
    else:
        Image.fromarray(values).save(path.with_suffix(".png"))


def own_network(num_classes: int, channels: int, width: int = 8) -> torch.nn.Module:
    nn = torch.nn
    body = [
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
    ]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes))


def _live(world: World, folder: Path, stage: list[str]) -> None:
    from contrastill import distill

    torch.manual_seed(world.seed)
    train, test = make_split(world, world.train, world.seed), make_split(world, world.test, world.seed + 1)
    data = store(world, world.names, train, test, folder)
    modality = "rgb" if world.second is None else world.second[0]
    section = {} if world.layout == "dataset" else {"data.name": world.layout}
    # Test images as they are stored: random parts would ask for a margin round them.
    section |= {"data.size": world.size[0], "data.crop": "padded"} if world.layout == "image_folder" else {}
    fields = (
        {} if world.layout != "packed" or world.second is None else {"data.fields": {"rgb": "rgb", modality: modality}}
    )
    classes = len(world.train)
    teacher = _teacher(world, classes, folder, section)
    stage[0] = "student"
    channels = 3 if modality == "rgb" else 1
    student = own_network(classes, channels) if world.student == "module" else world.student
    result = distill(
        teacher,
        {"model": student, "modality": modality},
        data,
        out=folder / "student",
        objectives={name: {} for name in world.objectives},
        epochs=world.epochs,
        seed=world.seed,
        quiet=True,
        batch_size=world.batch_size,
        accumulation_steps=world.accumulation_steps,
        drop_last=world.drop_last,
        **({} if world.views is None else {"views": world.views}),
        **section,
        **fields,
    )
    stage[0] = "evaluation"
    _check_metrics(world, result)
    if not world.ragged:
        _check_accuracy(world, result, test, modality)
    _check_names(world, result)
    _check_scale(world, result, train, modality)
    # A run that an object of Python had a part in is not evaluated from its config.
    if world.layout == "packed" and world.student != "module" and world.teacher != "untrained":
        _check_other_order(world, result, test, folder)


def _teacher(world: World, classes: int, folder: Path, section: dict):
    """None, a module, or the run of a teacher that was trained on the same classes, in another order, or with other
    names.
    """
    from contrastill import distill

    if world.teacher == "none":
        return None
    if world.teacher == "untrained":
        return own_network(classes, 3, 12)
    place = folder / "teacher_data"
    place.mkdir()
    names = world.names
    if world.teacher == "run_of_other_order":
        names = None if names is None else names[::-1]
    elif world.teacher == "run_of_other_names":
        names = None if names is None else tuple(f"other {name}" for name in names)
    plain = replace(world, second=None, layout="image_folder" if world.layout == "paired_folder" else world.layout)
    if world.layout == "paired_folder":
        names, section = (
            tuple(f"class {number}" for number in range(classes)),
            {"data.name": "image_folder", "data.size": world.size[0], "data.crop": "padded"},
        )
    samples = [make_split(plain, tuple(3 for _ in world.train), world.seed + number) for number in (2, 3)]
    if plain.layout == "image_folder":
        # Its order is that of the names.
        names = tuple(sorted(names))
    data = store(plain, names, *samples, place)
    distill(
        None,
        "resnet14",
        data,
        out=folder / "teacher",
        objectives="cross_entropy",
        epochs=1,
        seed=world.seed,
        quiet=True,
        batch_size=4,
        **section,
    )
    return str(folder / "teacher")


def _check_metrics(world: World, result) -> None:
    rows = [json.loads(line) for line in (Path(result.out) / "metrics.jsonl").read_text().splitlines()]
    if len([row for row in rows if "epoch" in row]) < world.epochs:
        raise Wrong(f"{world.epochs} epochs and {len(rows)} rows of metrics")
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise Wrong(f"{key} is {value} in epoch {row.get('epoch')}")
    for name in world.objectives:
        if name in rows[-1] and rows[-1][name] == 0 and name not in ("ab", "factor", "fsp"):
            raise Wrong(f"{name} is 0 to the last bit")


def _check_accuracy(world: World, result, test: Pixels, modality: str) -> None:
    """top1, from the stored student, by pixels that the world made itself and its own normalisation."""
    if "top1" not in result.metrics:
        return
    images = np.stack(test.rgb) / 255 if modality == "rgb" else _physical(test.second, modality)[..., None]
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    preprocess = result.student.preprocess
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (preprocess.mean, preprocess.std))
    with torch.no_grad():
        logits = result.student.eval()((values - mean) / std)
    largest = logits.topk(min(2, logits.shape[1])).values
    close = (
        (largest[:, 0] - largest[:, -1] < 1e-4) if logits.shape[1] > 1 else torch.zeros(len(logits), dtype=torch.bool)
    )
    correct = (logits.argmax(1) == torch.from_numpy(test.target)).float()
    top1, slack = 100 * float(correct.mean()), 100 * float(close.float().mean())
    if abs(top1 - result.metrics["top1"]) > slack + 1e-3:
        raise Wrong(f"top1 is {result.metrics['top1']:.3f}, recomputed {top1:.3f}")


def _physical(values: np.ndarray, modality: str) -> np.ndarray:
    """Values as a network is given them before its normalisation: as they are stored, a depth of sixteen bits in
    metres.
    """
    return values / 1000 if modality == "depth" and values.dtype == np.uint16 else values.astype(np.float64)


def _check_names(world: World, result) -> None:
    """The student knows the names of the classes that its logits were trained on."""
    if not any("logits" in OBJECTIVES[name].needs for name in world.objectives):
        return
    names = getattr(result.student, "classes", None)
    if (
        world.names is not None
        and world.layout != "paired_folder"
        and (names is None or list(names) != list(world.names))
    ):
        raise Wrong(f"the classes of the student are {names}, those of the data {world.names}")


def _check_other_order(world: World, result, test: Pixels, folder: Path) -> None:
    """The same samples in a file whose classes are numbered in another order are as often right."""
    from contrastill.evaluation.evaluate import evaluate_runs

    if world.names is None or "top1" not in result.metrics:
        return
    order = np.arange(len(world.names))[::-1]
    place = folder / "other_order"
    place.mkdir()
    turned = replace(test, target=order[test.target])
    path = store(world, world.names[::-1], turned, turned, place)
    row = evaluate_runs([result.out], [f"data.path={path}"], progress=False).to_dict()[0]
    if abs(row.get("top1", -1) - result.metrics["top1"]) > 1e-3:
        raise Wrong(f"top1 is {result.metrics['top1']:.3f}, with the classes in another order {row.get('top1')}")


def _check_scale(world: World, result, train: Pixels, modality: str) -> None:
    """A measured modality has mean 0 and deviation 1 as the student sees it."""
    if modality == "rgb" or world.student == "module":
        return  # a user's own module normalises itself
    values = _physical(train.second, modality)
    preprocess = result.student.preprocess
    seen = (values - preprocess.mean[0]) / preprocess.std[0]
    if values.std() > 0 and (abs(seen.mean()) > 0.05 or abs(seen.std() - 1) > 0.05):
        raise Wrong(f"{modality} of {train.second.dtype} is seen as {seen.mean():.3f} ± {seen.std():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first world; each further one has the next")
    parser.add_argument(
        "--out", type=Path, required=True, help="file of one JSON row a world; those that are there are not tried again"
    )
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {row["seed"] for row in rows}
    for seed in range(arguments.seed, arguments.seed + arguments.worlds):
        if seed in done:
            continue
        world = draw_world(random.Random(seed).choice)
        folder = Path(tempfile.mkdtemp(prefix="world-"))
        outcome = try_world(world, folder)
        shutil.rmtree(folder, ignore_errors=True)
        rows.append({"seed": seed, **asdict(outcome), "world": asdict(world)})
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        if outcome.kind not in ("right", "refused"):
            print(
                f"world {seed}: {outcome.kind} at {outcome.stage}: {outcome.message.strip().splitlines()[-1]}",
                flush=True,
            )
    print(dict(Counter(row["kind"] for row in rows)))


if __name__ == "__main__":
    main()
