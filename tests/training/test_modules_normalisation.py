"""A module of a library sees what its own mean and std are for: one rule for bytes and floats, and a line on it."""

import logging

import pytest
import timm
import torch
import torchvision
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError

UNIT = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BYTES = (255 * UNIT).to(torch.uint8)
NORMALISED = (UNIT - 0.45) / 0.22
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AS_THEY_ARE = ((0.0,) * 3, (1.0,) * 3)


def module():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4, pretrained=False)


def distill(images, out, teacher=None, student="resnet8"):
    data = TensorDataset(images, torch.arange(16) % 4)
    return contrastill.distill(teacher, student, data, out=out, epochs=1, batch_size=8, quiet=True)


@pytest.mark.parametrize(
    ("images", "seen", "line"),
    [
        (BYTES, "own", "teacher ResNet: images are normalised by its own mean (0.5, 0.5, 0.5) and std"),
        (UNIT, "own", "teacher ResNet: images are normalised by its own mean (0.5, 0.5, 0.5) and std"),
        (NORMALISED, "plain", "teacher ResNet: images are floats from -2.05 to 2.5, so they are taken as normalised"),
    ],
    ids=["bytes", "floats in 0 … 1", "normalised"],
)
def test_the_values_decide_and_a_line_says_so(images, seen, line, tmp_path, caplog):
    own = tuple(tuple(module().pretrained_cfg[key]) for key in ("mean", "std"))
    with caplog.at_level(logging.WARNING):
        result = distill(images, tmp_path / "out", module(), module())
    lines = [record.getMessage() for record in caplog.records if "{'model': module, 'mean'" in record.getMessage()]
    assert len(lines) == 2 and line in lines[0] and "student" in lines[1]
    for seeing in (result.config.teachers[0], result.student.preprocess):
        assert (seeing.mean, seeing.std) == (own if seen == "own" else AS_THEY_ARE)


def test_bytes_and_floats_of_one_picture_train_one_student(tmp_path):
    students = [
        distill(images, tmp_path / name, None, module()).student for name, images in (("a", BYTES), ("b", BYTES / 255))
    ]
    for one, other in zip(*(student.state_dict().values() for student in students), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("images", [BYTES, UNIT])
def test_what_is_said_wins_without_a_line(images, tmp_path, caplog):
    preprocess = contrastill.Preprocess((0.1,) * 3, (0.9,) * 3)
    inside = module()
    inside.preprocess = preprocess
    for number, network in enumerate([inside, {"model": module(), "mean": preprocess.mean, "std": preprocess.std}]):
        result = distill(images, tmp_path / str(number), None, network)
        assert result.student.preprocess == preprocess
    assert "its own mean" not in caplog.text


def test_what_stands_around_a_module_that_says_it_is_taken_off_or_has_a_line(tmp_path, caplog):
    own = tuple(module().pretrained_cfg["mean"])
    averaged = distill(UNIT, tmp_path / "averaged", AveragedModel(module()))
    assert averaged.config.teachers[0].mean == own and "in it has mean" not in caplog.text
    around = distill(UNIT, tmp_path / "around", torch.nn.Sequential(module()))
    assert around.config.teachers[0].mean == AS_THEY_ARE[0]
    assert (
        f"teacher Sequential: it sees images in 0 … 1, as it says nothing of its own, and 0 in it has mean {own}"
        in (caplog.text)
    )
    caplog.clear()
    normalising = torch.nn.Sequential(torchvision.transforms.Normalize(*IMAGENET), module())
    distill(UNIT, tmp_path / "inside", normalising)
    assert "in it has mean" not in caplog.text


def test_half_of_a_normalisation_is_refused(tmp_path):
    with pytest.raises(UsageError, match="student was given mean alone: give mean and std together"):
        distill(UNIT, tmp_path / "out", None, {"model": module(), "mean": (0.5,) * 3})


def test_a_teacher_of_torchvision_has_a_line_as_it_says_nothing(tmp_path, caplog):
    teacher = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    result = distill(UNIT, tmp_path / "out", teacher)
    assert result.config.teachers[0].mean == AS_THEY_ARE[0]
    assert (
        "teacher ShuffleNetV2: no module of torchvision says how it normalises, so it sees images in 0" in caplog.text
    )
    caplog.clear()
    distill(UNIT, tmp_path / "said", {"model": teacher, "mean": IMAGENET[0], "std": IMAGENET[1]})
    distill(NORMALISED, tmp_path / "normalised", teacher, {"model": "resnet8", "mean": (0.0,) * 3, "std": (1.0,) * 3})
    assert "torchvision says" not in caplog.text


def test_a_teacher_of_transformers_whose_image_processor_is_not_there_has_a_line(tmp_path, caplog):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4, layer_type="basic"
    )
    torch.manual_seed(0)
    made = transformers.ResNetForImageClassification(config)
    made.save_pretrained(tmp_path / "saved")
    loaded = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "saved")
    for number, (teacher, reason) in enumerate(
        [(made, "it was made without a name"), (loaded, f"no preprocessor_config.json of {tmp_path / 'saved'} is on")]
    ):
        caplog.clear()
        result = distill(UNIT, tmp_path / str(number), teacher)
        assert result.config.teachers[0].mean == AS_THEY_ARE[0]
        line = f"teacher ResNetForImageClassification: its mean and std are those of an image processor, and {reason}"
        assert line in caplog.text and "so it sees images in 0 … 1" in caplog.text
    transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "saved")
    loaded = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "saved")
    assert distill(UNIT, tmp_path / "processor", loaded).config.teachers[0].std == (0.25,) * 3
