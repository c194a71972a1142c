"""Whose answer it is: batched teachers against each alone, cached outputs against the network that reads them."""

import logging

import pytest
import torch
from torch import nn

from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.transfer import in_turn
from contrastill.ensemble.batched import Batched

NEEDS = frozenset({"logits", "embedding"})


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.fc = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4)
        self.again.weight = self.first.weight

    def forward(self, x):
        return self.fc(self.again(self.first(x.mean((2, 3))).relu()))


class Scaled(nn.Module):
    """Its outputs depend on more than its state dict."""

    def __init__(self, scale=1.0, kind="attribute"):
        super().__init__()
        self.fc, self.kind = nn.Linear(3, 4), kind
        if kind == "buffer":
            self.register_buffer("scale", torch.tensor(scale), persistent=False)
        elif kind == "object":
            self.scale = type("Box", (), {"__mul__": lambda self, other: other * scale, "__rmul__": lambda self, other: other * scale})()
        else:
            self.scale = scale

    def forward(self, x):
        return self.fc(x.mean((2, 3))) * self.scale


class Branching(nn.Module):
    """What vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        out = self.fc(x.mean((2, 3)))
        return out if out.sum() > 0 else 2 * out


class Dropping(nn.Module):
    """Random, also as a teacher."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(nn.functional.dropout(x.mean((2, 3)), 0.5, training=True))


def network(module, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = module()
    return Network(made, taps=Taps(embedding="input:fc"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3)).freeze()


def hooked(module):
    module.fc.register_forward_hook(lambda _, __, output: output * 2)
    return module


IMAGES = {"rgb": torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1, "index": torch.arange(4)}


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ((Tied, Tied), None),
        ((lambda: Scaled(0.5, "buffer"), lambda: Scaled(2.0, "buffer")), None),
        ((lambda: Scaled(0.5), lambda: Scaled(2.0)), "they differ in scale"),
        ((lambda: Scaled(torch.tensor(0.5)), lambda: Scaled(torch.tensor(2.0))), "they differ in scale"),
        ((lambda: Scaled(0.5, "object"), lambda: Scaled(2.0, "object")), "batched they give other outputs than each on its own"),
        ((Scaled, lambda: hooked(Scaled())), "one has hooks on fc"),
        ((Branching, Branching), "they cannot be batched"),
    ],
    ids=["tied", "buffer", "attribute", "tensor", "object", "hook", "branch"],
)
def test_batched_teachers_answer_each_for_itself(modules, reason, caplog):
    networks = [network(module, seed) for seed, module in enumerate(modules)]
    batched = Batched()
    with caplog.at_level(logging.WARNING):
        for images in (IMAGES, IMAGES | {"rgb": IMAGES["rgb"].flip(0) * 2}):
            for ours, theirs in zip(batched(networks, images, NEEDS), in_turn(networks, images, NEEDS), strict=True):
                torch.testing.assert_close(ours.logits, theirs.logits)
                torch.testing.assert_close(ours.embedding, theirs.embedding)
    lines = [record.getMessage() for record in caplog.records]
    if reason is None:
        assert not lines
    else:
        (line,) = lines
        assert line.startswith(f"ensemble.batched: teachers 0 and 1 are asked one after the other, as {reason}")


def test_what_batched_teachers_draw_to_be_compared_does_not_move_the_generators():
    networks = [network(Dropping, seed) for seed in range(2)]
    batched = Batched()
    torch.manual_seed(5)
    ours = [batched(networks, IMAGES, NEEDS) for _ in range(2)]
    torch.manual_seed(5)
    theirs = [in_turn(networks, IMAGES, NEEDS) for _ in range(2)]
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(one, other, strict=True))
