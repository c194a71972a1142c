"""Networks in another precision, and copies of them: images are normalised in float32, then follow the weights."""

import copy
import io
import pickle

import pytest
import torch

import contrastill
from contrastill import KD, Student, Transfer
from contrastill.models.build import build_network, save_student

IMAGES = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KINDS = [(torch.float16, 5e-3), (torch.bfloat16, 5e-2), (torch.float64, 1e-5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    save_student(build_network("resnet8", num_classes=3), folder / "student.safetensors")
    return folder


@pytest.mark.parametrize(("dtype", "tolerance"), KINDS)
@torch.no_grad()
def test_a_student_in_another_precision(run, dtype, tolerance):
    student = Student.from_run(run)
    expected = student(IMAGES)
    student.to(dtype)
    for images in (IMAGES, IMAGES.float() / 255, IMAGES.double() / 255):
        logits = student(images)
        assert logits.dtype == dtype
        torch.testing.assert_close(logits.float(), expected, rtol=tolerance, atol=tolerance)
    plain = contrastill.load_student(run).to(dtype)
    torch.testing.assert_close(plain(plain.preprocess(IMAGES, like=plain)), student(IMAGES), rtol=0, atol=0)
    network = build_network("resnet8", num_classes=3, weights=str(run)).eval().to(dtype)
    torch.testing.assert_close(network(IMAGES).logits, student(IMAGES), rtol=0, atol=0)


@torch.no_grad()
def test_an_exported_student_in_half_precision(run):
    student = Student.from_run(run).half()
    exported = torch.export.export(student, (IMAGES,)).module()
    assert torch.equal(exported(IMAGES), student(IMAGES))


@torch.no_grad()
def test_copies_of_a_student(run):
    student, stream = Student.from_run(run), io.BytesIO()
    torch.save(student, stream)
    stream.seek(0)
    copies = [copy.deepcopy(student), pickle.loads(pickle.dumps(student)), torch.load(stream, weights_only=False)]
    for each in copies:
        assert torch.equal(each(IMAGES), student(IMAGES))


@pytest.mark.parametrize(("dtype", "tolerance"), KINDS)
def test_a_teacher_in_another_precision(run, dtype, tolerance):
    def loss(dtype):
        torch.manual_seed(1)
        teacher = build_network("resnet8", num_classes=3, weights=str(run)).to(dtype)
        transfer = Transfer([teacher], build_network("resnet8", num_classes=3), {"kd": KD()})
        return transfer({"rgb": IMAGES, "index": torch.arange(2)}).loss.item()

    assert loss(dtype) == pytest.approx(loss(torch.float32), rel=tolerance, abs=tolerance)
