"""What several networks are worth together: every number against a naive loop, and the picture for few and many
networks.
"""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.core.errors import UsageError
from contrastill.ensemble.diversity import BINS, diversity
from contrastill.plots.diversity import Bar, Curve, draw_diversity


def probabilities_of(networks, samples, classes, seed=0, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    hint = torch.nn.functional.one_hot(targets, classes)
    logits = sharpness * (torch.randn(networks, samples, classes, generator=generator, dtype=torch.float64) + hint)
    return logits.softmax(2), targets


def naive_quality(rows, targets):
    """Top-1, NLL and ECE of one network by loops over plain numbers."""
    right, nll, bins = 0, 0.0, [[] for _ in range(BINS)]
    for row, target in zip(rows.tolist(), targets.tolist(), strict=True):
        best = max(range(len(row)), key=lambda c: row[c])
        right += best == target
        nll -= math.log(row[target])
        bins[min(int(row[best] * BINS), BINS - 1)].append((row[best], best == target))
    gap = sum(abs(sum(sure for sure, _ in held) - sum(hit for _, hit in held)) for held in bins)
    return 100 * right / len(targets), nll / len(targets), gap / len(targets)


@pytest.mark.parametrize(("networks", "samples", "classes"), [(1, 40, 3), (2, 57, 2), (5, 200, 10)])
def test_every_number_is_that_of_a_naive_loop(networks, samples, classes):
    probabilities, targets = probabilities_of(networks, samples, classes)
    student, _ = probabilities_of(1, samples, classes, seed=9, sharpness=1.0)
    result = diversity(probabilities, targets, student[0])
    mean = [
        [sum(probabilities[n, i, c].item() for n in range(networks)) / networks for c in range(classes)]
        for i in range(samples)
    ]
    measured = [*result.networks, result.ensemble, result.student]
    for quality, rows in zip(
        measured, [*probabilities, torch.tensor(mean, dtype=torch.float64), student[0]], strict=True
    ):
        top1, nll, ece = naive_quality(rows, targets)
        assert quality.top1 == pytest.approx(top1) and quality.nll == pytest.approx(nll, rel=1e-12)
        assert quality.ece == pytest.approx(ece, abs=1e-6)  # torchmetrics bins in float32
        bins = quality.reliability
        assert (bins.share * (bins.accuracy - bins.confidence).abs()).nansum().item() == pytest.approx(ece, abs=1e-6)
    picks = [[max(range(classes), key=lambda c: row[c]) for row in rows.tolist()] for rows in probabilities]
    own = [max(range(classes), key=lambda c: row[c]) for row in student[0].tolist()]
    both = [max(range(classes), key=lambda c: row[c]) for row in mean]

    def apart(a, b):
        return 100 * sum(x != y for x, y in zip(a, b, strict=True)) / samples

    assert result.disagreement.numpy() == pytest.approx(np.array([[apart(a, b) for b in picks] for a in picks]))
    assert result.student_disagreement.tolist() == pytest.approx([apart(own, one) for one in [*picks, both]])
    pairs = [apart(picks[a], picks[b]) for a in range(networks) for b in range(a)]
    assert result.mean_disagreement == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)
    assert result.oracle == pytest.approx(
        100 * sum(any(pick[i] == targets[i] for pick in picks) for i in range(samples)) / samples
    )
    assert result.pooled.share.sum().item() == pytest.approx(1)


def test_one_network_is_its_own_ensemble_and_equal_ones_never_differ():
    probabilities, targets = probabilities_of(1, 80, 5)
    alone, thrice = diversity(probabilities, targets), diversity(probabilities.expand(3, -1, -1), targets)
    assert alone.ensemble.nll == alone.networks[0].nll and alone.student is None
    assert thrice.mean_disagreement == 0 and thrice.oracle == thrice.ensemble.top1 == alone.ensemble.top1


def test_an_ensemble_beats_its_members_where_they_err_apart_and_the_oracle_is_above_it():
    probabilities, targets = probabilities_of(8, 2000, 10)
    result = diversity(probabilities, targets)
    assert result.ensemble.top1 > max(network.top1 for network in result.networks) + 5
    assert (
        result.ensemble.nll < min(network.nll for network in result.networks) and result.oracle > result.ensemble.top1
    )


def test_logarithms_are_the_same_but_for_what_is_too_unlikely_for_a_float():
    probabilities, targets = probabilities_of(3, 40, 5)
    plain, logs = diversity(probabilities, targets), diversity(probabilities.log(), targets, logarithms=True)
    for one, other in zip([*plain.networks, plain.ensemble], [*logs.networks, logs.ensemble], strict=True):
        assert (one.top1, one.nll, one.ece) == pytest.approx((other.top1, other.nll, other.ece))
    # A diverged network: wrong by 150 and 2 000 in the logits, which cross-entropy counts as 150 and 2 000.
    logits, classes = torch.tensor([[0.0, 150.0], [0.0, 2000.0], [5.0, 0.0]]), torch.tensor([0, 0, 0])
    measured = diversity(logits.log_softmax(1)[None], classes, logits.log_softmax(1), logarithms=True)
    expected = torch.nn.functional.cross_entropy(logits, classes).item()
    assert measured.networks[0].nll == pytest.approx(expected) and measured.student.nll == pytest.approx(expected)
    with pytest.raises(UsageError, match="no logarithms of probabilities: take the log_softmax"):
        diversity(probabilities, targets, logarithms=True)


def test_what_is_certain_counts_in_the_last_bin_and_what_is_impossible_is_finite():
    probabilities = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.97, 0.03]]])
    result = diversity(probabilities, torch.tensor([0, 1, 0])).networks[0]
    assert result.reliability.share.tolist() == [0] * 14 + [1] and math.isfinite(result.nll)
    assert result.ece == pytest.approx(abs(2 / 3 - 2.97 / 3), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: (p[0], t), "are not (networks, samples, classes)"),
        (lambda p, t: (p[:, :0], t[:0]), "with at least one of each"),
        (lambda p, t: (p, t[:-1]), "do not fit 20 samples"),
        (lambda p, t: (p, t + 3), "do not fit 4 classes"),
        (lambda p, t: (p.log(), t), "the outputs of network 0 are no probabilities"),
        (lambda p, t: (torch.stack([p[0], p[1] * 0.9]), t), "the outputs of network 1 are no probabilities"),
        (lambda p, t: (torch.full_like(p, torch.nan), t), "no probabilities"),
        (lambda p, t: (p, t, p[0, :, :3]), "the student's probabilities of shape (20, 3) are not (20, 4)"),
        (lambda p, t: (p, t, 2 * p[0]), "the outputs of the student are no probabilities"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    probabilities, targets = probabilities_of(2, 20, 4)
    targets[0] = 3
    with pytest.raises(UsageError) as refused:
        diversity(*change(probabilities, targets))
    assert message in str(refused.value)


@pytest.mark.parametrize("count", [1, 10])
def test_the_picture_is_drawn_for_one_network_and_for_ten(tmp_path, count):
    probabilities, targets = probabilities_of(count, 100, 4)
    result = diversity(probabilities, targets)
    bars = [
        Bar(f"teachers.{number} timm/vit_small_patch14_dinov2.lvd142m", quality.top1)
        for number, quality in enumerate(result.networks)
    ]
    bins = result.pooled
    curves = [Curve("each network", bins.confidence.numpy(), bins.accuracy.numpy(), bins.share.numpy(), "networks")]
    draw_diversity(
        [f"T{number}" for number in range(count)],
        result.disagreement.numpy(),
        bars,
        curves,
        tmp_path / "d.png",
        title="a title",
    )
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.width > 1200 and len(set(picture.convert("RGB").resize((300, 100)).get_flattened_data())) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]
