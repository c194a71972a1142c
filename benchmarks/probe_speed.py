"""A grid of linear heads trained at once against as many trained one by one, by torch.optim.SGD and by scikit-learn, in one run.

    python benchmarks/probe_speed.py
    python benchmarks/probe_speed.py --samples 2000 --dim 32 --classes 20 --rounds 1

Features are class centres and noise. All three fit one head for each pair of the grid to the same samples; the two kinds of SGD see the
same batches in the same order, start at zero and are compared at the end, so that what is timed is the same work. scikit-learn fits logistic regressions to their
optimum, 24 strengths of the penalty from 10 to 1e-7. Rounds alternate between the three, and a time is the median over rounds. A line is appended to results/probe_speed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastill.probe.linear import GRID, GRID_BATCH, GRID_EPOCHS
from contrastill.probe.sgd_heads import shuffled, train_heads

HERE = Path(__file__).resolve().parent


def drawn(samples: int, dim: int, classes: int) -> tuple[Tensor, Tensor]:
    """Standardised features (N, D) and classes (N,)."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(samples) % classes
    values = torch.randn(classes, dim, generator=generator)[targets] + 1.5 * torch.randn(samples, dim, generator=generator)
    return (values - values.mean(0)) / values.std(0), targets


def at_once(x: Tensor, y: Tensor, classes: int, epochs: int, batch_size: int) -> Tensor:
    """(H, D + 1, C)."""
    return train_heads(x, y, classes, GRID, epochs=epochs, batch_size=batch_size)


def one_by_one(x: Tensor, y: Tensor, classes: int, epochs: int, batch_size: int) -> Tensor:
    """(H, D + 1, C), of an nn.Linear and a torch.optim.SGD each."""
    total = epochs * math.ceil(len(y) / batch_size)
    weights = []
    for rate, decay in GRID:
        head = nn.Linear(x.shape[1], classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / total)))
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
    """As many logistic regressions, each of another strength of the penalty, to scikit-learn's own tolerance and number of iterations."""
    from sklearn.linear_model import LogisticRegression

    for strength in torch.logspace(1, -7, len(GRID)).tolist():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weak penalties reach its 100 iterations first
            LogisticRegression(C=1 / (len(y) * strength)).fit(x.numpy(), y.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=GRID_EPOCHS)
    parser.add_argument("--batch-size", type=int, default=GRID_BATCH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "probe_speed.jsonl")
    arguments = parser.parse_args()
    x, y = drawn(arguments.samples, arguments.dim, arguments.classes)
    sgd = (x, y, arguments.classes, arguments.epochs, arguments.batch_size)
    ways = {"at_once": lambda: at_once(*sgd), "one_by_one": lambda: one_by_one(*sgd), "scikit_learn": lambda: by_scikit_learn(x, y)}
    at_once(*sgd[:3], 1, arguments.batch_size), one_by_one(*sgd[:3], 1, arguments.batch_size)  # warm
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    made: dict[str, Tensor] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            made[name] = way()
            seconds[name].append(time.perf_counter() - began)
    median = {name: round(statistics.median(times), 3) for name, times in seconds.items()}
    row = {
        "samples": arguments.samples, "dim": arguments.dim, "classes": arguments.classes, "heads": len(GRID), "epochs": arguments.epochs,
        "batch_size": arguments.batch_size, "rounds": arguments.rounds, "seconds": median, "threads": torch.get_num_threads(), "machine": platform.machine(),
        **{f"{name}_over_at_once": round(statistics.median(seconds[name]) / statistics.median(seconds["at_once"]), 2) for name in ("one_by_one", "scikit_learn")},
        "largest_difference_of_weights": (made["at_once"] - made["one_by_one"]).abs().max().item(),
        "torch": torch.__version__,
    }  # fmt: skip
    with arguments.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
