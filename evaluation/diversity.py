"""Measures how far apart a run's teachers, or the runs of a folder of seeds, are, and what they are worth together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..core.atomic import write_text
from ..core.classes import answer_as
from ..core.config.loading import load_config
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.errors import UsageError, names_beside, nearest
from ..core.registry import OBJECTIVES
from ..core.representation import Network
from ..core.run import Run
from ..core.seeds import members
from ..ensemble.diversity import Diversity, Quality, Reliability, diversity
from ..plots.diversity import Bar, Curve, draw_diversity
from ..training.assemble import check_modality, open_loader, open_split, prepare_accelerator
from ..training.class_order import answer_for
from .evaluate import evaluation_data
from .networks import EvaluatedNetworks

FILE = "diversity.json"


@dataclass
class _Member:
    """A network to measure: ``key`` as a small axis says it, ``where`` as an error does."""

    key: str
    name: str
    where: str
    weights: str
    network: Network
    entry: NetworkConfig


def measure_diversity(
    path: str | os.PathLike, overrides: Sequence[str] = (), *, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any] | None:
    """Measure a run's teachers with its student beside them, or the finished runs of a folder of seeds, on the test
    split of their data.

    Args:
        path: A run, or a folder of seeds. ``diversity.json`` and ``diversity.png`` are written there.
        overrides: ``key=value`` changes of the config, such as ``data.path=other.h5``.
        say: Told what is left out.

    Returns:
        ``data``, ``samples``, ``networks`` (for each ``name``, ``model``, ``weights``, ``top1``, ``nll``, ``ece`` and
        ``disagreement``, the mean with the others), ``ensemble`` and ``student`` (the same measures; None without one),
        ``oracle``, ``disagreement``, ``student_disagreement`` (with each network, then the ensemble),
        ``mean_disagreement``, ``reliability`` and ``picture``; per cent but ``nll`` in nats and ``ece`` in [0, 1]. None
        on a process that is not the main one.

    Raises:
        UsageError: The path is neither, the run has no teacher, or data and networks have not the same classes.
        ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
    """
    folder = Path(path)
    runs = [folder] if Run(folder).config.is_file() else _finished(folder, say)
    config = load_config(str(Run(runs[0]).config), overrides)
    data = evaluation_data(config)
    accelerator = prepare_accelerator(config.model_copy(update={"trackers": []}))
    if not accelerator.is_main_process:
        return None
    test = _labelled(data)
    if runs == [folder]:
        student, networks = _of_run(folder, config, test, data.data.path or data.data.name, say)
    else:
        student, networks = None, _of_seeds(runs, overrides)
    targets, said = _ask(networks, test, accelerator)
    own = _ask([student], test, accelerator)[1][0] if student else None
    found = diversity(said, targets, own)
    result = {"data": data.data.model_dump(mode="json"), "samples": len(targets), **_as_json(found, networks, student)}
    result["picture"] = str(folder / "diversity.png")
    title = f"{folder.name}: {len(networks)} network{'s' * (len(networks) > 1)} on {len(targets):,} test samples"
    write_text(folder / FILE, json.dumps(result, indent=1) + "\n")
    _draw(found, networks, student, Path(result["picture"]), title)
    return result


def _finished(folder: Path, say: Callable[[str], None]) -> list[Path]:
    """The finished runs of a folder of seeds."""
    runs = members(folder)
    if not runs:
        hint = nearest(str(folder), names_beside(folder), "name what contrastill train wrote (its out=…)")
        raise UsageError(f"{folder} is neither a run nor a folder of seeds: {hint}")
    done = [run for run in runs if Run(run).student.is_file()]
    if not done:
        raise UsageError(
            f"none of the {len(runs)} runs in {folder} has ended: give the training time, or start it again"
        )
    if len(done) < len(runs):
        say(f"left out, as they have not ended: {', '.join(str(run) for run in runs if run not in done)}")
    return done


def _labelled(data: RunConfig) -> Any:
    """The test split, with classes."""
    test, where = open_split(data, "test"), data.data.path or data.data.name
    if test is None:
        raise UsageError(f"{where} has no test split: name one with evaluation.data.splits.test=…")
    if test.targets is None:
        raise UsageError(
            f"the test split of {where} has no classes to compare with: name labelled data with data.path=…"
        )
    return test


def _of_run(
    folder: Path, config: RunConfig, test: Any, where: str, say: Callable[[str], None]
) -> tuple[_Member | None, list[_Member]]:
    """A run's student, if its logits are worth comparing, and its teachers."""
    if not config.teachers:
        raise UsageError(f"{folder} has no teachers to compare: name a run that was taught, or a folder of seeds")
    first, *others = EvaluatedNetworks(Run(folder), config)(teachers=True, baselines=())
    student = _Member("student", f"student {first.model}", "student", first.weights, first.network, first.entry)
    if not _learns_logits(config) or not _answers(first.network, test, where):
        say(f"{folder}: its student's logits are not trained to tell the data's classes apart, so it is left out")
        student = None
    teachers = [
        _Member(
            f"T{number}", f"teachers.{number} {one.model}", f"teachers.{number}", one.weights, one.network, one.entry
        )
        for number, one in enumerate(others)
    ]
    return student, teachers


def _of_seeds(runs: Sequence[Path], overrides: Sequence[str]) -> list[_Member]:
    """The students of a folder of seeds."""
    found = []
    for run in runs:
        config = load_config(str(Run(run).config), overrides)
        if not _learns_logits(config):
            raise UsageError(
                f"no objective of {run} reads logits, so its classifier never learnt: there is nothing to compare"
            )
        (one,) = EvaluatedNetworks(Run(run), config)(teachers=False, baselines=())
        found.append(_Member(run.name, f"{run.name} {one.model}", str(run), str(run), one.network, one.entry))
    return found


def _learns_logits(config: RunConfig) -> bool:
    return any("logits" in OBJECTIVES[entry.name].needs for entry in config.objectives.values())


def _answers(network: Network, test: Any, where: str) -> bool:
    """Whether a network's logits are of the data's classes, in an order of its own."""
    try:
        answer_for(network, test, "it", where, "")
    except UsageError:
        return False
    return network.recipe["num_classes"] == test.num_classes


@torch.no_grad()
def _ask(networks: Sequence[_Member], test: Any, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """The classes (N,) of the test samples and what networks say of them, (n, N, C) probabilities in float32, on the
    CPU.
    """
    said = []
    for one in networks:
        check_modality(one.entry, test)
        who = f"{one.where} ({one.entry.model}, weights {one.weights})"
        if test.classes and len(one.network.recipe.get("classes") or ()) == len(test.classes):
            answer_as(
                one.network,
                test.classes,
                who,
                "the data",
                "say with its class_map which of its classes are the data's, or name data of its classes with "
                "data.path=…",
            )
        one.network.freeze().to(accelerator.device)
        parts, targets = [], []
        for batch in open_loader(
            test, [one.network.modality], batch_size=256, train=False, device=accelerator.device
        ).epoch(0):
            with accelerator.autocast():
                logits = one.network(batch, frozenset({"logits"})).logits
            if logits.shape[1] != test.num_classes:
                raise UsageError(
                    f"{who} answers with {logits.shape[1]} classes and the data have {test.num_classes}: "
                    "say with its class_map=[…] which of its classes are the data's, or name data of its classes "
                    "with data.path=…"
                )
            parts.append(logits.double().softmax(1).float().cpu())
            targets.append(batch["target"].cpu())
        one.network.cpu()
        said.append(torch.cat(parts))
    return torch.cat(targets), torch.stack(said)


def _as_json(found: Diversity, networks: Sequence[_Member], student: _Member | None) -> dict[str, Any]:
    """The numbers by name; what is not a number becomes None."""
    many = len(networks) - 1
    rows = [
        {"name": one.name, "model": one.entry.model, "weights": one.weights, **_measures(quality)}
        | {"disagreement": differs.sum().item() / many if many else None}
        for one, quality, differs in zip(networks, found.networks, found.disagreement, strict=True)
    ]
    beside = None if found.student_disagreement is None else found.student_disagreement.tolist()
    curves = {"networks": found.pooled, "ensemble": found.ensemble.reliability} | (
        {"student": found.student.reliability} if student else {}
    )
    return {
        "networks": rows,
        "ensemble": _measures(found.ensemble),
        "student": {
            "name": student.name,
            "model": student.entry.model,
            "weights": student.weights,
            **_measures(found.student),
        }
        if student
        else None,
        "oracle": found.oracle,
        "mean_disagreement": found.mean_disagreement,
        "disagreement": found.disagreement.tolist(),
        "student_disagreement": beside,
        "reliability": {
            name: {part: _numbers(getattr(curve, part)) for part in ("confidence", "accuracy", "share")}
            for name, curve in curves.items()
        },
    }


def _measures(quality: Quality) -> dict[str, float]:
    return {"top1": quality.top1, "nll": quality.nll, "ece": quality.ece}


def _numbers(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _draw(found: Diversity, networks: Sequence[_Member], student: _Member | None, path: Path, title: str) -> None:
    matrix, keys = found.disagreement, [one.key for one in networks]
    bars = [Bar(one.name, quality.top1) for one, quality in zip(networks, found.networks, strict=True)]
    curves = [_curve("networks", "each network" if len(networks) > 1 else "the network", found.pooled)]
    if len(networks) > 1:
        bars.append(Bar("their ensemble", found.ensemble.top1, "ensemble"))
        curves.append(_curve("ensemble", "their ensemble", found.ensemble.reliability))
    if student:
        beside = found.student_disagreement[: len(networks)]
        matrix = torch.cat([torch.cat([matrix, beside[:, None]], 1), torch.cat([beside, torch.zeros(1)])[None]])
        keys.append(student.key)
        bars.append(Bar(student.name, found.student.top1, "student"))
        curves.append(_curve("student", "student", found.student.reliability))
    draw_diversity(keys, matrix.numpy(), bars, curves, path, title=title)


def _curve(role: str, name: str, bins: Reliability) -> Curve:
    return Curve(name, bins.confidence.numpy(), bins.accuracy.numpy(), bins.share.numpy(), role)
