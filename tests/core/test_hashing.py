"""Hashes of tensors: the same in torch.compile, which leaves numbers open that change from call to call."""

import torch

from contrastill.core.hashing import hash64


def test_a_compiled_hash_is_the_hash():
    counter = torch.arange(5)
    compiled = torch.compile(hash64, backend="eager")
    for draw in (0, 3, 7, 2**63 - 1):
        assert compiled(counter, 11, draw).equal(hash64(counter, 11, draw))
    # Keys of 64 bits are those of the same bits with a sign.
    assert hash64(counter, 2**64 - 1).equal(hash64(counter, -1))
