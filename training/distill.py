"""The one call: teachers, a student and data in, a trained student out; what ``contrastill train`` does with a
config.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.arguments import checked
from ..core.config.loading import make_config, make_data_config
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.config.stated import check_agreement
from ..core.entry_checks import kind_of
from ..core.epochs import default_epochs
from ..core.errors import UsageError
from ..core.generators import own_generators
from ..core.plugins import import_plugins, module_names
from ..core.registry import MODALITIES, OBJECTIVES, PYTHON_PREFIX, short_name
from ..core.run import Run
from ..core.seeds import members
from ..core.torch_settings import own_settings
from ..core.value_scale import in_unit_range
from ..datasets.io.value_range import UNIT
from ..datasets.user_dataset import UserSplit
from ..models.build import load_student
from .arguments import ArgumentResolver, networks
from .data import check_modality, open_loader, open_splits
from .held_out import samples_without_validation
from .keywords import dotted_keys, given_keys, network_keys, with_network_keys
from .pixel_labels import answers_for_positions
from .progress import accuracy_text
from .recipe import (
    compares_maps,
    default_dense_objectives,
    default_evaluations,
    default_objectives,
    default_training,
    with_quantity,
)
from .run import train_run


@dataclass(frozen=True)
class Distilled:
    """What a training came to.

    Attributes:
        student: The trained network, as :func:`~contrastill.load_student` gives it.
        metrics: The last epoch's row of metrics.jsonl: ``loss``, each objective, ``top1`` in per cent, …; empty where
            a finished run lost that file.
        out: The run's folder.
        paths: Its files: ``paths.config``, ``paths.metrics``, ``paths.student``, ``paths.curves`` …
        config: What was trained, resolved; of names and paths alone, ``contrastill train OUT/config.yaml`` repeats it.
    """

    student: nn.Module
    metrics: dict[str, Any]
    out: Path
    paths: Run
    config: RunConfig

    def __str__(self) -> str:
        teachers = " and ".join(short_name(teacher.model) for teacher in self.config.teachers) or "the labels"
        loss = f"loss {self.metrics['loss']:.4g}" if self.metrics else "no metrics"
        measured = accuracy_text(self.metrics) or loss
        epochs = self.metrics["epoch"] + 1 if self.metrics else self.config.train.epochs or 0
        objectives = ", ".join(f"{name} {entry.weight:g}" for name, entry in self.config.objectives.items())
        return (
            f"{short_name(self.config.student.model)} distilled from {teachers} ({objectives}): {measured} after "
            f"{epochs} epoch{'s' * (epochs > 1)}, in {self.out}"
        )


@checked
@own_settings()
@own_generators()
def distill(
    teacher: Any,
    student: Any,
    data: Any,
    *,
    out: str | os.PathLike,
    objectives: str | Sequence[Any] | Mapping[Any, Any] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    teacher_modality: str | None = None,
    student_modality: str | None = None,
    embedding: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Distilled:
    """Train a student from its teachers: the twin of ``contrastill train``, by the same config, the same code and to
    the same bits.

    Called again after it was stopped or killed, it goes on from the last checkpoint in ``out``. Under
    ``accelerate launch`` all processes call it.
    What is given stays as it is: modules are copied, and the global generators of Python, NumPy and torch are put back.

    Args:
        teacher: A network's name (``"timm/resnet50"``, with its published weights), the folder or file of a run, any
            ``nn.Module`` or :class:`~contrastill.Network`, or several of these in a list, an ensemble. A dict says
            more, by the keys of a config's ``teachers``:
            ``{"model": module, "modality": "depth", "embedding": "input:fc", "mean": …, "std": …}``. None: the student
            learns from labels alone.
        student: The same for the network to train; by its name it is untrained.
        data: A folder or a packed file, the name of a data set that needs neither, a dict of a config's section
            ``data``; or a map-style ``Dataset`` of ``(image, label)`` or of dicts of modalities, a ``DataLoader`` of
            one (for its batch size, ``drop_last`` and workers), or ``(train, test)``; or a ``Dataset`` or
            ``DatasetDict`` of Hugging Face, whose pictures are read, resized and augmented as files are.
        out: The run's folder.
        objectives: One name, several, or ``{name: weight}`` or ``{name: {option: value}}``, exactly these (but for
            those that are None), at the paper's rate and schedule. None is what was best or level at the lengths that
            were measured (docs/results.md): contrast with fresh rows (``fresh_crd``, weight 0.8); with labels also
            cross-entropy of weight 1; where besides every teacher is known to answer with the data's classes (a run's
            or your own, not a published network) ``wttm`` of weight 1, or less where the teacher has memorised its
            training images; without labels, from teachers of another modality, also contrast of positions of the maps
            (``dense_crd``, weight 1), by AdamW; with a cosine and a rate by the size of a batch
            (:mod:`contrastill.training.recipe`). Of a student that answers for each position ``pixel_cross_entropy``
            where there are label maps and ``dense_kd`` towards teachers that do so too, by AdamW. A line at the start
            says what was chosen.
        epochs: Passes over the training samples; None is as many as suit their number: 240 for 12 500 or fewer, 60 for
            50 000, 20 for a million.
        seed: Of weights, order, views and negatives.
        teacher_modality, student_modality: What they read: ``rgb``, ``depth`` or another that the data has or that is
            made from it; None is rgb, of a run's network the modality it was trained on.
        embedding: The student's module whose output is the embedding, or ``"input:MODULE"``. None is the input of its
            last linear layer.
        quiet: No progress.
        overrides: Further keys of the config: those of ``train`` by their own names
            (``batch_size=256, lr=0.1, precision="bf16"``), a whole section as a dict
            (``ensemble={"rule": "entropy"}``), any other by its dotted key
            (``**{"objectives.crd.num_negatives": 4096}``).

    A module that returns (B, C, H, W), or a dict or dataclass with ``out`` or ``logits`` of that shape, answers for
    each position, as a segmenter.

    A module of your own sees the values that your dataset hands out, or rgb of whole numbers as values in [0, 1] (one
    of timm's or transformers': bytes and floats in [0, 1] are normalised as it says itself, other floats are taken as
    normalised already, and a line says which), unless ``mean`` and ``std`` say otherwise; a label that a sample has and
    the dataset's list of labels has otherwise ends the training where it is read; networks known by name normalise on
    their own. How large the bank is, which negatives are eligible and all dimensions are inferred.

    Raises:
        UsageError: Something that does not exist, that does not fit the rest, or that is given twice and differently;
            nothing is written then.
        ContrastillError: The training failed or was stopped; what was written before stays.

    Example:
        >>> import tempfile, torch
        >>> images, labels = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8), torch.arange(32) % 4
        >>> head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        >>> net = lambda width: nn.Sequential(nn.Conv2d(3, width, 3), *head, nn.Linear(width, 4))
        >>> data = torch.utils.data.TensorDataset(images, labels)
        >>> result = distill(net(16), net(8), (data, data), out=tempfile.mkdtemp(), epochs=1, quiet=True)
        >>> sorted(result.config.objectives), result.student(torch.rand(2, 3, 16, 16)).shape
        (['cross_entropy', 'fresh_crd', 'wttm'], torch.Size([2, 4]))
    """
    keywords = overrides if epochs is None else {"epochs": epochs, **overrides}
    settings = dotted_keys(keywords)
    modalities = {"student_modality": student_modality, "teacher_modality": teacher_modality, "embedding": embedding}
    check_agreement(given_keys(teacher, student, data, objectives, modalities, keywords))
    if settings.get("seeds") is not None:
        raise UsageError(
            "seeds is of the command contrastill train: call distill once for each seed, with an out of its own"
        )
    if "imports" in settings:
        settings["imports"] = module_names(settings["imports"])
        import_plugins(settings["imports"])
    with ExitStack() as stack:
        resolver = ArgumentResolver(stack)
        options = {key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")}
        section = make_data_config(resolver.data(data), options)
        splits = open_splits(section)
        read = _Batches(splits["train"])
        teachers = [
            resolver.network(network, "teacher", teacher_modality, read, network_keys(settings, f"teachers.{number}"))
            for number, network in enumerate(networks(teacher))
        ]
        if teacher_modality is not None and not teachers:
            raise UsageError(
                f"teacher_modality={teacher_modality!r} is of the teachers, and teacher is {teacher!r}: leave it out"
            )
        learner = resolver.network(student, "student", student_modality, read, network_keys(settings, "student")) | (
            {} if embedding is None else {"embedding": embedding}
        )
        teachers, learner = with_network_keys(teachers, learner, settings)
        _check_scale([*teachers, learner], read, splits["test"])
        each = _each_teacher(teachers)
        maps = objectives is None and compares_maps(each, learner, splits["train"])
        num_samples = samples_without_validation(splits["train"], settings.get("train.validation"), learner, seed)
        train = _training(objectives is None, maps, each, learner, num_samples, resolver.train, settings)
        if splits["test"] is not None and {"train.evaluate_every", "train.validation"}.isdisjoint(settings):
            # A wrong number of epochs is refused with the whole config.
            number = settings.get("train.epochs")
            number = number if isinstance(number, int) else train["epochs"]
            train |= default_evaluations(num_samples, splits["test"].num_samples, number)
        if objectives is not None:
            chosen = _objectives(objectives)
        elif answers_for_positions(learner["model"]):
            if "student.num_classes" not in settings:
                learner = {**with_quantity(each, learner, splits["train"])}
            chosen = default_dense_objectives(each, learner, splits["train"])
        else:
            chosen = default_objectives(each, splits["train"], train["epochs"], maps=maps, num_samples=num_samples)
        tree = {
            "out": str(out),
            "seed": seed,
            "data": section.model_dump(mode="json"),
            "teachers": teachers,
            "student": learner,
            "objectives": chosen,
        }
        config = make_config({**tree, "train": {**train, **resolver.train}}, settings, "contrastill.distill(…)")
        train_run(config, splits=splits, progress=not quiet)
        return _result(config)


def _training(
    default: bool,
    maps: bool,
    teachers: Sequence[Mapping[str, Any]],
    student: Mapping[str, Any],
    num_samples: int,
    loader_settings: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The section ``train`` as far as nobody says otherwise: of named objectives the length alone, as their published
    weights belong to the paper's rate.
    """
    if not default:
        return {"epochs": default_epochs(num_samples)}
    values = {**{f"train.{key}": value for key, value in loader_settings.items()}, **settings}
    # What is no such value is refused with the whole config.
    known = {
        key: value
        for key in ("batch_size", "epochs")
        if isinstance(value := values.get(f"train.{key}"), int) and value > 0
    }
    given = values.get("train.optimizer")
    optimizer = given if isinstance(given, str) else "adamw" if maps else "sgd"
    chosen = default_training(
        num_samples,
        **known,
        optimizer=optimizer,
        teachers=len(teachers),
        pretrained=student.get("weights") is not None,
        maps=maps,
        pairs=maps and not answers_for_positions(student["model"]),
    )
    return {**chosen, "optimizer": optimizer} if maps else chosen


def _each_teacher(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entry of each teacher: a folder of seeds stands for all that are in it."""
    return [
        entry for entry in entries for _ in range(len(members(entry["weights"])) or 1 if entry.get("weights") else 1)
    ]


def _objectives(objectives: str | Sequence[Any] | Mapping[Any, Any]) -> dict[str, Any]:
    """The section ``objectives``; names are looked up now, so that the error names a wrong one."""
    names = [objectives] if isinstance(objectives, str) else list(objectives)
    for name in names:
        if not isinstance(name, str):
            if not isinstance(name, (type, nn.Module)):
                raise UsageError(f"objectives has {name!r}: pass names, such as kd")
            kind = name if isinstance(name, type) else type(name)
            raise UsageError(
                f"objectives has {kind_of(name)}, and takes names: register the class, "
                f'@contrastill.OBJECTIVES.register("NAME") above class {kind.__name__}, and pass "NAME"'
            )
    entries = dict(objectives) if isinstance(objectives, Mapping) else {name: {} for name in names}
    for name, entry in entries.items():
        _ = OBJECTIVES[entry.get("name", name) if isinstance(entry, Mapping) else name]
    return {
        name: entry if isinstance(entry, Mapping) else {"weight": entry}
        for name, entry in entries.items()
        if entry is not None  # as null in a file
    }


class _Batches:
    """Two samples of a split with a modality, stored or derived: what networks that are not made by name are measured
    with.
    """

    def __init__(self, split: Any) -> None:
        self.split = split

    def __call__(self, modality: str, who: str) -> Tensor:
        """(2, C, H, W), on the CPU; ``who`` is to read it."""
        check_modality(NetworkConfig(model=who, modality=modality), self.split)
        return next(iter(open_loader(self.split, [modality], batch_size=2, train=False, device="cpu").epoch(0)))[
            modality
        ]


def _check_scale(entries: Sequence[Mapping[str, Any]], read: _Batches, test: Any) -> None:
    """Complain about colours that somebody normalised already where a network is to do so again, or where another
    modality is made from them; and see to it that all samples of both splits are in [0, 1] then.
    """
    if not isinstance(read.split, UserSplit) or (train_range := read.split.samples.rgb_range) is None:
        return
    derived = [
        entry
        for entry in entries
        if (name := entry.get("modality", "rgb")) not in read.split.modalities
        and name in MODALITIES
        and MODALITIES[name].of == "rgb"
    ]
    named = [
        entry
        for entry in entries
        if not entry["model"].startswith(PYTHON_PREFIX)
        and entry.get("modality", "rgb") == "rgb"
        and entry.get("mean") is None
    ]
    if named or derived:
        if not in_unit_range(train_range.low, train_range.high):
            span = f"the dataset's images go from {train_range.low:.3g} to {train_range.high:.3g}, and"
            if not named:
                raise UsageError(
                    f"{span} {derived[0]['modality']} is made from images in [0, 1] (or uint8): "
                    "take the normalisation out of the dataset"
                )
            raise UsageError(
                f"{span} {named[0]['model']} normalises images in [0, 1] (or uint8) itself: "
                "take the normalisation out of the dataset, or say mean=(0, 0, 0) and std=(1, 1, 1) in a dict of "
                "each network to keep it"
            )
        for split in (read.split, test):
            if isinstance(split, UserSplit) and split.samples.rgb_range is not None:
                split.samples.rgb_range = UNIT


def _result(config: RunConfig) -> Distilled:
    """What the run's folder holds, on every process."""
    run = Run(config.out)
    return Distilled(load_student(run.path), (run.history() or [{}])[-1], run.path, run, config)
