"""Pictures of Pillow that a user's own dataset hands out: turned by their EXIF orientation while they are their file's,
and named where they are damaged.
"""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

import contrastill
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.datasets.image_folder import ImageFolder
from contrastill.datasets.io.user_pictures import pixels
from contrastill.datasets.io.user_samples import UserSamples
from contrastill.datasets.io.values import warn_once
from contrastill.datasets.user_dataset import UserDataset

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(PIXELS).resize((16, 12), Image.Resampling.BICUBIC))


def encoded(values, kind="PNG", orientation=None, **options):
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, exif=exif, **options)
    return file.getvalue()


def picture(values, *arguments, **options):
    return Image.open(io.BytesIO(encoded(values, *arguments, **options)))


class Samples(torch.utils.data.Dataset):
    """Samples that a function makes anew each time."""

    def __init__(self, make, count=4):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return self.make(row)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_of_a_file_is_turned_as_in_a_folder_of_images(tmp_path, kind, options, orientation, loaded):
    stored = encoded(SMOOTH, kind, orientation, **options)
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / f"0.{kind.lower()}").write_bytes(stored)
    folder = ImageFolder(ImageFolder.Options(path=str(tmp_path), size=12, crop="none", workers=0)).open("test")
    image = Image.open(io.BytesIO(stored))
    if loaded:
        image.load()
    own = pixels("rgb", image)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(stored))))
    assert np.array_equal(own, expected)
    assert np.array_equal(own, folder.pictures.open(0).pixels())


def test_depth_and_labels_are_turned_with_the_picture():
    numbers = np.arange(96, dtype=np.uint16).reshape(8, 12)
    labels, rgb = (numbers % 5).astype(np.uint8), np.repeat(numbers.astype(np.uint8)[:, :, None], 3, 2)

    def sample(row):
        return {
            "rgb": picture(rgb, "PNG", 6),
            "depth": picture(numbers, "PNG", 6),
            "semantics": picture(labels, "PNG", 6),
        }

    images, _ = UserSamples(Samples(sample)).read(1)
    turned = np.rot90(numbers, -1)
    assert np.array_equal(images["depth"][:, :, 0], turned) and np.array_equal(images["rgb"][:, :, 0], turned)
    assert np.array_equal(images["semantics"][:, :, 0], turned % 5)


@pytest.mark.parametrize("depth", [lambda: np.ones((8, 8), np.float32), lambda: picture(PIXELS[:, :, 0], "PNG", 6)])
def test_partners_that_are_not_turned_alike_are_refused(depth):
    way = (
        r"of sample 0 of Samples has the EXIF orientation 3 and depth (none|6), and which way.*exif_transpose\(image\)"
    )
    with pytest.raises(ContrastillError, match=way):
        UserSamples(Samples(lambda _: {"rgb": picture(PIXELS, "PNG", 3), "depth": depth()}))


@pytest.mark.parametrize(
    "change", [lambda image: image.convert("RGB"), lambda image: image.transpose(Image.Transpose.ROTATE_270)]
)
def test_a_picture_that_was_changed_stays_as_it_lies_and_a_line_says_so(change, caplog):
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        samples = UserSamples(Samples(lambda row: (change(picture(PIXELS, "PNG", 6)), row % 2)))
    assert np.array_equal(samples.read(0)[0]["rgb"], np.asarray(change(Image.fromarray(PIXELS))))
    assert caplog.text.count("rgb of sample 0 of Samples has an EXIF orientation, and stays as it lies") == 1


def test_a_picture_that_was_turned_has_no_line(caplog):
    with caplog.at_level(logging.WARNING):
        samples = UserSamples(Samples(lambda row: ImageOps.exif_transpose(picture(PIXELS, "PNG", 6))))
    assert np.array_equal(samples.read(0)[0]["rgb"], np.rot90(PIXELS, -1)) and "EXIF" not in caplog.text


def test_intrinsics_are_of_frames_that_are_not_turned():
    depth = np.full((8, 8), 1500, np.uint16)
    own = UserDataset(Samples(lambda _: {"depth": picture(depth, "PNG", 3)}))
    with pytest.raises(UsageError, match="depth of sample 0 of Samples is turned by its EXIF orientation 3, and"):
        own(UserDataset.Options(intrinsics=(10, 10, 4, 4))).open("train")
    assert own(UserDataset.Options()).open("train").num_samples == 4


TORN = encoded(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))[:500]
OPTIONS = {"objectives": "cross_entropy", "epochs": 1, "batch_size": 4, "quiet": True}


def sound(row):
    return picture(np.random.default_rng(row).integers(0, 256, (16, 16, 3), dtype=np.uint8)), row % 2


class Torn(torch.utils.data.Dataset):
    """Eight samples, of which one is truncated."""

    def __init__(self, row=None):
        self.row, self.targets = row, [0, 1] * 4

    def __len__(self):
        return 8

    def __getitem__(self, row):
        return (Image.open(io.BytesIO(TORN)), row % 2) if row == self.row else sound(row)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("train", "test", "row"), [(0, None, 0), (6, None, 6), (None, 6, 6)])
def test_a_truncated_picture_that_is_decoded_late_is_named(tmp_path, train, test, row, workers):
    with pytest.raises(ContrastillError, match=f"^rgb of sample {row} of Torn cannot be read: OSError: .*truncated"):
        contrastill.distill(
            None, "resnet8", (Torn(train), Torn(test)), out=tmp_path / "run", **OPTIONS, **{"data.workers": workers}
        )


def test_colours_of_every_mode_of_pillow():
    colour, alpha = (200, 40, 40), (200, 40, 40, 128)
    rgb, rgba = Image.new("RGB", (4, 4), colour), Image.new("RGBA", (4, 4), alpha)
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.applyTransform(rgb, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    for image in (
        *(rgb.convert(mode) for mode in ("RGB", "RGBX", "CMYK", "YCbCr", "HSV")),
        lab,
        rgba,
        rgba.convert("RGBa"),
        rgb.quantize(4),
        rgb.quantize(4).convert("PA"),
    ):
        assert np.abs(pixels("rgb", image).numpy().astype(int) - np.array(colour)).max() <= 2, image.mode
    grey = rgba.convert("LA")
    for image in (grey, grey.convert("La"), rgb.convert("L")):
        assert np.abs(pixels("rgb", image).numpy().astype(int) - 87).max() <= 2, image.mode
    for mode in ("P", "PA"):
        image = rgb.quantize(4)
        image = image.convert(mode) if mode == "PA" else image
        assert np.abs(pixels("thermal", image).numpy().astype(int) - np.array(colour)).max() <= 2
