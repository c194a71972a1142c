#!/usr/bin/env bash
# torchmetrics 1.9.0, MultilabelAveragePrecision with thresholds=None (exact): two things one would not guess.
#   1. A label that no sample has scores -0.0, not nan, and counts as 0 in average="macro": a ranking without a mistake
#      of two labels beside a third that does not occur is 0.6667. The warning that is given speaks of recall alone.
#   2. Whether scores are logits is decided in each update: those of a batch that all lie in [0, 1] stay as they are,
#      the others go through a sigmoid. The same three logits give 1.0 in one update and 0.5 in two, as 0.9 (a
#      negative) stays 0.9 in a batch of its own, and 2.0 (the positive) has become 0.88.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchmetrics==1.9.0
"$folder/env/bin/python" - <<'PY'
import torch
from torchmetrics.classification import MultilabelAveragePrecision

scores, labels = torch.tensor([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]]), torch.tensor([[1, 0, 0], [0, 1, 0]])
values = []
for average in ("macro", None):
    metric = MultilabelAveragePrecision(num_labels=3, average=average)
    metric.update(scores, labels)
    values.append(metric.compute())
print("a label of no sample: macro %.4f, each" % values[0], values[1].tolist())
assert round(values[0].item(), 4) == 0.6667 and values[1].tolist() == [1.0, 1.0, 0.0]

logits, labels = torch.tensor([[2.0, 2.0], [-1.0, -1.0], [0.9, 0.9]]), torch.tensor([[1, 1], [0, 0], [0, 0]])
values = []
for batches in ([slice(0, 3)], [slice(0, 2), slice(2, 3)]):
    metric = MultilabelAveragePrecision(num_labels=2)
    for batch in batches:
        metric.update(logits[batch], labels[batch])
    values.append(metric.compute().item())
print("the same logits in one update and in two:", values)
assert values == [1.0, 0.5], values
PY
