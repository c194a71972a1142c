"""Networks of transformers: the order of colours in weights of a file, the size of a classifier beside a text model."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from contrastill.core.errors import UsageError
from contrastill.models.build import build_network, save_student
from contrastill.models.transformers_taps import image_shape

transformers = pytest.importorskip("transformers")


def test_images_in_bgr_are_turned_also_of_weights_in_a_file_but_once(tmp_path):
    torch.manual_seed(0)
    sizes = {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]}
    module = transformers.MobileViTForImageClassification(transformers.MobileViTConfig(**sizes, num_labels=3)).eval()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    module.save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor(size={"shortest_edge": 64}, do_center_crop=False).save_pretrained(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = module(images.flip(1)).logits
    network = build_network(f"hf/{tmp_path}", weights=tmp_path / "model.safetensors").freeze()
    save_student(network, tmp_path / "student.safetensors")
    again = build_network(f"hf/{tmp_path}", weights=tmp_path / "student.safetensors").freeze()
    # Its logits are small.
    for each in (network, again):
        assert (each(images).logits - logits).norm() < 1e-3 * logits.norm()


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_a_classifier_beside_a_text_model_takes_images_of_the_size_in_its_vision_config(tmp_path, kind):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = small | {"image_size": 48, "patch_size": 16}
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=small, num_labels=3)
    module = getattr(transformers, f"{kind}ForImageClassification")(config)
    assert image_shape(module, 3) == (3, 48, 48)
    module.eval().save_pretrained(tmp_path)
    network = build_network(f"hf/{tmp_path}", weights="pretrained").freeze()
    assert network(torch.rand(2, 3, 48, 48)).logits.shape == (2, 3)
    network.preprocess, larger = replace(network.preprocess, resolution=64), torch.rand(2, 3, 64, 64)
    if kind == "CLIP":  # whose class interpolates no positions
        with pytest.raises(UsageError, match="does not take images .*: set resolution=48"):
            network(larger)
    else:
        assert network(larger).logits.shape == (2, 3)
