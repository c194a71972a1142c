#!/usr/bin/env bash
# torch 2.14.1: a tensor on the CPU sent to "cpu:0" (or "cpu:1") is copied, every time, also when it comes from there:
# .device is "cpu" before and after, and compares equal, so nothing says that it is another tensor. "cpu" alone copies
# nothing.
# accelerate 1.15.0: in a launch of CPU processes, also of one, accelerator.device is such a device with the rank's
# index, so prepare(model) gives every parameter other memory. The Parameter objects stay; tensors taken from
# state_dict() before, as a moving average of weights may hold them, keep the old values for ever.
# DistributedDataParallel alone, or prepare() without a launcher, leaves the memory as it is.
# Seen: started plainly, the captured tensor follows an optimiser step; launched, with 1 or 2 processes, it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 accelerate==1.15.0 numpy
"$folder/env/bin/python" - <<'PY'
import torch

tensor = torch.ones(3)
indexed = tensor.to("cpu:0")
print("same memory after .to('cpu:0'):", indexed.data_ptr() == tensor.data_ptr(), "- device:", indexed.device)
assert indexed.data_ptr() != tensor.data_ptr() and indexed.device == tensor.device
assert indexed.to("cpu:0").data_ptr() != indexed.data_ptr() and indexed.to("cpu").data_ptr() == indexed.data_ptr()
PY
cat > "$folder/rank.py" <<'PY'
import sys

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(2, 2)
captured, parameter = model.state_dict()["weight"], model.weight
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
accelerator.backward(model(torch.ones(1, 2)).sum())
optimizer.step()
follows = torch.equal(captured, parameter)
if accelerator.is_main_process:
    print(f"device {accelerator.device!r}: the tensor captured before prepare() follows the step: {follows}")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
sys.exit(follows != (sys.argv[1] == "plain"))
PY
export ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo
"$folder/env/bin/python" "$folder/rank.py" plain
for processes in 1 2; do
    "$folder/env/bin/python" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
        "$folder/rank.py" launched 2>"$folder/log" || { cat "$folder/log"; exit 1; }
done
