"""BatchNorm folded into convolutions, teachers in another precision: the same answers within the stated bounds, and
nothing else is touched.
"""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastill.core.config.loading import load_config
from contrastill.core.fingerprint import network_fingerprint
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.ensemble.batched import BatchedTeachers
from contrastill.models.build import build_network
from contrastill.objectives.kd import KD
from contrastill.training.assemble import assemble
from contrastill.training.folding import TOLERANCE, fold_batchnorm

# How many BatchNorms fold, of how many: of pre-activation networks and DenseNet only those between two convolutions
# can.
FAMILIES = {
    "resnet8": (9, 9), "resnet20": (21, 21), "resnet110": (111, 111), "resnet8x4": (10, 10), "wrn_16_1": (6, 13),
    "wrn_40_2": (18, 37), "vgg8": (5, 5),
    "ResNet50": (53, 53), "MobileNetV2": (53, 53), "ShuffleV1": (49, 49), "ShuffleV2": (56, 56),
    "efficientnet_lite0": (49, 49),
    "torchvision/resnet18": (20, 20), "torchvision/mobilenet_v2": (52, 52), "torchvision/densenet121": (59, 121),
}  # fmt: skip


def images(count=2, side=32):
    return {
        "rgb": torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    }


def trained_statistics(module):
    """The module with BatchNorms as they are after a training: no statistic is 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.5, 1.5),
                (norm.weight.data, 0.5, 1.5),
                (norm.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return module


def teacher(name):
    torch.manual_seed(0)
    network = build_network(name, num_classes=10).freeze()
    trained_statistics(network.module)
    return network


def own(module, embedding=None, maps=()):
    return Network(
        trained_statistics(module), taps=Taps(embedding, maps), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)
    ).freeze()


def values(network, batch):
    outputs = network(batch)
    return [value for value in (outputs.logits, outputs.embedding, *outputs.maps) if value is not None]


def norms(network):
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def close(before, after):
    return all((new - old).abs().max() <= TOLERANCE * old.abs().max() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_network_says_the_same(name):
    folds, there = FAMILIES[name]
    network = teacher(name)
    # Other images than the ones it was checked on.
    side = 64 if "torchvision" in name or "timm" in name else 32
    seen, others = images(side=side), {"rgb": 255 - images(3, side)["rgb"]}
    before, hashed, names = (
        values(network, others),
        network_fingerprint(network).hash(()),
        set(dict(network.named_modules())),
    )
    folded = fold_batchnorm(network, seen)
    assert (len(folded), norms(network)) == (folds, there - folds)
    assert close(before, values(network, others)) and not network.training
    assert names <= set(dict(network.named_modules())) and not any(
        parameter.requires_grad for parameter in network.parameters()
    )
    assert network_fingerprint(network).hash(()) != hashed


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"groups": 2}, {"padding_mode": "reflect"}])
@pytest.mark.parametrize("affine", [True, False])
def test_the_folded_weights_are_those_of_the_formula(options, affine):
    convolution = nn.Conv2d(4, 6, 3, **{"padding": 1, "bias": False, **options}).double()
    norm = nn.BatchNorm2d(6, affine=affine).double()
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    if affine:
        norm.weight.data.uniform_(-1, 1), norm.bias.data.uniform_(-1, 1)
    network = Network(
        nn.Sequential(nn.Conv2d(3, 4, 1), convolution, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        taps=Taps(),
        preprocess=Preprocess((0.5,) * 3, (0.25,) * 3),
    ).freeze()
    network.module[0].double()
    weight, bias = (
        convolution.weight.clone(),
        torch.zeros(6).double() if convolution.bias is None else convolution.bias.clone(),
    )
    # Preprocessing gives float32.
    network.module[0].register_forward_pre_hook(lambda _, args: (args[0].double(),))
    assert fold_batchnorm(network, images()) == ["2"]
    for channel in range(6):
        gamma, beta = (float(norm.weight[channel]), float(norm.bias[channel])) if affine else (1.0, 0.0)
        scale = gamma / (float(norm.running_var[channel]) + norm.eps) ** 0.5
        torch.testing.assert_close(convolution.weight[channel], weight[channel] * scale, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            convolution.bias[channel],
            (bias[channel] - norm.running_mean[channel]) * scale + beta,
            rtol=1e-12,
            atol=1e-14,
        )


class Wired(nn.Module):
    """A convolution, then BatchNorm, in one of the ways in which they do not belong to each other alone."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.conv, self.bn, self.bn2, self.relu = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(3, 4, 1)
        if way == "shared weights":
            self.last = nn.Conv2d(3, 3, 3, padding=1)
            self.last.weight = self.conv.weight

    def forward(self, x):
        return self._wired(x).mean((2, 3))

    def _wired(self, x):
        y = self.conv(x)
        if self.way == "a sum":
            return self.last(self.bn(y) + y)
        if self.way == "a module":
            return self.last(self.bn(y) + self.relu(y))
        if self.way == "two norms":
            return self.last(self.bn(y) + self.bn2(y))
        if self.way == "twice":
            return self.last(self.bn(y) + self.bn(self.conv(y)))
        if self.way == "in place":
            return self.last(self.bn(F.relu_(y)))
        if self.way == "between":
            return self.last(self.bn(2 * y))
        if self.way == "its own parameters":
            return self.last(self.bn(y)) * self.bn.weight[0]
        return self.last(self.bn(y))


WAYS = ("a sum", "a module", "two norms", "twice", "in place", "between", "its own parameters", "shared weights")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_the_convolutions_alone_is_left_as_it_is(way):
    torch.manual_seed(1)
    network = own(Wired(way))
    state, before = {key: value.clone() for key, value in network.state_dict().items()}, values(network, images())
    assert fold_batchnorm(network, images()) == []
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items()) and len(state) == len(
        network.state_dict()
    )
    assert all(map(torch.equal, before, values(network, images())))


@pytest.mark.parametrize(
    ("maps", "embedding", "folds"),
    [(("conv",), None, 0), ((), "input:bn", 0), (("bn",), "input:last", 1), (("nhwc:conv",), None, 0)],
)
def test_what_is_tapped_stays_what_it_was(maps, embedding, folds):
    torch.manual_seed(1)
    network = own(Wired("alone"), embedding, maps)
    before = values(network, images())
    assert len(fold_batchnorm(network, images())) == folds
    assert close(before, values(network, images()))


def test_one_fold_that_would_change_something_does_not_keep_the_others(caplog):
    torch.manual_seed(1)
    network = own(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), Wired("a sum")))
    before = values(network, images())
    with caplog.at_level(logging.WARNING):
        assert fold_batchnorm(network, images()) == ["1"]
    assert "2.bn" in caplog.text and close(before, values(network, images()))


def test_a_network_that_gives_nothing_to_compare_is_left_alone():
    assert fold_batchnorm(own(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), images()) == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
def test_a_network_that_shows_no_modules_is_left_alone():
    torch.manual_seed(1)
    scripted = torch.jit.script(trained_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval())
    network = Network(scripted, taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)).freeze()
    before = values(network, images())
    assert fold_batchnorm(network, images()) == [] and all(map(torch.equal, before, values(network, images())))


def test_training_flags_and_generators_are_as_before():
    network = Network(
        trained_statistics(Wired("alone")), taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)
    ).train()
    mean, state = network.module.bn.running_mean.clone(), torch.get_rng_state()
    norm = network.module.bn
    fold_batchnorm(network, images())
    assert network.training and torch.equal(norm.running_mean, mean) and torch.equal(torch.get_rng_state(), state)


# Precision


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "bf16") for name in ("resnet8", "resnet20", "wrn_16_1", "MobileNetV2", "ShuffleV2")),
        ("resnet8", "fp16"),
    ],
)
def test_another_precision_is_within_its_bound_and_answers_in_float32(name, precision):
    network, batch = teacher(name), images()
    exact = values(network, batch)
    for fold in (False, True):
        if fold:
            fold_batchnorm(network, batch)
        rough = values(network.compute_in(precision), batch)
        bound = {"bf16": 0.05, "fp16": 0.01}[precision]
        assert all(new.dtype == torch.float32 for new in rough)
        assert all(0 < (new - old).norm() <= bound * old.norm() for old, new in zip(exact, rough, strict=True))
        network.compute_in(None)


def test_a_teacher_of_its_own_precision_does_not_take_the_callers():
    network, batch = teacher("resnet8"), images()
    exact, half = values(network, batch), values(network.compute_in("bf16"), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, exact, values(network.compute_in("fp32"), batch)))
        assert all(map(torch.equal, half, values(network.compute_in("bf16"), batch)))
        assert values(network.compute_in(None), batch)[0].dtype == torch.bfloat16
        # What is around it goes on as it was.
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16


def test_precision_holds_in_a_transfer_however_teachers_are_asked():
    student, batch = build_network("resnet8", num_classes=10), {**images(4), "index": torch.arange(4)}
    expected = values(teacher("resnet8").compute_in("bf16"), images(4))[0]
    teachers = [teacher("resnet8").compute_in("bf16") for _ in range(2)]
    for source in (None, BatchedTeachers(teachers)):
        transfer = Transfer(teachers, student, {"kd": Term([KD(), KD()])}, source=source)
        outputs = transfer.teacher_outputs(batch)
        assert all(teacher_outputs.logits.dtype == torch.float32 for teacher_outputs in outputs)
        torch.testing.assert_close(outputs[1].logits, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
        assert not torch.equal(outputs[1].logits, values(teacher("resnet8"), images(4))[0])


def test_the_config_folds_and_sets_the_precision_of_teachers_alone(tmp_path):
    overrides = ["data.train_samples=40", "data.test_samples=20", "teachers.0.weights=null", f"out={tmp_path}"]
    parts = assemble(
        load_config("compression/rooms_crd", [*overrides, "train.fold_teachers=true", "train.teacher_precision=bf16"])
    )
    (folded,), student = parts.transfer.teachers, parts.transfer.student
    assert (norms(folded), folded.precision, norms(student), student.precision) == (0, torch.bfloat16, 9, None)
    plain = assemble(load_config("compression/rooms_crd", overrides)).transfer.teachers[0]
    assert (norms(plain), plain.precision) == (21, None)
    batch = next(iter(parts.train.epoch(0)))
    assert close(values(plain, batch), values(folded.compute_in(None), batch))
