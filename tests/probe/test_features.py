"""Features: kept in files so that no network looks twice, and put together from several processes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.probe.features import features_of

LAYERS = ("embedding", "maps.0", "maps.1", "logits")


def split(count=26, change=None, relabelled=None):
    images = torch.randint(0, 256, (count, 6, 6, 3), generator=torch.Generator().manual_seed(0))
    targets = torch.arange(count) % 3
    if change is not None:
        images[change] = 255 - images[change]
    if relabelled is not None:
        targets[relabelled] = (targets[relabelled] + 1) % 3
    return TensorSplit({"rgb": PaddedImages(images.to(torch.uint8), 0)}, targets=targets, num_classes=3, flip=True)


def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    return Network(
        module, taps=Taps(embedding="input:6", maps=("2", "3")), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)
    ).train()


def loader(data, **options):
    return data.loader(**{"batch_size": 4, "device": "cpu", "train": False, **options})


class Counted:
    """A network, and how often it looked at a batch."""

    def __init__(self):
        self.network, self.forwards = network(), 0
        self.network.module.register_forward_hook(self._count)

    def _count(self, *_):
        self.forwards += 1

    def __call__(self, folder, data=None, layers=LAYERS, spatial=1, **options):
        self.forwards = 0
        return features_of(self.network, loader(data or split(), **options), layers, spatial, cache=folder)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name].values, second[name].values) and torch.equal(first[name].targets, second[name].targets)
        for name in first
    )


def test_what_is_kept_costs_one_small_forward_and_nothing_of_the_network_moves(tmp_path):
    look = Counted()
    before = {name: value.clone() for name, value in look.network.state_dict().items()}
    bare = look(None)
    assert look.forwards == 7
    first = look(tmp_path / "new" / "folder")
    assert look.forwards == 7
    again = look(tmp_path / "new" / "folder")
    assert look.forwards == 1 and same(bare, first) and same(first, again)
    after = look.network.state_dict()
    assert (
        before.keys() == after.keys()
        and all(torch.equal(before[name], after[name]) for name in before)
        and before["module.1.running_var"].min() == 1
    )
    assert all(module.training for module in look.network.modules())
    assert len(list(tmp_path.rglob("*.h5"))) == 4 and not list(tmp_path.rglob("*.tmp"))


def test_only_what_is_missing_is_looked_at(tmp_path):
    look = Counted()
    look(tmp_path, layers=("embedding",))
    look(tmp_path, layers=("embedding", "maps.0"))
    assert look.forwards == 7 + 1
    look(tmp_path, layers=("maps.0", "embedding"))
    assert look.forwards == 1
    wide = look(tmp_path, layers=("maps.0", "embedding"), spatial=2)
    assert look.forwards == 7 + 1 and wide["maps.0"].values.shape == (26, 24)
    with torch.no_grad():
        look.network.module[1].running_mean[2] += 1e-3
    moved = look(tmp_path, layers=("embedding",))
    assert look.forwards == 7 and not torch.equal(moved["embedding"].values, wide["embedding"].values)


@pytest.mark.parametrize(
    "other",
    [{"change": 0}, {"change": 13}, {"change": 25}, {"change": 9}, {"relabelled": 9}, {"count": 25}],
    ids=["first", "middle", "last", "between", "class", "count"],
)
def test_other_data_is_looked_at_again(other, tmp_path):
    look = Counted()
    look(tmp_path, layers=("embedding",))
    data = split(**other)
    features = look(tmp_path, data, layers=("embedding",))
    assert look.forwards == 7 and torch.equal(features["embedding"].targets, data.targets)


class Bare:
    """A loader that has nothing but epochs."""

    def __init__(self, inner):
        self.inner = inner

    def epoch(self, k):
        return self.inner.epoch(k)


def test_of_a_bare_loader_every_batch_counts(tmp_path):
    look = Counted()

    def read(data):
        look.forwards = 0
        return features_of(look.network, Bare(loader(data)), ("embedding",), cache=tmp_path)["embedding"].values

    first = read(split())
    assert torch.equal(read(split()), first) and look.forwards == 0
    assert not torch.equal(read(split(change=9)), first) and look.forwards == 7


def test_of_files_each_counts(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(26):
        path = tmp_path / "data" / "train" / str(number % 2) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(path)
    look = Counted()

    def read():
        data = DATASETS["image_folder"]
        options = data.Options(path=str(tmp_path / "data"), size=6, workers=0)
        return look(tmp_path / "cache", data(options).open("train"), layers=("embedding",))["embedding"].values

    first = read()
    assert torch.equal(read(), first) and look.forwards == 1  # a few samples, to compare
    other = tmp_path / "data" / "train" / "0" / "16.png"  # neither in the first batch nor in the middle or last one
    Image.fromarray(255 - np.asarray(Image.open(other))).save(other)
    assert not torch.equal(read(), first) and look.forwards > 1


def test_a_sample_that_comes_twice_counts_once():
    class Twice(Bare):
        def epoch(self, k):
            yield from self.inner.epoch(k)
            yield from self.inner.epoch(k)

    net = network()
    assert same(features_of(net, Twice(loader(split())), LAYERS), features_of(net, loader(split()), LAYERS))


def test_a_damaged_value_in_an_intact_file_is_no_feature(tmp_path):
    look = Counted()
    first = look(tmp_path, layers=("embedding",))
    (file,) = tmp_path.rglob("*.h5")
    last = first["embedding"].values[-1].numpy().tobytes()
    content = file.read_bytes()
    assert content.count(last) == 1
    file.write_bytes(content.replace(last, last[:-1] + bytes([last[-1] ^ 0x40])))
    with pytest.raises(ContrastillError, match=f"{file.name}, features of an earlier probe, is damaged: remove it"):
        look(tmp_path, layers=("embedding",))


def test_what_cannot_be_looked_at(tmp_path):
    look = Counted()
    for layers, message in (
        (("maps.2",), "maps.2 does not exist"),
        (("maps.x",), "none of a representation's"),
        (("embedding", "pool"), "'pool'"),
    ):
        with pytest.raises(UsageError, match=message):
            look(tmp_path, layers=layers)
    with pytest.raises(UsageError, match="spatial=0"):
        look(tmp_path, spatial=0)
    look(tmp_path, layers=("embedding",))
    (file,) = tmp_path.rglob("*.h5")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ContrastillError, match="features of an earlier probe, is damaged: remove it"):
        look(tmp_path, layers=("embedding",))


RANK = """
import importlib.util, sys, torch
rank, folder, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
spec = importlib.util.spec_from_file_location("shared", path)
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
look, kept = shared.Counted(), {}
for name, options in {"shares": {"rank": rank, "world": 2}, "whole": {}}.items():
    for batch_size in (5, 25):  # of 26 samples: the second rank's share of the last batch is empty
        found = look(f"{folder}/{name}", layers=("embedding", "maps.0"), batch_size=batch_size, **options)
        first = look.forwards
        again = look(f"{folder}/{name}", layers=("embedding", "maps.0"), batch_size=batch_size, **options)
        assert look.forwards == 1 and first > 0 and shared.same(found, again)
        kept |= {f"{name} {batch_size} {layer}": value.values for layer, value in found.items()}
        kept[f"{name} {batch_size} targets"] = found["embedding"].targets
torch.save(kept, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_get_the_features_of_one_and_keep_them_for_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path), __file__], env=environment)
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    look = Counted()
    alone = look(None, layers=("embedding", "maps.0"))
    for name, value in first.items():
        kind, _, layer = name.split()
        expected = alone["embedding"].targets if layer == "targets" else alone[layer].values
        assert torch.equal(value, second[name]) and value.shape == expected.shape
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for kind in ("shares", "whole"):
        look(tmp_path / kind, layers=("embedding", "maps.0"), batch_size=5)
        assert look.forwards == 1
