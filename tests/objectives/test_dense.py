"""Objectives on predictions of each position against naive versions: positions one after the other, sizes resampled by
weights that are written out, gradients included.
"""

import math

import pytest
import torch

from contrastill import (
    CWD,
    OBJECTIVES,
    DenseKD,
    DenseRegression,
    PixelCrossEntropy,
    PseudoLabels,
    Representation,
    ScaleInvariant,
)

# (student's height and width, teacher's): alike, finer, coarser, finer and coarser, not divisible.
SIZES = [((3, 4), (3, 4)), ((3, 4), (6, 8)), ((4, 6), (2, 3)), ((2, 6), (5, 3)), ((3, 4), (5, 7))]
SAMPLES, CLASSES, PIXELS = 3, 4, (12, 16)
NAMES = ("dense_kd", "cwd", "pseudo_labels", "dense_regression", "pixel_cross_entropy", "scale_invariant")
WITH_TEACHER = NAMES[:4]


def prediction(size, seed, channels=CLASSES, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(SAMPLES, channels, *size, dtype=torch.float64, generator=generator)


def pair(sizes, **options):
    return prediction(sizes[0], 1, **options).requires_grad_(), prediction(sizes[1], 2, **options)


def depth(seed=3):
    """Of three samples: some pixels not measured, none measured, all measured."""
    generator = torch.Generator().manual_seed(seed)
    values = 0.5 + 5 * torch.rand(SAMPLES, 1, *PIXELS, dtype=torch.float64, generator=generator)
    values[0, :, :5, :9] = math.nan
    values[0, :, 7, 14:] = math.inf
    values[1] = math.nan
    return values


def label_maps(dtype=torch.uint8):
    """Of three samples: some pixels labelled, none, all."""
    generator = torch.Generator().manual_seed(4)
    values = torch.randint(1, CLASSES + 1, (SAMPLES, 1, *PIXELS), generator=generator).to(dtype)
    values[0, :, :, 5:] = 0
    values[1] = 0
    if dtype.is_signed:
        values[1, :, 0], values[1, :, 1] = -1, -100
    return values


def assert_same(ours, reference, student):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-13)
    got, expected = (torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, reference))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13)


# Naive versions


def row(length, size, averaged=True):
    """Weights of ``length`` values in each of ``size`` cells."""
    cells = []
    for cell in range(size):
        weights = [0.0] * length
        if length > size and averaged:
            first, last = cell * length // size, -(-(cell + 1) * length // size)
            for place in range(first, last):
                weights[place] = 1 / (last - first)
        else:
            place = max(0.0, (cell + 0.5) * length / size - 0.5)
            low = int(place)
            weights[low] += 1 - (place - low)
            weights[min(low + 1, length - 1)] += place - low
        cells.append(weights)
    return cells


def resampled(values, size, averaged=True):
    """(C, H, W) as a list [y][x] of vectors (C,)."""
    down, across = row(values.shape[1], size[0], averaged), row(values.shape[2], size[1], averaged)
    return [
        [
            sum(
                down[y][i] * across[x][j] * values[:, i, j]
                for i in range(values.shape[1])
                for j in range(values.shape[2])
                if down[y][i] * across[x][j]
            )
            for x in range(size[1])
        ]
        for y in range(size[0])
    ]


def softmax(values, temperature=1.0):
    powers = torch.exp(values / temperature)
    return powers / powers.sum()


def teacher_at(teacher, size, temperature=1.0):
    """[y][x] of the teacher's probabilities (C,)."""
    return resampled(torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum(0), size)


def where_most(pixels, size):
    """[y][x]: whether half or more of the pixels are true."""
    return [[float(value) > 0.5 - 1e-9 for value in line] for line in resampled(pixels[None].double(), size)]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def positions(size):
    return [(y, x) for y in range(size[0]) for x in range(size[1])]


def counted_cells(batch, sample, size):
    if "depth" not in batch:
        return positions(size)
    there = where_most(batch["depth"][sample, 0].isfinite(), size)
    return [(y, x) for y, x in positions(size) if there[y][x]]


def naive_dense_kd(student, teacher, batch, temperature=1.0, confidence=0.0):
    size, losses = student.shape[2:], []
    for sample in range(SAMPLES):
        soft, sharp = (teacher_at(teacher[sample], size, t) for t in (temperature, 1.0))
        each = []
        for y, x in counted_cells(batch, sample, size):
            if sharp[y][x].max() >= confidence:
                p, q = soft[y][x], softmax(student[sample, :, y, x], temperature)
                each.append(sum(p[c] * torch.log(p[c] / q[c]) for c in range(CLASSES)) * temperature**2)
        losses.append(mean(each))
    return mean(losses)


def naive_cwd(student, teacher, batch, temperature=4.0):
    size = [min(two) for two in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    losses = []
    for sample in range(SAMPLES):
        cells = counted_cells(batch, sample, size)
        ours, theirs = (resampled(side[sample], size) for side in (student, teacher))
        channels = []
        for c in range(CLASSES):
            if not cells:
                continue
            p, q = (softmax(torch.stack([side[y][x][c] for y, x in cells]), temperature) for side in (theirs, ours))
            channels.append(sum(p[i] * torch.log(p[i] / q[i]) for i in range(len(cells))))
        losses.append(mean(channels) * temperature**2)
    return mean(losses)


def naive_pseudo_labels(student, teacher, batch, confidence=0.9, only_unlabelled=True):
    size, losses = student.shape[2:], []
    for sample in range(SAMPLES):
        theirs = teacher_at(teacher[sample], size)
        without = where_most(batch["semantics"][sample, 0] < 1, size) if "semantics" in batch else None
        for y, x in counted_cells(batch, sample, size):
            if theirs[y][x].max() < confidence or (only_unlabelled and without and not without[y][x]):
                continue
            losses.append(-torch.log(softmax(student[sample, :, y, x])[int(theirs[y][x].argmax())]))
    return mean(losses)


def naive_pixel_cross_entropy(student, batch, smoothing=0.0):
    losses = []
    for sample in range(SAMPLES):
        ours = resampled(student[sample], PIXELS, averaged=False)
        for y, x in positions(PIXELS):
            label = int(batch["semantics"][sample, 0, y, x])
            if label > 0:
                logs = torch.log(softmax(ours[y][x]))
                losses.append(-(1 - smoothing) * logs[label - 1] - smoothing * logs.mean())
    return mean(losses)


def naive_scale_invariant(student, batch, invariance=0.5, log_depth=False):
    losses = []
    for sample in range(SAMPLES):
        ours, d = resampled(student[sample], PIXELS, averaged=False), []
        for y, x in positions(PIXELS):
            true = batch["depth"][sample, 0, y, x]
            if true.isfinite():
                d.append((ours[y][x][0] if log_depth else torch.log(ours[y][x][0])) - torch.log(true))
        n = max(1, len(d))
        losses.append(sum(e**2 for e in d) / n - invariance / n**2 * sum(d) ** 2)
    return mean(losses)


def naive_dense_regression(student, teacher, batch, norm="l1", scale_invariant=False):
    def brought(values):
        ordered = sorted(values)
        median = ordered[(len(ordered) - 1) // 2]
        deviation = mean([(value - median).abs() for value in values])
        return [(value - median) / deviation for value in values]

    size, losses = student.shape[2:], []
    for sample in range(SAMPLES):
        cells, theirs, channels = counted_cells(batch, sample, size), resampled(teacher[sample], size), []
        for c in range(student.shape[1] if cells else 0):
            two = [student[sample, c, y, x] for y, x in cells], [theirs[y][x][c] for y, x in cells]
            two = tuple(map(brought, two)) if scale_invariant else two
            channels.append(mean([(a - b).abs() if norm == "l1" else (a - b) ** 2 for a, b in zip(*two, strict=True)]))
        losses.append(mean(channels))
    return mean(losses)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", [{}, {"temperature": 2.5}, {"confidence": 0.6, "temperature": 2.0}])
def test_dense_kd_is_the_naive_one(sizes, masked, options):
    student, teacher = pair(sizes)
    batch = {"depth": depth()} if masked else {}
    loss = DenseKD(**options)
    assert_same(loss(student, teacher, batch), naive_dense_kd(student, teacher, batch, **options), student)
    cells = [len(counted_cells(batch, sample, sizes[0])) for sample in range(SAMPLES)]
    share = sum(cells) / SAMPLES / math.prod(sizes[0])
    assert loss.logs["counted"].item() == pytest.approx(share) or "confidence" in options
    assert 0 < loss.logs["counted"] <= share + 1e-6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}])
def test_cwd_is_the_naive_one(sizes, masked, options):
    student, teacher = pair(sizes)
    batch = {"depth": depth()} if masked else {}
    assert_same(CWD(**options)(student, teacher, batch), naive_cwd(student, teacher, batch, **options), student)


def test_cwd_of_maps_brings_the_students_channels_to_the_teachers():
    student, teacher = prediction((4, 6), 1, channels=3).requires_grad_(), prediction((2, 3), 2)
    loss = CWD(pair=(0, -1), student_dim=3, teacher_dim=CLASSES).double()
    sides = [Representation(maps=(side,)) for side in (student, teacher)]
    ours = torch.einsum("ij,bjyx->biyx", loss.projection.weight[:, :, 0, 0], student)
    ours = ours + loss.projection.bias[:, None, None]
    assert_same(loss(*sides, {"depth": depth()}), naive_cwd(ours, teacher, {"depth": depth()}), student)
    alike = CWD(pair=(0, 0), student_dim=CLASSES, teacher_dim=CLASSES)
    assert not list(alike.parameters()) and not alike.same_classes and alike.needs == {"maps"}


@pytest.mark.parametrize("fields", [(), ("depth",), ("semantics",), ("depth", "semantics")])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", [{"confidence": 0.4}, {"confidence": 0.5, "only_unlabelled": False}])
def test_pseudo_labels_is_the_naive_one(sizes, fields, options):
    student, teacher = pair(sizes)
    every = {"depth": depth(), "semantics": label_maps(torch.int64)}
    batch = {field: every[field] for field in fields}
    loss = PseudoLabels(**options)(student, teacher, batch)
    assert_same(loss, naive_pseudo_labels(student, teacher, batch, **options), student)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("size", [PIXELS, (3, 4), (15, 18)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_pixel_cross_entropy_is_the_naive_one(size, dtype, smoothing):
    student, batch = prediction(size, 1).requires_grad_(), {"semantics": label_maps(dtype)}
    loss = PixelCrossEntropy(label_smoothing=smoothing)(student, semantics=batch["semantics"])
    assert_same(loss, naive_pixel_cross_entropy(student, batch, smoothing), student)


@pytest.mark.parametrize("size", [PIXELS, (3, 4), (15, 18)])
@pytest.mark.parametrize("invariance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("predicts", ["depth", "log_depth"])
def test_scale_invariant_is_the_naive_one(size, invariance, predicts):
    student = prediction(size, 1, channels=1)
    student = (student.abs() + 0.6 if predicts == "depth" else student).requires_grad_()
    loss = ScaleInvariant(invariance, predicts)(student, depth=depth())
    assert_same(loss, naive_scale_invariant(student, {"depth": depth()}, invariance, predicts == "log_depth"), student)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("options", [{}, {"norm": "l2"}, {"scale_invariant": True}])
def test_dense_regression_is_the_naive_one(sizes, masked, channels, options):
    student, teacher = pair(sizes, channels=channels)
    batch = {"depth": depth()} if masked else {}
    loss = DenseRegression(**options)(student, teacher, batch)
    assert_same(loss, naive_dense_regression(student, teacher, batch, **options), student)


# What they have in common


def case(name, sample=slice(None), cast=lambda value: value, **options):
    """An objective, the outputs it reads and its batch, of some of the samples."""
    channels = 1 if name == "scale_invariant" else CLASSES
    student, teacher = prediction((3, 4), 1, channels), prediction((6, 8), 2, channels)
    student = student.abs() + 0.2 if name == "scale_invariant" else student
    sides = [Representation(prediction=cast(side[sample].detach())) for side in (student, teacher)]
    batch = {"depth": depth()[sample], "semantics": label_maps()[sample]}
    if name == "pseudo_labels":  # averaged, the teacher is nowhere surer
        options = {"confidence": 0.4, **options}
    objective = OBJECTIVES[name](**options)
    return objective, sides[0], sides[1] if objective.needs_teacher else None, batch


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_mean_of_its_samples_or_of_what_counts_in_them(name):
    objective, *rest = case(name)
    whole = objective(*rest)
    if objective.decomposes():
        each = [objective(*case(name, slice(place, place + 1))[1:]) for place in range(SAMPLES)]
        torch.testing.assert_close(objective.per_sample(*rest), torch.stack(each))
        torch.testing.assert_close(whole, torch.stack(each).mean())
        assert each[1] == 0 and each[0] > 0
        return
    assert name in ("pixel_cross_entropy", "pseudo_labels")
    losses, counts = [], []
    for part in (slice(0, 1), slice(1, SAMPLES)):
        losses.append(objective(*case(name, part)[1:]))
        labels = label_maps()[part]
        counts.append((labels > 0).sum() if name == "pixel_cross_entropy" else objective.logs["counted"] * len(labels))
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(whole, expected, check_dtype=False, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_which_nothing_counts_has_a_loss_of_0_with_a_gradient_of_0(name):
    objective, student, teacher, batch = case(name, slice(1, 2))
    student.prediction.requires_grad_()
    loss = objective(student, teacher, batch | {"is_padding": torch.ones(1, dtype=torch.bool)})
    loss.backward()
    assert loss == 0 and not student.prediction.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name, dtype):
    objective, *rest = case(name, cast=lambda value: value.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(*rest)
    full = case(name, cast=lambda value: value.to(dtype).float())[1:]
    torch.testing.assert_close(loss, objective(*full), rtol=1e-6, atol=1e-7, check_dtype=False)


@pytest.mark.parametrize("name", NAMES)
def test_strides_of_memory_do_not_matter(name):
    objective, student, teacher, batch = case(name)
    expected = objective(student, teacher, batch)

    def strided(value):
        return value.transpose(2, 3).contiguous().transpose(2, 3).repeat_interleave(2, 0)[::2]

    sides = [None if side is None else side.map(strided) for side in (student, teacher)]
    assert not sides[0].prediction.is_contiguous()
    moved = {field: strided(value) for field, value in batch.items()}
    torch.testing.assert_close(objective(*sides, moved), expected)
    last = [None if side is None else side.map(lambda x: x.contiguous(memory_format=torch.channels_last))
            for side in (student, teacher)]  # fmt: skip
    torch.testing.assert_close(objective(*last, batch), expected)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_predictions_give_finite_losses_and_gradients(name):
    objective, student, teacher, batch = case(name)
    for values in (1e4 * student.prediction, -1e4 * student.prediction, 0 * student.prediction):
        values = values.float().requires_grad_()
        outputs = None if teacher is None else teacher.map(lambda x: 1e4 * x.float())
        loss = objective(Representation(prediction=values), outputs, batch)
        loss.backward()
        assert loss.isfinite() and values.grad.isfinite().all()


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_all_positions_count_where_the_mask_is_turned_off(name):
    objective, student, teacher, batch = case(name, measured=None)
    del batch["semantics"]
    torch.testing.assert_close(objective(student, teacher, batch), case(name)[0](student, teacher, {}))
    with_mask = case(name)[0](student, teacher, batch)
    assert not torch.isclose(objective(student, teacher, batch), with_mask)


# What each is for


def test_averaging_a_finer_teachers_probabilities_teaches_what_comparing_each_position_would():
    student, teacher = pair(((2, 3), (4, 6)))
    each = student.repeat_interleave(2, 2).repeat_interleave(2, 3)
    ours, theirs = (torch.autograd.grad(DenseKD()(side, teacher), student)[0] for side in (student, each))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_a_class_that_the_teacher_masks_has_probability_0():
    for sizes in SIZES:
        student, teacher = pair(sizes)
        masked = torch.zeros_like(teacher, dtype=torch.bool)
        masked[:, 1] = masked[0, 3, 0, 0] = True
        losses = [DenseKD()(student, teacher.masked_fill(masked, value)) for value in (-math.inf, -1e3)]
        assert_same(*losses, student)


def test_channels_are_compared_up_to_a_constant_by_cwd_and_not_by_dense_kd():
    student, teacher = pair(SIZES[0])
    shift = prediction((1, 1), 5)
    torch.testing.assert_close(CWD()(student + shift, teacher), CWD()(student, teacher))
    assert not torch.isclose(DenseKD()(student + shift, teacher), DenseKD()(student, teacher))


def test_labels_count_once_in_pseudo_labels_beside_cross_entropy():
    student, teacher = prediction(PIXELS, 1).requires_grad_(), prediction(PIXELS, 2, scale=20.0)
    labels = label_maps()
    learnt = torch.autograd.grad(PixelCrossEntropy()(student, semantics=labels), student)[0].any(1)
    pseudo = torch.autograd.grad(PseudoLabels(confidence=0.5)(student, teacher, semantics=labels), student)[0].any(1)
    assert not (learnt & pseudo).any() and (learnt | pseudo).float().mean() > 0.9


def test_depth_below_a_tenth_of_the_measured_leads_out_of_it():
    predicted = torch.tensor([-1.0, 0.0, 0.1, 0.2001, 1.0]).view(1, 1, 1, 5).requires_grad_()
    loss = ScaleInvariant(invariance=0.0)(predicted, depth=torch.full((1, 1, 1, 5), 2.0))
    loss.backward()
    gradient = predicted.grad.flatten()
    assert loss.isfinite() and gradient.isfinite().all() and (gradient < 0).all() and (gradient.diff() > 0).all()
    # The tangent at a tenth of 2 m: one floor below it, half of one, and the logarithm itself.
    errors = [math.log(0.1) - 1, math.log(0.1) - 0.5, math.log(0.5)]
    values = torch.tensor([0.0, 0.1, 1.0]).view(1, 1, 1, 3)
    loss = ScaleInvariant(invariance=0.0)(values, depth=torch.full((1, 1, 1, 3), 2.0))
    assert loss.item() == pytest.approx(sum(error**2 for error in errors) / 3, rel=1e-6)


def test_a_scale_of_the_whole_sample_is_seen_as_much_as_asked():
    true = depth()[2:]
    for scale in (0.2, 5.0):
        assert ScaleInvariant(1.0)(scale * true, depth=true).item() == pytest.approx(0, abs=1e-12)
        expected = 0.5 * math.log(scale) ** 2
        assert ScaleInvariant()(scale * true, depth=true).item() == pytest.approx(expected, rel=1e-9)


def test_scale_and_shift_of_either_side_do_not_matter_where_maps_are_aligned():
    student, teacher = pair(SIZES[0], channels=1)
    loss = DenseRegression(scale_invariant=True)
    torch.testing.assert_close(loss(3 * student - 7, teacher / 9 + 2, {"depth": depth()}),
                               loss(student, teacher, {"depth": depth()}))  # fmt: skip
    level = torch.full((SAMPLES, 1, 3, 4), 5.0, requires_grad=True)
    loss(level, teacher).backward()
    assert level.grad.isfinite().all() and level.grad.abs().max() <= 1
