"""Derived modalities of a user's own with a mistake."""

import pytest
import torch

from contrastill.core.errors import ContrastillError
from contrastill.core.registry import MODALITIES
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network, save_student
from contrastill.training.data import measure_statistics
from contrastill.training.student import Student
from contrastill.xmodal.derive import check, derive
from contrastill.xmodal.modalities import modality


@pytest.fixture
def derived():
    """What a function makes of two images, registered for the length of a test."""
    names = []

    def call(function, name="mine", channels=3, values=None, **options):
        names.append(name)
        modality(name, **{"of": "rgb", "channels": channels, **options})(function)
        if values is None:
            values = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            values[0] //= 2  # Their highest values differ.
        return derive({"rgb": values}, [name], None)[name]

    before = dict(MODALITIES)
    yield call
    for name in names:
        if name not in before:
            MODALITIES._entries.pop(name, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "rgb"}, "has the name of what a batch stores: give it another, such as my_rgb"),
        ({"name": "target"}, "has the name of what a batch stores"),
        ({"name": "grey"}, "modality 'grey' is defined twice, by contrastill.xmodal.modalities.grey and "),
        ({"of": "mine"}, "is made from mine, which is no stored modality"),
        ({"of": "grey"}, "is made from grey, which is derived itself and not in this data: make it from a stored one"),
        ({"channels": 0}, "has channels=0"),
        ({"intrinsics": True}, "takes .rgb., and is called with .values, camera."),
    ],
)
def test_what_cannot_be_a_modality_is_refused(derived, options, message):
    with pytest.raises(ContrastillError, match=message):
        derived(lambda rgb: rgb.float(), **options)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, "modality mine is an int: write the decorator above a function"),
        (lambda: 0, "takes .., and is called with .values."),
        (lambda rgb: None, "returns None: return a tensor .B, 3, H, W."),
        (lambda rgb: rgb.numpy(), "returns a ndarray"),
        (lambda rgb: rgb.float()[:, 0], r"returns a tensor of shape \(2, 8, 8\) .* return \(2, 3, H, W\)"),
        (lambda rgb: rgb.float()[:, :1], "or set channels to what it returns"),
        (lambda rgb: rgb.float()[:1], r"return \(2, 3, H, W\)"),
        (lambda rgb: rgb.long(), "returns torch.int64: return floating-point numbers"),
        (lambda rgb: rgb.sub_(1).float(), "changes what it is given, .* work on values.clone()"),
        (lambda rgb: rgb.nothing, "fails: AttributeError: .* .test_modality_checks.py, line"),
    ],
)
def test_what_a_modality_returns_wrongly_is_refused(derived, function, message):
    with pytest.raises(ContrastillError, match=message):
        derived(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rgb: rgb / rgb.float().cumsum(0), "beside other samples, .* a function of its sample alone"),
        (lambda rgb: rgb / 7.0 / rgb[:1].amax(), "beside other samples"),
        (lambda rgb: rgb.float() - rgb.float().mean(0), "beside other samples, .* a function of its sample alone"),
        (lambda rgb: rgb.flip(0), "beside other samples"),
        (lambda rgb: rgb / 255 + torch.rand_like(rgb.float()), "when it is called again, .* leave out what is random"),
    ],
)
def test_what_is_not_of_one_sample_alone_is_refused(derived, function, message):
    with pytest.raises(ContrastillError, match=message):
        derived(function)


def test_the_highest_value_of_a_batch_is_not_of_one_sample(derived):
    brightest = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    derived(lambda rgb: rgb / rgb.float().amax((1, 2, 3), keepdim=True), name="of_each")
    for number, scale in enumerate((brightest, brightest.flip(0))):
        values = torch.rand(2, 3, 4, 4) + scale

        def of_the_batch(rgb):
            return rgb / rgb.amax()

        name = f"of_the_batch_{number}"
        with pytest.raises(ContrastillError, match="beside other samples"):
            derived(of_the_batch, name=name, values=values)


@pytest.mark.parametrize("function", [lambda rgb: 255 - rgb, lambda rgb: rgb.double(), lambda *rgb: rgb[0].float()])
def test_what_makes_a_modality_passes_also_when_it_is_defined_again(derived, function):
    for _ in range(2):
        assert derived(function).shape == (2, 3, 8, 8)


def split_of(**modalities):
    images = {}
    for name, values in modalities.items():
        images[name] = PaddedImages.zeros(*values.shape, dtype=values.dtype, padding=0)
        images[name].interior[:] = values
    return TensorSplit(images)


def test_one_named_like_a_stored_modality_has_a_line_that_names_both(derived, caplog):
    derived(lambda rgb: rgb.float() / 2, name="warmth")
    check("warmth", {"rgb": (3, 8, 8)}, None)
    check("grey", {"rgb": (3, 8, 8), "grey": (1, 8, 8)}, None)  # contrastill's own: what is stored comes first
    assert not caplog.records
    check("warmth", {"rgb": (3, 8, 8), "warmth": (1, 8, 8)}, None)
    assert "modality warmth is stored in this data, and " in caplog.text
    assert "makes one of that name from rgb: the stored one is read" in caplog.text


def test_what_it_does_not_measure_has_a_line(derived, caplog):
    derived(lambda rgb: (rgb.float() - 128).log(), name="logarithm")
    derived(lambda rgb: rgb.float(), name="finite")
    split = split_of(
        rgb=torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 16, 16).permute(1, 2, 0).expand(2, -1, -1, -1)
    )
    measure_statistics(split, "finite")
    assert not caplog.records
    measure_statistics(split, "logarithm")
    assert "is NaN or infinite in 50 % of the pixels looked at, and rgb in 0 %: they are taken for not" in caplog.text


def test_a_modality_that_nobody_knows_is_told_what_there_is():
    with pytest.raises(
        ContrastillError, match="'zzz' does not exist: this data has rgb, from which .*grey.* can be made"
    ):
        check("zzz", {"rgb": (3, 8, 8)}, None)
    with pytest.raises(ContrastillError, match="'gray' does not exist: did you mean grey"):
        check("gray", {"rgb": (3, 8, 8)}, None)
    # A sensor whose files are missing, and whose name is like another's.
    with pytest.raises(ContrastillError, match="normals. this data has rgb, from .*data.fields={thermal: …}"):
        check("thermal", {"rgb": (3, 8, 8)}, None)


def test_a_student_of_a_derived_modality_says_what_it_reads(tmp_path):
    network = build_network("resnet8", num_classes=3, modality="chrominance", mean=(0.0, 0.0), std=(1.0, 1.0))
    save_student(network, tmp_path / "student.safetensors")
    student = Student.from_run(tmp_path)
    assert student(torch.rand(2, 2, 16, 16)).shape == (2, 3)
    with pytest.raises(ContrastillError, match="reads chrominance .2 channels., and these images have 3: give chromin"):
        student(torch.rand(2, 3, 16, 16))
