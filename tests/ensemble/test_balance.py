"""Hadamard matrices, and how features are brought to one scale: against numpy, over processes, across a stop."""

import numpy as np
import pytest
import torch

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.ensemble.balance import Balance
from contrastill.ensemble.hadamard import equal_diagonal_rotation, hadamard

# Sylvester, Paley I, Paley II, doublings of either.
KNOWN = (1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 44, 56, 60, 72, 96, 144, 192, 320, 384, 768)
UNKNOWN = (3, 7, 30, 52, 92, 770)


def features(dim, count=400, seed=0):
    """Correlated, far from zero, some channels a thousand times others; float64."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, dim, dtype=torch.float64, generator=generator) @ torch.randn(
        dim, dim, dtype=torch.float64, generator=generator
    )
    return mixed * torch.logspace(-1.5, 1.5, dim, dtype=torch.float64) + 50 * torch.randn(
        dim, dtype=torch.float64, generator=generator
    )


# Hadamard matrices


@pytest.mark.parametrize("n", KNOWN)
def test_hadamard_is_orthogonal_with_entries_of_one_size(n):
    matrix = hadamard(n)
    assert matrix.dtype == torch.float64 and matrix.shape == (n, n)
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, n**-0.5), rtol=1e-12, atol=0)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", UNKNOWN)
def test_where_no_hadamard_is_known(n):
    assert hadamard(n) is None


@pytest.mark.parametrize("n", [5, 12, 30, 92])
@pytest.mark.parametrize("eigenvalues", ["spread", "one", "equal", "none"])
def test_a_rotation_makes_the_diagonal_constant(n, eigenvalues):
    values = {
        "spread": torch.logspace(-9, 3, n),
        "one": torch.nn.functional.one_hot(torch.tensor(n // 2), n) * 7.0,
        "equal": torch.full((n,), 3.0),
        "none": torch.zeros(n),
    }[eigenvalues].double()
    rotation = equal_diagonal_rotation(values)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    turned = (rotation @ values.diag() @ rotation.T).diagonal()
    torch.testing.assert_close(turned, values.mean().expand(n), rtol=1e-10, atol=1e-12)


# The map


@pytest.mark.parametrize("dim", [8, 12, 20, 24, 30, 7, 96])
@pytest.mark.parametrize("kind", ["phi_s", "per_channel"])
def test_each_channel_has_mean_0_and_variance_1_over_what_was_measured(kind, dim):
    balance, sample = Balance(dim, kind, estimate_steps=5), features(dim)
    for part in sample.chunk(5):
        balance(part)
    assert balance.calls == 5
    x = balance.eval()(sample)
    torch.testing.assert_close(x.mean(0), torch.zeros(dim, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(x.var(0, correction=0), torch.ones(dim, dtype=torch.float64), rtol=1e-7, atol=0)
    torch.testing.assert_close(balance.inverse(x), sample, rtol=1e-10, atol=1e-9)
    # In float32, as in a training; and of any leading shape.
    single = sample[:12].float().reshape(2, 3, 2, dim)
    assert balance(single).dtype == torch.float32
    torch.testing.assert_close(balance(single).double().reshape(12, dim), x[:12], rtol=1e-3, atol=2e-3)


def test_phi_s_is_what_numpy_says():
    sample, balance = features(12), Balance(12, estimate_steps=1)
    ours = balance(sample).numpy()
    x = sample.numpy()
    eigenvalues, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    phi = np.sqrt(eigenvalues.mean())
    naive = np.stack([hadamard(12).numpy() @ vectors.T @ (row - x.mean(0)) / phi for row in x])
    # An eigenvector's sign is open, so what is compared does not depend on it: R diag(±1) and the inner products of
    # samples.
    np.testing.assert_allclose(ours @ ours.T, naive @ naive.T, rtol=1e-6, atol=1e-7)
    turned = hadamard(12).numpy().T @ (balance.rotation.numpy() @ vectors)
    np.testing.assert_allclose(np.abs(turned), np.eye(12), atol=1e-8)


def test_phi_s_is_isotropic_and_per_channel_is_not():
    sample = features(20)
    one, other = (Balance(20, kind, estimate_steps=1) for kind in ("phi_s", "per_channel"))
    ratios = [torch.pdist(balance(sample)) / torch.pdist(sample) for balance in (one, other)]
    torch.testing.assert_close(ratios[0], (1 / one.scale).expand_as(ratios[0]), rtol=1e-8, atol=0)
    assert one.scale.ndim == 0 and ratios[1].max() > 1.2 * ratios[1].min()
    torch.testing.assert_close(one.scale.square(), sample.var(0, correction=0).mean(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", ["phi_s", "per_channel"])
def test_channels_that_do_not_vary_and_samples_that_are_fewer_than_channels(kind):
    sample = features(12)
    sample[:, 3:6] = torch.tensor([0.0, 5.0, 1e6], dtype=torch.float64)
    for rows in (sample, sample[:4], sample[:1], torch.zeros_like(sample)):
        balance = Balance(12, kind, estimate_steps=1)
        x = balance(rows)
        assert x.isfinite().all() and x.abs().max() < 30
        torch.testing.assert_close(balance.inverse(x), rows, rtol=1e-9, atol=1e-8)


def test_none_hands_through():
    balance = Balance(5, "none")
    x = torch.randn(3, 5)
    assert balance(x) is x and balance.inverse(x) is x and not list(balance.buffers())


def test_under_autocast_nothing_is_measured_or_turned_in_half_precision():
    sample = features(8).float()
    plain, mixed = Balance(8, estimate_steps=1), Balance(8, estimate_steps=1)
    expected_values = plain(sample)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixed(sample), expected_values)
        assert mixed.inverse(expected_values).dtype == torch.float32


def test_the_map_is_made_at_powers_of_two_and_at_the_last_step_and_then_stays():
    balance, seen = Balance(6, estimate_steps=11), []
    for step in range(14):
        before = balance.mean.clone()
        balance(features(6, 20, seed=step))
        if not torch.equal(before, balance.mean):
            seen.append(step + 1)
    assert seen == [1, 2, 4, 8, 11] and balance.calls == 11 and balance.count == 220
    sample = torch.cat([features(6, 20, seed=step) for step in range(11)])
    torch.testing.assert_close(balance.mean, sample.mean(0), rtol=1e-12, atol=1e-12)


def test_eval_measures_nothing():
    balance, sample = Balance(6).eval(), features(6)
    assert torch.equal(balance(sample), sample) and balance.calls == 0 and balance.count == 0


@pytest.mark.parametrize("kind", ["phi_s", "per_channel"])
def test_stopped_amid_the_estimate_it_goes_on_with_the_same_bits(kind):
    whole, stopped = Balance(12, kind, estimate_steps=9), Balance(12, kind, estimate_steps=9)
    for step in range(5):
        whole(features(12, 30, seed=step))
        stopped(features(12, 30, seed=step))
    state = {name: value.clone() for name, value in stopped.state_dict().items()}
    resumed = Balance(12, kind, estimate_steps=9)
    resumed.load_state_dict(state)
    for step in range(5, 12):
        assert torch.equal(whole(features(12, 30, seed=step)), resumed(features(12, 30, seed=step)))
    assert resumed.calls == 9
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_refusals():
    with pytest.raises(UsageError, match="balance 'phis' does not exist: did you mean phi_s"):
        Balance(4, "phis")
    with pytest.raises(UsageError, match="have 5 channels, and the balance was made for 4"):
        Balance(4)(torch.zeros(2, 5))
    with pytest.raises(ContrastillError, match="not all finite numbers"):
        Balance(4)(torch.full((2, 4), float("inf")))


RANK = """
import sys, torch
from contrastill.ensemble.balance import Balance
rank, folder = int(sys.argv[1]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
balances = torch.nn.ModuleList(Balance(12, kind, estimate_steps=3) for kind in ("phi_s", "per_channel", "none"))
for part in torch.load(f"{folder}/features.pt", weights_only=True):
    for balance in balances:
        balance(part.tensor_split(2)[rank])
torch.save(balances.state_dict(), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_ranks_keep_bit_identical_maps_equal_to_one_process(ranks, tmp_path):
    parts = [features(12, count, seed=count) for count in (41, 30, 21, 8)]
    torch.save(parts, tmp_path / "features.pt")
    ranks(RANK, 2, tmp_path)
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for place, kind in enumerate(("phi_s", "per_channel")):
        alone = Balance(12, kind, estimate_steps=3)
        for part in parts:
            alone(part)
        together = Balance(12, kind, estimate_steps=3)
        together.load_state_dict({name[2:]: value for name, value in states[0].items() if name.startswith(f"{place}.")})
        assert together.calls == 3 and together.count == 92
        torch.testing.assert_close(together.mean, alone.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.scale, alone.scale, rtol=1e-9, atol=1e-12)
        # Two sums that differ in the last bit may have eigenvectors of other signs: compared is the covariance of what
        # comes out.
        outs = [balance.eval()(parts[0]) for balance in (together, alone)]
        torch.testing.assert_close(outs[0] @ outs[0].T, outs[1] @ outs[1].T, rtol=1e-6, atol=1e-7)
