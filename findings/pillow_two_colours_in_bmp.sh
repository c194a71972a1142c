#!/usr/bin/env bash
# Pillow 13.0.0: a palette image of two colours, black and white, that Pillow itself saves as BMP comes back as other
# pixels. It is written with 8 bits a pixel, as every palette image, and two colours in its palette; the reader takes a
# palette of black and white for a sign that a pixel is one bit, and opens it in mode "1". Half of the pixels of a
# random mask are then wrong. OpenCV 5.0.0 (opencv-python-headless 5.0.0.93) reads the same bytes right. White of 254 in
# place of 255, or a third colour, and Pillow reads them right too.
# Seen, of a random mask of 64x64: mode 1, 49.0 % of the pixels equal; with white of 254 or three colours mode P and
# 100 %; OpenCV 100 % of all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93
"$folder/env/bin/python" - <<'PY'
import io

import cv2
import numpy as np
from PIL import Image

mask = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8)
for palette, mode in (
    ([0, 0, 0, 255, 255, 255], "1"),
    ([0, 0, 0, 254, 254, 254], "P"),
    ([0, 0, 0, 255, 255, 255, 9, 9, 9], "P"),
):
    image = Image.new("P", (64, 64))
    image.putpalette(palette)
    image.putdata(mask.ravel().tolist())
    file = io.BytesIO()
    image.save(file, "BMP")
    bits = int.from_bytes(file.getvalue()[28:30], "little")
    again = Image.open(io.BytesIO(file.getvalue()))
    right = np.asarray(image.convert("L"))
    equal = (np.asarray(again.convert("L")) == right).mean()
    opencv = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_GRAYSCALE)
    print(palette, "bits", bits, "mode", again.mode, f"equal {equal:.1%}", f"OpenCV {(opencv == right).mean():.1%}")
    assert bits == 8 and again.mode == mode and (opencv == right).all()
    assert equal == 1 if mode == "P" else 0.3 < equal < 0.7
PY
