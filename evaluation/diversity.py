"""Measures how a run's teachers, or the runs of a folder of seeds, differ, and how good their ensemble is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..core.arguments import checked
from ..core.atomic import write_text
from ..core.config.loading import load_config
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.errors import UsageError, names_beside, nearest
from ..core.fingerprint import weights_hash
from ..core.generators import own_generators
from ..core.label_vectors import lacks_classes
from ..core.loss_inputs import MASKED
from ..core.representation_spec import describe
from ..core.run import Run
from ..core.run_data import other_data
from ..core.seeds import members
from ..core.torch_settings import own_settings
from ..ensemble.diversity import Diversity, Quality, Reliability, diversity
from ..plots.diversity import Bar, Curve, draw_diversity
from ..training.accelerator import prepare_accelerator
from ..training.data import check_modality, open_loader, open_split
from ..training.networks import check_other_data
from ..training.pixel_labels import answers_for_positions
from ..training.processes import parting
from .diversity_members import Member, answers_densely_error, match_member, members_of_run, members_of_seeds
from .diversity_result import DiversityResult, NetworkQuality, ReliabilityBins
from .evaluation_data import (
    data_facts,
    data_keys,
    evaluation_data,
    location,
    other_samples,
    replaced_data,
    suffix_of,
)
from .messages import print_message
from .train import Overrides, overrides_as_text
from .trained_size import size_keys, size_note


@checked
@own_settings()
@own_generators()
@parting()
def measure_diversity(path: str | os.PathLike, overrides: Overrides = ()) -> DiversityResult | None:
    """Measure a run's teachers with its student beside them, or the finished runs of a folder of seeds, on the test
    split of their data.

    Args:
        path: A run, or a folder of seeds. ``diversity.json`` and ``diversity.png`` are written there; of other data or
            networks than the run's own, named as those of an evaluation are, ``diversity-….json``.
        overrides: Changes of the config, such as ``data.path=other.h5``.

    Returns:
        The measures; None on a process that is not the main one. Networks that are left out are named on standard
        error.

    Raises:
        UsageError: The path is neither, the run has no teacher, data and networks have not the same classes,
            networks answer for each position, or seeds have other data each.
        ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
    """
    folder = Path(path)
    runs = [folder] if Run(folder).config.is_file() else _finished(folder)
    return measure_runs(folder, runs, overrides_as_text(overrides))


def measure_runs(folder: Path, runs: Sequence[Path], texts: Sequence[str] = ()) -> DiversityResult | None:
    """:func:`measure_diversity` of a folder's runs that are named, or of the folder itself, which is a run then.

    Args:
        folder: Where the files are written.
        runs: The folder alone, or finished runs in it.
        texts: Changes of the config, as text.
    """
    config = load_config(str(Run(runs[0]).config), texts, trains=False)
    data = evaluation_data(config)
    accelerator = prepare_accelerator(config.model_copy(update={"trackers": []}))
    if not accelerator.is_main_process:
        return None
    _check_answers(folder, (runs == [folder] and config.teachers) or [config.student])
    test = _labelled(data)
    own = load_config(str(Run(runs[0]).config), trains=False)
    own_data = data.data.model_dump(mode="json") == own.data.model_dump(mode="json")
    replaced = replaced_data(Run(runs[0]), own, data.data, {"test": test})
    if [*runs] == [folder]:
        student, networks, others = members_of_run(folder, config, test, location(data), own_data)
    else:
        _check_seeds(runs, texts, data)
        student, (networks, others) = None, members_of_seeds(runs, texts)
    suffix = others + suffix_of(Run(runs[0]), own, data.data, {"test": test}, replaced=bool(replaced))
    notes = [replaced] if replaced else []
    if suffix and not replaced:
        what = "networks" if others else "samples"
        notes.append(f"these are other {what} than the run's own: the measures are in {folder / _file(suffix)}")
    for note in notes:
        print_message(note)
    for member in networks:
        match_member(member, test, location(data), own_data)
    targets, outputs = _log_probabilities(networks, test, data, accelerator)
    beside = _log_probabilities([student], test, data, accelerator)[1][0] if student else None
    measures = diversity(outputs, targets, beside, logarithms=True)
    picture = (folder / _file(suffix)).with_suffix(".png")
    result = _result(measures, networks, student, data.data.model_dump(mode="json"), len(targets), picture)
    result = replace(result, facts=data_facts(test), notes=tuple(notes))
    write_text(folder / _file(suffix), json.dumps(result.to_dict(), indent=1) + "\n")
    title = f"{folder.name}: {len(networks)} network{'s' * (len(networks) > 1)} on {len(targets):,} test samples"
    _draw(measures, networks, student, picture, title)
    return result


def _file(suffix: str) -> str:
    return f"diversity{suffix}.json"


def _check_seeds(runs: Sequence[Path], overrides: Sequence[str], data: RunConfig) -> None:
    """Refuse runs that would be measured on other samples each than the first, as each was not trained for these."""
    first = Run(runs[0])
    for path in runs[1:]:
        config = load_config(str(Run(path).config), overrides, trains=False)
        now = evaluation_data(config).data
        moved = (now.name, now.path) != (data.data.name, data.data.path)
        both = (other_samples(data.data, now), other_samples(now, data.data))
        keys = [key for key in both[0] if key in both[1]]
        what = "data.path" if moved else f"data.{keys[0]}" if keys else ""
        if not what and not data_keys(overrides):
            what = other_data(first, Run(path), ("test",))
        if what:
            raise UsageError(
                f"{path} has other data than {first.path} ({what} differs), and networks are compared on the same "
                "samples: name these with data.…=… for all, or give a folder of seeds that were trained on the same"
            )


def _check_answers(folder: Path, entries: Sequence[NetworkConfig]) -> None:
    """Refuse networks that answer for each position."""
    for entry in entries:
        if answers_for_positions(entry.model):
            raise answers_densely_error(f"{entry.model} of {folder}")


def _finished(folder: Path) -> list[Path]:
    """The finished runs of a folder of seeds."""
    runs = members(folder)
    if not runs:
        hint = nearest(str(folder), names_beside(folder), "name what contrastill train wrote (its out=…)")
        raise UsageError(f"{folder} is neither a run nor a folder of seeds: {hint}")
    done = [run for run in runs if Run(run).finished]
    if not done:
        raise UsageError(
            f"none of the {len(runs)} runs in {folder} has ended: give the training time, or start it again"
        )
    if len(done) < len(runs):
        print_message(f"left out, as they have not ended: {', '.join(str(run) for run in runs if run not in done)}")
    return done


def _labelled(data: RunConfig) -> Any:
    """The test split, with classes."""
    test, where = open_split(data, "test"), location(data)
    if test is None:
        raise UsageError(f"{where} has no test split: name one with evaluation.data.splits.test=…")
    if test.targets is None:
        raise UsageError(f"the test split of {where} {lacks_classes(test, 'diversity')} with data.path=…")
    return test


@torch.no_grad()
def _log_probabilities(
    networks: Sequence[Member], test: Any, data: RunConfig, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    """The classes (N,) of the test samples, and the networks' log-probabilities (n, N, C) in float32, on the CPU."""
    outputs = []
    for member in networks:
        check_modality(member.entry, test)
        who = member.who
        check_other_data(member.network, who, test, chosen=member.entry.mean is not None)
        key = member.location if member.location.startswith("teachers.") else "student"
        keys = size_keys(data.data.name, "data.size", f"{key}.resolution")
        if note := size_note(member.network, test, member.run, member.name, location(data), keys):
            print_message(note)
        member.network.freeze().to(accelerator.device)
        parts, targets = [], []
        order, probabilities = member.network.classes, None
        for batch in open_loader(
            test, [member.network.modality], batch_size=256, train=False, device=accelerator.device
        ).epoch(0):
            # All of its own, as a part of them sums to no 1; probabilities of a part are those among it.
            member.network.classes = None
            try:
                with accelerator.autocast():
                    if probabilities is None:
                        probabilities = _returns_probabilities(member, batch)
                    logits = member.network(batch, frozenset({"logits"})).logits
            finally:
                member.network.classes = order
            assert logits is not None, "they were asked for"
            logits = logits.double().log() if probabilities else logits.double()
            log_probabilities = (logits if order is None else logits[:, order]).log_softmax(1).float().cpu()
            # A class that is masked by −∞ has the probability 0.
            if bool(log_probabilities.isnan().any()):
                raise UsageError(f"the logits of {who} hold infinite or NaN values: {MASKED}")
            parts.append(log_probabilities)
            targets.append(batch["target"].cpu())
        member.network.cpu()
        outputs.append(torch.cat(parts))
    return torch.cat(targets), torch.stack(outputs)


def _returns_probabilities(member: Member, batch: Mapping[str, Tensor]) -> bool:
    """Whether a network has taken the softmax already.

    Raises:
        UsageError: It ends in a sigmoid, so that it answers for each class on its own.
    """
    spec = describe(member.network, batch)
    if spec.sigmoid:
        raise UsageError(
            f"{member.who} ends in a sigmoid, and what is compared are probabilities of one class among all: leave the "
            "sigmoid at its end out"
        )
    return spec.probabilities


def _result(
    measures: Diversity,
    networks: Sequence[Member],
    student: Member | None,
    data: Mapping[str, Any],
    samples: int,
    picture: Path,
) -> DiversityResult:
    """The measures by name; what is not a number becomes None."""
    others = len(networks) - 1
    qualities = [
        _quality(quality, member, differs.sum().item() / others if others else None)
        for member, quality, differs in zip(networks, measures.networks, measures.disagreement, strict=True)
    ]
    curves = {"networks": measures.pooled, "ensemble": measures.ensemble.reliability}
    if measures.student is not None:
        curves["student"] = measures.student.reliability
    student_disagreement = measures.student_disagreement
    return DiversityResult(
        data,
        samples,
        tuple(qualities),
        _quality(measures.ensemble),
        _quality(measures.student, student) if measures.student is not None else None,
        measures.oracle,
        measures.mean_disagreement,
        measures.disagreement.tolist(),
        None if student_disagreement is None else student_disagreement.tolist(),
        {name: _bins(curve) for name, curve in curves.items()},
        picture,
    )


def _quality(quality: Quality, member: Member | None = None, disagreement: float | None = None) -> NetworkQuality:
    measures = (quality.top1, quality.nll, quality.ece)
    if member is None:
        return NetworkQuality(*measures)
    values = weights_hash(member.network.module)
    return NetworkQuality(*measures, member.name, member.entry.model, member.weights, disagreement, values)


def _bins(curve: Reliability) -> ReliabilityBins:
    return ReliabilityBins(_numbers(curve.confidence), _numbers(curve.accuracy), _numbers(curve.share))


def _numbers(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _draw(measures: Diversity, networks: Sequence[Member], student: Member | None, path: Path, title: str) -> None:
    matrix, keys = measures.disagreement, [member.key for member in networks]
    bars = [Bar(member.name, quality.top1) for member, quality in zip(networks, measures.networks, strict=True)]
    curves = [_curve("networks", "each network" if len(networks) > 1 else "the network", measures.pooled)]
    if len(networks) > 1:
        bars.append(Bar("their ensemble", measures.ensemble.top1, "ensemble"))
        curves.append(_curve("ensemble", "their ensemble", measures.ensemble.reliability))
    if student and measures.student is not None and measures.student_disagreement is not None:
        student_disagreement = measures.student_disagreement[: len(networks)]
        matrix = torch.cat(
            [
                torch.cat([matrix, student_disagreement[:, None]], 1),
                torch.cat([student_disagreement, torch.zeros(1)])[None],
            ]
        )
        keys.append(student.key)
        bars.append(Bar(student.name, measures.student.top1, "student"))
        curves.append(_curve("student", "student", measures.student.reliability))
    draw_diversity(keys, matrix.numpy(), bars, curves, path, title=title)


def _curve(role: str, name: str, bins: Reliability) -> Curve:
    return Curve(name, bins.confidence.numpy(), bins.accuracy.numpy(), bins.share.numpy(), role)
