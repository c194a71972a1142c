"""Compares embedding, logits and maps of a small network of every family of timm and torchvision with those of the
libraries' own methods.

    python benchmarks/library_families.py timm
    python benchmarks/library_families.py torchvision --again
    python benchmarks/library_families.py timm --table > table.md

A family is a file of timm or torchvision, of which the variant with the fewest parameters is taken, for classification.
Weights are random, with norm statistics and scales that are not those of an untaught network. Each family is a row of
benchmarks/results/timm_families.jsonl or torchvision_families.jsonl; what has a row there is left out, unless
``--again``.

What is right: logits are the module's own; the embedding is timm's
    ``forward_head(forward_features(x), pre_logits=True)``, of torchvision the tensor from which the classifier
makes the logits; maps are values and places of timm's ``forward_intermediates`` for one index at a time, which stops
there, and of its ``features_only`` network where that is another class; of torchvision what
``create_feature_extractor`` returns, in the image's ratio. Not square: the same for an image that is higher than wide
or wider than high, where the family takes one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contrastill.core.errors import UsageError
from contrastill.core.representation import Network
from contrastill.models.build import build_network
from contrastill.models.library import pair

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-4
SMALL = 96
NOT_SQUARE = ((96, 160), (160, 224), (192, 256), (224, 448), (256, 384), (256, 512), (112, 168))
"""Heights and widths to try; the first one that a family takes counts."""


def smallest(module: str) -> str:
    """The variant with the fewest parameters among those in a file of timm."""
    import timm

    sizes: dict[str, int] = {}
    for name in timm.list_models(module=module):
        try:
            with torch.device("meta"):
                sizes[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        except Exception as error:  # a constructor that asks for values
            print(f"  {name} is not built on the meta device: {type(error).__name__}", flush=True)
    return min(sizes, key=sizes.__getitem__) if sizes else timm.list_models(module=module)[0]


@torch.no_grad()
def randomised(module: nn.Module) -> None:
    """Scales, shifts and norm statistics of a trained network, so that no layer is the identity or zero."""
    draw = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        spread = parameter.std(correction=0) if parameter.numel() > 1 else torch.tensor(0.0)
        parameter.add_(torch.randn(parameter.shape, generator=draw) * (0.2 * spread if spread > 0 else 0.1))
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=draw) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=draw) + 0.5)


def far(value: Tensor | None, own: Tensor) -> float:
    """The largest difference, in the largest absolute value; infinite where a shape is another."""
    if value is None or value.shape != own.shape or not own.isfinite().all():
        return float("inf")
    return float((value - own).abs().max() / own.abs().max().clamp_min(1e-12))


def pooled(value: Tensor) -> Tensor:
    return value.mean(dim=(2, 3)) if value.ndim == 4 else value


def compare_timm(network: Network, images: Tensor) -> dict[str, Any]:
    """Of a network of timm what is right."""
    module: Any = network.module
    representation = network({"rgb": images})
    inputs = network.preprocess(images)
    row = {"size": list(inputs.shape[2:]), "logits": verdict(far(representation.logits, module(inputs)))}
    embedding = pooled(module.forward_head(module.forward_features(inputs), pre_logits=True))
    row["embedding"] = verdict(far(representation.embedding, embedding))
    if not hasattr(module, "forward_intermediates"):
        return row | {"maps": "none: timm has no forward_intermediates for it"}
    every = module.forward_intermediates(inputs, output_fmt="NCHW", intermediates_only=True)
    if not representation.maps:
        return row | {"maps": "none" if every else "none: timm has none either"}
    places = [
        next((place for place, own in enumerate(every) if far(value, own) < TOLERANCE), None)
        for value in representation.maps
    ]
    row["places"] = places
    if None in places or places != sorted(places):
        return row | {"maps": "wrong"}
    alone = [
        module.forward_intermediates(
            inputs, indices=[place], output_fmt="NCHW", intermediates_only=True, stop_early=True
        )[0]
        for place in places
    ]
    sizes = {(round(torch.log2(torch.tensor(inputs.shape[2] / value.shape[2])).item())) for value in every}
    missing = len(sizes) - len(
        {round(torch.log2(torch.tensor(inputs.shape[2] / value.shape[2])).item()) for value in representation.maps}
    )
    right = (
        max(far(value, own) for value, own in zip(representation.maps, alone, strict=True)) < TOLERANCE and not missing
    )
    row["shapes"] = [list(value.shape[1:]) for value in representation.maps]
    return row | {
        "maps": verdict(0.0 if right and features_only_agrees(network, inputs, places, representation.maps) else 1.0)
    }


def features_only_agrees(network: Network, inputs: Tensor, places: list[int], maps: tuple[Tensor, ...]) -> bool:
    """Whether timm's feature extractor, made of modules or hooks, gives the same; true where it is made of
    forward_intermediates too or there is none.
    """
    import timm

    name = network.recipe["model"].removeprefix("timm/")
    options = (
        {"img_size": tuple(inputs.shape[2:])}
        if network.recipe.get("resolution") and timm.get_pretrained_cfg(name).fixed_input_size
        else {}
    )
    try:
        extractor = timm.create_model(name, features_only=True, out_indices=tuple(places), **options).eval()
    except Exception as error:  # families without one
        print(f"  no features_only: {' '.join(str(error).split())[:100]}", flush=True)
        return True
    if type(extractor).__name__ == "FeatureGetterNet":
        return True
    state = network.module.state_dict()
    if not any(key in state for key in extractor.state_dict()):
        # Names of modules in modules are joined by underscores there.
        flat = {key.replace(".", "_"): value for key, value in state.items()}
        state = {key: flat[key.replace(".", "_")] for key in extractor.state_dict() if key.replace(".", "_") in flat}
    if any(state.get(key) is None for key in extractor.state_dict() if not key.endswith("num_batches_tracked")):
        own = {key.replace(".", "_").removeprefix("body_"): key for key in extractor.state_dict()}
        state = {
            own[key.replace(".", "_")]: value
            for key, value in network.module.state_dict().items()
            if key.replace(".", "_") in own
        }
    extractor.load_state_dict(state, strict=False)
    features = extractor(inputs)
    turned = [
        value.permute(0, 3, 1, 2) if getattr(extractor, "output_fmt", "NCHW") == "NHWC" else value for value in features
    ]
    return max(far(value, own) for value, own in zip(maps, turned, strict=True)) < TOLERANCE


def compare_torchvision(network: Network, images: Tensor) -> dict[str, Any]:
    """Of a network of torchvision what is right."""
    from torchvision.models.feature_extraction import create_feature_extractor

    module: Any = network.module
    representation = network({"rgb": images})
    inputs = network.preprocess(images)
    logits = module(inputs)
    row: dict[str, Any] = {"size": list(inputs.shape[2:]), "logits": verdict(far(representation.logits, logits))}
    classifier = module.get_submodule(module.classifiers[0])
    if isinstance(classifier, nn.Linear):
        row["embedding"] = verdict(far(classifier(representation.embedding), logits))
    else:  # SqueezeNet: ReLU and pooling come after the classifier, so the logits are no function of pooled features
        features = create_feature_extractor(module, ["classifier.0"])(inputs)["classifier.0"]
        row["embedding"] = verdict(far(representation.embedding, pooled(features)))
    nodes = [tap.removeprefix("nhwc:") for tap in network.taps.maps]
    own = create_feature_extractor(module, nodes)(inputs)
    ratio = inputs.shape[2] / inputs.shape[3]
    distances = []
    for tap, node, value in zip(network.taps.maps, nodes, representation.maps, strict=True):
        turned = own[node]
        if turned.ndim == 3:  # a transformer's class token and patches
            patch = module.patch_size
            turned = turned[:, 1:].transpose(1, 2).unflatten(2, (inputs.shape[2] // patch, inputs.shape[3] // patch))
        elif last_channels(module, node):
            turned = turned.permute(0, 3, 1, 2)
        distances.append(far(value, turned) if abs(value.shape[2] - value.shape[3] * ratio) < 2 else float("inf"))
        assert tap.removeprefix("nhwc:") == node
    row["shapes"] = [list(value.shape[1:]) for value in representation.maps]
    sizes = [value.shape[2] for value in representation.maps]
    ordered = sizes == sorted(sizes, reverse=True)
    return row | {"maps": verdict(max(distances) if ordered and distances else 1.0) if distances else "none"}


def last_channels(module: nn.Module, node: str) -> bool:
    """Swin computes on (B, H, W, C) up to a module that turns them."""
    return type(module).__name__ == "SwinTransformer" and node.startswith("features")


def verdict(distance: float) -> str:
    return "right" if distance < TOLERANCE else "wrong"


@torch.no_grad()
def examine(library: str, name: str) -> dict[str, Any]:
    """One row: a square image, and one that is not."""
    compare = compare_timm if library == "timm" else compare_torchvision
    one_size, smallest_size = sizes_of(library, name)
    row: dict[str, Any] = {"network": name}
    start = time.perf_counter()
    network = prepared(library, name, None)
    if network.module.num_logits:
        row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    try:
        row |= compare(network, pixels(smallest_size, smallest_size))
    except Exception as error:  # windows that do not fit a small image
        print(f"  {name} at {smallest_size} pixels: {type(error).__name__}", flush=True)
        row |= compare(network, pixels(*pair(network.module.published_resolution)))
    reasons = []
    for height, width in NOT_SQUARE:
        if not one_size and min(height, width) < smallest_size:
            continue
        try:
            # Of one size only: built for it, which is when position embeddings and windows are made.
            other = prepared(library, name, (height, width) if one_size else None)
            if one_size and tuple(other.preprocess(pixels(height, width)).shape[2:]) != (height, width):
                reasons.append("one size only")
                break
            row["not_square"] = compare(other, pixels(height, width))
            break
        except Exception as error:  # whatever a family says of a size it does not take
            reasons.append(" ".join(str(error).split())[:80] or type(error).__name__)
    else:
        row["not_square"] = f"not taken: {reasons[-1] if reasons else 'no size tried'}"
    row.setdefault("not_square", f"not taken: {reasons[-1] if reasons else ''}")
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def prepared(library: str, name: str, resolution: tuple[int, int] | None) -> Network:
    torch.manual_seed(0)
    network = build_network(f"{library}/{name}", num_classes=7, resolution=resolution)
    randomised(network.module)
    return network.freeze()


def sizes_of(library: str, name: str) -> tuple[bool, int]:
    """Whether a network takes one size only, and the smallest side that is tried."""
    if library == "torchvision":
        fixed = name.startswith(("vit_", "maxvit"))
        return fixed, 224 if fixed else SMALL
    import timm

    config = timm.get_pretrained_cfg(name)
    return config.fixed_input_size, config.input_size[1] if config.fixed_input_size else min(
        SMALL, config.input_size[1]
    )


def pixels(height: int, width: int) -> Tensor:
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def families(library: str) -> Iterator[tuple[str, Any]]:
    """Name of each family, and a function that names its network."""
    if library == "torchvision":
        from torchvision import models

        sizes: dict[str, dict[str, int]] = {}
        for name in models.list_models(module=models):
            file = models.get_model_builder(name).__module__.rpartition(".")[2]
            sizes.setdefault(file, {})[name] = models.get_model_weights(name).DEFAULT.meta["num_params"]
        yield from ((file, lambda own=own: min(own, key=own.__getitem__)) for file, own in sizes.items())
        return
    import timm
    from timm.models import _registry

    yield from (
        (name, lambda name=name: smallest(name))
        for name in sorted(_registry._module_to_models)
        if timm.list_models(module=name)
    )


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| family | network | embedding | logits | maps | at | not square |", "|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["family"]):
        if "error" in row:
            lines.append(f"| {row['family']} | {row['network']} | {row['error']} | | | | |")
            continue
        other = row["not_square"]
        if isinstance(other, dict):
            states = {other[part] for part in ("embedding", "logits", "maps")}
            other = f"{other['size'][0]}×{other['size'][1]}: {_states_in_words(states, other)}"
        maps = f"right, {len(row['shapes'])}" if row["maps"] == "right" else row["maps"]
        lines.append(
            f"| {row['family']} | {row['network']} | {row['embedding']} | {row['logits']} | {maps} | "
            f"{row['size'][0]}×{row['size'][1]} | {other} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=("timm", "torchvision"))
    parser.add_argument("--only", nargs="*", help="families, where not all")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument(
        "--table", action="store_true", help="print the rows that are there as Markdown, and compute nothing"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or RESULTS / f"{arguments.library}_families.jsonl"
    rows = {row["family"]: row for row in map(json.loads, out.read_text().splitlines())} if out.exists() else {}
    if arguments.table:
        print(table(rows.values()))
        return
    import importlib

    version = importlib.import_module(arguments.library).__version__
    todo = sorted(
        families(arguments.library), key=lambda entry: list(rows).index(entry[0]) if entry[0] in rows else len(rows)
    )
    for family, network in todo:
        if (arguments.only and family not in arguments.only) or (
            "seconds" in rows.get(family, {}) and not arguments.again
        ):
            continue
        name = rows[family]["network"] if family in rows else network()
        try:
            row = examine(arguments.library, name)
        except (UsageError, RuntimeError, ValueError, AssertionError, AttributeError, TypeError) as error:
            row = {"network": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        rows[family] = {"family": family, "version": version, **row}
        print(json.dumps(rows[family]), flush=True)
        out.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    print(table(rows.values()))


def _states_in_words(states: set[str], row: dict) -> str:
    return (
        "right" if states == {"right"} else ", ".join(f"{part} {row[part]}" for part in ("embedding", "logits", "maps"))
    )


if __name__ == "__main__":
    main()
