"""Measures the networks of a run on a test split."""

from __future__ import annotations

import json
import os
from typing import Any

from ..core.checkpoint import load_newest
from ..core.config import NetworkConfig, RunConfig, load_config
from ..core.engine import evaluate
from ..core.errors import ContrastillError, UsageError
from ..core.representation import Network
from ..core.run import Run, write_text
from .assemble import build, open_split, prepare_accelerator


def measure_run(path: str | os.PathLike, overrides: list[str], *, teachers: bool = False) -> list[dict[str, Any]]:
    """Accuracy of a run's student, and of its teachers if asked for.

    Args:
        path: The run's folder.
        overrides: ``key=value`` changes of its config, such as ``data.path=other.h5``.
        teachers: Whether to measure the teachers too.

    Returns:
        A row for each network: ``run``, ``role``, ``model``, ``parameters``, ``images``, ``weights`` and, where
        the network tells the data's classes apart, ``top1`` and ``top5`` in per cent.
        They are also written to ``evaluation.json`` in the folder.

    Raises:
        UsageError: The folder is no run, or the data do not fit its networks.
        ContrastillError: There is neither a student nor a checkpoint yet, or a file is damaged.
    """
    run = Run(path)
    if not run.config.is_file():
        raise UsageError(f"{path} is no run: it has no config.yaml; name the folder that a training wrote (its out=…)")
    config = load_config(str(run.config), overrides)
    accelerator = prepare_accelerator(config.model_copy(update={"trackers": []}))
    test = open_split(config, "test")
    if test.targets is None:
        raise UsageError(f"the test split of {config.data.path or config.data.name} has no classes to compare with")
    loader = test.loader(
        batch_size=256, device=accelerator.device, seed=config.seed, train=False, rank=accelerator.process_index, world=accelerator.num_processes
    )
    student, weights = _student(run, config, test.num_classes)
    networks = [("student", config.student.model, student, weights)]
    if teachers:
        networks += [("teacher", entry.model, build(entry, test.num_classes), str(entry.weights)) for entry in config.teachers]
    rows = []
    for role, model, network, source in networks:
        network.freeze().to(accelerator.device)
        # A teacher of other classes (ImageNet's, say) has embeddings to give, and no accuracy here.
        comparable = network.recipe.get("num_classes") == test.num_classes
        accuracy = evaluate(network, loader, accelerator) if comparable else {}
        parameters = sum(parameter.numel() for parameter in network.parameters())
        rows.append({"run": str(path), "role": role, "model": model, "parameters": parameters, **accuracy, "images": test.num_samples, "weights": source})
    if accelerator.is_main_process:
        write_text(run.path / "evaluation.json", json.dumps({"data": config.data.model_dump(mode="json"), "rows": rows}, indent=1) + "\n")
    return rows


def _student(run: Run, config: RunConfig, classes: int | None) -> tuple[Network, str]:
    """The run's student, of its finished file or else of its newest checkpoint; and which."""
    entry: NetworkConfig = config.student
    if run.student.is_file():
        return build(entry.model_copy(update={"weights": str(run.path)}), classes), run.student.name
    snapshot = load_newest(run.checkpoints)
    if snapshot is None:
        raise ContrastillError(f"{run.path} has neither {run.student.name} nor a checkpoint yet: give the training time, or start it again")
    network = build(entry.model_copy(update={"weights": None}), classes)
    network.load_state_dict({name.removeprefix("student."): value for name, value in snapshot.model.items() if name.startswith("student.")})
    return network, f"checkpoint after step {snapshot.position.step}"
