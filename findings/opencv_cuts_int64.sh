#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93) and albumentations 2.0.8 on top of it: an int64 array is cut to 32 bits
# without a word, although OpenCV 5 has a 64-bit integer type. cv2.flip, cv2.copyMakeBorder and cv2.resize with
# INTER_NEAREST give int32 of the low bits: 2^40 + 1 becomes 1. uint32 is kept by flip. In albumentations even
# HorizontalFlip turns an int64 mask, NumPy's default dtype, into int32, and 2^33 + 5 into 5.
# Seen: cv2.flip, copyMakeBorder, resize -> int32 [1]; albumentations HorizontalFlip, Resize -> int32 [5].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 albumentations==2.0.8
NO_ALBUMENTATIONS_UPDATE=1 "$folder/env/bin/python" - <<'PY'
import albumentations
import cv2
import numpy as np

assert hasattr(cv2, "CV_64S"), "OpenCV 5 names a 64-bit integer type"
wide = np.full((8, 8), 2**40 + 1)
results = {
    "flip": cv2.flip(wide, 1),
    "copyMakeBorder": cv2.copyMakeBorder(wide, 1, 1, 1, 1, cv2.BORDER_REFLECT),
    "resize": cv2.resize(wide, (4, 4), interpolation=cv2.INTER_NEAREST),
}
for name, result in results.items():
    print("cv2." + name, result.dtype, np.unique(result))
    assert result.dtype == np.int32 and np.unique(result).tolist() == [1]
unsigned = cv2.flip(np.full((8, 8), 2**31 + 1, np.uint32), 1)
assert unsigned.dtype == np.uint32 and np.unique(unsigned).tolist() == [2**31 + 1]
mask, image = np.full((8, 8), 2**33 + 5), np.zeros((8, 8, 3), np.uint8)
for transform in (albumentations.HorizontalFlip(p=1), albumentations.Resize(4, 4)):
    result = albumentations.Compose([transform])(image=image, mask=mask)["mask"]
    print(type(transform).__name__, result.dtype, np.unique(result))
    assert result.dtype == np.int32 and np.unique(result).tolist() == [5]
PY
