#!/usr/bin/env bash
# torchvision 0.29.1 with torch 2.14.1 (seen on x86-64): ToDtype(torch.uint16, scale=True), to_dtype and the older
# ConvertImageDtype turn the float32 value 1.0, white, into 0, black, without a word. 1.0 to uint8 is 255 and to int16
# is 32767, and float64 to uint16 is right. So a 16-bit PNG that was read with decode_image, made float32 with
# scale=True and uint16 again has holes wherever it was saturated, and the 127 values below white are one too high.
# Two more of the same: uint16 white to float16 is inf, and uint8 white to uint16 is 65280, not 65535.
# Seen: of the 65536 values 128 differ after uint16 -> float32 -> uint16: 65408 to 65534 by one, 65535 is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import io

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.io import decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

white = torch.ones(3, 4, 4)
results = {
    "v2.ToDtype": v2.ToDtype(torch.uint16, scale=True)(white),
    "v2.functional.to_dtype": functional.to_dtype(white, torch.uint16, scale=True),
    "ConvertImageDtype": transforms.ConvertImageDtype(torch.uint16)(white),
}
for name, result in results.items():
    print(name, "float32 1.0 to uint16:", result.int().unique().tolist())
    assert result.dtype == torch.uint16 and result.int().unique().tolist() == [0]
for source, target, value in (
    (torch.float32, torch.uint8, 255),
    (torch.float32, torch.int16, 32767),
    (torch.float64, torch.uint16, 65535),
):
    assert functional.to_dtype(white.to(source), target, scale=True).int().unique().tolist() == [value]

buffer = io.BytesIO()
Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)).save(buffer, "PNG")
image = decode_image(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
assert image.dtype == torch.uint16 and torch.equal(image.int().flatten(), torch.arange(65536, dtype=torch.int32))
back = functional.to_dtype(functional.to_dtype(image, torch.float32, scale=True), torch.uint16, scale=True)
before, after = image.int().flatten(), back.int().flatten()
changed = before[before != after]
print("changed by uint16 -> float32 -> uint16:", len(changed), "values from", changed[0].item())
assert changed.tolist() == list(range(65408, 65536))
assert torch.equal(after[65408:65535], before[65408:65535] + 1) and after[65535] == 0

half = functional.to_dtype(image, torch.float16, scale=True)
wide = functional.to_dtype(torch.full((1, 1, 1), 255, dtype=torch.uint8), torch.uint16, scale=True)
print("uint16 white to float16:", half.max().item(), "- uint8 white to uint16:", wide.int().item())
assert half.max() == torch.inf and wide.int().item() == 65280
PY
