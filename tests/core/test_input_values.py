"""What a network is given: one tensor of images, in the range and the unit of its training, or an error that says how
to bring it there.
"""

import logging
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import contrastill
from contrastill.core.depth_marks import metres_of
from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.value_scale import ValueScale, note_once
from contrastill.datasets.io.camera import Camera, clean_depth

COLOURS = Preprocess((0.5,) * 3, (0.25,) * 3)
BYTES = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
UNIT = BYTES / 255
METRES = 1 + 3 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def of_depth(unit="mm", kind="unsigned 16-bit integers"):
    return Preprocess((2.5,), (0.9,), colours=False, scale=ValueScale(kind, unit, (2.5,), (0.9,)))


def network(**options):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Network(module, taps=Taps(embedding="input:3"), preprocess=COLOURS, **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (UNIT * 255, r"takes uint8 images, or floats in \[0, 1\], and these go to 255: .* divide them by 255"),
        ((UNIT - 0.5) / 0.25, "and these go from -2 to 2: .*give them as they are before normalisation"),
        (BYTES.to(torch.int64), "images of torch.int64 have no known scale: give uint8, or floats in"),
        (UNIT[0], r"do not fit a mean of 3 channels: a batch has a first side, as images\[None\] has"),
        (UNIT[0].permute(1, 2, 0), r"as in images.permute\(2, 0, 1\)\[None\]"),
        (UNIT.permute(0, 2, 3, 1), r"channels come first, as in images.permute\(0, 3, 1, 2\)"),
        (UNIT.numpy(), r"this is a ndarray of shape \(2, 3, 8, 8\): torch.from_numpy\(images\) makes one"),
        ([*UNIT], r"this is a list: torch.stack\(images\) makes one of tensors"),
        (
            {"rgb": UNIT, "target": BYTES[:, 0, 0, 0]},
            r"this is a dict: images\[MODALITY\] is one of a batch, of 'rgb'$",
        ),
        (Image.new("RGB", (8, 8)), "this is a Image: torchvision.transforms.functional.pil_to_tensor"),
        (
            UNIT.masked_fill(UNIT == UNIT.max(), math.nan),
            "images of rgb hold NaN, which stands for what was",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_way_out(images, message):
    with pytest.raises(UsageError, match=message):
        COLOURS(images)
    with pytest.raises(UsageError, match=message):
        network().eval()({"rgb": images})


@pytest.mark.parametrize("images", [UNIT, UNIT.half(), UNIT.bfloat16(), UNIT * 1.2 - 0.1, BYTES])
def test_colours_in_0_1_are_taken(images):
    assert COLOURS(images).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_small_integers_are_read_as_those_of_the_training(dtype):
    stored = Preprocess((0.5,), (0.25,), colours=False, scale=ValueScale("8-bit integers", None, (0.5,), (0.25,)))
    images = torch.tensor([[[[0, 1], [1, 1]]]], dtype=dtype)
    assert torch.equal(stored(images), (images.float() - 0.5) / 0.25)
    with pytest.raises(UsageError, match="torch.int16 have no known scale"):
        stored(images.to(torch.int16))


def test_every_batch_is_looked_at_but_those_of_a_training():
    evaluated, trained = network().eval(), network().train()
    for each in (evaluated, trained):
        each(UNIT)
    with pytest.raises(UsageError, match="these go to 255"):
        evaluated(UNIT * 255)
    assert trained(UNIT * 255).logits.shape == (2, 2)


def test_a_network_of_one_class_says_nothing_of_another():
    shared = Preprocess((0.5,) * 3, (0.25,) * 3)
    first, second = (Network(nn.Sequential(nn.Flatten()), taps=Taps(), preprocess=shared).train() for _ in range(2))
    first(UNIT)
    with pytest.raises(UsageError, match="these go to 255"):
        second(UNIT * 255)


@pytest.mark.filterwarnings("ignore")
def test_no_value_is_read_under_export_or_tracing():
    class Inside(nn.Module):
        def forward(self, images):
            return COLOURS(images)

    program = torch.export.export(Inside(), (UNIT,), strict=False)
    assert torch.equal(program.module()(UNIT), COLOURS(UNIT))
    traced = torch.jit.trace(Inside(), UNIT)
    assert torch.equal(traced(UNIT), COLOURS(UNIT))
    assert traced(UNIT * 255).max() > 100


def test_a_mean_of_bytes_is_for_bytes_as_floats():
    of_bytes = Preprocess((125.0,) * 3, (60.0,) * 3)
    torch.testing.assert_close(of_bytes(UNIT * 255), (UNIT * 255 - 125) / 60)
    with pytest.raises(UsageError, match="uint8 are read as 0 … 1, and a mean of 125 is beyond: divide mean and std"):
        of_bytes(BYTES)
    with pytest.raises(UsageError, match=r"in \[0, 1\], and a mean of 125 is of 0 … 255: divide mean and std by 255"):
        of_bytes(UNIT)


def test_what_a_network_was_trained_on_is_the_range_it_takes():
    normalised = Preprocess((0.0,) * 3, (1.0,) * 3, scale=ValueScale("floats", low=-2.0, high=2.5))
    assert torch.equal(normalised(4 * UNIT - 2), 4 * UNIT - 2)
    with pytest.raises(UsageError, match="trained on floats from -2 to 2.5, and these go to 255"):
        normalised(UNIT * 255)
    with pytest.raises(UsageError, match="uint8 are read as 0 … 1, and this network was trained on floats from -2"):
        normalised(BYTES)
    plain = Preprocess((0.0,) * 3, (1.0,) * 3)
    assert torch.equal(plain(4 * UNIT - 2), 4 * UNIT - 2)
    with pytest.raises(UsageError, match="these go to 255"):
        Preprocess(plain.mean, plain.std, scale=ValueScale("8-bit integers"))(UNIT * 255)


def test_depth_is_metres_or_what_the_training_stored():
    stored = (METRES * 1000).round().to(torch.uint16)
    stored[0, 0, 0, 0], stored[0, 0, 0, 1] = 0, 65535
    holed = (stored.float() / 1000).masked_fill((stored == 0) | (stored == 65535), math.nan)
    expected = of_depth()(holed)
    assert expected[0, 0, 0, :2].tolist() == [0, 0]
    for images in (stored, stored.to(torch.int32), stored.to(torch.int64)):
        torch.testing.assert_close(of_depth()(images), expected)
    torch.testing.assert_close(of_depth()(holed.nan_to_num(0.0)), expected)


@pytest.mark.parametrize(("unit", "dtype"), [(0.02, torch.uint8), ("m", torch.uint8), (0.02, torch.int8)])
def test_depth_in_bytes_of_a_training_in_bytes_is_metres(unit, dtype):
    stored = torch.randint(1, 100, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
    step = 1.0 if unit == "m" else unit
    metres = stored.float() * step
    kind = "8-bit integers" if dtype == torch.uint8 else "signed 8-bit integers"
    scale = ValueScale(kind=kind, unit=unit, mean=(float(metres.mean()),), std=(float(metres.std()),))
    preprocess = Preprocess(scale.mean, scale.std, colours=False, scale=scale)
    torch.testing.assert_close(preprocess(stored), preprocess(metres))
    with pytest.raises(UsageError, match="give metres as floats"):
        preprocess(stored.to(torch.int32))


@pytest.mark.parametrize(
    ("preprocess", "images", "message"),
    [
        (of_depth(), METRES * 1000, "trained on its modality of 2.5 ± 0.9 .*: bring the data to its unit"),
        (of_depth(), (METRES * 50).to(torch.uint8), r"give metres as floats, as images.float\(\) / 1000"),
        (
            of_depth("m", "floats"),
            (METRES * 1000).to(torch.int32),
            r"give metres as floats, as images.float\(\) / 1000",
        ),
    ],
)
def test_depth_in_another_unit_is_refused(preprocess, images, message):
    with pytest.raises(UsageError, match=message):
        preprocess(images)


def test_counts_are_taken_as_stored_and_a_narrower_scale_is_noted(caplog):
    counts = torch.randint(20_000, 24_000, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    thermal = Preprocess(
        (22_000.0,),
        (1100.0,),
        colours=False,
        scale=ValueScale("unsigned 16-bit integers", None, (22_000.0,), (1100.0,)),
    )
    torch.testing.assert_close(thermal(counts.to(torch.uint16)), thermal(counts.float()))
    with caplog.at_level(logging.WARNING):
        thermal(counts.float() / 256)
    assert "trained on its modality of 22000 ± 1100" in caplog.text and "only if both are in one unit" in caplog.text


def test_relative_and_inverse_depth_have_one_line_that_names_both_scales(caplog):
    metres = torch.empty(2, 1, 16, 16).uniform_(2, 5, generator=torch.Generator().manual_seed(0))
    own = ((3.5,), (0.9,))
    for images in (metres / 5, 1 / metres):
        caplog.clear()
        preprocess = Preprocess(*own, colours=False, scale=ValueScale("floats", "m", *own))
        with caplog.at_level(logging.WARNING):
            preprocess(metres)
            preprocess(metres / 2)
            assert not caplog.records
            preprocess(images)
            preprocess(images + 0.001)
        (line,) = caplog.messages
        assert "trained on its modality of 3.5 ± 0.9" in line and "right only if both are in one unit" in line


def test_what_has_a_sign_may_have_any_mean(caplog):
    own = ((0.5,), (1.0,))
    with caplog.at_level(logging.WARNING):
        flow = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        Preprocess(*own, colours=False, scale=ValueScale("floats", None, *own))(flow + 0.05)
    assert not caplog.records


def test_arrays_of_another_library_are_no_batch():
    with pytest.raises(UsageError, match="takes a batch of images as one tensor .* this is a ndarray"):
        network()(np.zeros((2, 3, 8, 8)))


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (BYTES // 128, "images of uint8 have no value above 1, and bytes are read as 0 … 255, so that they are nearly"),
        (UNIT / 255, "images of floats go to 0.00392, and 1 is white, .* may have been divided by 255 twice"),
        (BYTES * 0, None),
        (BYTES // 64, None),
        (UNIT / 100, None),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_colours_that_are_nearly_black_have_one_line(images, line, train, caplog):
    note_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            network().train(train)(images)
    assert (
        [bool(re.search(line, record.getMessage())) for record in caplog.records] == [True]
        if line
        else not caplog.records
    )


def directions(seed, scenes=4):
    """Normals of surfaces that face the camera, of all slants."""
    values = torch.randn(scenes, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    values[:, 2] = values[:, 2].abs() + 0.5
    return values / values.norm(dim=1, keepdim=True)


RANGES = {
    "−1 … 1": lambda v: v,
    "0 … 1": lambda v: (v + 1) / 2,
    "0 … 255": lambda v: (v + 1) * 127.5,
    "0 … 65535": lambda v: (v + 1) * 32767.5,
}


@pytest.mark.parametrize("trained", [*RANGES])
def test_directions_in_another_range_than_that_of_the_training_are_refused(trained):
    known = RANGES[trained](directions(0, 64))
    mean, std = (tuple(values.tolist()) for values in (known.mean((0, 2, 3)), known.std((0, 2, 3))))
    preprocess = Preprocess(mean, std, colours=False, scale=ValueScale("floats", None, mean, std))
    for name, written in RANGES.items():
        images = written(directions(1))
        images[:, :, 3:5] = math.nan  # not measured
        if name == trained:
            assert preprocess(images).isfinite().all()
            continue
        with pytest.raises(UsageError, match=f"normals. in {trained} there and in {name} here, so bring them to"):
            preprocess(images)
    if trained == "0 … 255":
        assert preprocess(RANGES[trained](directions(1)).to(torch.uint8)).isfinite().all()


def test_what_are_no_directions_is_not_taken_for_such():
    noise = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))  # of length 1 in two of the ranges
    for known, other in ((noise, noise - 0.5), (directions(1), noise * 0.9), (directions(1), directions(2) / 2)):
        mean, std = (tuple(values.tolist()) for values in (known.mean((0, 2, 3)), known.std((0, 2, 3))))
        preprocess = Preprocess(mean, std, colours=False, scale=ValueScale("floats", None, mean, std))
        assert preprocess(other).isfinite().all()


@pytest.mark.parametrize(
    ("unit", "kind", "mark"),
    [
        ("m", "floats", 65.535),
        ("m", "floats", 1e5),
        ("mm", "unsigned 16-bit integers", 65.535),
        (0.0002, "unsigned 16-bit integers", 65535 * 0.0002),
        ("relative", "floats", 1e10),
    ],
)
def test_marks_of_nothing_measured_are_those_of_a_training(unit, kind, mark, caplog):
    note_once.cache_clear()
    depth = METRES.clone()
    depth[:, :, :2] = mark
    camera = Camera(unit)
    as_read = clean_depth(depth if isinstance(unit, str) and unit != "mm" else depth / metres_of(unit), camera)
    assert as_read.isnan().sum() == 2 * 2 * 8
    with caplog.at_level(logging.WARNING):
        seen = of_depth(unit, kind)(depth)
    torch.testing.assert_close(seen, of_depth(unit, kind)(depth.masked_fill(depth == depth[0, 0, 0, 0], math.nan)))
    assert not seen[:, :, :2].any() and "unit" not in caplog.text


def test_a_student_of_depth_with_marks_answers_to_that_of_its_training(tmp_path, caplog):
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 3 * torch.rand(24, 1, 16, 16, generator=generator)
    depth[:, :, :3] = 65.535
    samples = [({"depth": values, "target": row % 2}) for row, values in enumerate(depth)]
    options = {"epochs": 1, "batch_size": 8, "quiet": True, "objectives": "cross_entropy", "out": tmp_path / "run"}
    contrastill.distill(None, "resnet8", (samples[:16], samples[16:]), student_modality="depth", **options)
    student = contrastill.Student.from_run(tmp_path / "run")
    caplog.clear()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        logits = student(depth[:16])
        torch.testing.assert_close(logits, student(depth[:16].masked_fill(depth[:16] == depth[0, 0, 0, 0], math.nan)))
    assert "another unit" not in caplog.text and "in one unit" not in caplog.text


def scaled(unit, kind, mean, std):
    return Preprocess((mean,), (std,), colours=False, scale=ValueScale(kind, unit, (mean,), (std,)))


def test_depth_below_0_has_a_line_and_is_refused_where_nothing_else_is_there(caplog):
    note_once.cache_clear()
    preprocess, mark = of_depth("m", "floats"), METRES.clone()
    mark[:, :, 0, 0] = -1  # 1.6 %
    few = METRES.repeat(1, 1, 4, 4)
    few[0, 0, 0, 0] = -1
    with caplog.at_level(logging.WARNING):
        for images in (METRES, few, few.masked_fill(few < 0, -math.inf)):
            preprocess(images)
        assert not caplog.records
        for images in ((METRES - 2.5) / 0.9, METRES - 2.4, mark):
            preprocess(images)
    (line,) = caplog.messages
    assert re.search(r"depth down to -1.6\d \(\d\d % of the values are below 0\) is taken for not measured", line)
    for images in (-METRES, -METRES * (METRES > 2), (-1000 * METRES).to(torch.int32)):
        with pytest.raises(UsageError, match="is nowhere above 0, so all of it is taken for not measured: give metres"):
            of_depth()(images)
    assert not of_depth()(METRES * 0 - 1).any()  # a mark, as of a camera that is covered


@pytest.mark.parametrize(
    ("kind", "mean", "signed"),
    [("unsigned 16-bit integers", 32000.0, torch.int16), ("8-bit integers", 128.0, torch.int8)],
)
def test_integers_that_wrapped_are_refused(kind, mean, signed):
    unsigned = torch.uint16 if signed == torch.int16 else torch.uint8
    values = torch.linspace(0, 2 * mean - 1, 64).int().view(1, 1, 8, 8)
    preprocess = scaled(None, kind, mean, mean / 2)
    torch.testing.assert_close(preprocess(values.to(unsigned)), preprocess(values.float()))
    wrapped = values.to(unsigned).view(signed)
    with pytest.raises(UsageError, match=r"images of torch.int\d+ go down to -\d+, and this network was trained on"):
        preprocess(wrapped)
    assert torch.equal(preprocess(wrapped.clamp_min(0)), preprocess(wrapped.clamp_min(0).float()))
    with_sign = scaled(None, "wide integers" if signed == torch.int16 else "signed 8-bit integers", 0.0, mean)
    torch.testing.assert_close(with_sign(wrapped), wrapped.float() / mean)


def test_values_beyond_half_precision_have_one_line(caplog):
    note_once.cache_clear()
    thermal = scaled(None, "wide integers", 60000.0, 9000.0)
    values = torch.linspace(50000, 76500, 64).view(1, 1, 8, 8)
    with caplog.at_level(logging.WARNING):
        for images in (values, values.half(), values.half()):
            thermal(images)
        of_depth()(METRES.masked_fill(METRES > 3, math.inf))  # a mark
    (line,) = caplog.messages
    assert "infinite values are taken for not measured" in line and "float16 is 65504" in line


@pytest.mark.parametrize("images", [METRES, (1000 * METRES).to(torch.uint16)])
@pytest.mark.parametrize("resolution", [None, 5])
def test_preprocessing_can_be_mapped(images, resolution):
    preprocess = Preprocess((2.5,), (0.9,), resolution, colours=False, scale=of_depth().scale)
    mapped = torch.vmap(lambda image: preprocess(image[None])[0])
    torch.testing.assert_close(mapped(images), preprocess(images))
    colours = Preprocess((0.5,) * 3, (0.25,) * 3, resolution)
    for given in (BYTES, UNIT):
        torch.testing.assert_close(torch.vmap(lambda image: colours(image[None])[0])(given), colours(given))
    slope = torch.func.grad(lambda values: preprocess(values).sum())(METRES)
    torch.testing.assert_close(slope.sum(), torch.tensor((METRES.numel() if resolution is None else 50) / 0.9))


def test_frames_of_normalised_depth_that_are_not_have_one_line(caplog):
    recipe = {
        "model": "resnet8",
        "num_classes": 2,
        "in_chans": 1,
        "modality": "normalized_depth",
        "preprocess": {"mean": (0.0,), "std": (1.0,), "resolution": None},
        "scale": {"mean": (0.0,), "std": (1.0,)},
    }
    own = contrastill.MODALITIES["normalized_depth"].function
    holed = METRES.clone()
    holed[:, :, :5, :5] = math.nan
    wrong, right = (METRES, METRES / 10, 1 / METRES), (own(METRES), own(holed), own(holed * 0 + 2))
    for images, lines in [*((each, 1) for each in wrong), *((each, 0) for each in right)]:
        note_once.cache_clear()
        caplog.clear()
        student = contrastill.Student(recipe)
        with caplog.at_level(logging.WARNING), torch.no_grad():
            student(images)
            student(images * 1.1)
        those = [line for line in caplog.messages if "mean 0 and deviation 1 in each frame" in line]
        assert len(those) == lines
