"""ImageNet's config on a tiny tree: folders and shards end in the same student; compiled and bf16 steps; nothing is
downloaded.
"""

import io
import json
import shutil
import tarfile
from functools import partial

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from contrastill.cli.main import main
from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.representation_spec import describe
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.ensemble.batched import BatchedTeachers
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD
from contrastill.training.compiled import compiled
from contrastill.training.engine import fit


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Two classes × 6 training and 2 validation JPEGs of 96 pixels, as ImageNet's folders and as shards."""
    folder, shards = tmp_path_factory.mktemp("imagenet"), tmp_path_factory.mktemp("shards")
    for split, count in (("train", 6), ("val", 2)):
        with tarfile.open(shards / f"{split}-000000.tar", "w") as tar:
            for target, wnid in enumerate(("n01440764", "n01443537")):
                for k in range(count):
                    small = np.random.default_rng(target * 10 + k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    path = folder / split / wnid / f"{wnid}_{k}.JPEG"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(path, format="JPEG")
                    for ending, content in (("jpeg", path.read_bytes()), ("cls", str(target).encode())):
                        info = tarfile.TarInfo(f"{wnid}_{k}.{ending}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return folder, shards


def _command(path, out, *more):
    return ["train", "compression/imagenet_crd", f"data.path={path}", "data.size=64", "data.workers=0",
        "teachers.0.weights=null", "train.epochs=1",
            "train.batch_size=6", "objectives.crd.num_negatives=4", f"out={out}", "-q", *more]  # fmt: skip


def test_the_config_is_the_paper_s_for_both_pairs_and_layouts(capsys):
    command = ["train", "compression/imagenet_crd", "data.path=/imagenet", "--dry-run"]
    assert main(command) == 0
    output = capsys.readouterr().out
    for line in (
        "model: torchvision/resnet34",
        "weights: pretrained",
        "model: torchvision/resnet18",
        "num_negatives: 16384",
        "weight: 0.8",
        "temperature: 0.07",
    ):
        assert line in output
    for line in (
        "lr: 0.1",
        "batch_size: 256",
        "weight_decay: 0.0001",
        "epochs: 100",
        "- 0.3",
        "- 0.6",
        "- 0.9",
        "gamma: 0.1",
        "momentum: 0.9",
        "compile: false",
    ):
        assert f"  {line}\n" in output
    assert main([*command, "data.name=webdataset", "data.train=train-{000000..000146}.tar", "train.compile=true"]) == 0
    output = capsys.readouterr().out
    assert "train: train-{000000..000146}.tar" in output and "compile: true" in output
    pair = [
        "teachers.0.model=torchvision/resnet50",
        "student.model=timm/mobilenetv1_100",
        "objectives.kd.weight=0.9",
        "objectives.cross_entropy.weight=0.5",
    ]
    assert main([*command, *pair]) == 0
    assert "model: timm/mobilenetv1_100" in capsys.readouterr().out


def test_the_classes_of_torchvision_s_weights_are_the_sorted_wordnet_ids():
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet34_Weights

    info, categories = ImageNetInfo(), ResNet34_Weights.IMAGENET1K_V1.meta["categories"]
    names = info.label_names()
    assert names == sorted(names) and len(names) == len(categories) == 1000
    assert all(
        category.split()[0].lower() in info.label_name_to_description(name).lower()
        for name, category in zip(names, categories, strict=True)
    )


def test_folders_and_shards_end_in_the_same_student(trees, tmp_path, capsys):
    folder, shards = trees
    assert main([*_command(folder, tmp_path / "folder"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert {"cross_entropy", "crd", "top1"} <= set(row) and np.isfinite(row["loss"])
    assert main(_command(shards, tmp_path / "shards", "data.name=webdataset")) == 0
    one, other = (load_file(tmp_path / name / "student.safetensors") for name in ("folder", "shards"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Compiled


class Small(nn.Module):
    """What a tap may meet: a pre-hook's input, an output, and one that is changed in place right after."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.last, self.fc = nn.Conv2d(4, 6, 3, 2), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.last(self.act(self.norm(self.conv(x)))).mean(dim=(2, 3)))


class Batches:
    """Three batches of 4 and one of 2, the same in each epoch."""

    num_samples = 14

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (14, 3, 12, 12), dtype=torch.uint8, generator=generator)

    def __len__(self):
        return 4

    def epoch(self, k, start=0):
        for rows in torch.arange(14).split(4)[start:]:
            yield {
                "rgb": self.images[rows].contiguous(memory_format=torch.channels_last),
                "index": rows,
                "target": rows % 3,
            }


def _network(module=None):
    taps = Taps(embedding="input:fc", maps=("act", "last"))
    return Network(module or Small(), taps=taps, preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))


def _transfer(*, logits=True, batched=False):
    torch.manual_seed(0)
    teacher, student = _network(), _network()
    spec = describe(student, {name: value[:2] for name, value in next(Batches().epoch(0)).items()})
    build = OBJECTIVES["crd"]
    crd = build.build(build.Options(num_negatives=4), Setting(spec, spec, 14, torch.arange(14) % 3, 0))
    attention = OBJECTIVES["attention"]
    maps = attention.build(attention.Options(), Setting(spec, spec, 14, torch.arange(14) % 3, 0))
    terms = {"crd": crd, "attention": Term(maps, 1.0)} | (
        {"cross_entropy": CrossEntropy(), "kd": KD()} if logits else {}
    )
    return Transfer([teacher], student, terms, source=BatchedTeachers([teacher]) if batched else None)


def _losses(transfer, **options):
    result = fit(
        transfer,
        Batches(),
        Batches() if "kd" in transfer.terms else None,
        TrainConfig(epochs=2, batch_size=4, lr=0.01, **options),
        progress=False,
    )
    return [row["loss"] for row in result.history]


@pytest.fixture
def without_code(monkeypatch):
    """Graphs are captured and differentiated ahead of time as ever; only no machine code is made, which takes half a
    minute.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("logits", [True, False])
def test_a_compiled_training_is_the_same_training(without_code, logits):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, other = _transfer(logits=logits), _transfer(logits=logits)
    assert _losses(other, compile=True) == pytest.approx(_losses(plain), rel=1e-4)
    assert (
        not torch._dynamo.utils.counters["graph_break"] and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
    )
    # Batches of two sizes, training and evaluation, and the initial look: no more than these, or each step would
    # compile.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
    state = plain.state_dict()
    assert list(state) == list(other.state_dict())
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-5, msg=name)
    # As it was before: a forward of its own, no hooks, and frozen what was frozen.
    assert "forward" not in other.student.__dict__ and not any(
        module._forward_hooks or module._forward_pre_hooks for module in other.student.modules()
    )
    assert [p.requires_grad for p in plain.parameters()] == [p.requires_grad for p in other.parameters()]


def test_a_compiled_network_gives_no_gradient_to_what_is_not_read(without_code):
    plain, other = _transfer(logits=False), _transfer(logits=False)
    batch = next(Batches().epoch(0))
    with compiled(other):
        other(batch).loss.backward()
        assert {name for name, p in other.student.module.named_parameters() if p.grad is None} == {
            "fc.weight",
            "fc.bias",
        }
        assert other.freeze_unread(batch) == plain.freeze_unread(batch) == ["fc.weight", "fc.bias"]


def test_compiled_teachers_answer_one_by_one():
    with pytest.raises(UsageError, match="train.compile compiles each teacher by itself, and ensemble.batched"):
        _losses(_transfer(batched=True), compile=True)


@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None,
    reason="no C++ compiler, which torch.compile needs on the CPU",
)
def test_one_step_in_machine_code():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.act(self.conv(x)).mean(dim=(2, 3)))

    torch._dynamo.reset()
    torch.manual_seed(0)
    transfer = Transfer(
        [],
        Network(Tiny(), taps=Taps(embedding="input:fc"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)),
        {"cross_entropy": CrossEntropy()},
    )
    batch = next(Batches().epoch(0))
    transfer(batch).loss.backward()
    expected = [parameter.grad.clone() for parameter in transfer.parameters()]
    transfer.zero_grad()
    with compiled(transfer):
        transfer(batch).loss.backward()
    torch.testing.assert_close([parameter.grad for parameter in transfer.parameters()], expected, rtol=1e-4, atol=1e-6)


def test_what_the_compiler_says_is_one_sentence(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nin a long story")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    torch._dynamo.reset()
    with pytest.raises(
        ContrastillError,
        match=r"torch.compile fails on Small here \(.*No working C\+\+ compiler found.*\): .* train.compile=false",
    ) as caught:
        _losses(_transfer(), compile=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def any_precision():
    """Accelerate keeps the precision of a process's first training."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bf16_is_the_teachers_too_and_the_loss_stays_finite(any_precision):
    transfer = _transfer()
    seen = []
    transfer.teachers[0].register_forward_hook(lambda *output: seen.append(output[2].logits.dtype))
    losses = _losses(transfer, precision="bf16")
    assert set(seen) == {torch.bfloat16} and all(np.isfinite(loss) for loss in losses)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert losses == pytest.approx(_losses(_transfer()), rel=0.05)
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in transfer.trained_state().values())
