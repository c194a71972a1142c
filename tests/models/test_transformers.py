"""Networks of Hugging Face transformers against the library itself, on small random configs, without a network."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.models import build, image_processor, transformers_adapter, transformers_taps, user_module
from contrastill.models.build import build_network, load_student, save_student
from contrastill.models.transformers_adapter import published_of
from contrastill.models.transformers_taps import class_names
from contrastill.models.user_module import UserModule
from contrastill.training import engine

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

PLAIN = Preprocess((0.0,) * 3, (1.0,) * 3)
TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TOKENS |= {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1]}
FAMILIES = {
    "ViTForImageClassification": ("ViTConfig", TOKENS, 1),
    "ViTModel": ("ViTConfig", TOKENS, 1),
    "DeiTForImageClassification": ("DeiTConfig", TOKENS, 2),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", TOKENS, 2),
    "BeitForImageClassification": ("BeitConfig", TOKENS | {"use_absolute_position_embeddings": True}, 1),
    "Dinov2ForImageClassification": ("Dinov2Config", TOKENS, 1),
    "Dinov2Backbone": ("Dinov2Config", TOKENS | {"out_indices": [1, 2]}, 1),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", TOKENS | {"num_register_tokens": 3}, 4),
    "DINOv3ViTModel": ("DINOv3ViTConfig", TOKENS | {"num_register_tokens": 4}, 5),
    "DINOv3ConvNextModel": ("DINOv3ConvNextConfig", STAGES, None),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", TOKENS | {"projection_dim": 16}, 1),
    "SiglipVisionModel": ("SiglipVisionConfig", TOKENS, 0),
    "ConvNextForImageClassification": ("ConvNextConfig", STAGES, None),
    "SwinForImageClassification": (
        "SwinConfig",
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 32, "patch_size": 4},
        None,
    ),
    "ResNetForImageClassification": ("ResNetConfig", STAGES | {"embedding_size": 8, "layer_type": "basic"}, None),
    "SegformerForImageClassification": ("SegformerConfig", STAGES | {"num_attention_heads": [1, 1, 2, 2]}, None),
    "SegformerModel": ("SegformerConfig", STAGES | {"num_attention_heads": [1, 1, 2, 2]}, None),
    "MobileViTForImageClassification": (
        "MobileViTConfig",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "image_size": 64},
        None,
    ),
}


def theirs(name, **more):
    """A random network of theirs in eval mode; BatchNorms that return more than their input."""
    config, options, _ = FAMILIES[name]
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(**options, **more)).eval()


def expected(name, module, images):
    """Logits, embedding and maps as transformers itself gives them."""
    output, seen = None, []
    classifier = next(
        (
            inner
            for path, inner in module.named_modules()
            if isinstance(inner, nn.Linear) and path.startswith(("classifier", "cls_classifier"))
        ),
        None,
    )
    if classifier is not None:
        classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    resized = {"interpolate_pos_encoding": True} if name.startswith(("ViT", "DeiT", "Beit", "CLIP", "Siglip")) else {}
    with torch.no_grad():
        output = module(images, output_hidden_states=True, **resized)
    embedding = seen[0] if seen else output.get("image_embeds")
    if embedding is None:
        embedding = output.get("pooler_output")
    if embedding is None:
        embedding = (output.feature_maps[-1] if "feature_maps" in output else output.last_hidden_state).mean((2, 3))
    states = output.get("feature_maps") or output.get("reshaped_hidden_states") or output.hidden_states
    prefix = FAMILIES[name][2]
    if prefix is None:
        states = [value for value in states if value.shape[2:] != images.shape[2:]]
        by_size = {value.shape[2:]: value for value in states}
        states = [*by_size.values()]
    elif "feature_maps" not in output:
        height, width = images.shape[2] // 8, images.shape[3] // 8
        states = [value[:, prefix:].transpose(1, 2).unflatten(2, (height, width)) for value in states[1:]]
    return output.get("logits"), embedding, states


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_by_name_is_as_transformers_gives_it(name, tmp_path):
    module = theirs(name)
    module.save_pretrained(tmp_path / "net")
    network = build_network(f"hf/{tmp_path}/net", weights="pretrained", mean=(0.0,) * 3, std=(1.0,) * 3).freeze()
    own = UserModule(module, Taps(), PLAIN, (3, 64, 64))
    for size in ((64, 64), (64, 96)):
        images = torch.rand(2, 3, *size)
        network.preprocess = PLAIN
        # By its name a network that was trained on BGR takes RGB.
        representation = network(images.flip(1) if name.startswith("MobileViT") else images)
        logits, embedding, maps = expected(name, theirs(name), images)
        assert (representation.logits is None) == (logits is None)
        if logits is not None:
            torch.testing.assert_close(representation.logits, logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(representation.embedding, embedding.flatten(1), rtol=1e-6, atol=1e-6)
        assert len(representation.maps) == len(maps) > 1
        for ours, its in zip(representation.maps, maps, strict=True):
            # The channels of a turned convolution are summed in another order.
            torch.testing.assert_close(ours, its, rtol=0, atol=1e-6 if name.startswith("MobileViT") else 0)
        again = Network(module, taps=own.taps, preprocess=PLAIN).freeze()(images)
        for ours, its in zip(representation.tensors(), again.tensors(), strict=True):
            torch.testing.assert_close(ours, its, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_place_in_the_image_is_that_place_in_the_maps(name, tmp_path):
    module = theirs(name)
    own = UserModule(module, Taps(), PLAIN, (3, 64, 96))
    network = Network(own(), taps=own.taps, preprocess=PLAIN).freeze()
    dark, rows, columns = torch.zeros(1, 3, 64, 96), slice(16, 24), slice(72, 80)
    lit = dark.clone()
    lit[:, :, rows, columns] = 1
    # Of networks with stages, whose maps are transformers' own, the one that sees the least around a place.
    count = 1 if FAMILIES[name][2] is None else None
    for before, after in zip(network(dark).maps[:count], network(lit).maps[:count], strict=True):
        height, width = before.shape[2:]
        change = (after - before).square().sum(1)[0]
        row, column = divmod(int(change.argmax()), width)
        # Middle of the cell and of the patch: no further from each other than half the patch and a cell.
        assert abs((row + 0.5) * 64 / height - 20) <= 4 + 64 / height, (row, height)
        assert abs((column + 0.5) * 96 / width - 76) <= 4 + 96 / width, (column, width)


def test_a_processor_says_how_images_are_seen(tmp_path):
    module = theirs("ViTForImageClassification", id2label={0: "cat", 1: "dog", 2: "owl"})
    module.save_pretrained(tmp_path)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    for options in (
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [50.0, 60.0, 70.0]},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
    ):
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **options)
        processor.save_pretrained(tmp_path)
        network = build_network(f"hf/{tmp_path}", weights="pretrained")
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(network.preprocess(images), pixels.float(), rtol=1e-5, atol=1e-5)
        assert network.preprocess.resolution == 32
    assert network.recipe["classes"] == ("cat", "dog", "owl")
    assert class_names(theirs("ViTForImageClassification")) is None


def test_images_in_bgr_are_turned(tmp_path):
    module = theirs("MobileViTForImageClassification")
    module.save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor(size={"shortest_edge": 64}, do_center_crop=False).save_pretrained(tmp_path)
    network = build_network(f"hf/{tmp_path}", weights="pretrained").freeze()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = module(images.flip(1)).logits
    torch.testing.assert_close(network(images).logits, logits)


def test_weights_that_a_file_lacks_are_never_random_without_a_word(tmp_path):
    theirs("ViTForImageClassification").save_pretrained(tmp_path / "labels")
    config = json.loads((tmp_path / "labels/config.json").read_text())
    (tmp_path / "labels/config.json").write_text(json.dumps(config | {"architectures": ["ViTModel"]}))
    # No pooler in the file: the class token.
    network = build_network(f"hf/{tmp_path}/labels", weights="pretrained")
    assert network.taps.embedding == "output:last_hidden_state.0"
    theirs("ViTModel").save_pretrained(tmp_path / "body")
    assert build_network(f"hf/{tmp_path}/body", weights="pretrained", num_classes=7).recipe["num_classes"] == 7
    config = json.loads((tmp_path / "body/config.json").read_text())
    (tmp_path / "body/config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UsageError, match="have no .*layer.*2.* belong together"):
        build_network(f"hf/{tmp_path}/body", weights="pretrained")
    (tmp_path / "body/config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(UsageError, match="have no .* of the shape that a ViTModel"):
        build_network(f"hf/{tmp_path}/body", weights="pretrained")
    (tmp_path / "body/model.safetensors").rename(tmp_path / "body/pytorch_model.bin")
    with pytest.raises(contrastill.ContrastillError, match="cannot be read .*: save them as safetensors"):
        build_network(f"hf/{tmp_path}/body", weights="pretrained")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "folder without config.json"),
        ({"model_type": "vitt"}, "of the type vitt, which transformers"),
        ({"model_type": "bert"}, "reads no images alone"),
        ({"model_type": "vit_mae", "hidden_size": 32, "num_hidden_layers": 1}, "hides patches at random"),
    ],
    ids=["no config", "unknown", "text", "masked"],
)
def test_what_is_no_network_for_images_is_refused(values, message, tmp_path):
    if values is not None:
        (tmp_path / "config.json").write_text(json.dumps(values))
    else:
        (tmp_path / "other").touch()
    if values and values["model_type"] == "vit_mae":
        config = transformers.ViTMAEConfig(**TOKENS)
        transformers.ViTMAEModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=message):
        build_network(f"hf/{tmp_path}", weights="pretrained")


def test_a_config_that_makes_no_network_is_refused(tmp_path):
    values = {"model_type": "vit", **TOKENS, "architectures": ["ViTForImageClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(values | {"hidden_size": "x"}))
    with pytest.raises(UsageError, match="makes no network: .*hidden_size"):
        build_network(f"hf/{tmp_path}", num_classes=4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(contrastill.ContrastillError, match="config.json cannot be read as JSON"):
        build_network(f"hf/{tmp_path}", num_classes=4)


def test_names_without_a_folder_are_refused():
    with pytest.raises(UsageError, match="there is no folder ./no: name one"):
        build_network("hf/./no", num_classes=4)


def test_a_classifier_is_refused_where_there_is_none(tmp_path):
    theirs("DINOv3ViTModel").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="transformers has none for dinov3_vit"):
        build_network(f"hf/{tmp_path}", num_classes=4)


def test_other_channels_and_classes(tmp_path):
    theirs("ConvNextForImageClassification").save_pretrained(tmp_path)
    grey = build_network(f"hf/{tmp_path}", weights="pretrained", num_classes=5, mean=(0.5,), std=(0.5,)).freeze()
    outputs = grey(torch.rand(2, 1, 32, 32))
    assert outputs.logits.shape == (2, 5) and grey.module.config.num_labels == 5


def test_a_teacher_of_theirs_for_a_student_of_timm(four_classes, tmp_path, monkeypatch):
    theirs("ViTForImageClassification", num_labels=4).save_pretrained(tmp_path / "net")

    def distilled(out):
        return contrastill.distill(
            f"hf/{tmp_path}/net",
            "timm/test_resnet",
            four_classes,
            out=tmp_path / out,
            objectives=["kd", "crd", "cross_entropy"],
            epochs=2,
            batch_size=16,
            checkpoint_every_steps=1,
            quiet=True,
        )

    straight, steps, step = distilled("straight"), [], engine._Training._step

    def dying(*arguments):
        steps.append(len(steps))
        if len(steps) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, contrastill.ContrastillError)):
        patch.setattr(engine._Training, "_step", dying)
        distilled("stopped")
    resumed = distilled("stopped")
    assert resumed.metrics["top1"] == straight.metrics["top1"] and resumed.metrics["kd"] == straight.metrics["kd"]
    state = resumed.student.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in straight.student.state_dict().items())


def test_a_student_of_theirs_is_saved_loaded_and_exported(four_classes, tmp_path):
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    (tmp_path / "net").mkdir()
    config.save_pretrained(tmp_path / "net")
    result = contrastill.distill(
        theirs("Dinov2WithRegistersModel"),
        {"model": f"hf/{tmp_path}/net", "resolution": 32},
        four_classes,
        out=tmp_path / "run",
        objectives=["crd", "cross_entropy"],
        epochs=1,
        batch_size=16,
        quiet=True,
    )
    (tmp_path / "net/config.json").unlink()
    student = load_student(tmp_path / "run")
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(student(images).logits, result.student(images).logits)
    assert type(student).__name__ == "ConvNextForImageClassification"
    network = Network(student, taps=student.taps, preprocess=student.preprocess)
    assert network(images).logits.shape == (3, 4)
    again = build_network(f"hf/{tmp_path}/net", weights=tmp_path / "run")
    save_student(again, tmp_path / "again.safetensors")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = contrastill.export_student(tmp_path / "run", tmp_path / "student.onnx", size=32)
    assert exported.num_classes == 4


def test_the_library_is_loaded_only_when_it_is_asked_for():
    for module in (transformers_adapter, transformers_taps, image_processor, user_module, build):
        assert not re.search("^(import|from) transformers", Path(module.__file__).read_text(), re.MULTILINE)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_vision_tower_of_a_model_of_two(kind, tmp_path):
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=TOKENS, projection_dim=16)
    torch.manual_seed(0)
    both = getattr(transformers, f"{kind}Model")(config).eval()
    both.save_pretrained(tmp_path)
    network = build_network(f"hf/{tmp_path}", weights="pretrained").freeze()
    network.preprocess, images = PLAIN, torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = both.get_image_features(pixel_values=images)
    expected = features if isinstance(features, torch.Tensor) else features.pooler_output
    torch.testing.assert_close(network(images).embedding, expected)
    assert network.recipe["classes"] is None and network(images).logits is None
    with pytest.raises(UsageError, match="reads input_ids, not images alone: pass its vision tower"):
        UserModule(both, Taps(), PLAIN, (3, 32, 32))


def test_a_module_that_came_from_a_folder_is_normalised_as_its_processor_does(tmp_path):
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    theirs("ViTModel").save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "vit"
    )
    module = transformers.ViTModel.from_pretrained(tmp_path / "vit")
    assert published_of(module) == Preprocess((0.1, 0.2, 0.3), (0.5,) * 3, 32)
    assert published_of(module)(images).shape == (2, 3, 32, 32)
    assert published_of(theirs("ViTModel")) is None
    theirs("MobileViTForImageClassification").save_pretrained(tmp_path / "mobile")
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path / "mobile")
    with pytest.raises(UsageError, match="was trained on BGR images, and images are RGB here: pass 'hf/"):
        published_of(transformers.MobileViTForImageClassification.from_pretrained(tmp_path / "mobile"))


def test_a_size_that_a_class_cannot_take_is_named_with_its_own():
    module = transformers.PvtForImageClassification(transformers.PvtConfig(image_size=64))
    with pytest.raises(UsageError, match=r"its config is of images of 64, which resolution=64 gives it"):
        UserModule(module, Taps(), PLAIN, (3, 16, 16))
