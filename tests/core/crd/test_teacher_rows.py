"""Rows of a teacher: which are drawn and how often, what is stored and what stays; and the map's mean, deviation and
directions.
"""

import copy
import math

import pytest
import torch

from contrastill.core.crd.sharding import Shard
from contrastill.core.crd.teacher_map import TeacherMap
from contrastill.core.crd.teacher_rows import TeacherRows
from contrastill.core.errors import UsageError
from contrastill.core.hashing import mix

M, DIM = 23, 4


def filled(**options):
    rows = TeacherRows(M, DIM, **options)
    values = torch.arange(M).float()[:, None] + torch.arange(DIM) / 10
    order = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    rows.fill((index, values[index]) for index in order.split(5))
    return rows, values


@pytest.mark.parametrize("count", [1, 7, M, M + 9])
def test_a_draw_is_that_many_samples_with_their_own_rows(count):
    rows, values = filled()
    assert torch.equal(rows.embeddings, values) and rows.complete and int(rows.filled) == M
    draws = []
    for _ in range(20):
        place, sample, there = rows.draw(count)
        assert there.all() and len(set(sample.tolist())) == len(sample) == min(count, M)
        assert torch.equal(rows.read(place), values[sample]) and torch.equal(rows.place[sample], place)
        draws.append(sample.tolist())
        rows.store(torch.arange(3), torch.zeros(3, DIM))
    assert torch.equal(rows.embeddings, values) and rows.draws == 20
    assert len({tuple(draw) for draw in draws}) > 10


def test_every_row_is_drawn_equally_often_in_any_company():
    rows, _ = filled(seed=5)
    count = torch.zeros(M)
    for number in range(4000):
        rows.draws = number
        count[rows.draw(6)[1]] += 1
    assert (count / 4000 - 6 / M).abs().max() < 0.03
    # Neighbours on the disk are no neighbours here, and another seed is another order.
    order = rows.sample[:M]
    assert (order.diff().abs() == 1).sum() < M // 3
    assert not torch.equal(order, filled(seed=6)[0].sample[:M]) and torch.equal(order, filled(seed=5)[0].sample[:M])


@pytest.mark.parametrize("refresh", [False, True])
def test_rows_are_stored_in_the_order_in_which_they_come(refresh):
    rows, order, values_of = TeacherRows(M, DIM, refresh=refresh), [], {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        index = torch.randint(M, (5,), generator=generator)
        values = torch.randn(5, DIM, generator=generator)
        offset = mix(0, 5, rows.draws) % max(1, len(order))
        place, sample, there = rows.draw(9)
        assert sample[there].tolist() == [order[(offset + step) % len(order)] for step in range(min(9, len(order)))]
        assert torch.equal(
            rows.read(place)[there],
            torch.stack([values_of[j] for j in sample[there].tolist()] or [torch.zeros(DIM)])[: int(there.sum())],
        )
        rows.store(index, values)
        old = set(order)
        for sample, row in zip(index.tolist(), values, strict=True):
            order += [sample] * (sample not in order)
            if refresh or sample not in old:
                values_of[sample] = row
        expected = torch.stack([values_of.get(j, torch.zeros(DIM)) for j in range(M)])
        assert torch.equal(rows.embeddings, expected) and int(rows.filled) == len(order)
    assert len(order) > M - 5


def test_held_rows_are_stored_and_draws_move_on_when_told():
    for rows in (TeacherRows(M, DIM), filled()[0], filled(refresh=True)[0]):
        rows.defer(4, 2)
        before, first = copy.deepcopy(rows.embeddings), rows.draw(6)[1]
        for keep in (False, True):
            for part in ([1, 2], [2, 9]):
                rows.store(torch.tensor(part), torch.full((2, DIM), float(sum(part))))
                assert torch.equal(rows.embeddings, before) and rows.draws == 0 and torch.equal(rows.draw(6)[1], first)
            (rows.commit if keep else rows.rollback)()
        assert rows.draws == 1
        rows.commit()
        assert rows.draws == 1
        stored = not rows.complete or rows.refresh
        # The second pass saw sample 2 last.
        assert rows.embeddings[[1, 2, 9], 0].tolist() == (
            [3.0, 11.0, 11.0] if stored else before[[1, 2, 9], 0].tolist()
        )


def test_a_shard_holds_its_share():
    whole, values = filled()
    parts = [filled(shard=Shard(rank, 3))[0] for rank in range(3)]
    assert [len(part.memory) - 1 for part in parts] == [8, 8, 7]
    for place in range(M):
        mine = parts[place % 3]
        assert torch.equal(mine.memory[place // 3], values[whole.sample[place]])


def test_wrong_indices_are_refused():
    with pytest.raises(UsageError, match="index 23 is out of range"):
        TeacherRows(M, DIM).store(torch.tensor([0, M]), torch.zeros(2, DIM))


def sample_of(count=400, dim=6):
    generator = torch.Generator().manual_seed(2)
    mixed = (
        torch.randn(count, dim, dtype=torch.float64, generator=generator)
        * torch.tensor([5, 3, 1, 0.5, 0.2, 0.01])[:dim]
    )
    return 7 + mixed @ torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q


@pytest.mark.parametrize("kind", ["learned", "whitened", "none"])
def test_embeddings_are_centred_and_get_one_deviation(kind):
    values = sample_of()
    embed = TeacherMap(6, 6 if kind == "none" else 3, kind=kind).double()
    assert torch.equal(embed.reduce(values), values)
    embed.measure(values)
    reduced = embed.reduce(values)
    assert reduced.mean(0).abs().max() < 1e-12 and float(reduced.square().mean()) == pytest.approx(1)
    # One number for all directions: they keep their weights.
    torch.testing.assert_close(reduced / reduced[0, 0], (values - values.mean(0)) / (values - values.mean(0))[0, 0])


def test_whitened_directions_have_deviation_1_and_are_the_largest():
    values = sample_of()
    embed = TeacherMap(6, 3, kind="whitened").double()
    embed.measure(values)
    white = embed.reduce(values) @ embed.whitening
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(3).double(), rtol=1e-9, atol=1e-9)
    centred = values - values.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    for number in range(3):
        along = centred @ directions[number]
        assert abs(torch.corrcoef(torch.stack((along, white[:, number])))[0, 1]) == pytest.approx(1)
    torch.testing.assert_close(embed(embed.reduce(values)).norm(dim=1), torch.ones(len(values)).double())
    # More directions than there are: zeros.
    wide = TeacherMap(6, 9, kind="whitened").double()
    wide.measure(torch.cat((values[:, :2], torch.ones(len(values), 4)), 1))
    assert (wide.whitening != 0).any(0).tolist() == [True] * 2 + [False] * 7


@pytest.mark.parametrize(("share", "dim"), [(0.6, 1), (0.95, 2), (0.99, 3), (1.0, 6)])
def test_the_kept_directions_hold_the_share_of_the_variance(share, dim):
    values = sample_of()
    embed = TeacherMap(6, 3, row_variance=share).double()
    embed.measure(values)
    reduced = embed.reduce(values)
    assert embed.row_dim == reduced.shape[1] == dim
    assert float(reduced.square().sum(1).mean()) / 6 >= share - 1e-9
    # The map of a row in few directions is that of its projection.
    back = reduced @ embed.basis.T
    torch.testing.assert_close(embed(reduced), embed.map(back), rtol=1e-9, atol=1e-9)
    if share == 1.0:
        whole = TeacherMap(6, 3).double()
        whole.load_state_dict(embed.state_dict(), strict=False)
        torch.testing.assert_close(embed(reduced), whole(whole.reduce(values)), rtol=1e-9, atol=1e-9)


def test_embeddings_that_are_all_alike_give_no_nan():
    for kind in ("learned", "whitened", "none"):
        embed = TeacherMap(6, 6, kind=kind, row_variance=0.9)
        embed.measure(torch.ones(10, 6))
        assert embed(embed.reduce(torch.ones(4, 6))).isfinite().all()


def test_the_gradient_of_normalisation_is_that_of_autograd():
    embed = TeacherMap(6, 3).double()
    with torch.no_grad():
        embed.map.bias.zero_()
    values = torch.cat((sample_of(5), torch.zeros(1, 6))).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values, weight: torch.func.functional_call(embed, {"map.weight": weight}, values),
        (values[:5], embed.map.weight),
    )
    embed(values).sum().backward()
    assert values.grad[5].abs().max() == 0


def test_no_map_leaves_the_length():
    with pytest.raises(UsageError, match="teacher_map='none' leaves embeddings 6 long, not 3"):
        TeacherMap(6, 3, kind="none")


@pytest.mark.parametrize("kind", ["learned", "whitened"])
def test_embeddings_that_are_no_numbers_are_not_measured(kind):
    values, some, few = (
        sample_of(),
        TeacherMap(6, 3, kind=kind, row_variance=0.9).double(),
        TeacherMap(6, 3, kind=kind, row_variance=0.9).double(),
    )
    broken = torch.cat((values[:4], torch.full((1, 6), math.nan), values[4:], torch.full((1, 6), math.inf))).double()
    some.measure(broken)
    few.measure(values)
    for name in ("mean", "scale", "basis"):
        assert getattr(some, name).equal(getattr(few, name))
    with pytest.raises(
        UsageError, match="finite numbers for 1 of the 3 training samples it was shown, and 2 are needed"
    ):
        some.measure(broken[3:5].repeat(2, 1)[1:])
    with pytest.raises(UsageError, match="0 of the 0"):
        some.measure(values[:0])
    with pytest.raises(UsageError, match=r"must be \(n, 6\), not \(5, 7\)"):
        some.measure(torch.ones(5, 7))


def test_rows_are_filled_of_all_samples_or_of_none():
    rows = TeacherRows(10, 4)
    with pytest.raises(UsageError, match="the batches lack 3 of 10"):
        rows.fill([(torch.arange(5), torch.ones(5, 4)), (torch.arange(3, 7), torch.ones(4, 4))])
    assert not rows.complete and int(rows.filled) == 0
