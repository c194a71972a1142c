"""timm's and torchvision's networks by name: taps, preprocessing, weights of every origin, students to and from their
files.
"""

import pytest
import torch
from torch import nn

from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.core.registry import MODELS
from contrastill.core.representation import Preprocess
from contrastill.core.representation_spec import describe
from contrastill.models.build import build_network, load_student, save_student
from contrastill.models.library import Trace

IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Network: length of the embedding, channels of the maps, and the resolution of those that take one only; 64 is asked
# for, to be quick.
TIMM = {
    "resnet18": (512, (64, 64, 128, 256, 512), None),
    "vit_tiny_patch16_224": (192, (192,) * 4, 224),
    "deit_tiny_distilled_patch16_224": (192, (192,) * 4, 64),
    "convnext_atto": (320, (40, 80, 160, 320), None),
    "swin_tiny_patch4_window7_224": (768, (96, 192, 384, 768), 64),
    "efficientnet_lite0": (1280, (16, 24, 40, 112, 320), None),
    "mobilenetv3_small_050": (1024, (16, 8, 16, 24, 288), None),
    "regnetx_002": (368, (32, 24, 56, 152, 368), None),
}
TORCHVISION = {
    "resnet18": (512, (64, 64, 128, 256, 512), None),
    "mobilenet_v2": (1280, (16, 24, 32, 96, 1280), None),
    "mobilenet_v3_small": (1024, (16, 16, 24, 48, 576), None),
    "vgg11": (4096, (64, 128, 256, 512, 512, 512), None),
    "densenet121": (1024, (64, 256, 512, 1024, 1024), None),
    "efficientnet_b0": (1280, (16, 24, 40, 112, 1280), None),
    "shufflenet_v2_x0_5": (1024, (24, 24, 48, 96, 1024), None),
    "squeezenet1_1": (512, (64, 128, 256, 512), None),
    "vit_b_16": (768, (768,) * 4, 64),
    "swin_t": (768, (96, 192, 384, 768), None),
    "googlenet": (1024, (64, 192, 480, 832, 1024), None),
    "inception_v3": (2048, (64, 192, 288, 768, 2048), None),
}


def images(size=64, channels=3, count=2):
    return {
        "rgb": torch.randint(
            256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
    }


def perturbed(module):
    """The state with a little noise, so that no layer is the identity or zero."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.02 * torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


def check_shapes(name, dim, channels, resolution):
    network = build_network(name, num_classes=7, resolution=64 if resolution == 64 else None)
    assert network.preprocess.resolution == resolution
    batch = images(96 if "inception" in name else 64)
    spec = describe(network, batch)
    assert (spec.num_classes, spec.embedding_dim) == (7, dim)
    assert tuple(shape[0] for shape in spec.map_shapes) == channels
    sides = [shape[1] for shape in spec.map_shapes]
    assert sides == sorted(sides, reverse=True) and all(shape[1] == shape[2] for shape in spec.map_shapes)
    network.train()(batch)  # no tap is changed in place in training either
    return network, batch


@pytest.mark.parametrize("name", TIMM)
def test_outputs_of_timm_are_those_of_its_own_methods(name):
    network, batch = check_shapes(f"timm/{name}", *TIMM[name])
    module = network.eval().module
    module.load_state_dict(perturbed(module))
    with torch.no_grad():
        outputs, inputs = network(batch), network.preprocess(batch["rgb"])
        features = module.forward_features(inputs)
        pooled = module.forward_head(
            features, pre_logits=True
        )  # of a distilled transformer the mean of class and distillation token
        torch.testing.assert_close(outputs.embedding, pooled)
        torch.testing.assert_close(outputs.logits, module(inputs))
        if resolution := network.preprocess.resolution:
            blocks = [int(tap.rpartition(":")[2]) for tap in network.taps.maps]
            theirs = module.forward_intermediates(
                inputs, indices=blocks, norm=False, output_fmt="NCHW", intermediates_only=True
            )
            assert inputs.shape[2:] == (resolution, resolution)
            torch.testing.assert_close(outputs.maps, tuple(theirs))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_is_tapped_before_its_last_layer(name):
    network, batch = check_shapes(f"torchvision/{name}", *TORCHVISION[name])
    module = network.eval().module
    with torch.no_grad():
        outputs = network(batch)
        torch.testing.assert_close(outputs.logits, module(network.preprocess(batch["rgb"])))
        last = module.get_submodule(network.taps.embedding.removeprefix("input:"))
        if isinstance(last, nn.Linear):
            torch.testing.assert_close(outputs.logits, last(outputs.embedding))
    own = Preprocess((0.5,) * 3, (0.5,) * 3) if name in ("googlenet", "inception_v3") else IMAGENET
    assert (network.preprocess.mean, network.preprocess.std) == (own.mean, own.std)


def test_tokens_become_maps_in_the_images_ratio_and_channels_that_come_last_come_first():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.last = nn.Conv2d(1, 3, 4, 4), nn.Identity()
            self.tokens = nn.Identity()

        def forward(self, x):
            x = self.embed(x)
            self.last(x.permute(0, 2, 3, 1))
            return self.tokens(torch.cat([torch.zeros(len(x), 2, 3), x.flatten(2).transpose(1, 2)], dim=1)).mean(dim=1)

    from contrastill.core.representation import Network, Taps

    network = Network(
        Tokens(),
        taps=Taps(embedding="nhwc:last", maps=("embed", "tokens", "nhwc:last")),
        preprocess=Preprocess((0.5,), (0.5,)),
    )
    for height, width in ((16, 16), (8, 20), (20, 12)):
        outputs = network({"rgb": torch.rand(2, 1, height, width)})
        assert outputs.maps[0].shape == (2, 3, height // 4, width // 4)
        assert torch.equal(outputs.maps[1], outputs.maps[0]) and torch.equal(outputs.maps[2], outputs.maps[0])
        torch.testing.assert_close(outputs.embedding, outputs.maps[0].mean(dim=(2, 3)))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.twice, self.fc = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        x = self.act(self.conv(x))
        return self.fc(self.twice(self.twice(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("computed", [False, True], ids=["meta", "computed"])
def test_a_trace_leaves_the_module_alone_and_avoids_what_cannot_be_tapped(computed):
    module = InPlace().train()
    if computed:  # a tensor that is no buffer keeps it from running on the meta device
        module.fc.register_forward_pre_hook(lambda _, args: (args[0] + torch.zeros(8),))
        module.fc.register_forward_pre_hook(lambda _, args: (args[0] * float(args[0].sum() == args[0].sum()),))
    before, state = {name: value.clone() for name, value in module.state_dict().items()}, torch.get_rng_state()
    trace = Trace(module, (3, 16, 16))
    assert trace.maps(["conv", "twice"]) == ("act",) and trace.embedding(["fc"]) == "input:fc"
    assert module.training and not module.act._forward_hooks and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["timm/regnetx_002", "torchvision/shufflenet_v2_x0_5", "timm/test_vit"])
def test_other_channels(name):
    network = build_network(name, num_classes=5, mean=(0.5,) * 4, std=(0.2,) * 4)
    assert describe(network, images(channels=4)).num_classes == 5


def test_a_vision_transformer_of_another_size_and_its_student(tmp_path):
    network = build_network("timm/test_vit", num_classes=3, resolution=96)
    assert describe(network, images()).map_shapes[0][1:] == (6, 6)
    save_student(network, tmp_path / "student.safetensors")
    student = load_student(tmp_path)
    assert student.preprocess.resolution == 96 and student.pos_embed.shape == network.module.pos_embed.shape
    vit = build_network("torchvision/vit_b_32", num_classes=3, resolution=64)
    assert vit.preprocess.resolution == 64 and vit.module.image_size == 64
    assert build_network("torchvision/vit_b_32", num_classes=3).preprocess.resolution == 224
    # Position embeddings of a file for another size are resized, as timm does.
    other = build_network("timm/test_vit", weights=tmp_path, resolution=128)
    assert other.module.pos_embed.shape[1] == 65 and other.recipe["num_classes"] == 3
    assert torch.equal(other.module.head.weight, network.module.head.weight)
    with pytest.raises(UsageError, match="squares only"):
        build_network("torchvision/vit_b_32", num_classes=3, resolution=(64, 32))


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet118", "model 'timm/resnet118' does not exist: did you mean timm/resnet"),
        ("timm/resnet18.a1_in2k", "did you mean timm/resnet18.a1_in1k"),
        ("timm/!", r"timm's list_models\(\) says what there is"),
        ("torchvision/resnet19", "did you mean torchvision/resnet18"),
        ("torchvision/ssd300_vgg16", "model 'torchvision/ssd300_vgg16' does not exist"),
        ("torchvison/resnet18", "did you mean torchvision/resnet18"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name, message):
    assert name not in MODELS
    with pytest.raises(UsageError, match=message):
        MODELS[name]


def test_dry_run_checks_names_and_published_weights(tmp_path, capsys):
    (tmp_path / "a.h5").touch()
    command = ["train", "compression/cifar100_crd", "data.name=packed", f"data.path={tmp_path}/a.h5", "--dry-run"]
    both = [
        "teachers.0.model=timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "teachers.0.weights=pretrained",
        "student.model=torchvision/resnet18",
    ]
    assert main([*command, *both]) == 0 and "weights: pretrained" in capsys.readouterr().out
    assert main([*command, "teachers.0.model=timm/vit_tini_patch16_224", "teachers.0.weights=pretrained"]) == 2
    assert "did you mean timm/vit_tiny_patch16_224" in capsys.readouterr().err
    assert main([*command, "teachers.0.model=resnet20", "teachers.0.weights=pretrained"]) == 2
    assert "resnet20 has no published weights" in capsys.readouterr().err
    config = load_config("teachers/cifar100", ["data.name=packed", "data.path=x.h5", "student.model=timm/resnet18"])
    assert config.student.model == "timm/resnet18"
