#!/usr/bin/env bash
# torchvision 0.29.1, transforms.v2.functional: resizing an integer mask with NEAREST changes whole numbers beyond 2^24.
# The result keeps the dtype int64 (or int32), so that nothing shows it: 16777217 comes back as 16777216, the value having
# gone through float32. rotate, horizontal_flip, and resize to the same size leave the same mask as it is. Identifiers of
# instances and of map tiles are such masks.
# Seen: resize -> 16777216, rotate -> 16777217, horizontal_flip -> 16777217, resize to the same size -> 16777217.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1
"$folder/env/bin/python" - <<'PY'
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

NEAREST, VALUE = InterpolationMode.NEAREST, 2**24 + 1
for dtype in (torch.int64, torch.int32):
    mask = torch.full((1, 8, 8), VALUE, dtype=dtype)
    results = {
        "resize": functional.resize(mask, [4, 4], interpolation=NEAREST),
        "rotate": functional.rotate(mask, 90, interpolation=NEAREST),
        "horizontal_flip": functional.horizontal_flip(mask),
        "resize to the same size": functional.resize(mask, [8, 8], interpolation=NEAREST),
    }
    seen = {name: result.unique().tolist() for name, result in results.items()}
    print(dtype, seen)
    assert all(result.dtype == dtype for result in results.values())
    assert seen.pop("resize") == [VALUE - 1], seen
    assert set(map(tuple, seen.values())) == {(VALUE,)}, seen
PY
