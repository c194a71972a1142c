"""``unet/``, ``fpn/`` and ``linear/`` on encoders of every kind, and torchvision's segmentation networks."""

import copy
from functools import cache

import pytest
import torch
from torch import nn

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.core.registry import MODELS
from contrastill.core.weights import load_state_dict
from contrastill.models.build import build_network, save_student
from contrastill.training.networks import build_networks
from contrastill.training.pixel_labels import PixelLabels

DECODERS = ("unet", "fpn", "linear")
# Name, resolution, size of the images, (C, H, W) of the encoder's maps.
ENCODERS = {
    "resnet8": (None, (24, 40), [(16, 24, 40), (16, 24, 40), (32, 12, 20), (64, 6, 10)]),
    "timm/test_resnet": (
        None,
        (48, 80),
        [(32, 24, 40), (32, 12, 20), (48, 6, 10), (192, 3, 5), (96, 2, 3)],
    ),
    "timm/test_vit": (64, (64, 64), [(64, 4, 4)] * 4),  # tokens
    "timm/swin_tiny_patch4_window7_224": (64, (64, 64), [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]),
    "torchvision/mobilenet_v3_small": (
        None,
        (48, 80),
        [(16, 24, 40), (16, 12, 20), (24, 6, 10), (48, 3, 5), (576, 2, 3)],
    ),
}
EVERY = [(decoder, encoder) for encoder in ENCODERS for decoder in DECODERS]


@cache
def segmenter(decoder, encoder, num_classes=5):
    """In eval mode; not to be changed."""
    torch.manual_seed(0)
    network = build_network(f"{decoder}/{encoder}", num_classes=num_classes, resolution=ENCODERS[encoder][0])
    # The linear decoder starts at 0, where no gradient reaches the encoder.
    for parameter in network.module.decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.fixture(scope="module", autouse=True)
def _without_the_networks_afterwards():
    yield
    segmenter.cache_clear()


def images_for(encoder, count=2):
    generator = torch.Generator().manual_seed(1)
    return {"rgb": torch.rand(count, 3, *ENCODERS[encoder][1], generator=generator)}


@pytest.mark.parametrize(("decoder", "encoder"), EVERY)
def test_shapes_maps_taps_and_gradients(decoder, encoder):
    network, batch = segmenter(decoder, encoder), images_for(encoder)
    _, size, maps = ENCODERS[encoder]
    outputs = network(batch)
    assert outputs.logits is None and outputs.prediction.shape == (2, 5, *size)
    assert network.taps.dense and network.recipe["num_classes"] == network.module.num_logits == 5
    own = outputs.maps if decoder == "linear" else outputs.maps[:-1]
    assert [tuple(value.shape[1:]) for value in own] == maps
    assert outputs.embedding.shape[0] == 2 and outputs.embedding.ndim == 2
    if decoder != "linear":
        # The last map is what the classifier reads.
        low = network.module.decoder.classifier(outputs.maps[-1])
        enlarged = nn.functional.interpolate(low, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(enlarged, outputs.prediction)
    first = next(network.module.encoder.parameters())
    classifier = network.module.get_submodule(network.module.classifiers[0]).weight
    for tensor in (outputs.prediction, own[-1]):
        reached = torch.autograd.grad(tensor.square().mean(), [first, classifier], retain_graph=True, allow_unused=True)
        assert reached[0].abs().sum() > 0 and (reached[1] is None) == (tensor is own[-1])
    assert len(classifier) == 5


@torch.no_grad()
@pytest.mark.parametrize(("decoder", "encoder"), EVERY)
def test_the_second_forward_is_as_the_first_and_a_copy_is_of_its_own(decoder, encoder):
    network, batch = copy.deepcopy(segmenter(decoder, encoder)), images_for(encoder)
    expected = network(batch).prediction
    assert torch.equal(network(batch).prediction, expected)
    smaller = network({"rgb": batch["rgb"][:1]}).prediction
    torch.testing.assert_close(smaller, expected[:1], rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(batch).prediction, expected)
    next(twin.module.encoder.parameters()).mul_(-0.5)
    assert torch.equal(network(batch).prediction, expected) and not torch.equal(twin(batch).prediction, expected)
    changed = twin(batch).prediction
    next(network.module.encoder.parameters()).zero_()
    assert torch.equal(twin(batch).prediction, changed)
    assert not torch.equal(network(batch).prediction, expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [("unet", "resnet8"), ("fpn", "timm/test_vit"), ("linear", "torchvision/mobilenet_v3_small")],
)
def test_saved_and_loaded_by_its_recipe(decoder, encoder, tmp_path):
    network, batch = segmenter(decoder, encoder), images_for(encoder)
    save_student(network, tmp_path / "student.safetensors")
    expected = network(batch).prediction
    plain = contrastill.load_student(tmp_path)
    assert torch.equal(plain(plain.preprocess(batch["rgb"])), expected) and plain.taps == network.taps
    # As a teacher it has the classes that it was trained with.
    teacher = build_network(f"{decoder}/{encoder}", weights=tmp_path).eval()
    assert teacher.recipe["num_classes"] == 5 and torch.equal(teacher(batch).prediction, expected)
    # As a student for other data its decoder's classifier alone is new.
    other = build_network(f"{decoder}/{encoder}", num_classes=7, weights=tmp_path, new_classifier=True)
    own, before = other.module.state_dict(), network.module.state_dict()
    new = {key for key in own if not torch.equal(own[key], before[key])} if own.keys() == before.keys() else None
    weights = {f"{name}.{kind}" for name in network.module.classifiers for kind in ("weight", "bias")}
    assert new == weights & own.keys() and other(batch).prediction.shape[1] == 7


def test_the_weights_and_the_preprocessing_of_an_encoders_run_are_taken_over(tmp_path):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    classifier = build_network("resnet8", num_classes=4, mean=mean, std=std, resolution=20)
    save_student(classifier, tmp_path / "student.safetensors")
    torch.manual_seed(3)
    student = build_network("unet/resnet8", num_classes=5, weights=tmp_path, new_classifier=True)
    loaded, encoder = load_state_dict(tmp_path / "student.safetensors"), student.module.encoder.state_dict()
    assert encoder.keys() == {key for key in loaded if not key.startswith("fc.")}
    assert all(torch.equal(value, loaded[key]) for key, value in encoder.items())
    assert (student.preprocess.mean, student.preprocess.std, student.preprocess.resolution) == (mean, std, 20)
    # The decoder is that of the seed.
    torch.manual_seed(3)
    fresh = build_network("unet/resnet8", num_classes=5).module
    assert all(
        torch.equal(a, b) for a, b in zip(student.module.decoder.parameters(), fresh.decoder.parameters(), strict=True)
    )
    assert not torch.equal(fresh.encoder.conv1.weight, student.module.encoder.conv1.weight)
    for file in (tmp_path, tmp_path / "student.safetensors"):
        with pytest.raises(
            UsageError, match="of an encoder without a decoder, and unet/resnet8 answers.* train it first"
        ):
            build_network("unet/resnet8", num_classes=5, weights=file)
    with pytest.raises(UsageError, match="do not fit resnet14: missing .* they are of another network"):
        build_network("unet/resnet14", num_classes=5, weights=tmp_path, new_classifier=True)


def test_published_weights_are_of_the_encoder_alone():
    config = load_config(
        "compression/cifar100_crd",
        ["data.path=.", "data.name=packed", "teachers.0.model=unet/timm/test_resnet", "teachers.0.weights=pretrained"],
    )
    with pytest.raises(UsageError, match="train it first, .* and name that run under teachers.0.weights$"):
        build_networks(config, {"train": PixelLabels(5, None, None)}, {})
    with pytest.raises(
        UsageError, match="the published weights of timm/test_resnet are of an encoder without a decoder"
    ):
        build_network("unet/timm/test_resnet", num_classes=5, weights="pretrained")


@pytest.mark.parametrize("encoder", ["torchvision/deeplabv3_mobilenet_v3_large", "unet/resnet8"])
def test_what_answers_for_each_position_gets_no_decoder(encoder):
    with pytest.raises(UsageError, match=f"{encoder} answers for each pixel already: take it without fpn/"):
        build_network(f"fpn/{encoder}", num_classes=3)


def test_a_decoder_needs_classes_and_an_encoder_that_is_there():
    with pytest.raises(UsageError, match="set num_classes"):
        build_network("unet/resnet8")
    with pytest.raises(UsageError, match="resnet9"):
        build_network("unet/resnet9", num_classes=3)


@torch.no_grad()
def test_other_channels_and_a_quantity():
    depth = build_network("fpn/resnet8", num_classes=1, modality="depth", mean=(2.0,), std=(1.0,)).eval()
    assert depth({"depth": torch.rand(2, 1, 17, 23) + 1}).prediction.shape == (2, 1, 17, 23)


@torch.no_grad()
def test_a_compiled_segmenter_answers_as_it_does():
    module = copy.deepcopy(segmenter("unet", "resnet8").module)
    # The graphs are what hooks could break; kernels take minutes on a small machine.
    compiled = torch.compile(module, backend="eager")
    for count in (2, 2, 3):
        images = torch.rand(count, 3, 16, 24)
        torch.testing.assert_close(compiled(images), module(images))


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_segmenters(name):
    torch.manual_seed(0)
    network = build_network(f"torchvision/{name}", num_classes=3).eval()
    module, images = network.module, torch.rand(2, 3, 40, 56)
    outputs = network({"rgb": images})
    with torch.no_grad():
        returned = module(network.preprocess(images))
    assert [*returned] == ["out"] and torch.equal(outputs.prediction, returned["out"])
    assert outputs.prediction.shape == (2, 3, 40, 56) and outputs.logits is None and network.taps.dense
    assert network.taps.prediction == "output:out" and getattr(module, "aux_classifier", None) is None
    assert not any("aux" in key for key in module.state_dict())
    torch.testing.assert_close(outputs.embedding, outputs.maps[-1].mean((2, 3)))
    (gradient,) = torch.autograd.grad(outputs.prediction.square().mean(), [next(module.backbone.parameters())])
    assert gradient.abs().sum() > 0
    twin = copy.deepcopy(network)
    with torch.no_grad():
        next(twin.module.backbone.parameters()).zero_()
        assert torch.equal(network({"rgb": images}).prediction, returned["out"])


def test_an_encoder_without_taps_is_named(monkeypatch):
    bare = {"bare": lambda num_classes=4, in_chans=3: nn.Conv2d(in_chans, num_classes, 3)}
    monkeypatch.setattr(MODELS, "_entries", {**MODELS._entries, **bare})
    for decoder in DECODERS:
        with pytest.raises(UsageError, match=r"Conv2d was built, and has no taps: let its builder return"):
            build_network(f"{decoder}/bare", num_classes=3)
