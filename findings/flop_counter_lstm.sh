#!/usr/bin/env bash
# torch 2.14.1: FlopCounterMode counts nn.RNN and nn.GRU and gives 0 for nn.LSTM on the CPU, forward and backward, in
# training and in eval mode, in float32, bfloat16 and float16, without a word: one operator of oneDNN is the whole
# layer. The same layer has its right number in float64 or with torch.backends.mkldnn switched off, and with proj_size
# it is counted as well: oneDNN is not used for these.
# timm 1.0.31: sequencer2d_s at 224×224, whose mixing is all LSTMs, has 9.87 GFLOP so and 16.67 GFLOP in float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore - <<'PY'
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(module, images, backward=False):
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        answer = module(images)
        if backward:
            answer[0].sum().backward()
    return counter.get_total_flops()


rows = torch.randn(2, 7, 16)  # 14 steps of 16 numbers, 6 hidden ones
for kind, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)):
    by_hand = 2 * 14 * gates * 6 * (16 + 6)
    single = count(kind(16, 6, batch_first=True), rows)
    double = count(kind(16, 6, batch_first=True).double(), rows.double())
    print(f"{kind.__name__}: by hand {by_hand}, in float32 {single}, in float64 {double}")
    assert double == by_hand and single == (0 if kind is nn.LSTM else by_hand)

lstm = nn.LSTM(16, 6, batch_first=True)
print("LSTM, forward and backward:", count(lstm, rows, backward=True))
assert count(lstm, rows, backward=True) == 0
for dtype in (torch.bfloat16, torch.float16):
    assert count(nn.LSTM(16, 6, batch_first=True).to(dtype), rows.to(dtype)) == 0
print("LSTM with proj_size=4:", count(nn.LSTM(16, 6, batch_first=True, proj_size=4), rows))
assert count(nn.LSTM(16, 6, batch_first=True, proj_size=4), rows) > 0
torch.backends.mkldnn.set_flags(False)
print("LSTM without oneDNN:", count(lstm, rows))
assert count(lstm, rows) == 2 * 14 * 4 * 6 * 22
torch.backends.mkldnn.set_flags(True)

network, image = timm.create_model("sequencer2d_s", pretrained=False).eval(), torch.rand(1, 3, 224, 224)
single, double = count(network, image), count(network.double(), image.double())
print(f"sequencer2d_s: {single / 1e9:.2f} GFLOP in float32, {double / 1e9:.2f} in float64")
assert f"{single / 1e9:.2f} {double / 1e9:.2f}" == "9.87 16.67"
PY
