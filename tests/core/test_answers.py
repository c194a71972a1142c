"""Whose answer it is: batched teachers against each alone, cached outputs against the network that reads them."""

import logging
import shutil

import pytest
import torch
from torch import nn

from contrastill.core.config.schema import CacheConfig
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.teachers.cache import CachedTeachers
from contrastill.core.teachers.live import LiveTeachers
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.ensemble.batched import BatchedTeachers
from contrastill.objectives.kd import KD
from contrastill.probe.features import features_of

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
            self.scale = type(
                "Box", (), {"__mul__": lambda self, other: other * scale, "__rmul__": lambda self, other: other * scale}
            )()
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
        wrapped = module()
    wrapped = Network(wrapped, taps=Taps(embedding="input:fc"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3)).freeze()
    wrapped.recipe = {"num_classes": 4}
    return wrapped


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
        (
            (lambda: Scaled(0.5, "object"), lambda: Scaled(2.0, "object")),
            "batched they give other outputs than each on its own",
        ),
        ((Scaled, lambda: hooked(Scaled())), "one has hooks on fc"),
        ((Branching, Branching), "they cannot be batched"),
    ],
    ids=["tied", "buffer", "attribute", "tensor", "object", "hook", "branch"],
)
def test_batched_teachers_answer_each_for_itself(modules, reason, caplog):
    networks = [network(module, seed) for seed, module in enumerate(modules)]
    batched = BatchedTeachers(networks)
    with caplog.at_level(logging.WARNING):
        for images in (IMAGES, IMAGES | {"rgb": IMAGES["rgb"].flip(0) * 2}):
            outputs = (
                source.outputs(images, range(len(networks)), NEEDS) for source in (batched, LiveTeachers(networks))
            )
            for ours, theirs in zip(*outputs, strict=True):
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
    batched = BatchedTeachers(networks)
    torch.manual_seed(5)
    ours = [batched.outputs(IMAGES, range(2), NEEDS) for _ in range(2)]
    torch.manual_seed(5)
    theirs = [LiveTeachers(networks).outputs(IMAGES, range(2), NEEDS) for _ in range(2)]
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(one, other, strict=True))


def images(count=20):
    padded = PaddedImages.zeros(count, 8, 8, 3, dtype=torch.uint8, padding=0)
    padded.interior[:] = torch.randint(
        256, padded.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TensorSplit({"rgb": padded}, targets=torch.arange(count) % 4, num_classes=4, flip=True)


def memory(teacher, folder, keep=None, **options):
    student = network(Scaled, 7)
    transfer = Transfer([network(teacher)], student, {"kd": KD()})
    return CachedTeachers(
        images().loader(batch_size=8, device="cpu", seed=1, train=True, views=2),
        transfer.source,
        transfer.teacher_needs,
        folder,
        keep,
        **options,
    )


@pytest.mark.parametrize("kind", ["attribute", "buffer"])
@pytest.mark.parametrize(
    "keep",
    [CacheConfig(), CacheConfig(logits=2, precision="fp16"), CacheConfig(precision="fp16")],
    ids=["all", "largest", "half"],
)
@pytest.mark.parametrize("sealed", [False, True], ids=["training", "command"])
def test_cached_outputs_of_a_network_with_the_same_weights_and_another_attribute_are_refused(
    tmp_path, kind, keep, sealed
):
    first = memory(lambda: Scaled(1.0, kind), tmp_path, keep, filling=sealed)
    if sealed:
        first.fill()
    else:
        first.start_epoch(0)
    again = memory(lambda: Scaled(1.0, kind), tmp_path, keep)
    again.start_epoch(0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        UsageError,
        match="holds other .* of the same samples than teacher 0 gives now: they are of a network of the same "
        r"weights .*, or .*0000\d.h5 was damaged; name another folder",
    ):
        other = memory(lambda: Scaled(1.1, kind), tmp_path, keep)
        other.start_epoch(0)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("where", ["memory", "folder", "command"])
def test_a_random_teacher_is_not_cached(tmp_path, where):
    with pytest.raises(
        UsageError,
        match="teacher 0 gives other .* each time it is asked, so its outputs cannot be cached: turn off what is "
        "random",
    ):
        cache = memory(Dropping, None if where == "memory" else tmp_path, filling=where == "command")
        if where == "command":
            cache.fill()
        cache.start_epoch(0)
    assert not [*tmp_path.rglob("*.h5")]


def test_a_view_that_another_network_filled_is_refused_too(tmp_path):
    """The first view is the teacher's own, the second was written for another one."""
    for scale, view in ((1.0, 0), (3.0, 1)):
        cache = memory(lambda scale=scale: Scaled(scale), tmp_path / str(view))
        cache.start_epoch(view)
    shutil.copytree(tmp_path / "1", tmp_path / "0", dirs_exist_ok=True)
    with pytest.raises(UsageError, match="holds other"):
        memory(Scaled, tmp_path / "0")


@pytest.mark.parametrize("kind", ["attribute", "buffer"])
def test_features_of_a_network_with_the_same_weights_and_another_attribute_are_refused(tmp_path, kind):
    loader = images().loader(batch_size=8, device="cpu", train=False)
    first = features_of(network(lambda: Scaled(1.0, kind)), loader, ("logits",), cache=tmp_path)
    again = features_of(network(lambda: Scaled(1.0, kind)), loader, ("logits",), cache=tmp_path)
    assert torch.equal(first["logits"].values, again["logits"].values)
    with pytest.raises(ContrastillError, match="holds other features of the same samples than the network gives now"):
        features_of(network(lambda: Scaled(1.1, kind)), loader, ("logits",), cache=tmp_path)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_term_has_a_positive_weight(weight):
    with pytest.raises(UsageError, match="the weight of KD is .*: give a positive number"):
        Term(KD(), weight)
