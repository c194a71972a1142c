"""FreshCRDLoss against nested loops in float64, gradients included; its precision, its state, its refusals."""

import copy
import math

import pytest
import torch
from safetensors.torch import load, save

from contrastill.core.crd.fresh import FreshCRDLoss
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.hashing import mix
from contrastill.core.objective import Setting
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.fresh_crd import FreshCRD, JointFreshCRD

M, K, D = 14, 5, 4
TARGETS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 3, 1, 1, 0, 3, 2, 0])
# A sample twice, a batch of one, one class alone, samples that are seen again, more rows than are drawn.
BATCHES = ([0, 5, 2, 5, 1, 3], [4], [10, 13, 0], [6, 7, 8, 0, 9], [12, 11, 3, 6])


def build(labelled=True, dims=7, dtype=torch.float64, **options):
    torch.manual_seed(0)
    known = {"targets": TARGETS} if labelled else {"num_samples": M}
    loss = FreshCRDLoss(6, dims, **known, **{"embed_dim": D, "num_negatives": K, "seed": 3} | options)
    return loss.double() if dtype == torch.float64 else loss


def batch_of(index, seed, dims=(7,), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, *teachers = (
        torch.randn(len(index), dim, dtype=torch.float64, generator=generator).to(dtype) for dim in (6, *dims)
    )
    return student.requires_grad_(), teachers, torch.tensor(index)


def everything(dim, seed=9):
    """Embeddings of all samples, with a mean and a deviation that are far from 0 and 1."""
    return 3 + 2 * torch.randn(M, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(vector):
    return vector / (vector * vector).sum().sqrt()


class Naive:
    """One teacher's rows as a list in order of arrival, its map as a matrix times a vector, and the loss one pair at a
    time.
    """

    def __init__(self, loss, number=0):
        self.loss, self.number, self.draws = loss, number, 0
        self.order, self.rows = [], {}

    def ahead(self, embeddings):
        generator = torch.Generator().manual_seed(mix(3 + self.number, 1))
        self.order = torch.randperm(M, generator=generator).tolist()
        self.rows = dict(enumerate(embeddings))

    def map(self, vector):
        embed = self.loss.embed_teacher[self.number]
        vector = (vector - embed.mean) / embed.scale
        if embed.basis is not None:
            vector = embed.basis @ (embed.basis.T @ vector)
        if embed.kind == "none":
            return unit(vector)
        return unit(
            embed.map.weight @ vector + embed.map.bias if embed.kind == "learned" else embed.whitening.T @ vector
        )

    def one(self, score, others, count):
        """−log of the own pair's share, or what the criterion has instead."""
        factor = 1.0 if count is None or not others else count / len(others)
        if self.loss.criterion == "softmax":
            return -torch.log(
                torch.exp(score) / (torch.exp(score) + factor * sum(torch.exp(other) for other in others))
            )
        return torch.log1p(torch.exp(-score)) + factor * sum(torch.log1p(torch.exp(other)) for other in others)

    def score(self, ours, theirs):
        if self.loss.criterion == "sigmoid":
            return ours @ theirs * self.loss.log_scale.exp() + self.loss.offset
        return ours @ theirs / self.loss.temperature - (self.loss.bias if self.loss.criterion == "nce" else 0)

    def losses(self, student, teacher, index, group):
        """Of each sample, and the logs."""
        loss, index = self.loss, index.tolist()
        offset = mix(3 + self.number, 5, self.draws) % max(1, len(self.order))
        drawn = [
            self.order[(offset + step) % len(self.order)] for step in range(min(loss.num_negatives, len(self.order)))
        ]
        ours = [unit(loss.embed_student.weight @ row + loss.embed_student.bias) for row in student]
        theirs = [self.map(row) for row in teacher]
        rows = {j: self.map(self.rows[j]) for j in drawn}
        rows = rows if loss.row_gradient else {j: row.detach() for j, row in rows.items()}
        losses, bounds = [], {"student": [], "teacher": []}
        for i, sample in enumerate(index):
            own = self.score(ours[i], theirs[i])
            there = self.one(
                own, [self.score(ours[i], rows[j]) for j in drawn if group[j] != group[sample]], loss.num_negatives
            )
            bounds["student"].append(math.log(1 + loss.num_negatives) - there.item())
            if loss.student_rows == "none":
                losses.append(there)
                continue
            candidates = [
                self.score(ours[k], theirs[i])
                for k, other in enumerate(index)
                if index.index(other) == k and group[other] != group[sample]
            ]
            back = self.one(own, candidates, None)
            bounds["teacher"].append(math.log(1 + len(candidates)) - back.item())
            losses.append((there + back) / 2)
        return torch.stack(losses), {side: sum(values) / len(values) for side, values in bounds.items() if values}

    def store(self, teacher, index):
        known = set(self.order)
        for sample, row in zip(index.tolist(), teacher, strict=True):
            if sample not in self.order:
                self.order.append(sample)
            if sample not in known or self.loss.rows[self.number].refresh:
                self.rows[sample] = row
        self.draws += 1


def check_steps(loss, dims=(7,), labelled=True, ahead=False, batches=BATCHES):
    """Steps with maps that move in between: losses, logs, gradients and rows are the naive ones."""
    naives = [Naive(loss, number) for number in range(len(dims))]
    if ahead:
        for naive, dim in zip(naives, dims, strict=True):
            naive.ahead(everything(dim))
            loss.prepare(
                naive.number, everything(dim), zip(torch.arange(M).split(5), everything(dim).split(5), strict=True)
            )
    group = TARGETS.tolist() if labelled else list(range(M))
    for seed, index in enumerate(batches):
        student, teachers, index = batch_of(index, seed, dims)
        each = [naive.losses(student, teacher, index, group) for naive, teacher in zip(naives, teachers, strict=True)]
        expected = sum(values for values, _ in each)
        losses = loss.per_sample(student, teachers, index)
        torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-10)
        leaves = [student, *loss.parameters()]
        slopes = [
            torch.autograd.grad(value.mean(), leaves, allow_unused=True, materialize_grads=True)
            for value in (losses, expected)
        ]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
        name = "mi_bound" if loss.criterion == "softmax" and not labelled else "score"
        logs = {
            f"{name}_{side}" + f".{n}" * (len(dims) > 1): value
            for n, (_, bounds) in enumerate(each)
            for side, value in bounds.items()
        }
        assert {key: float(value) for key, value in loss.logs.items()} == pytest.approx(logs, rel=1e-9, abs=1e-9)
        assert not any(value.requires_grad for value in loss.logs.values())
        for naive, teacher in zip(naives, teachers, strict=True):
            naive.store(teacher, index)
            embed, store = loss.embed_teacher[naive.number], loss.rows[naive.number]
            projected = torch.stack(
                [embed.reduce(naive.rows[j]) if j in naive.rows else torch.zeros(store.dim).double() for j in range(M)]
            )
            torch.testing.assert_close(store.embeddings, projected, rtol=1e-12, atol=1e-12)
            assert int(store.filled) == len(naive.order) and store.sample[: len(naive.order)].tolist() == naive.order
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.mul_(0.95).add_(0.02)


@pytest.mark.parametrize("teacher_map", ["learned", "whitened", "none"])
@pytest.mark.parametrize("criterion", ["softmax", "sigmoid", "nce"])
@pytest.mark.parametrize("labelled", [True, False])
def test_each_criterion_and_map_is_the_naive_one(labelled, criterion, teacher_map):
    loss = build(labelled, criterion=criterion, teacher_map=teacher_map, bias=1.5, temperature=0.2)
    if teacher_map == "whitened":
        loss.prepare(0, everything(7))
    check_steps(loss, labelled=labelled)


def test_directions_that_nobody_showed_are_asked_for_at_the_first_step():
    loss, again = (build(teacher_map="whitened") for _ in range(2))
    student, teachers, index = batch_of([0, 5, 2], 0)
    with pytest.raises(UsageError, match=r"teacher_map='whitened' .* none were shown: call prepare before .*'learned'"):
        loss(student, teachers, index)
    loss.prepare(0, everything(7))
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(student, teachers, index), loss(student, teachers, index))


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"student_rows": "none"},
        {"row_gradient": False},
        {"row_gradient": False, "student_rows": "none", "criterion": "nce"},
        {"num_negatives": 3 * M},
        {"refresh_rows": True},
        {"num_negatives": 1, "temperature": 0.02},
    ],
)
def test_each_way_to_contrast_is_the_naive_one(options, ahead):
    check_steps(build(**options), ahead=ahead)


@pytest.mark.parametrize("teacher_map", ["learned", "whitened", "none"])
@pytest.mark.parametrize("row_variance", [None, 0.7])
def test_prepared_rows_are_the_naive_ones(teacher_map, row_variance):
    loss = build(False, teacher_map=teacher_map, row_variance=row_variance, refresh_rows=True)
    check_steps(loss, labelled=False, ahead=True)
    assert loss.rows[0].dim == 7 if row_variance is None else 1 <= loss.rows[0].dim < 7


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_several_teachers_meet_one_map_of_the_student(labelled, ahead):
    loss = build(labelled, dims=[7, 3])
    assert len([name for name, _ in loss.named_parameters() if name.startswith("embed_student")]) == 2
    check_steps(loss, (7, 3), labelled, ahead)


def test_the_gradient_reaches_the_map_through_the_rows():
    """A step in which the own embedding maps to zero: all that moves the weight comes through the rows."""

    def gradient(**options):
        loss = build(False, student_rows="none", **options)
        loss.embed_teacher[0].map.bias.data.zero_()
        student, (teacher,), index = batch_of([0, 1, 2, 3], 0)
        loss(student, teacher, index)
        loss(student, torch.zeros_like(teacher), torch.tensor([4, 5, 6, 7])).backward()
        return loss.embed_teacher[0].map.weight.grad

    assert gradient().norm() > 0.01 and gradient(row_gradient=False).norm() == 0


def test_without_any_row_only_the_batch_counts():
    student, (teacher,), index = batch_of([0, 1, 3, 7], 0)
    both, rows_alone = build(), build(student_rows="none")
    loss = both(student, teacher, index)
    assert loss.isfinite() and loss > 0 and rows_alone(student, teacher, index) == 0
    # A batch of one class, or of one sample, and no row: nothing at all to tell apart.
    for batch in ([0, 2, 5], [4], [4, 4]):
        student, (teacher,), index = batch_of(batch, 1)
        loss, fresh = build(), build()
        value = loss(student, teacher, index)
        value.backward()
        assert (
            value == 0
            and all(parameter.grad.abs().max() == 0 for parameter in loss.parameters())
            and student.grad.abs().max() == 0
        )
        assert fresh.eval()(student, teacher, index) == 0


@pytest.mark.parametrize("criterion", ["softmax", "sigmoid", "nce"])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4])
def test_extreme_embeddings_give_no_nan(criterion, scale):
    loss = build(dtype=torch.float32, criterion=criterion, temperature=0.01)
    with torch.no_grad():
        for layer in (loss.embed_student, loss.embed_teacher[0].map):
            layer.bias.zero_()
    for seed, index in enumerate(BATCHES):
        student, (teacher,), index = batch_of(index, seed, dtype=torch.float32)
        student = (scale * student).detach().requires_grad_()
        value = loss(student, scale * teacher, index)
        value.backward()
        assert (
            value.isfinite()
            and student.grad.isfinite().all()
            and all(parameter.grad.isfinite().all() for parameter in loss.parameters())
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_scores_keep_their_digits_under_autocast(dtype):
    exact, rough = (build(dtype=torch.float32, temperature=0.02) for _ in range(2))
    for seed, index in enumerate(BATCHES):
        student, (teacher,), index = batch_of(index, seed, dtype=torch.float32)
        student, teacher = student.detach().to(dtype), teacher.to(dtype)  # as networks give them under autocast
        with torch.autocast("cpu", dtype):
            under = rough(student, teacher, index)
        assert under.dtype == torch.float32
        torch.testing.assert_close(under, exact(student.float(), teacher.float(), index), rtol=1e-6, atol=1e-6)
    assert rough.rows[0].memory.dtype == torch.float32


@pytest.mark.parametrize(("row_dtype", "bound"), [("fp16", 1e-3), ("bf16", 8e-3)])
def test_rows_of_half_precision_are_near(row_dtype, bound):
    exact, rough = (build(dtype=torch.float32, row_dtype=name) for name in ("fp32", row_dtype))
    for loss in (exact, rough):
        loss.prepare(0, everything(7).float(), [(torch.arange(M), everything(7).float())])
    student, (teacher,), index = batch_of([0, 1, 3], 0, dtype=torch.float32)
    slopes = []
    for loss in (exact, rough):
        slopes.append(torch.autograd.grad(loss(student, teacher, index), [student, *loss.parameters()]))
    for one, other in zip(*slopes, strict=True):
        assert 0 < (one - other).norm() < 10 * bound * one.norm()
    rows, near = exact.rows[0].embeddings, rough.rows[0].embeddings
    assert near.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[row_dtype]
    assert ((near.float() - rows).abs() <= bound * rows.abs() + 1e-6).all()


def test_rows_in_the_hosts_memory_are_the_same_and_stay_there():
    losses = [build(dtype=torch.float32, row_memory=memory) for memory in ("device", "host")]
    for seed, index in enumerate(BATCHES):
        student, (teacher,), index = batch_of(index, seed, dtype=torch.float32)
        assert losses[0](student, teacher, index) == losses[1](student, teacher, index)
    assert same(*(loss.state_dict() for loss in losses))
    assert losses[1].to("meta").rows[0].memory.device.type == "cpu"


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_eval_neither_stores_nor_moves_on():
    loss = build()
    for seed, index in enumerate(BATCHES):
        student, (teacher,), index = batch_of(index, seed)
        before = {name: value.clone() for name, value in loss.state_dict().items()}
        read = [loss.eval()(student, teacher, index) for _ in range(2)]
        assert same(loss.state_dict(), before)
        assert loss.train()(student, teacher, index) == read[0] == read[1]
        assert not same(loss.state_dict(), before)


def test_a_copy_goes_its_own_way():
    loss = build()
    loss(*step(0))
    twin, before = copy.deepcopy(loss), {name: value.clone() for name, value in loss.state_dict().items()}
    values = [twin(*step(seed)) for seed in (1, 2, 3)]
    assert same(loss.state_dict(), before)
    assert values == [loss(*step(seed)) for seed in (1, 2, 3)] and same(loss.state_dict(), twin.state_dict())


def step(seed):
    student, (teacher,), index = batch_of(BATCHES[seed], seed)
    return student.detach(), teacher, index


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("row_variance", [None, 0.8])
def test_a_checkpoint_goes_on_with_the_same_bits(ahead, refresh, row_variance):
    losses = [build(refresh_rows=refresh, row_variance=row_variance, criterion="sigmoid") for _ in range(2)]
    for loss in losses:
        loss.prepare(0, everything(7), [(torch.arange(M), everything(7))] if ahead else None)
    first, second = losses
    for seed in (0, 1):
        first(*step(seed))
    state = load(save(first.state_dict()))
    assert ("rows.0.embeddings" in state) == ("rows.0.place" in state) == (refresh or not ahead)
    second.load_state_dict(state)
    assert [first(*step(seed)) for seed in (2, 3, 4)] == [second(*step(seed)) for seed in (2, 3, 4)]
    assert same(first.state_dict(), second.state_dict()) and torch.equal(
        first.rows[0].embeddings, second.rows[0].embeddings
    )


def test_a_state_that_does_not_fit_is_refused():
    state = build(False).state_dict()
    for other, message in (
        (
            FreshCRDLoss(6, 7, num_samples=M + 1, embed_dim=D),
            r"rows.0.embeddings has shape \(14, 7\), this loss has rows of \(15, 7\)",
        ),
        (
            FreshCRDLoss(6, 8, num_samples=M, embed_dim=D),
            r"rows.0.embeddings has shape \(14, 7\), this loss has rows of \(14, 8\)",
        ),
        (FreshCRDLoss(6, [7, 7], num_samples=M, embed_dim=D), "Missing key.*rows.1.embeddings"),
    ):
        with pytest.raises(RuntimeError, match=message):
            other.load_state_dict(state)
    prepared = build(False)
    prepared.prepare(0, everything(7), [(torch.arange(M), everything(7))])
    with pytest.raises(RuntimeError, match="Unexpected key.*rows.0.embeddings"):
        prepared.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key.*rows.0.embeddings"):
        build(False).load_state_dict(prepared.state_dict())


def test_held_passes_are_one_step():
    """What several passes of a step leave is what one pass over the batch leaves; a discarded step leaves nothing."""
    whole, split = build(student_rows="none"), build(student_rows="none")
    split.defer(6, 3)
    for seed in range(len(BATCHES)):
        student, teacher, index = step(seed)
        expected = whole.per_sample(student, teacher, index)
        before = {name: value.clone() for name, value in split.state_dict().items()}
        for keep in (False, True):
            parts = [
                split.per_sample(*part)
                for part in zip(
                    *(value.tensor_split(min(3, len(index))) for value in (student, teacher, index)), strict=True
                )
            ]
            assert same(split.state_dict(), before)
            (split.commit if keep else split.rollback)()
            torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-12, atol=1e-12)
        assert same(split.state_dict(), whole.state_dict())
    split.stop_deferring()
    assert split(*step(0)) == whole(*step(0)) and same(split.state_dict(), whole.state_dict())


def test_an_index_of_32_bits_is_taken_too():
    losses = [build(), build()]
    for seed in range(len(BATCHES)):
        student, teacher, index = step(seed)
        assert losses[0](student, teacher, index) == losses[1](student, teacher, index.int())
    assert same(*(loss.state_dict() for loss in losses))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "triplet"}, "criterion 'triplet' does not exist: there are nce, sigmoid, softmax"),
        ({"student_rows": "all"}, "student_rows"),
        ({"teacher_map": "mlp"}, "teacher_map"),
        ({"row_dtype": "int8"}, "row_dtype"),
        ({"row_placement": "shared"}, "row_placement"),
        ({"row_memory": "disk"}, "row_memory"),
        ({"num_negatives": 0}, "num_negatives is 0: pass a whole number from 1 on"),
        ({"num_negatives": 2.5}, "num_negatives is 2.5: pass a whole number from 1 on"),
        ({"embed_dim": 0}, "embed_dim is 0: pass a whole number from 1 on"),
        ({"temperature": 0}, "temperature must be above 0 and finite, not 0"),
        ({"row_variance": 2}, r"row_variance is a share of the variance, in \(0, 1\], not 2"),
        ({"row_variance": 0}, "row_variance"),
        ({"bias": "printed"}, "bias"),
        ({"targets": torch.zeros(M, dtype=torch.int64)}, "all samples are of one class"),
        ({"targets": None, "negatives_from": "other_class"}, "negatives_from='other_class' needs the targets"),
        ({"targets": None, "num_samples": None}, "number of training samples"),
        ({"targets": None, "num_samples": 1}, "only one sample: use more samples"),
        ({"teacher_dim": []}, "teacher_dim is empty"),
        ({"teacher_dim": [7, 3], "teacher_map": "none"}, r"lengths \[7, 3\]: take 'whitened' or 'learned'"),
    ],
)
def test_wrong_choices_are_refused_in_a_sentence(options, message):
    with pytest.raises(UsageError, match=message) as error:
        FreshCRDLoss(6, **{"teacher_dim": 7, "targets": TARGETS, "num_samples": M} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shapes", "index", "message"),
    [
        (((2, 5), (2, 7)), [0, 1], r"the embedding of the student must be \(B, 6\), B = 2 as in index, not \(2, 5\)"),
        (((2, 6), (2, 8)), [0, 1], r"the embedding of the teacher must be \(B, 7\), B = 2 as in index, not \(2, 8\)"),
        (((3, 6), (2, 7)), [0, 1], "the embedding of the student"),
        (((2, 6), (3, 7)), [0, 1], "the embedding of the teacher"),
        (((2, 6, 1), (2, 7)), [0, 1], "the embedding of the student"),
        (((0, 6), (0, 7)), [], r"index must be \(B,\) with B ≥ 1"),
        (((2, 6), (2, 7)), [[0], [1]], r"index must be \(B,\) with B ≥ 1"),
        (((2, 6), (2, 7)), [0, M], "index 14 is out of range"),
        (((2, 6), (2, 7)), [-1, 0], "index -1 is out of range"),
        (((2, 6), (2, 7)), [0.0, 1.0], "index must be int64"),
    ],
)
def test_wrong_batches_are_refused(shapes, index, message):
    with pytest.raises(UsageError, match=message):
        build(dtype=torch.float32)(*(torch.ones(shape) for shape in shapes), torch.tensor(index))


def test_another_number_of_teachers_is_refused():
    with pytest.raises(UsageError, match="built for 2 teachers, and there are 1"):
        build(dims=[7, 3])(torch.ones(2, 6), torch.ones(2, 7), torch.arange(2))
    with pytest.raises(UsageError, match=r"the embedding of teacher 1 must be \(B, 3\)"):
        build(dims=[7, 3])(torch.ones(2, 6), [torch.ones(2, 7), torch.ones(2, 7)], torch.arange(2))


def setting(targets=TARGETS, dims=(6, 7)):
    return Setting(RepresentationSpec(4, dims[0], ()), RepresentationSpec(4, dims[1], ()), M, targets, 5)


def test_the_objective_takes_what_it_can_from_the_run():
    objective = FreshCRD.build(FreshCRD.Options(embed_dim=D), setting())
    assert (
        objective.loss.negatives_from == "other_class" and objective.loss.rows[0].seed == 5 and objective.decomposes()
    )
    assert FreshCRD.build(FreshCRD.Options(), setting(None)).loss.negatives_from == "other_sample"
    joint = FreshCRD.build_each(FreshCRD.Options(), [setting(), setting(dims=(6, 3))])
    assert [type(one) for one in joint] == [JointFreshCRD] and [
        embed.in_features for embed in joint[0].loss.embed_teacher
    ] == [7, 3]
    separate = FreshCRD.build_each(FreshCRD.Options(student_side="separate"), [setting(), setting(dims=(6, 3))])
    assert [type(one) for one in separate] == [FreshCRD, FreshCRD]
    with pytest.raises(UsageError, match="negatives_from=other_class needs labels"):
        FreshCRD.build(FreshCRD.Options(negatives_from="other_class"), setting(None))
    with pytest.raises(UsageError, match="fresh_crd .*the teacher has none"):
        FreshCRD.build(FreshCRD.Options(), setting(dims=(6, None)))


def test_a_teacher_that_is_not_there_or_not_a_number_is_refused_in_a_sentence():
    loss, values = build(), everything(7)
    with pytest.raises(UsageError, match="there is no teacher 1: this loss was built for 1, counted from 0"):
        loss.prepare(1, values)
    with pytest.raises(UsageError, match=r"must be \(n, 7\), not \(14, 6\)"):
        loss.prepare(0, everything(6))
    values[9, 2] = math.nan
    with pytest.raises(ContrastillError, match="output for training sample 9 is not a finite number"):
        loss.prepare(0, values, [(torch.arange(5), values[:5]), (torch.arange(5, M), values[5:])])
    # Rows that come one by one are the training's affair: it stops at such a batch, or leaves it out.
    loss.prepare(0, values)
    student, teachers, index = batch_of([1, 2, 3], 0)
    assert loss(student, teachers[0], index).isfinite()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_features_of_another_precision_than_the_maps_are_taken(dtype):
    student, teachers, index = batch_of(BATCHES[0], 0, dtype=dtype)
    exact = build(dtype=torch.float32)(student.detach().float(), teachers[0].float(), index)
    assert build(dtype=torch.float32)(student, teachers[0], index).equal(exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"criterion": "sigmoid"}, {"teacher_map": "none"}], ids=str)
def test_half_precision_is_near_float32(dtype, options):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, width, generator=generator) for width in (6, 12))
    losses = []
    for kind in (torch.float32, dtype):
        loss = FreshCRDLoss(6, 12, num_samples=40, seed=1, **options)
        with torch.no_grad():
            for parameter in loss.parameters():
                if parameter.ndim:
                    values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
                    parameter.copy_(values)
        loss, ours = loss.to(kind), student.to(kind, copy=True).requires_grad_()
        loss(ours, teacher.to(kind), torch.arange(8))
        value = loss(ours, teacher.to(kind), torch.arange(8))
        value.backward()
        assert ours.grad.isfinite().all()
        losses.append(value.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
