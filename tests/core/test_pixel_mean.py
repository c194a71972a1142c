"""The mean over labelled pixels of several processes is that of one; a share that is padding counts for nothing."""

import pytest
import torch

from contrastill.core.pixel_mean import mean_over_pixels
from contrastill.training.accumulation import chunks, own_samples

SUMS, COUNTS = torch.tensor([6.0, 1.0, 4.0, 9.0, 2.0]).double(), torch.tensor([3, 1, 0, 7, 5])
SHARES = {2: [[0, 1, 2], [3, 4]], 3: [[0, 1, 2, 3], [4], [4]]}

_RANK = """
import sys
from pathlib import Path
import torch
from contrastill.core.pixel_mean import mean_over_pixels
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.distributed.init_process_group("gloo")
sums, counts, padding = torch.load(folder / f"{rank}.pt")
torch.save(mean_over_pixels(sums, counts, padding), folder / f"answer-{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("world", [2, 3])
def test_unlike_shares_and_padding_add_up_to_the_whole_batch(ranks, tmp_path, world):
    own = []
    for rank, rows in enumerate(SHARES[world]):
        share = {"index": torch.tensor(rows)} | ({"is_padding": torch.ones(1, dtype=torch.bool)} if rank == 2 else {})
        own.append(own_samples(share))
        ((chunk, _),) = chunks(share, 1)
        torch.save((SUMS[rows], COUNTS[rows], chunk.get("is_padding")), tmp_path / f"{rank}.pt")
    ranks(_RANK, world, tmp_path)
    answers = [torch.load(tmp_path / f"answer-{rank}.pt") for rank in range(world)]
    # The engine averages by the numbers of samples.
    mean = sum(count * answer for count, answer in zip(own, answers, strict=True)) / len(SUMS)
    whole = SUMS.sum() / COUNTS.sum()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(mean_over_pixels(SUMS, COUNTS), whole)
