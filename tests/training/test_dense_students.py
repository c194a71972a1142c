"""Students that answer for each position: loaded, copied, in half precision, on the Hub, as modules of one's own."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill import Student, UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.run import Run
from contrastill.models.build import build_network, save_student

IMAGES = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NAMES = ("road", "car", "tree")


def run_of(folder, name="unet/resnet8", num_classes=3, classes=NAMES):
    torch.manual_seed(0)
    network = build_network(name, num_classes=num_classes).eval()
    network.recipe = {**network.recipe, "classes": classes}
    save_student(network, folder / "student.safetensors")
    return network


@torch.no_grad()
def test_a_students_answer_is_its_prediction(tmp_path):
    network = run_of(tmp_path)
    student, plain = Student.from_run(tmp_path), contrastill.load_student(tmp_path)
    prediction = student(IMAGES)
    assert prediction.shape == (2, 3, 16, 24) and student.classes == plain.classes == [*NAMES]
    assert torch.equal(prediction, network(IMAGES).prediction)
    assert torch.equal(prediction, plain(plain.preprocess(IMAGES))) and plain.taps.dense


def test_a_batch_as_a_dict_is_refused_by_its_modality(tmp_path):
    run_of(tmp_path)
    with pytest.raises(UsageError, match=r"this is a dict: give images\['rgb'\], which it reads"):
        Student.from_run(tmp_path)({"rgb": IMAGES})


def test_a_loaded_student_predicts_in_windows(tmp_path):
    network, windows = run_of(tmp_path), ({"rgb": IMAGES}, 16, 8)
    expected = contrastill.predict_in_windows(network, *windows)
    for student in (Student.from_run(tmp_path), contrastill.load_student(tmp_path)):
        assert torch.equal(contrastill.predict_in_windows(student, *windows), expected) and not student.training
    with pytest.raises(UsageError, match=r"a Conv2d does not say where its representation is: pass contrastill.Net"):
        contrastill.predict_in_windows(nn.Conv2d(3, 3, 1), *windows)


@torch.no_grad()
def test_a_dict_is_returned_by_the_plain_network_and_its_part_by_the_student(tmp_path):
    network = run_of(tmp_path, "torchvision/lraspp_mobilenet_v3_large")
    student, plain = Student.from_run(tmp_path), contrastill.load_student(tmp_path)
    expected = network(IMAGES).prediction
    assert torch.equal(student(IMAGES), expected) and expected.shape == (2, 3, 16, 24)
    output = plain(plain.preprocess(IMAGES))
    assert [*output] == ["out"] and torch.equal(output["out"], expected) and plain.taps.prediction == "output:out"


@torch.no_grad()
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_student_in_half_precision(tmp_path, half):
    run_of(tmp_path)
    expected = Student.from_run(tmp_path)(IMAGES)
    student, plain = Student.from_run(tmp_path).to(half), contrastill.load_student(tmp_path).to(half)
    assert student(IMAGES).dtype == half
    torch.testing.assert_close(student(IMAGES).float(), expected, rtol=0.05, atol=0.05)
    assert torch.equal(plain(plain.preprocess(IMAGES, like=plain)), student(IMAGES))


@torch.no_grad()
def test_copies_of_a_student_are_of_their_own(tmp_path):
    run_of(tmp_path)
    student = Student.from_run(tmp_path)
    expected = student(IMAGES)
    for each in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        assert torch.equal(each(IMAGES), expected)
        each.module.encoder.conv1.weight.zero_()
        assert not torch.equal(each(IMAGES), expected) and torch.equal(student(IMAGES), expected)


@torch.no_grad()
def test_the_hub_says_what_it_answers(tmp_path):
    run_of(tmp_path)
    student = Student.from_run(tmp_path)
    student.save_pretrained(tmp_path / "hub")
    config, card = (json.loads((tmp_path / "hub" / "config.json").read_text()), tmp_path / "hub" / "README.md")
    assert config["answers"] == (
        "prediction (B, 3, H, W), logits at each position, whose channel c, from 0 on, is class c + 1 of the label maps"
    )
    assert config["id2label"] == {"0": "road", "1": "car", "2": "tree"}
    text = card.read_text()
    assert "pipeline_tag: image-segmentation" in text and f"answers with a {config['answers']}." in text
    assert "Classes, in the order of the channels: road, car, tree." in text and "prediction = student(images)" in text
    assert torch.equal(Student.from_pretrained(tmp_path / "hub")(IMAGES), student(IMAGES))


def test_the_card_of_depth(tmp_path):
    run_of(tmp_path, num_classes=1, classes=None)
    Student.from_run(tmp_path).save_pretrained(tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "prediction (B, 1, H, W), a quantity at each position" in text and "depth-estimation" in text
    run_of(tmp_path, "resnet8")
    Student.from_run(tmp_path).save_pretrained(tmp_path / "other")
    text = (tmp_path / "other" / "README.md").read_text()
    assert "pipeline_tag" not in text and "logits = student(images)" in text and "; 3 classes." in text
    assert json.loads((tmp_path / "other" / "config.json").read_text())["answers"] == "logits (B, 3)"


class Frames(Dataset):
    """Images with label maps."""

    def __len__(self):
        return 8

    def __getitem__(self, place):
        generator = torch.Generator().manual_seed(place)
        labels = torch.randint(0, 4, (1, 16, 24), generator=generator)
        return {"rgb": torch.rand(3, 16, 24, generator=generator), "semantics": labels}


class Segmenter(nn.Module):
    """Returns a dict, at half the resolution."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        features = self.body(images)
        return {"logits": self.head(features), "features": features}


@torch.no_grad()
def test_a_module_of_ones_own_that_was_trained(tmp_path):
    module = Network(Segmenter(), taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
    frames, out = Frames(), tmp_path / "run"
    options = {"objectives": {"pixel_cross_entropy": 1}, "epochs": 1, "batch_size": 4, "quiet": True}
    result = contrastill.distill(None, module, (frames, frames), out=out, **options)
    student = Student.from_run(result.out, module=Segmenter())
    plain = contrastill.load_student(result.out, module=Segmenter())
    prediction = student(IMAGES)
    assert prediction.shape == (2, 3, 8, 12) and plain.taps.prediction == "output:logits"
    assert torch.equal(prediction, plain(plain.preprocess(IMAGES))["logits"])
    assert Run(result.out).finished
