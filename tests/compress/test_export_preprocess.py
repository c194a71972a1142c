"""A file with the preprocessing inside answers as Student does to stored values, unmeasured ones too."""

from dataclasses import replace

import pytest
import torch

import contrastill
from contrastill.compress import export as exporting
from contrastill.compress.export import export_student
from contrastill.compress.exported import Takes
from contrastill.compress.exported_module import exported_module
from contrastill.compress.quantize import check_quantizable
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.representation import Preprocess
from contrastill.core.value_scale import ValueScale
from contrastill.datasets.io.values import UNSIGNED_16
from contrastill.models.build import build_network, save_student

ONES = torch.ones(4, 1, 16, 16)


def saved(folder, modality, scale, **options):
    """A run's student of a modality whose training had this scale."""
    torch.manual_seed(0)
    mean, std = scale.statistics or ((0.5,) * 3, (0.25,) * 3)
    network = build_network("resnet8", num_classes=5, modality=modality, mean=mean, std=std, **options)
    network.preprocess = replace(network.preprocess, scale=scale)
    save_student(network, folder / "student.safetensors")
    return folder


def noise(channels=1):
    return torch.randn(4, channels, 16, 16, generator=torch.Generator().manual_seed(1))


def marked(images, *marks):
    """Images with a mark of nothing measured in a corner of each, one after the other."""
    images = images.clone()
    for number, mark in enumerate(marks):
        images[:, :, number * 4 : number * 4 + 3, :5] = mark
    return images


NAN = torch.nan
MM = ValueScale(UNSIGNED_16, "mm", (1.6,), (0.5,))
# Modality, scale of the training, stored values, and those as the file takes them.
METRES = marked((1.6 + 0.3 * noise()).clamp(0.2, 3), NAN, 0, 65.535)
TWENTIETHS = marked((1.6 + 0.3 * noise()).clamp(0.2, 3), NAN, 0, 65535 * 0.05)
MILLIMETRES = marked((1000 * (1.6 + 0.3 * noise())).clamp(200, 3000).int(), 0, 65535).to(torch.uint16)
STEPS = marked((120 + 20 * noise()).clamp(1, 255).byte(), 0)
KINDS = {
    "metres": ("depth", ValueScale("floats", "m", (1.6,), (0.5,)), METRES, METRES),
    "millimetres": ("depth", MM, MILLIMETRES, MILLIMETRES.float() / 1000),
    "metres of millimetres": ("depth", MM, marked(METRES, NAN, 65.535, 0), marked(METRES, NAN, 65.535, 0)),
    "relative": ("depth", ValueScale("8-bit integers", "relative", (120.0,), (40.0,)), STEPS, STEPS.float()),
    "steps": ("depth", ValueScale("8-bit integers", 0.05, (1.6,), (0.5,)), TWENTIETHS, TWENTIETHS),
    "normalized_depth": ("normalized_depth", ValueScale(mean=(0.0,), std=(1.0,)), marked(noise(), NAN), None),
    "inverse_depth": ("inverse_depth", ValueScale(mean=(0.7,), std=(0.2,)), marked(0.7 + 0.1 * noise(), NAN), None),
    "thermal": (
        "thermal",
        ValueScale(UNSIGNED_16, None, (30000.0,), (500.0,)),
        (30000 + 400 * noise()).int().to(torch.uint16),
        (30000 + 400 * noise()).int().float(),
    ),
    "vectors": ("flow", ValueScale("floats", None, (0.1, 0.0), (0.4, 0.6)), marked(0.3 * noise(2), NAN), None),
    "colours": ("rgb", ValueScale("8-bit integers"), (120 + 40 * noise(3)).clamp(0, 255).byte(), None),
    "float colours": ("rgb", ValueScale("floats", None, None, None, -2.0, 2.5), noise(3).clamp(-2, 2.5), None),
}


@pytest.mark.parametrize("resolution", [None, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_answers_as_the_student_does_to_stored_values(kind, resolution, tmp_path):
    modality, scale, stored, given = KINDS[kind]
    run = saved(tmp_path, modality, scale, resolution=resolution)
    expected = contrastill.Student.from_run(run)(stored).detach()
    made = export_student(run, tmp_path / "a.pt2", format="torch", size=16, with_preprocess=True)
    program = torch.export.load(made.path).module()
    torch.testing.assert_close(program(stored if given is None else given), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(program(made.takes(stored)), expected, rtol=1e-4, atol=1e-5)
    assert made.takes.dtype == (torch.uint8 if kind == "colours" else torch.float32)


@pytest.mark.parametrize("kind", ["metres", "millimetres", "normalized_depth", "colours"])
def test_onnx_answers_as_the_student_does_to_stored_values(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install contrastill[export]")
    modality, scale, stored, given = KINDS[kind]
    run = saved(tmp_path, modality, scale, resolution=24)
    made = export_student(run, tmp_path / "a.onnx", images=stored, with_preprocess=True)
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": (stored if given is None else given).numpy()})
    expected = contrastill.Student.from_run(run)(stored).detach()
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["input"] == made.takes.described(modality)


def test_a_file_that_takes_zero_for_a_value_is_refused(tmp_path, monkeypatch):
    run = saved(tmp_path, "depth", MM)
    student = contrastill.load_student(run)
    wrong = replace(student.preprocess, scale=None)
    monkeypatch.setattr(exporting, "answering", lambda *_: torch.no_grad()(lambda inputs: student(wrong(inputs))))
    for images in (None, MILLIMETRES, 2 * ONES):  # those without a mark get one
        with pytest.raises(ContrastillError, match="differ from PyTorch's"):
            export_student(run, tmp_path / "a.pt2", format="torch", size=16, with_preprocess=True, images=images)


def test_a_program_refuses_integers_in_the_place_of_metres(tmp_path):
    run = saved(tmp_path, "depth", MM)
    made = export_student(run, tmp_path / "a.pt2", format="torch", size=16, with_preprocess=True)
    with pytest.raises(RuntimeError, match="dtype"):
        torch.export.load(made.path).module()(MILLIMETRES.int())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("metres", "depth in float32, metres, 0, 65.535 or NaN where nothing was measured"),
        ("millimetres", "depth in float32, metres (stored millimetres / 1000), 0, 65.535 or NaN where"),
        ("relative", "depth in float32, the stored values, of no unit, 0 or NaN where"),
        ("normalized_depth", "as contrastill.MODALITIES['normalized_depth'].function makes it of depth, NaN where"),
        ("thermal", "thermal in float32, values as the training read them, NaN where"),
        ("colours", "rgb in uint8, 0 … 255"),
        ("float colours", "rgb in float32, from -2 to 2.5"),
    ],
)
def test_what_the_file_takes_in_words(kind, words):
    modality, scale, stored, _ = KINDS[kind]
    mean, std = scale.statistics or ((0.5,) * 3, (0.25,) * 3)
    preprocess = Preprocess(mean, std, colours=modality == "rgb", scale=scale)
    takes = Takes((len(mean), 16, 16), preprocess, inside=True, dynamic=True)
    assert words in takes.described(modality) and takes(stored).dtype == takes.dtype


def test_stored_values_are_not_told_to_be_made(tmp_path, caplog):
    stored = ValueScale("floats", mean=(0.0,) * 3, std=(0.6,) * 3)
    for scale, way in (
        (stored, "as the data of its training had it"),
        (replace(stored, kind=None), "as contrastill.M"),
    ):
        run = saved(tmp_path, "normals", scale)
        takes = Takes((3, 16, 16), contrastill.load_student(run).preprocess, inside=True, dynamic=True)
        assert ("function makes it of depth" in takes.described("normals")) == (scale is not stored)
        with pytest.raises(UsageError, match=f"give normals, {way}"):
            contrastill.Student.from_run(run)(ONES)
    frames = ValueScale("floats", mean=(3.0,), std=(1.0,))
    contrastill.Student.from_run(saved(tmp_path, "normalized_depth", frames))(3 + 0.1 * noise())
    assert not caplog.messages


@pytest.mark.parametrize(
    "scale", [ValueScale("floats", "m", (2.0,), (2.0,)), ValueScale("floats", "relative", (0.0,), (1.0,))]
)
def test_random_depth_of_the_check_is_not_named(tmp_path, caplog, scale):
    export_student(saved(tmp_path, "depth", scale), tmp_path / "a.pt2", format="torch", size=16, with_preprocess=True)
    assert not [record for record in caplog.records if record.name.startswith("contrastill")]


def test_colours_in_floats_are_refused_by_a_file_that_takes_bytes():
    takes = Takes((3, 4, 4), Preprocess((0.5,) * 3, (0.25,) * 3), inside=True, dynamic=True)
    with pytest.raises(UsageError, match="colours in uint8 only, and these are torch.float32: leave out"):
        takes(torch.rand(1, 3, 4, 4))


def test_eight_bits_of_what_may_not_be_measured():
    check_quantizable(Preprocess((0.5,) * 3, (0.25,) * 3), inside=True)
    depth = Preprocess((1.6,), (0.5,), colours=False)
    check_quantizable(depth, inside=False)
    with pytest.raises(UsageError, match="8 bits have no NaN .*: leave out --with-preprocess, or --int8"):
        check_quantizable(depth, inside=True)


def test_the_answer_goes_into_the_file(tmp_path):
    run = saved(tmp_path, "depth", MM)
    student, takes = contrastill.load_student(run), None
    takes = Takes((1, 16, 16), student.preprocess, inside=True, dynamic=True)
    expected = contrastill.Student.from_run(run)(MILLIMETRES)
    torch.testing.assert_close(exported_module(student, takes)(takes(MILLIMETRES)), expected)
