"""The teachers' memory and its folder under two processes: the looking is shared, the bits are those of one process, and so is the training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = str(Path(__file__).with_name("looking_ranks.py"))


def test_processes_share_the_looking_and_hold_the_same_bits_and_train_alike(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    one, two = tmp_path / "one", tmp_path / "two"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder, command in ((two, [*launch, SCRIPT]), (one, [SCRIPT])):
        folder.mkdir()
        answer = subprocess.run([sys.executable, *command, str(folder)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr[:3000]
    alone, *ranks = (json.loads(path.read_text()) for path in (one / "0.json", two / "0.json", two / "1.json"))
    assert len({digest for each in (alone, *ranks) for digest, _ in each}) == 1
    # In memory, then for the folder: three batches, or three files, of each of two views.
    assert [[seen for _, seen in each] for each in (alone, *ranks)] == [[96, 96], [64, 48], [32, 48]]
    files = {folder: {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "said").rglob("*.h5")} for folder in (one, two)}
    assert len(files[one]) == 12 and files[one] == files[two]
    wanted = load_file(one / "0.safetensors")
    for rank in range(2):
        state = load_file(two / f"{rank}.safetensors")
        assert state.keys() == wanted.keys() and "loss of epoch 1" in state
        for name, value in state.items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
