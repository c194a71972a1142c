#!/usr/bin/env bash
# torchmetrics 1.9.0, torchmetrics.segmentation.MeanIoU(input_format="index"): three things one would not guess.
#   1. compute() is not the mean of what the same metric gives with per_class=True.
#   2. It is neither the IoU of the summed confusion matrix (what papers on segmentation call mIoU, and what
#      torchmetrics.classification.MulticlassJaccardIndex gives) nor the mean over images of their IoU: it is the mean
#      over all pairs of an image and a class that occurs in it, so that images with more classes count more.
#   3. With per_class=True a class that occurs nowhere is -1, so that a plain mean over classes is far too low.
# Seen: two images, class 0 everywhere; the first predicted right, the second as class 1 everywhere:
#   MeanIoU 0.3333, its per-class values [0.5, 0.0] (mean 0.25), MulticlassJaccardIndex 0.25, mean over images 0.5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchmetrics==1.9.0
"$folder/env/bin/python" - <<'PY'
import torch
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

target = torch.zeros(2, 8, 8, dtype=torch.long)
prediction = target.clone()
prediction[1] = 1

together = MeanIoU(num_classes=2, input_format="index")
each = MeanIoU(num_classes=2, input_format="index", per_class=True)
pooled = MulticlassJaccardIndex(num_classes=2, average="macro")
for metric in (together, each, pooled):
    metric.update(prediction, target)
values = round(together.compute().item(), 4), each.compute().tolist(), pooled.compute().item()
print("MeanIoU %.4f, per class %s, MulticlassJaccardIndex %.4f" % values)
assert values == (0.3333, [0.5, 0.0], 0.25), values

absent = MeanIoU(num_classes=4, input_format="index", per_class=True)
absent.update(target, target)
print("a right prediction of class 0 alone, per class:", absent.compute().tolist())
assert absent.compute().tolist() == [1.0, -1.0, -1.0, -1.0]
PY
