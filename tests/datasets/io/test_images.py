"""Image files of every kind become upright RGB, and damage is found."""

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.datasets.io.images import DamagedImage, Picture


def _save(path, height=30, width=40, seed=0, **options):
    """A smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)


RED = np.broadcast_to(np.array([200, 30, 60], np.uint8), (30, 40, 3))


def _kinds():
    """Name of a file -> Pillow image, options, the colour to be read."""
    red, grey = Image.fromarray(RED), Image.new("L", (40, 30), 77)
    palette = red.quantize(4)
    rgba, grey_alpha = red.copy(), grey.copy()
    rgba.putalpha(128)
    grey_alpha.putalpha(90)
    sixteen = Image.fromarray(np.full((30, 40), 77 * 257, np.uint16))
    colour, shade = (200, 30, 60), (77, 77, 77)
    return {
        "plain.JPG": (red, {"quality": 100}, colour),
        "progressive.jpeg": (red, {"progressive": True}, colour),
        "grey.jpg": (grey, {}, shade),
        "cmyk.jpg": (red.convert("CMYK"), {"quality": 100}, colour),
        "plain.png": (red, {}, colour),
        "grey.png": (grey, {}, shade),
        "grey_alpha.png": (grey_alpha, {}, shade),
        "palette.png": (palette, {}, colour),
        "transparent.png": (palette, {"transparency": 0}, colour),
        "transparent_bytes.png": (palette, {"transparency": bytes([0, 128])}, colour),
        "rgba.png": (rgba, {}, colour),
        "bits16.png": (sixteen, {}, shade),
        "bits16.tif": (sixteen, {}, shade),
        "bit.png": (Image.new("1", (40, 30), 1), {}, (255, 255, 255)),
        "plain.webp": (red, {"lossless": True}, colour),
        "rgba.WEBP": (rgba, {"lossless": True}, colour),
        "plain.bmp": (red, {}, colour),
        "plain.tiff": (red, {}, colour),
        "plain.ppm": (red, {}, colour),
    }


@pytest.mark.parametrize("name", _kinds())
@pytest.mark.filterwarnings("error")
def test_every_kind_of_file_becomes_rgb(tmp_path, name):
    image, options, colour = _kinds()[name]
    image.save(tmp_path / name, **options)
    pixels = Picture(tmp_path / name).pixels()
    assert pixels.dtype == torch.uint8 and pixels.shape == (30, 40, 3)
    assert (pixels.int() - torch.tensor(colour)).abs().max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "suffix,options",
    [
        ("jpg", {"quality": 100}),
        ("png", {}),
        ("webp", {"lossless": True}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
def test_pictures_are_upright(tmp_path, suffix, options, orientation):
    corners = np.zeros((64, 96, 3), np.uint8)
    corners[:32, :48], corners[32:, :48], corners[:32, 48:] = 250, 160, 80
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(corners)
    stored = image.transpose(turn[orientation]) if orientation in turn else image
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / f"it.{suffix}", exif=exif, **options)
    picture = Picture(tmp_path / f"it.{suffix}")
    assert (picture.height, picture.width) == (64, 96)
    for reduce in (1, 2):
        pixels = Picture(tmp_path / f"it.{suffix}").pixels(reduce)
        step = 64 // len(pixels)
        assert (pixels.int() - torch.from_numpy(corners[::step, ::step].astype(int))).abs().max() <= 6 and step == (
            reduce if suffix == "jpg" else 1
        )


def _damage(path, kind):
    content = path.read_bytes()
    path.write_bytes(
        {
            "half": content[: len(content) // 2],
            "end": content[:-20],
            "text": b"this is no image",
            "none": b"",
            "head": content[:30],
            "zeros": content[: len(content) // 2].ljust(len(content), b"\0"),
        }[kind]
    )


@pytest.mark.parametrize(
    "suffix,kind",
    [(suffix, kind) for suffix in ("jpg", "png") for kind in ("half", "text", "none", "head")]
    + [("jpg", "end"), ("jpg", "zeros")],
)
def test_damage_is_detected(tmp_path, kind, suffix):
    _save(tmp_path / f"it.{suffix}")
    _damage(tmp_path / f"it.{suffix}", kind)
    with pytest.raises(
        DamagedImage, match=rf"it\.{suffix} cannot be read as an image \(.+\): repair or remove it$"
    ) as caught:
        Picture(tmp_path / f"it.{suffix}").pixels()
    assert "BytesIO" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_of_absurd_size(tmp_path, monkeypatch):
    _save(tmp_path / "it.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DamagedImage, match="it.png cannot be read as an image .*1200 pixels.*shrink or remove it"):
        Picture(tmp_path / "it.png")
