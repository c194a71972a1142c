"""The demo's probes: what the networks' representations are worth on rooms that none of them has seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..core.atomic import write_text
from ..core.config.loading import dataset_options, load_config
from ..core.run import Run, writable_folder
from .probe_inputs import DataName, NetworkName
from .probe_suite import ProbeSpec, probe_networks

FRAMES = {"train_samples": 600, "test_samples": 400}


def compare_probe(out: Path, runs: Mapping[str, Path], seed: int, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Probe the embeddings of finished runs on other rendered rooms, all of them frozen.

    Args:
        out: The folder to write.
        runs: Name -> run; all were trained on rendered rooms of one size.
        seed: Of what a probe holds out to choose its weight decay.
        say: Told what begins.

    Returns:
        ``title``, ``rows`` (``name``, ``run``, ``top1`` in per cent, ``low`` and ``high`` of its 95 % interval),
        ``seed``, ``train_images`` and ``images``. Also in ``comparison.json``.
    """
    writable_folder(out)
    trained_on = load_config(str(Run(next(iter(runs.values()))).config)).data.options()
    own = {key: trained_on[key] for key in ("size", "scene_seed")}
    options = dataset_options(
        "rooms", {**FRAMES, "size": own["size"], "scene_seed": own["scene_seed"] + 1, "crop_padding": 0, "flip": False}
    )
    rooms = DataName("other rooms", "rooms", None, options)
    networks = {name: NetworkName(str(path), path) for name, path in runs.items()}
    found = probe_networks([*networks.values()], [rooms], ProbeSpec(seed=seed), accelerator=Accelerator(), say=say)
    by_run = {row["network"]: row for row in found.rows}
    models = {one["name"]: one["model"] for one in found.networks}
    rows = [
        {
            "name": f"{name} ({models[network.text]})",
            "run": network.text,
            **{key: by_run[network.text][key] for key in ("top1", "low", "high")},
        }
        for name, network in networks.items()
    ]
    result = {
        "title": "Transfer to rooms they have not seen: a linear classifier on each frozen embedding",
        "rows": rows,
        "seed": seed,
        "train_images": found.data[0]["train"],
        "images": found.data[0]["test"],
    }
    write_text(out / "comparison.json", json.dumps(result, indent=1) + "\n")
    return result
