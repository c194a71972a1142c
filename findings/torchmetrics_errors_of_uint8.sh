#!/usr/bin/env bash
# torchmetrics 1.9.0: two uint8 images, 100 everywhere and 116 everywhere. PeakSignalNoiseRatio is right, it makes them
# float32. MeanSquaredError of the same two tensors is 0, as if they were equal, since 16 squared is 256, which is 0 in
# 8 bits; it is right only for differences up to 15. MeanAbsoluteError gives 16 or 240, depending on which of the two is
# called the prediction. PeakSignalNoiseRatioWithBlockedEffect is inf. Nothing warns: uint8 is accepted by all of them.
# Seen: PSNR 24.05 dB, which is an MSE of 256; MSE 0.0; MAE 16.0 and 240.0; PSNR-B inf.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import torch
from torchmetrics import MeanAbsoluteError, MeanSquaredError
from torchmetrics.image import PeakSignalNoiseRatio, PeakSignalNoiseRatioWithBlockedEffect

dark, bright = (torch.full((1, 1, 32, 32), value, dtype=torch.uint8) for value in (100, 116))
values = {}
for kind, (prediction, target) in {"uint8": (bright, dark), "float32": (bright.float(), dark.float())}.items():
    values[kind] = (
        round(PeakSignalNoiseRatio(data_range=255.0)(prediction, target).item(), 2),
        MeanSquaredError()(prediction, target).item(),
        MeanAbsoluteError()(prediction, target).item(),
        MeanAbsoluteError()(target, prediction).item(),
        round(PeakSignalNoiseRatioWithBlockedEffect(data_range=255.0)(prediction, target).item(), 2),
    )
    print(kind, "PSNR %s, MSE %s, MAE %s and swapped %s, PSNR-B %s" % values[kind])
assert values["uint8"] == (24.05, 0.0, 16.0, 240.0, float("inf")), values
assert values["float32"] == (24.05, 256.0, 16.0, 16.0, 24.05), values

fifteen = torch.full_like(dark, 115)
assert MeanSquaredError()(fifteen, dark).item() == MeanSquaredError()(dark, fifteen).item() == 225.0
PY
