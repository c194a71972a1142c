"""The comparisons of the demo: what each trains, measures and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.config.loading import dataset_options, load_config
from ..core.config.schema import RunConfig
from ..core.run import Run, writable_folder
from ..plots.comparison import ComparedRun, draw_comparison
from ..training.data import open_split
from ..training.run import train_unfinished
from .demo_result import Comparison, ComparisonRow
from .demo_trainings import COLOUR, DENSE, DEPTH, TRAININGS, Training
from .diversity import measure_diversity
from .diversity_result import NetworkQuality
from .evaluate import evaluate_runs
from .evaluation_result import Accuracy, ClassificationScores, DenseScores, SegmentationScores
from .messages import printer
from .probe_inputs import DataName
from .probe_report import ProbeSpec
from .probe_suite import probe_networks

BASELINES = ("random", "scratch", "teacher")
_FRAMES = {"train_samples": 600, "test_samples": 400}  # of the probes' rooms


_ACROSS = {
    DEPTH: (
        "RGB → depth on rendered rooms: what a depth network learns from an RGB teacher without a label",
        {"random": "depth, untrained", "scratch": "depth, supervised", "teacher": "the teacher, on RGB"},
    ),
    COLOUR: (
        "L → ab on rendered rooms: what a network that sees colour alone learns from one that sees lightness",
        {"random": "colour, untrained", "scratch": "colour, supervised", "teacher": "the teacher, on lightness"},
    ),
}
"""Titles, and names of the baselines."""


class DemoComparisons:
    """The demo in one folder."""

    def __init__(self, out: Path, seed: int, overrides: Sequence[str], progress: bool) -> None:
        self.out, self.seed, self.overrides, self.progress = out, seed, overrides, progress

    def arguments(self) -> tuple[Path, int, Sequence[str], bool]:
        """Of the same demo in another process."""
        return self.out, self.seed, self.overrides, self.progress

    def open_frames(self) -> None:
        """Render what all trainings see."""
        for split in ("train", "test"):
            open_split(next(iter(self._configs("compression").values())), split)

    def compare(self, names: Sequence[str]) -> dict[str, Comparison]:
        """Comparisons by name."""
        made: dict[str, Callable[[], Comparison]] = {
            "compression": self.compression,
            "ensemble": self.ensemble,
            DEPTH: partial(self.across, DEPTH),
            COLOUR: partial(self.across, COLOUR),
            DENSE: self.segmentation,
            "probe": self.probe,
        }
        return {name: made[name]() for name in names}

    def compression(self) -> Comparison:
        """A teacher, a baseline and distilled students, which start from the same weights."""
        configs = self._trained("compression")
        rows: list[ComparisonRow] = []
        runs: list[ComparedRun] = []
        for name, config in configs.items():
            history = Run(config.out).history()
            evaluated = evaluate_runs([config.out], progress=False).rows[0]
            top1 = _top1(evaluated.scores)
            full = f"{name} ({config.student.model})"
            seconds = round(sum(epoch["seconds"] for epoch in history), 1)
            measures = {"parameters": evaluated.parameters, "top1": top1, "seconds": seconds}
            rows.append(ComparisonRow(full, config.out, measures))
            runs.append(ComparedRun(full, top1, history))
        teacher, baseline = (rows[place].measures["top1"] for place in (0, 1))
        gap = teacher - baseline
        for place, row in enumerate(rows):
            share = (row.measures["top1"] - baseline) / gap if place > 1 and gap > 0 else None
            rows[place] = ComparisonRow(row.name, row.run, {**row.measures, "way": share})
        test = open_split(next(iter(configs.values())), "test")
        title = "Compression on rendered rooms: what a small network gains from a bigger one"
        picture = self.out / "comparison.png"
        _draw(runs, test, picture, title)
        share = baseline / 100
        # Two standard errors of a difference of two accuracies.
        noise = 200 * math.sqrt(2 * share * (1 - share) / test.num_samples)
        columns = {
            "parameters": ("parameters", ","),
            "top-1 %": ("top1", ".2f"),
            "share of the teacher gap closed": ("way", ".0%"),
            "s": ("seconds", ".0f"),
        }
        note = f"{test.num_samples:,} test images: differences below {noise:.1f} points may be chance"
        comparison = Comparison(
            title, columns, tuple(rows), self.seed, test.num_samples, note, {"noise": noise}, picture
        )
        return self._written(comparison, self.out)

    def ensemble(self) -> Comparison:
        """Two teachers, their mean, and students of one and of both."""
        student_config = self._trained("ensemble")["student of both teachers"]
        diversity = measure_diversity(student_config.out)
        if diversity is None or diversity.student is None:
            raise RuntimeError("the student of both teachers has no logits to compare")
        student, alone = student_config.student.model, evaluate_runs([self.out / "crd_kd"], progress=False).rows[0]
        alone_measures = {"top1": _top1(alone.scores), "nll": None, "ece": None}
        rows = [
            *(_quality_row(f"teacher ({network.model})", network) for network in diversity.networks),
            _quality_row("both teachers, mean of their probabilities", diversity.ensemble),
            ComparisonRow(f"student of the first ({student})", None, alone_measures),
            _quality_row(f"student of both ({student})", diversity.student),
        ]
        columns = {"top-1 %": ("top1", ".2f"), "NLL, nats": ("nll", ".3f"), "calibration error %": ("ece", ".1f")}
        disagreement = diversity.mean_disagreement
        note = f"{diversity.samples:,} test images; the teachers disagree about {disagreement:.1f} % of them"
        comparison = Comparison(
            "Ensemble on rendered rooms: what a student gains from a second teacher",
            columns,
            tuple(rows),
            self.seed,
            diversity.samples,
            note,
            {"disagreement": disagreement},
            diversity.picture,
        )
        return self._written(comparison, self.out / "ensemble")

    def across(self, group: str) -> Comparison:
        """Students of another modality, trained without labels, beside their baselines: a segmentation head and a
        linear probe on each.
        """
        title, baselines = _ACROSS[group]
        configs = self._trained(group)
        students = [config for config in configs.values() if config.teachers]
        picture = self.out / group / "predictions.png"
        result = evaluate_runs(
            [config.out for config in students], baselines=BASELINES, picture=picture, progress=self.progress
        )
        names = {config.out: name for name, config in configs.items()}
        rows: dict[str, ComparisonRow] = {}
        for row in result.rows:
            name = names[row.run] if row.role == "student" else baselines[row.role]
            before = rows.get(name)
            measures = {"miou": None, "pixel_accuracy": None, "top1": None} if before is None else before.measures
            scores = row.scores
            if isinstance(scores, SegmentationScores):
                measures = {**measures, "miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
            elif isinstance(scores, ClassificationScores):
                measures = {**measures, "top1": scores.layers["embedding"].top1}
            rows[name] = ComparisonRow(
                f"{name} ({row.model})" if before is None else before.name,
                row.run if before is None else before.run,
                measures,
            )
        order = [
            baselines["random"],
            baselines["scratch"],
            *(names[config.out] for config in students),
            baselines["teacher"],
        ]
        columns = {
            "mIoU %": ("miou", ".1f"),
            "pixels %": ("pixel_accuracy", ".1f"),
            "main object, linear probe %": ("top1", ".1f"),
        }
        images = result.rows[0].images
        note = f"{images:,} test frames; all frozen under a linear head but the supervised one"
        comparison = Comparison(
            title, columns, tuple(rows[name] for name in order), self.seed, images, note, picture=result.picture
        )
        return self._written(comparison, self.out / group)

    def segmentation(self) -> Comparison:
        """A depth segmenter that an RGB segmenter taught without a label, beside its teacher."""
        configs = self._trained(DENSE)
        names = {("student" if config.teachers else "teacher"): name for name, config in configs.items()}
        student = next(config.out for config in configs.values() if config.teachers)
        picture = self.out / DENSE / "predictions.png"
        result = evaluate_runs([student], teachers=True, picture=picture, progress=self.progress)
        rows = []
        for row in reversed(result.rows):
            scores = row.scores
            assert isinstance(scores, DenseScores), "the demo's segmenters have the pixel classes of rooms"
            measures = {
                "miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy, "boundary_f": scores.boundary_f
            }  # fmt: skip
            run = row.run if row.role == "student" else None
            rows.append(ComparisonRow(f"{names[row.role]} ({row.model})", run, measures))
        columns = {
            "mIoU %": ("miou", ".1f"),
            "pixels %": ("pixel_accuracy", ".1f"),
            "boundary F %": ("boundary_f", ".1f"),
        }
        images = result.rows[0].images
        comparison = Comparison(
            "RGB segmenter → depth segmenter on rendered rooms, without a label",
            columns,
            tuple(rows),
            self.seed,
            images,
            f"{images:,} test frames; each network answers by itself",
            picture=result.picture,
        )
        return self._written(comparison, self.out / DENSE)

    def probe(self) -> Comparison:
        """A linear classifier on the frozen embeddings of the networks of the compression, on rooms that none has
        seen.
        """
        configs = self._configs("compression")
        data = load_config(str(Run(next(iter(configs.values())).out).config)).data.options()
        options = {"size": data["size"], "scene_seed": data["scene_seed"] + 1, "crop_padding": 0, "flip": False}
        rooms = DataName("other rooms", "rooms", None, dataset_options("rooms", {**_FRAMES, **options}))
        runs = [config.out for config in configs.values()]
        report = probe_networks(runs, [rooms], ProbeSpec(seed=self.seed), progress=self.progress)
        if report is None:
            raise RuntimeError("the demo runs in one process")
        rows = []
        for name, network, row in zip(configs, report.networks, report.rows, strict=True):
            accuracy = row.accuracy
            measures = {"top1": accuracy.top1, "low": accuracy.low, "high": accuracy.high}
            rows.append(ComparisonRow(f"{name} ({network.model})", row.network, measures))
        train, images = report.data[0].train, report.data[0].test
        columns = {"top-1 %": ("top1", ".1f"), "95 % from": ("low", ".1f"), "to": ("high", ".1f")}
        comparison = Comparison(
            "Transfer to rooms they have not seen: a linear classifier on each frozen embedding",
            columns,
            tuple(rows),
            self.seed,
            images,
            f"{train:,} labelled frames to learn from, {images:,} to test on",
            {"train_images": train},
        )
        return self._written(comparison, writable_folder(self.out / "probe"))

    def _configs(self, group: str) -> dict[str, RunConfig]:
        """The trainings of a comparison by name."""
        trainings = [training for training in TRAININGS if training.group == group]
        return {training.name: self._config(training) for training in trainings}

    def _config(self, training: Training) -> RunConfig:
        settings = [f"train.epochs={training.epochs}", *(part.format(out=self.out) for part in training.settings)]
        last = [f"seed={self.seed + training.seed}", f"out={self.out / training.folder}"]
        return load_config(training.config, [*settings, *self.overrides, *last])

    def _trained(self, group: str) -> dict[str, RunConfig]:
        """The same, each finished."""
        configs = self._configs(group)
        train_unfinished(configs, printer(self.progress), self.progress)
        return configs

    def _written(self, comparison: Comparison, folder: Path) -> Comparison:
        write_text(folder / "comparison.json", json.dumps(comparison.to_dict(), indent=1) + "\n")
        return comparison


def _quality_row(name: str, quality: NetworkQuality) -> ComparisonRow:
    return ComparisonRow(name, None, {"top1": quality.top1, "nll": quality.nll, "ece": 100 * quality.ece})


def _top1(scores: Any) -> float:
    """Of rooms, whose classes every network of the demo has."""
    assert isinstance(scores, Accuracy) and scores.top1 is not None, "the demo's configs have the classes of rooms"
    return scores.top1


def _draw(runs: Sequence[ComparedRun], test: Any, picture: Path, title: str) -> None:
    batch = next(test.loader(batch_size=20, device="cpu", train=False).epoch(0))
    images = batch["rgb"].permute(0, 2, 3, 1).numpy()
    labels = [test.classes[target] for target in batch["target"].tolist()]
    draw_comparison(list(runs), images, labels, picture, title=title)
