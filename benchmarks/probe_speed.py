"""One extraction and a grid of linear heads trained at once, against separate probes, by torch.optim.SGD and by
scikit-learn, in one run.

    python benchmarks/probe_speed.py
    python benchmarks/probe_speed.py --samples 1000 --model resnet8 --classes 20 --rounds 1

All fit one head for each pair of the grid to the same samples. A separate SGD probe is what a probing script does: it
looks at the images once with the frozen network, keeps the features and trains its head. Both kinds of SGD see the same
batches in the same order, start at zero and are compared at the end, so that what is timed is the same work.
scikit-learn is given the features of one extraction and fits logistic regressions to their optimum, 24 strengths of the
penalty from 10 to 1e-7. The heads alone, on features that are there, are timed too. Rounds alternate, and a time is the
median over rounds (scikit-learn: one). A line is appended to results/probe_speed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastill.core.representation import Network
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.probe.features import features_of
from contrastill.probe.linear import GRID, GRID_BATCH, GRID_EPOCHS
from contrastill.probe.sgd_heads import shuffled, train_heads

HERE = Path(__file__).resolve().parent


def drawn(samples: int, classes: int) -> TensorSplit:
    """Images of noise around a colour of their class, 32×32."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(samples) % classes
    images = PaddedImages.zeros(samples, 32, 32, 3, dtype=torch.uint8, padding=0)
    colours = torch.randint(256, (classes, 1, 1, 3), generator=generator)
    images.interior[:] = ((colours[targets] + torch.randint(256, (samples, 32, 32, 3), generator=generator)) // 2).to(
        torch.uint8
    )
    return TensorSplit({"rgb": images}, targets=targets, num_classes=classes)


def extracted(network: Network, images: TensorSplit) -> tuple[Tensor, Tensor]:
    """Standardised embeddings (N, D) and classes (N,)."""
    loader = images.loader(batch_size=256, device="cpu", seed=0, train=False)
    features = features_of(network, loader, ("embedding",), 1)["embedding"]
    values = features.values
    return (values - values.mean(0)) / values.std(0).clamp_min(1e-6), features.targets


def at_once(x: Tensor, y: Tensor, classes: int, epochs: int, batch_size: int) -> Tensor:
    """(H, D + 1, C)."""
    return train_heads(x, y, classes, GRID, epochs=epochs, batch_size=batch_size)


def one_by_one(features: Callable[[], tuple[Tensor, Tensor]], classes: int, epochs: int, batch_size: int) -> Tensor:
    """(H, D + 1, C), of an nn.Linear and a torch.optim.SGD each, which ask for their features each."""
    weights = []
    for rate, decay in GRID:
        x, y = features()
        total = epochs * math.ceil(len(y) / batch_size)
        head = nn.Linear(x.shape[1], classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step, total=total: 0.5 * (1 + math.cos(math.pi * step / total))
        )
        for epoch in range(epochs):
            order = shuffled(len(y), epoch)
            for batch, target in zip(x[order].split(batch_size), y[order].split(batch_size), strict=True):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(head(batch), target).backward()
                optimizer.step()
                schedule.step()
        weights.append(torch.cat((head.weight.detach().T, head.bias.detach()[None])))
    return torch.stack(weights)


def by_scikit_learn(x: Tensor, y: Tensor) -> None:
    """As many logistic regressions, each of another strength of the penalty, to scikit-learn's own tolerance and number
    of iterations.
    """
    from sklearn.linear_model import LogisticRegression

    for strength in torch.logspace(1, -7, len(GRID)).tolist():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weak penalties reach its 100 iterations first
            LogisticRegression(C=1 / (len(y) * strength)).fit(x.numpy(), y.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=GRID_EPOCHS)
    parser.add_argument("--batch-size", type=int, default=GRID_BATCH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "probe_speed.jsonl")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network, images = (
        build_network(arguments.model, num_classes=arguments.classes).freeze(),
        drawn(arguments.samples, arguments.classes),
    )
    x, y = extracted(network, images)
    rest = (arguments.classes, arguments.epochs, arguments.batch_size)
    ways: dict[str, Callable[[], Tensor | None]] = {
        "extraction": lambda: extracted(network, images)[0],
        "heads_at_once": lambda: at_once(x, y, *rest),
        "heads_one_by_one": lambda: one_by_one(lambda: (x, y), *rest),
        "at_once": lambda: at_once(*extracted(network, images), *rest),
        "separate_sgd": lambda: one_by_one(lambda: extracted(network, images), *rest),
        "scikit_learn": lambda: by_scikit_learn(*extracted(network, images)),
    }
    (
        at_once(x, y, arguments.classes, 1, arguments.batch_size),
        one_by_one(lambda: (x, y), arguments.classes, 1, arguments.batch_size),
    )  # warm
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Tensor | None] = {}
    for round_number in range(arguments.rounds):
        for name, way in ways.items():
            if name == "scikit_learn" and round_number:  # minutes: once
                continue
            began = time.perf_counter()
            results[name] = way()
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    row = {
        "model": arguments.model, "samples": arguments.samples, "dim": x.shape[1], "classes": arguments.classes,
        "heads": len(GRID), "epochs": arguments.epochs,
        "batch_size": arguments.batch_size, "rounds": arguments.rounds, "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "separate_sgd_over_at_once": round(median["separate_sgd"] / median["at_once"], 2),
        "scikit_learn_over_at_once": round(median["scikit_learn"] / median["at_once"], 2),
        "heads_one_by_one_over_at_once": round(median["heads_one_by_one"] / median["heads_at_once"], 2),
        "largest_difference_of_weights": (results["at_once"] - results["separate_sgd"]).abs().max().item(),
        "torch": torch.__version__,
    }  # fmt: skip
    with arguments.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
