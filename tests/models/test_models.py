"""The CIFAR residual networks against their published sizes and names, and a student to and from its file."""

import argparse
import copy
import pickle

import pytest
import torch

import contrastill
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import MODELS
from contrastill.core.representation import Preprocess
from contrastill.core.representation_spec import RepresentationSpec, describe
from contrastill.core.weights import save_state_dict
from contrastill.models.build import build_network, load_student, save_student

NARROW = ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8))
WIDE = ((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8))

# Parameters, embedding and maps of the released definitions at 100 classes and 32×32.
PUBLISHED = {
    "resnet8": (83892, 64, NARROW),
    "resnet14": (181108, 64, NARROW),
    "resnet20": (278324, 64, NARROW),
    "resnet32": (472756, 64, NARROW),
    "resnet44": (667188, 64, NARROW),
    "resnet56": (861620, 64, NARROW),
    "resnet110": (1736564, 64, NARROW),
    "resnet8x4": (1233540, 256, WIDE),
    "resnet32x4": (7433860, 256, WIDE),
}


def images(size=2, channels=3):
    return {
        "rgb": torch.randint(
            256, (size, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_maps_are_the_published_ones(name):
    parameters, dim, maps = PUBLISHED[name]
    network = build_network(name, num_classes=100)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert describe(network, images()) == RepresentationSpec(100, dim, maps)


def expected_names(blocks, wide):
    """Names of a released checkpoint, written out from its definition."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for layer in (1, 2, 3):
        for block in range(blocks):
            for number in (1, 2):
                names.append(f"layer{layer}.{block}.conv{number}.weight")
                names += [f"layer{layer}.{block}.bn{number}.{part}" for part in norm]
            if block == 0 and (layer > 1 or wide):
                names.append(f"layer{layer}.0.downsample.0.weight")
                names += [f"layer{layer}.0.downsample.1.{part}" for part in norm]
    return {*names, "fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet8", 1), ("resnet20", 3), ("resnet110", 18), ("resnet8x4", 1), ("resnet32x4", 5)]
)
def test_state_dict_names_are_those_of_the_released_checkpoints(name, blocks):
    assert set(MODELS[name]().state_dict()) == expected_names(blocks, name.endswith("x4"))


def test_the_forward_pass_is_that_of_the_paper():
    """Recomputed from the state dict alone, with functional calls."""
    from torch.nn import functional as F

    network = build_network("resnet14", num_classes=7).eval()
    state = network.module.state_dict()
    with torch.no_grad():
        for name in state:  # statistics that are not 0 and 1, so that a swapped BatchNorm is seen
            if name.endswith(("running_mean", "running_var")):
                state[name].uniform_(0.5, 1.5)

    def norm(x, name):
        return F.batch_norm(
            x,
            state[f"{name}.running_mean"],
            state[f"{name}.running_var"],
            state[f"{name}.weight"],
            state[f"{name}.bias"],
        )

    x = F.relu(norm(F.conv2d(network.preprocess(images()["rgb"]), state["conv1.weight"], padding=1), "bn1"))
    maps = [x]
    for layer in (1, 2, 3):
        for block in (0, 1):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, state[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1"))
            y = norm(F.conv2d(y, state[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=2), f"{at}.downsample.1")
            x = F.relu(x + y)
        maps.append(x)
    outputs = network(images())
    torch.testing.assert_close(outputs.maps, tuple(maps))
    torch.testing.assert_close(outputs.embedding, x.mean(dim=(2, 3)))
    torch.testing.assert_close(outputs.logits, F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"]))


def test_initial_weights_are_he_et_al():
    torch.manual_seed(0)
    module = MODELS["resnet32x4"]()
    for name in ("layer1.1.conv1", "layer3.1.conv2", "layer3.0.downsample.0"):
        conv = module.get_submodule(name)
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert module.layer2[0].bn1.weight.eq(1).all() and module.layer2[0].bn1.bias.eq(0).all()


def test_a_released_checkpoint_loads_as_it_is(tmp_path):
    teacher = MODELS["resnet8"](num_classes=100)
    options = argparse.Namespace(model="resnet8", dataset="cifar100", learning_rate=0.05)
    released = {
        "epoch": 240,
        "model": teacher.state_dict(),
        "best_acc": torch.tensor(60.0),
        "optimizer": {"state": {}},
        "opt": options,
    }
    torch.save(released, tmp_path / "ckpt_epoch_240.pth")
    network = build_network("resnet8", num_classes=100, weights=tmp_path / "ckpt_epoch_240.pth").eval()
    torch.testing.assert_close(network(images()).logits, teacher.eval()(network.preprocess(images()["rgb"])))
    with pytest.raises(UsageError, match="do not fit resnet20: missing layer1.1.conv1.weight, .* more"):
        build_network("resnet20", num_classes=100, weights=tmp_path / "ckpt_epoch_240.pth")
    with pytest.raises(UsageError, match=r"fc.weight \(100, 64\) instead of \(10, 64\)"):
        build_network("resnet8", num_classes=10, weights=tmp_path / "ckpt_epoch_240.pth")


def test_what_a_config_gives_replaces_the_networks_own():
    network = build_network(
        "resnet8",
        num_classes=4,
        modality="chrominance",
        mean=(0.4, 0.5),
        std=(0.1, 0.2),
        resolution=16,
        embedding="layer2",
        maps=("layer1",),
    )
    assert network.modality == "chrominance" and network.preprocess == Preprocess((0.4, 0.5), (0.1, 0.2), 16)
    spec = describe(network, {"chrominance": torch.zeros(1, 2, 32, 32)})
    assert spec == RepresentationSpec(4, 32, ((16, 16, 16),))
    with pytest.raises(UsageError, match="was given mean alone"):
        build_network("resnet8", num_classes=4, mean=(0.5,))


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UsageError, match="model 'resnet21' does not exist: did you mean resnet"):
        build_network("resnet21", num_classes=4)
    with pytest.raises(UsageError, match="in CifarResNet, the module 'layer9' does not exist: did you mean layer"):
        build_network("resnet8", num_classes=4, embedding="layer9")
    from contrastill.models.resnet import CifarResNet

    with pytest.raises(UsageError, match="not 21"):
        CifarResNet(21)


def test_a_student_comes_back_from_its_file(tmp_path):
    network = build_network(
        "resnet8", num_classes=6, modality="luminance", mean=(0.5,), std=(0.25,), resolution=16, maps=("layer3",)
    ).train()
    save_student(network, tmp_path / "student.safetensors")
    for source in (tmp_path, tmp_path / "student.safetensors"):
        student = load_student(source)
        assert not student.training and student.preprocess == network.preprocess and student.taps == network.taps
        assert all(
            torch.equal(value, network.module.state_dict()[name]) for name, value in student.state_dict().items()
        )
    assert contrastill.load_student is load_student
    build_network("resnet8", num_classes=6, mean=(0.5,), std=(0.25,), weights=tmp_path)


def test_integers_for_a_plain_network_are_not_normalised_yet(tmp_path):
    save_student(build_network("resnet8", num_classes=10), tmp_path / "student.safetensors")
    loaded, batch = load_student(tmp_path), images()["rgb"]
    again = pickle.loads(pickle.dumps(loaded))
    for module in (loaded, copy.deepcopy(loaded), again):
        with pytest.raises(UsageError, match=r"uint8\) are not normalised yet: call network\(network.preprocess\("):
            module(batch)
    ready = loaded.preprocess(batch)
    exported = torch.export.export(loaded, (ready,)).module()(ready)
    assert torch.allclose(exported, loaded(ready), atol=1e-5)
    assert torch.allclose(torch.jit.trace(loaded, ready)(ready), loaded(ready), atol=1e-5)
    assert [*loaded.state_dict()] == [*build_network("resnet8", num_classes=10).module.state_dict()]


def test_integers_for_a_module_of_a_user_are_its_own_affair(tmp_path):
    class Bytes(type(build_network("resnet8", num_classes=10).module)):
        def forward(self, batch):
            return super().forward(batch.float())

    network = build_network("resnet8", num_classes=10)
    save_student(network, tmp_path / "student.safetensors")
    mine = copy.deepcopy(network.module)
    mine.__class__ = Bytes
    assert load_student(tmp_path, module=mine)(images()["rgb"]).shape == (2, 10)


def test_a_file_without_a_name_or_a_network_without_one_is_refused(tmp_path):
    save_state_dict(MODELS["resnet8"]().state_dict(), tmp_path / "student.safetensors")
    with pytest.raises(ContrastillError, match="does not say which network it is"):
        load_student(tmp_path)
    network = build_network("resnet8", num_classes=6)
    network.recipe.clear()
    with pytest.raises(UsageError, match="only a network of build_network"):
        save_student(network, tmp_path / "other.safetensors")


def test_the_depth_encoder_has_five_convolutions_and_their_maps():
    network = build_network("conv5", num_classes=10, mean=(2.0,), std=(1.0,), modality="depth")
    widths = (32, 64, 128, 256, 256)
    convolutions = sum(9 * before * after + 2 * after for before, after in zip((1, *widths), widths, strict=False))
    assert sum(parameter.numel() for parameter in network.parameters()) == convolutions + 256 * 10 + 10
    outputs = network.eval()({"depth": torch.rand(2, 1, 120, 160)})
    assert [tuple(value.shape[1:]) for value in outputs.maps] == [
        (32, 60, 80),
        (64, 30, 40),
        (128, 15, 20),
        (256, 8, 10),
        (256, 8, 10),
    ]
    assert outputs.embedding.shape == (2, 256)
