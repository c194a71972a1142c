#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face), Pillow 13.0.0: map() with a function that only looks at an image, and returns another
# column, rewrites the image as well. A JPEG that the dataset holds as bytes is compressed anew at Pillow's default
# quality 75, whatever it was before, each time that a map() looks at it; a lossless WebP becomes a lossy one. The
# column still says JPEG or WEBP, nothing warns, and the file name that came along is lost.
# The images stay as they are with input_columns, in filter(), where the function does not touch the image, where it
# returns None, and where the column holds the path of a file instead of its bytes. PNG keeps its pixels.
# Seen: a JPEG of quality 95 after adding its width in one map(): pixels off by up to 56 of 255, and by up to 75 after a
# second one; a lossless WebP off by up to 72.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$folder/env/bin/python" - "$folder" <<'PY'
import io
import sys

import datasets
import numpy as np
from PIL import Image


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def dataset_of(content, name):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": [{"bytes": content, "path": name}], "label": [3]}, features=features)


def stored(dataset):
    return dataset.cast_column("image", datasets.Image(decode=False))[0]["image"]


def pixels(dataset):
    return np.asarray(dataset[0]["image"]).astype(int)


def add_width(example):
    return {"width": example["image"].width}


noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
picture = Image.fromarray(noise).resize((64, 64))
formats = (
    ("photo.jpg", {"format": "JPEG", "quality": 95}, True),
    ("photo.webp", {"format": "WEBP", "lossless": True}, True),
    ("photo.png", {"format": "PNG"}, False),
)
for name, options, lossy in formats:
    before = dataset_of(encoded(picture, **options), name)
    once = before.map(add_width)
    twice = once.map(lambda example: {"height": example["image"].height})
    off = [abs(pixels(after) - pixels(before)).max() for after in (once, twice)]
    print(name, "off by up to", off, "path", stored(once)["path"], "format", once[0]["image"].format)
    assert (off[0] > 10 and off[1] > 10) if lossy else max(off) == 0
    assert stored(once)["path"] is None and once[0]["image"].format == options["format"]
    same = {
        "input_columns": before.map(lambda image: {"width": 64}, input_columns=["image"]),
        "filter": before.filter(lambda example: example["image"].width == 64),
        "the label alone": before.map(lambda example: {"double": 2 * example["label"]}),
        "None": before.map(lambda example: None if example["image"].width else None),
    }
    for how, after in same.items():
        assert stored(after) == stored(before), how

again = dataset_of(encoded(picture, format="JPEG", quality=95), "photo.jpg").map(add_width)[0]["image"]
default = Image.open(io.BytesIO(encoded(picture, format="JPEG", quality=75)))
assert again.quantization == default.quantization, "the tables of quality 75"

path = sys.argv[1] + "/photo.jpg"
picture.save(path, quality=95)
of_path = datasets.Dataset.from_dict({"image": [path]}).cast_column("image", datasets.Image()).map(add_width)
assert stored(of_path) == {"bytes": None, "path": path}
PY
echo confirmed
