"""Families of timm and torchvision whose tokens, branches and heads differ: embedding, logits and maps are what the
libraries' own methods give.
"""

import copy

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.transfer import Transfer
from contrastill.ensemble.batched import BatchedTeachers
from contrastill.models.build import build_network
from contrastill.models.timm_adapter import classifiers_of, taps_of
from contrastill.models.torchvision_adapter import torchvision_network
from contrastill.models.user_module import UserModule
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.training.compiled import compiled

PLAIN = Preprocess((0.5,) * 3, (0.25,) * 3)
SHALLOW = {"depth": 2, "num_heads": 2, "embed_dim": 32}

# Name, options that make it small, size of the image, the maps' indices among all that timm gives.
FAMILIES = {
    "class token": ("vit_tiny_patch16_224", SHALLOW | {"img_size": (90, 64)}, (90, 64), (1,)),
    "a wide image": ("vit_tiny_patch16_224", SHALLOW | {"depth": 5, "img_size": (60, 200)}, (60, 200), (0, 1, 2, 4)),
    "a filled border": ("vit_tiny_patch16_224", SHALLOW | {"img_size": (60, 200), "dynamic_img_size": True,
        "dynamic_img_pad": True}, (60, 200), (1,)),
    "four registers": ("vit_small_patch14_reg4_dinov2", SHALLOW | {"img_size": (28, 56)}, (28, 56), (1,)),
    "registers in a square": ("vit_small_patch14_reg4_dinov2", SHALLOW | {"img_size": 28}, (28, 28), (1,)),
    "a register and no class token": ("test_vit2", {"depth": 2, "img_size": (48, 80)}, (48, 80), (1,)),
    "distilled": ("deit_tiny_distilled_patch16_224", SHALLOW | {"img_size": (64, 96)}, (64, 96), (1,)),
    "class attention": ("cait_xxs24_224", SHALLOW | {"img_size": (48, 64)}, (48, 64), (1,)),
    "channels last": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24,
        "num_heads": (1, 1, 1, 1), "img_size": (64, 96)}, (64, 96), (0, 1, 2, 3)),
    "unrolled tokens": ("hiera_tiny_224", {"stages": (1, 1, 1, 1), "embed_dim": 16, "img_size": (96, 160)}, (96, 160),
        (0, 1, 2, 3)),
    "branches": ("crossvit_tiny_240", {"embed_dim": [24, 48], "depth": [[1, 1, 0]] * 2}, (240, 240), (1, 3)),
    "scales in parallel": ("coat_tiny", {"embed_dims": [16] * 4, "serial_depths": [1] * 4, "parallel_depth": 1,
        "img_size": (64, 96)}, (64, 96), (0, 1, 2, 3)),
    "high resolution": ("hrnet_w18_small", {}, (64, 96), (0, 1, 2, 3, 4)),
    "pooled tokens": ("pit_ti_224", {"base_dims": [8] * 3, "depth": [1, 1, 1], "img_size": (64, 96)}, (64, 96),
        (0, 1, 2)),
    "stages of tokens": (MultiScaleVit, {"cfg": MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=24),
        "img_size": (64, 64)}, (64, 64), (0, 1, 2, 3)),
    "several classifiers": ("efficientvim_m1", {"embed_dim": (16, 24, 32), "depths": (1, 1, 1)}, (64, 96), (0, 1, 2)),
    "a norm before the classifier": ("efficientvit_m0", {"img_size": 64, "embed_dim": (16, 32, 48),
        "num_heads": (1, 2, 3)}, (64, 64), (0, 1, 2)),
}  # fmt: skip


@torch.no_grad()
def randomised(module):
    """Norm statistics, scales and shifts as after a training, so that mistakes show."""
    draw = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.add_(
            torch.randn(value.shape, generator=draw)
            * (0.2 * value.std() if value.numel() > 1 and value.std() > 0 else 0.1)
        )
    for name, value in module.named_buffers():
        if "running_" in name:
            value.add_(torch.rand(value.shape, generator=draw))
    return module


def small(family):
    name, options, size, _ = FAMILIES[family]
    torch.manual_seed(0)
    module = randomised(
        name(num_classes=5, **options) if isinstance(name, type) else timm.create_model(name, num_classes=5, **options)
    ).eval()
    return Network(module, taps=taps_of(module, classifiers_of(module), (3, *size)), preprocess=PLAIN), images(*size)


def images(height, width, count=2):
    return {"rgb": torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))}


def equal(first, second):
    assert first.shape == second.shape
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5 * float(second.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_representation_is_what_timms_methods_give(family):
    network, batch = small(family)
    module, inputs = network.module, network.preprocess(batch["rgb"])
    with torch.no_grad():
        representation = network(batch)
        equal(representation.logits, module(inputs))
        equal(representation.embedding, module.forward_head(module.forward_features(inputs), pre_logits=True))
        chosen = FAMILIES[family][3]
        assert len(representation.maps) == len(chosen)
        for index, value in zip(chosen, representation.maps, strict=True):
            equal(
                value,
                module.forward_intermediates(
                    inputs, indices=[index], output_fmt="NCHW", intermediates_only=True, stop_early=True
                )[0],
            )
        # Asked for one part, it is the same.
        equal(network(batch, {"embedding"}).embedding, representation.embedding)


@pytest.mark.parametrize(("height", "width"), [(90, 64), (120, 160), (60, 200)])
def test_tokens_lie_where_their_patches_are(height, width):
    module = timm.create_model("vit_tiny_patch16_224", img_size=(height, width), **SHALLOW).eval()
    network = Network(module, taps=taps_of(module, classifiers_of(module), (3, height, width)), preprocess=PLAIN)
    outputs = []
    handle = module.blocks[1].register_forward_hook(lambda _, args, output: outputs.append(output))
    with torch.no_grad():
        value = network(images(height, width)).maps[-1]
    handle.remove()
    rows, columns = height // 16, width // 16
    assert value.shape[2:] == (rows, columns)
    for row in range(rows):
        for column in range(columns):
            assert torch.equal(value[:, :, row, column], outputs[0][:, 1 + row * columns + column])
    # A tap on the block itself, as in the folder of an earlier run, is laid out in the same way.
    tapped = Network(network.module, taps=Taps(maps=("blocks.1",)), preprocess=PLAIN)
    with torch.no_grad():
        assert torch.equal(tapped(images(height, width)).maps[0], value)


def test_tokens_that_may_be_several_grids_are_refused():
    class Tokens(nn.Module):
        def __init__(self, tokens):
            super().__init__()
            self.tokens, self.last = tokens, nn.Identity()

        def forward(self, x):
            return self.last(torch.zeros(len(x), self.tokens, 4)).mean(dim=1)

    def shape(tokens, height, width):
        return (
            Network(Tokens(tokens), taps=Taps(maps=("last",)), preprocess=PLAIN)(images(height, width))
            .maps[0]
            .shape[2:]
        )

    assert (
        shape(9, 28, 28) == (2, 2)
        and shape(13, 28, 56) == (2, 4)
        and shape(197, 224, 224) == (14, 14)
        and shape(21, 90, 64) == (5, 4)
    )
    for tokens, height, width in ((5, 64, 64), (7, 61, 47), (60, 64, 64)):
        with pytest.raises(UsageError, match=f"the {tokens} tokens of Tokens at last cannot be laid out for images of"):
            shape(tokens, height, width)
    hiera = small("unrolled tokens")[0]
    with pytest.raises(UsageError, match="tokens of Hiera at blocks.0 cannot be laid out.*forward_intermediates:INDEX"):
        Network(hiera.module, taps=Taps(maps=("blocks.0",)), preprocess=PLAIN)(images(96, 160))


def test_taps_by_methods_that_are_not_there():
    with pytest.raises(UsageError, match="Linear has no method forward_intermediates"):
        Network(nn.Linear(2, 2), taps=Taps(maps=("forward_intermediates:0",)), preprocess=PLAIN)
    network, batch = small("class token")
    with pytest.raises(UsageError, match="forward_intermediates:last has no index"):
        Network(network.module, taps=Taps(maps=("forward_intermediates:last",)), preprocess=PLAIN)
    with pytest.raises(
        UsageError,
        match="VisionTransformer does not give the maps of its taps forward_intermediates:9: feature index 9 is "
        "out of range",
    ):
        Network(network.module, taps=Taps(maps=("forward_intermediates:9",)), preprocess=PLAIN)(batch)


def test_a_version_of_timm_without_the_methods_is_read_by_hooks():
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=(90, 64), num_classes=5, **SHALLOW | {"depth": 5}
    ).eval()
    module.forward_intermediates = None
    taps = taps_of(module, classifiers_of(module), (3, 90, 64))
    assert taps == Taps("input:head", ("blocks.0", "blocks.1", "blocks.2", "blocks.4"))


@pytest.mark.parametrize("family", ["several classifiers", "four registers"])
def test_teachers_answer_together_and_gradients_are_those_of_the_module(family):
    network, batch = small(family)
    other = copy.deepcopy(network)
    randomised(other.module)
    teachers = [network.freeze(), other.freeze()]
    for alone, together in zip(
        (teacher(batch) for teacher in teachers),
        BatchedTeachers(teachers).outputs(batch, range(2), {"logits", "embedding", "maps"}),
        strict=True,
    ):
        for first, second in zip(
            (alone.logits, alone.embedding, *alone.maps),
            (together.logits, together.embedding, *together.maps),
            strict=True,
        ):
            equal(first, second)
    student, batch = small(family)
    representation = student(batch)
    (representation.logits.sum() + representation.embedding.square().sum()).backward()
    module, inputs = copy.deepcopy(student.module), student.preprocess(batch["rgb"])
    module.zero_grad()
    features = module.forward_features(inputs)
    (module(inputs).sum() + module.forward_head(features, pre_logits=True).square().sum()).backward()
    for (name, first), second in zip(student.module.named_parameters(), module.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None), name
        if first.grad is not None:
            torch.testing.assert_close(
                first.grad, second.grad, rtol=1e-3, atol=1e-4 * float(second.grad.abs().max()) + 1e-5
            )


def test_compiled_it_gives_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    for family in ("several classifiers", "four registers"):
        network, batch = small(family)
        with torch.no_grad():
            plain = network(batch)
            with compiled(Transfer([], network, {"cross_entropy": CrossEntropy()})):
                same = network(batch)
        assert torch.equal(plain.embedding, same.embedding) and all(
            torch.equal(first, second) for first, second in zip(plain.maps, same.maps, strict=True)
        )


# torchvision


def test_torchvisions_channels_last_are_recognised_where_they_are_as_many_as_rows():
    # Swin at 384 pixels: 96 rows, columns and channels.
    network = build_network("torchvision/swin_t", num_classes=3, resolution=384)
    assert network.taps.maps[0] == "nhwc:features.1"


@pytest.mark.parametrize("size", [16, 32, 64])
def test_channels_that_are_as_many_as_rows_are_no_rows(size):
    """Strides that differ make maps of another ratio than the image's, and 8 channels may be as many as rows."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=(2, 1), padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    own = UserModule(module, Taps(), Preprocess((0.5,) * 3, (0.25,) * 3), (3, size, size))
    assert own.taps.maps == ()


def test_torchvisions_transformer_of_few_patches():
    network = build_network("torchvision/vit_b_32", num_classes=3, resolution=64).eval()
    outputs = []
    network.module.encoder.layers[-1].register_forward_hook(lambda _, args, output: outputs.append(output))
    with torch.no_grad():
        value = network(images(64, 64)).maps[-1]
    assert torch.equal(value.flatten(2).transpose(1, 2), outputs[0][:, 1:])


# Users' own modules


class Gated(nn.Module):
    """A backbone without a classifier whose channels are weighed by squeeze and excitation."""

    def __init__(self, head=None, by_convolution=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.down, self.up = (
            (nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)) if by_convolution else (nn.Linear(16, 4), nn.Linear(4, 16))
        )
        self.by_convolution, self.head = by_convolution, head or nn.Identity()

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        squeezed = x.mean(dim=(2, 3), keepdim=self.by_convolution)
        gate = self.up(self.down(squeezed).relu()).sigmoid()
        return self.head((x * (gate if self.by_convolution else gate[..., None, None])).mean(dim=(2, 3)))


class LogProbabilities(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = Gated(), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.body(x)).log_softmax(dim=1)


class TwoHeads(LogProbabilities):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(16, 5)

    def forward(self, x):
        features = self.body(x)
        return (self.head(features) + self.other(features.square())) / 2


@pytest.mark.parametrize(
    ("module", "tap", "length"),
    [
        (Gated(), "output:", 16),
        (Gated(by_convolution=True), "output:", 16),
        (Gated(nn.Linear(16, 5)), "input:head", 5),
        (LogProbabilities(), "input:head", 5),
        (TwoHeads(), None, 5),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), None, 5),
    ],
    ids=["gate", "gate of convolutions", "classifier", "log-probabilities", "two heads", "convolution"],
)
def test_the_embedding_of_a_user_module(module, tap, length):
    own = UserModule(module, Taps(), PLAIN, (3, 16, 16))
    assert own.taps.embedding == tap and own.num_logits == length
    assert own.classifiers == (("head",) if tap == "input:head" else ())
    if tap == "output:":
        network = Network(module.eval(), taps=own.taps, preprocess=PLAIN)
        representation = network(images(16, 16))
        assert torch.equal(representation.embedding, module(network.preprocess(images(16, 16)["rgb"])))


def test_timms_modules_are_read_by_timms_methods():
    network, _ = small("branches")
    own = UserModule(network.module, Taps(), PLAIN, (3, 240, 240))
    assert own.taps == network.taps and own.num_logits == 5


def test_outputs_that_are_no_tensor_are_refused_with_the_remedy():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return {"first": self.backbone(x), "aux": x}

    with pytest.raises(
        UsageError,
        match=r"Named returns a dict \(first \(2, 8, 14, 14\), aux \(2, 3, 16, 16\)\), and it is not clear what of it "
        r"is its answer: pass contrastill.Network\(module, taps=.*embedding= .*, or wrap it in a module that returns",
    ):
        UserModule(Named(), Taps(), PLAIN, (3, 16, 16))
    # Who names the embedding needs no logits.
    assert UserModule(Named(), Taps("backbone"), PLAIN, (3, 16, 16)).taps.embedding == "backbone"


def test_torchvisions_segmenters_are_built_and_what_finds_boxes_is_not():
    assert torchvision_network("lraspp_mobilenet_v3_large").dense
    with pytest.raises(UsageError, match="does not exist"):
        torchvision_network("fasterrcnn_resnet50_fpn")
