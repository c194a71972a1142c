"""The teachers' memory and its folder under two processes: the looking is shared, the bits are those of one process,
and so is the training.
"""

import json

import torch
from safetensors.torch import load_file

from helpers.paths import HELPERS

SCRIPT = f"import runpy; runpy.run_path({str(HELPERS / 'live_teacher_ranks.py')!r}, run_name='__main__')"


def test_processes_share_the_looking_and_hold_the_same_bits_and_train_alike(ranks, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, world in ((one, 1), (two, 2)):
        folder.mkdir()
        ranks(SCRIPT, world, folder)
    alone, *each_rank = (json.loads(path.read_text()) for path in (one / "0.json", two / "0.json", two / "1.json"))
    assert len({digest for each in (alone, *each_rank) for digest, _ in each}) == 1
    # In memory, then for the folder: three batches, or three files, of each of two views; and twice the 8 samples that
    # show whether a teacher is random, 8 and 4 that show whether it answers by its batch.
    assert [[seen - 28 for _, seen in each] for each in (alone, *each_rank)] == [[96, 96], [64, 48], [32, 48]]
    files = {
        folder: {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "outputs").rglob("*.h5")}
        for folder in (one, two)
    }
    assert len(files[one]) == 12 and files[one] == files[two]
    expected = load_file(one / "0.safetensors")
    for rank in range(2):
        state = load_file(two / f"{rank}.safetensors")
        assert state.keys() == expected.keys() and "loss of epoch 1" in state
        for name, value in state.items():
            torch.testing.assert_close(
                value, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
