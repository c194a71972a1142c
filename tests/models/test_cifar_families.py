"""The benchmark's other CIFAR networks: published sizes and names, the forward pass recomputed, released
checkpoints.
"""

import argparse
import warnings

import pytest
import torch
from torch.nn import functional as F

from contrastill.core.errors import UsageError
from contrastill.core.registry import MODELS
from contrastill.core.representation_spec import RepresentationSpec, describe
from contrastill.models.build import build_network, load_student, save_student
from contrastill.models.wide_resnet import WideResNet

WRN_1 = ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8))
WRN_2 = ((16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8))
VGG = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4))

# Parameters, embedding and maps of the released definitions at 100 classes and 32×32.
PUBLISHED = {
    "wrn_16_1": (180916, 64, WRN_1),
    "wrn_16_2": (703284, 128, WRN_2),
    "wrn_40_1": (569780, 64, WRN_1),
    "wrn_40_2": (2255156, 128, WRN_2),
    "vgg8": (3965028, 512, VGG),
    "vgg11": (9277284, 512, VGG),
    "vgg13": (9462180, 512, VGG),
    "vgg16": (14774436, 512, VGG),
    "vgg19": (20086692, 512, VGG),
    "ResNet50": (23705252, 2048, ((64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4))),
    "MobileNetV2": (812836, 1280, ((16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2))),
    "ShuffleV1": (949258, 960, ((24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4))),
    "ShuffleV2": (1355528, 1024, ((24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4))),
}
FAMILIES = ("wrn_16_2", "vgg8", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2")


def images(size=2, channels=3, side=32):
    return {
        "rgb": torch.randint(
            256, (size, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_maps_are_the_published_ones_and_one_image_is_enough(name):
    parameters, dim, maps = PUBLISHED[name]
    network = build_network(name, num_classes=100)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert describe(network, images(1)) == RepresentationSpec(100, dim, maps)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_parameter_gets_a_gradient_and_the_images_may_be_grey(name):
    # In eval mode: in training BatchNorm takes away what a bias before it adds.
    network = build_network(name, num_classes=7, mean=(0.5,), std=(0.25,)).eval()
    outputs = network(images(channels=1, side=16))
    (
        F.cross_entropy(outputs.logits, torch.tensor([0, 6])) + sum(value.square().mean() for value in outputs.maps)
    ).backward()
    assert outputs.logits.shape == (2, 7)
    # A bias that a 1×1 convolution and BatchNorm follow shifts nothing: its gradient is 0 up to rounding.
    assert [
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not (parameter.grad.any() or key.endswith("bias"))
    ] == []


NAMES = {
    "wrn_16_2": {
        "conv1.weight": (16, 3, 3, 3),
        "block1.layer.0.bn1.running_mean": (16,),
        "block1.layer.0.convShortcut.weight": (32, 16, 1, 1),
        "block1.layer.1.conv1.weight": (32, 32, 3, 3),
        "block3.layer.0.conv1.weight": (128, 64, 3, 3),
        "block3.layer.1.bn2.num_batches_tracked": (),
        "bn1.weight": (128,),
        "fc.weight": (100, 128),
    },
    "vgg13": {
        "block0.0.weight": (64, 3, 3, 3),
        "block0.0.bias": (64,),
        "block0.1.running_var": (64,),
        "block0.3.weight": (64, 64, 3, 3),
        "block4.3.weight": (512, 512, 3, 3),
        "block4.4.bias": (512,),
        "classifier.weight": (100, 512),
    },
    "ResNet50": {
        "conv1.weight": (64, 3, 3, 3),
        "bn1.weight": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.shortcut.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.running_mean": (1024,),
        "layer4.0.shortcut.1.weight": (2048,),
        "linear.weight": (100, 2048),
    },
    "MobileNetV2": {
        "conv1.0.weight": (16, 3, 3, 3),
        "conv1.1.running_mean": (16,),
        "blocks.0.0.conv.0.weight": (16, 16, 1, 1),
        "blocks.1.0.conv.3.weight": (48, 1, 3, 3),
        "blocks.5.2.conv.6.weight": (80, 480, 1, 1),
        "blocks.6.0.conv.7.bias": (160,),
        "conv2.0.weight": (1280, 160, 1, 1),
        "classifier.0.weight": (100, 1280),
    },
    "ShuffleV1": {
        "conv1.weight": (24, 3, 1, 1),
        "layer1.0.conv1.weight": (54, 24, 1, 1),
        "layer1.0.conv3.weight": (216, 18, 1, 1),
        "layer2.0.conv1.weight": (60, 80, 1, 1),
        "layer3.3.conv2.weight": (240, 1, 3, 3),
        "layer3.3.bn3.weight": (960,),
        "linear.weight": (100, 960),
    },
    "ShuffleV2": {
        "conv1.weight": (24, 3, 1, 1),
        "layer1.0.conv1.weight": (24, 1, 3, 3),
        "layer1.0.conv3.weight": (58, 24, 1, 1),
        "layer2.0.bn5.weight": (116,),
        "layer2.7.conv3.weight": (116, 116, 1, 1),
        "conv2.weight": (1024, 464, 1, 1),
        "bn2.running_var": (1024,),
        "linear.weight": (100, 1024),
    },
}
ENTRIES = {"wrn_16_2": 83, "vgg13": 72, "ResNet50": 320, "MobileNetV2": 320, "ShuffleV1": 296, "ShuffleV2": 338}


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_names_and_shapes_are_those_of_the_released_checkpoints(name):
    state = MODELS[name]().state_dict()
    assert {key: tuple(state[key].shape) for key in NAMES[name] if key in state} == NAMES[name]
    assert len(state) == ENTRIES[name]


def test_a_shortcut_has_weights_only_where_the_shape_changes():
    assert not any("convShortcut" in key for key in MODELS["wrn_16_1"]().state_dict() if key.startswith("block1"))
    assert {key.split(".shortcut")[0] for key in MODELS["ResNet50"]().state_dict() if "shortcut" in key} == {
        f"layer{n}.0" for n in (1, 2, 3, 4)
    }
    assert not any("shortcut" in key for key in MODELS["ShuffleV1"]().state_dict())


class Functional:
    """Convolutions, BatchNorms and linear layers by name, from tensors alone."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, stride=1):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(
            x,
            weight,
            self.state.get(f"{name}.bias"),
            stride,
            weight.shape[2] // 2,
            groups=x.shape[1] // weight.shape[1],
        )

    def norm(self, x, name):
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def relu_of(self, x, convolution, norm, stride=1):
        return self.norm(self.conv(x, convolution, stride), norm).clamp_min(0)

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def dealt(x, groups):
    """Channel c of the answer is the (c // groups)-th of group c % groups."""
    size = x.shape[1] // groups
    return x[:, [group * size + place for place in range(size) for group in range(groups)]]


def wide_resnet(net, x):
    maps = [x := net.conv(x, "conv1")]
    for stage in (1, 2, 3):
        for block in (0, 1):
            at, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            before = net.norm(x, f"{at}.bn1").clamp_min(0)
            y = net.conv(net.relu_of(before, f"{at}.conv1", f"{at}.bn2", stride), f"{at}.conv2")
            x = y + (x if block else net.conv(before, f"{at}.convShortcut", stride))
        maps.append(x)
    embedding = net.norm(x, "bn1").clamp_min(0).mean((2, 3))
    return maps, embedding, net.linear(embedding, "fc")


def vgg(net, x):
    maps = []
    for block in range(5):
        x = net.relu_of(x, f"block{block}.0", f"block{block}.1")
        maps.append(x)
        if block < 3:
            x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    return maps, x.mean((2, 3)), net.linear(x.mean((2, 3)), "classifier")


def bottleneck_resnet(net, x):
    maps = [x := net.relu_of(x, "conv1", "bn1")]
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = net.relu_of(net.relu_of(x, f"{at}.conv1", f"{at}.bn1"), f"{at}.conv2", f"{at}.bn2", stride)
            y = net.norm(net.conv(y, f"{at}.conv3"), f"{at}.bn3")
            x = (y + (x if block else net.norm(net.conv(x, f"{at}.shortcut.0", stride), f"{at}.shortcut.1"))).clamp_min(
                0
            )
        maps.append(x)
    return maps, x.mean((2, 3)), net.linear(x.mean((2, 3)), "linear")


def mobilenet_v2(net, x):
    maps = [x := net.relu_of(x, "conv1.0", "conv1.1", 2)]
    for stage, (blocks, first) in enumerate(((1, 1), (2, 1), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))):
        for block in range(blocks):
            at, stride = f"blocks.{stage}.{block}.conv", 1 if block else first
            y = net.relu_of(net.relu_of(x, f"{at}.0", f"{at}.1"), f"{at}.3", f"{at}.4", stride)
            y = net.norm(net.conv(y, f"{at}.6"), f"{at}.7")
            x = x + y if block else y
        if stage in (1, 2, 4, 6):
            maps.append(x)
    embedding = net.relu_of(x, "conv2.0", "conv2.1").mean((2, 3))
    return maps, embedding, net.linear(embedding, "classifier.0")


def shuffle_v1(net, x):
    maps = [x := net.relu_of(x, "conv1", "bn1")]
    for stage, blocks in enumerate((4, 8, 4), 1):
        for block in range(blocks):
            at, groups = f"layer{stage}.{block}", 1 if (stage, block) == (1, 0) else 3
            y = dealt(net.relu_of(x, f"{at}.conv1", f"{at}.bn1"), groups)
            y = net.relu_of(y, f"{at}.conv2", f"{at}.bn2", 1 if block else 2)
            y = net.norm(net.conv(y, f"{at}.conv3"), f"{at}.bn3")
            x = (x + y if block else torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1)).clamp_min(0)
        maps.append(x)
    return maps, x.mean((2, 3)), net.linear(x.mean((2, 3)), "linear")


def shuffle_v2(net, x):
    maps = [x := net.relu_of(x, "conv1", "bn1")]
    for stage, blocks in enumerate((4, 8, 4), 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            if block == 0:
                branch = net.relu_of(net.norm(net.conv(x, f"{at}.conv1", 2), f"{at}.bn1"), f"{at}.conv2", f"{at}.bn2")
                right = net.norm(net.conv(net.relu_of(x, f"{at}.conv3", f"{at}.bn3"), f"{at}.conv4", 2), f"{at}.bn4")
                right = net.relu_of(right, f"{at}.conv5", f"{at}.bn5")
            else:
                branch, right = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
                right = net.norm(net.conv(net.relu_of(right, f"{at}.conv1", f"{at}.bn1"), f"{at}.conv2"), f"{at}.bn2")
                right = net.relu_of(right, f"{at}.conv3", f"{at}.bn3")
            x = dealt(torch.cat([branch, right], 1), 2)
        maps.append(x)
    embedding = net.relu_of(x, "conv2", "bn2").mean((2, 3))
    return maps, embedding, net.linear(embedding, "linear")


RECOMPUTED = dict(
    zip(FAMILIES, (wide_resnet, vgg, bottleneck_resnet, mobilenet_v2, shuffle_v1, shuffle_v2), strict=True)
)


def with_statistics(module):
    """BatchNorms that are not the identity, so that a swapped or left-out one is seen."""
    generator = torch.Generator().manual_seed(1)
    for key, value in module.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
    return module


@pytest.mark.parametrize("name", RECOMPUTED)
def test_the_forward_pass_and_its_gradients_recomputed_from_the_state_dict_alone(name):
    torch.manual_seed(0)
    network = build_network(name, num_classes=3).double().eval()
    module = with_statistics(network.module)
    network.preprocess = lambda batch, **_: batch  # which gives float32
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    outputs = network({"rgb": x})
    maps, embedding, logits = RECOMPUTED[name](
        Functional({**dict(module.named_parameters()), **dict(module.named_buffers())}), x
    )
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(outputs.maps, tuple(maps), **close)
    torch.testing.assert_close(outputs.embedding, embedding, **close)
    torch.testing.assert_close(outputs.logits, logits, **close)

    def gradients(*parts):
        """Scaled by the largest of each parameter's, as sums that cancel are rounded at that scale."""
        loss = sum((part * part.cos()).mean() for part in parts)
        return [
            gradient / gradient.abs().max().clamp_min(1e-30).detach()
            for gradient in torch.autograd.grad(loss, list(module.parameters()))
        ]

    torch.testing.assert_close(
        gradients(*outputs.maps, outputs.logits), gradients(*maps, logits), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_released_checkpoint_of_either_layout_loads_as_it_is(tmp_path, name):
    teacher = with_statistics(MODELS[name](num_classes=100)).eval()
    best = {
        "epoch": 240,
        "model": teacher.state_dict(),
        "best_acc": torch.tensor(75.0),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.05}]},
    }
    last = {"opt": argparse.Namespace(model=name, dataset="cifar100", lr_decay_epochs=[150, 180, 210]), **best}
    pixels = images(side=16)
    for released, path in ((best, tmp_path / f"{name}_best.pth"), (last, tmp_path / f"{name}_last.pth")):
        torch.save(released, path)
        network = build_network(name, num_classes=100, weights=path).eval()
        with torch.no_grad():
            assert torch.equal(network(pixels).logits, teacher(network.preprocess(pixels["rgb"])))


@pytest.mark.parametrize("name", ["wrn_16_1", "MobileNetV2", "ShuffleV1"])
def test_the_number_of_classes_is_read_off_a_file_and_a_student_comes_back_from_one(tmp_path, name):
    network = build_network(name, num_classes=6)
    torch.save(network.module.state_dict(), tmp_path / "net.pth")
    assert build_network(name, weights=tmp_path / "net.pth").recipe["num_classes"] == 6
    with pytest.raises(UsageError, match="they have 6 classes, set num_classes=6"):
        build_network(name, num_classes=10, weights=tmp_path / "net.pth")
    save_student(network, tmp_path / "student.safetensors")
    student = load_student(tmp_path)
    assert student.taps == network.taps
    assert all(torch.equal(value, network.module.state_dict()[key]) for key, value in student.state_dict().items())


def test_vgg_can_be_tapped_before_its_activations():
    network = build_network("vgg8", num_classes=4, maps=("block3", "relu3")).train()
    before, after = network(images()).maps
    assert before.lt(0).any() and torch.equal(before.clamp_min(0), after)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_two_of_a_kind_answer_together_under_vmap(name):
    torch.manual_seed(0)
    pair = [with_statistics(MODELS[name](num_classes=5)).eval() for _ in range(2)]
    stacked, buffers = torch.func.stack_module_state(pair)
    x = torch.rand(2, 3, 16, 16)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")  # a rule that is missing is a loop, with a warning
        answers = torch.vmap(
            lambda parameters, others: torch.func.functional_call(pair[0], (parameters, others), (x,))
        )(stacked, buffers)
        torch.testing.assert_close(answers, torch.stack([module(x) for module in pair]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "convolutions", "classifier_std"),
    [
        ("wrn_40_2", ("conv1", "block2.layer.3.conv2", "block3.layer.0.convShortcut"), None),
        ("vgg8", ("block2.0", "block4.0"), 0.01),
        ("ResNet50", ("layer2.1.conv2", "layer4.0.shortcut.0"), None),
        ("MobileNetV2", ("blocks.5.1.conv.3", "blocks.6.0.conv.6", "conv2.0"), 0.01),
    ],
)
def test_initial_weights_are_he_et_al(name, convolutions, classifier_std):
    torch.manual_seed(0)
    module = MODELS[name]()
    for convolution in map(module.get_submodule, convolutions):
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        assert convolution.bias is None or not convolution.bias.any()
    classifier = module.get_submodule(module.taps.embedding.removeprefix("input:"))
    if classifier_std is not None:
        assert classifier.weight.std().item() == pytest.approx(classifier_std, rel=0.03) and not classifier.bias.any()


def test_a_depth_that_is_none_of_a_wide_resnet_is_refused():
    with pytest.raises(UsageError, match="not 18"):
        WideResNet(18, 2)
    with pytest.raises(UsageError, match="model 'wrn_16_3' does not exist: did you mean wrn_16_"):
        build_network("wrn_16_3", num_classes=4)
