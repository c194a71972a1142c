"""What several networks are worth together, and how far apart they are: the ceiling of a student that is to replace
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.tensor_values import check_readable

BINS = 15
"""Equal-width bins of confidence."""
# Softmax in float32 says 1 exactly; torchmetrics keeps a bin for that alone, so it becomes the number before.
_BELOW_ONE = 1 - 2**-24


@dataclass(frozen=True)
class Reliability:
    """How often a network is right when it is so sure, by bins of confidence.

    Attributes:
        confidence: (15,) mean probability of the predicted class; NaN in an empty bin.
        accuracy: (15,) share of right predictions, in [0, 1]; NaN in an empty bin.
        share: (15,) share of the samples.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


@dataclass(frozen=True)
class Quality:
    """What one network, or an ensemble, is worth.

    Attributes:
        top1: Accuracy, per cent.
        nll: Mean negative log-likelihood of the true class, nats.
        ece: Expected calibration error over 15 equal-width bins, in [0, 1].
        reliability: The bins.
    """

    top1: float
    nll: float
    ece: float
    reliability: Reliability


@dataclass(frozen=True)
class Diversity:
    """The result of :func:`diversity`.

    Attributes:
        networks: Each network by itself.
        ensemble: The mean of their probabilities.
        disagreement: (n, n) per cent of the samples for which two networks predict different classes.
        mean_disagreement: Its mean over the pairs; None for a single network.
        oracle: Per cent of the samples that at least one network gets right.
        pooled: Reliability of the networks, their predictions taken together.
        student: A network beside them.
        student_disagreement: (n + 1,) per cent, with each network and, last, with their ensemble.
    """

    networks: list[Quality]
    ensemble: Quality
    disagreement: Tensor
    mean_disagreement: float | None
    oracle: float
    pooled: Reliability
    student: Quality | None = None
    student_disagreement: Tensor | None = None


def diversity(
    probabilities: Tensor, targets: Tensor, student: Tensor | None = None, *, logarithms: bool = False
) -> Diversity:
    """Measure networks, their ensemble and how often they differ (deep ensembles: Lakshminarayanan et al., NeurIPS
    2017; disagreement: Fort et al., 2019).

    Args:
        probabilities: Outputs of n networks for N samples.
        targets: The samples' classes.
        student: Outputs of another network, which is no part of the ensemble.
        logarithms: Whether the outputs are natural logarithms of probabilities, as of ``log_softmax``: a probability
            that is too small for a float has one, and counts in the likelihood as what it is.

    Shape:
        - probabilities: (n, N, C), each row sums to 1 - targets: (N,) int64 in [0, C) - student: (N, C).

    Raises:
        UsageError: Shapes that do not fit, no sample, classes out of range, or rows that are no probabilities.

    Example:
        >>> probabilities = torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.7, 0.3]]])
        >>> result = diversity(probabilities, torch.tensor([0, 1]))
        >>> [network.top1 for network in result.networks], result.ensemble.top1, result.oracle
        ([100.0, 50.0], 50.0, 100.0)
        >>> result.mean_disagreement
        50.0
    """
    _check(probabilities, targets, student, logarithms)
    targets = targets.long()
    count = len(probabilities)
    # One network at a time in float64: all of them at once may not fit.
    logs = [one if logarithms else one.double().log() for one in probabilities]
    mean = reduce(torch.logaddexp, (one.double() for one in logs)) - math.log(count)
    predictions = torch.stack([one.argmax(1) for one in logs])  # (n, N)
    disagreement = torch.stack([_differ(predictions, one) for one in predictions])
    beside = None
    if student is not None:
        student = student if logarithms else student.double().log()
        own = student.argmax(1)
        beside = torch.cat([_differ(predictions, own), _differ(mean.argmax(1)[None], own)])
    confidences = torch.cat([_confidence(one) for one in logs])
    return Diversity(
        networks=[_quality(one, targets) for one in logs],
        ensemble=_quality(mean, targets),
        disagreement=disagreement,
        mean_disagreement=disagreement.sum().item() / (count * (count - 1)) if count > 1 else None,
        oracle=100 * (predictions == targets).any(0).double().mean().item(),
        pooled=_reliability(confidences, (predictions == targets).flatten()),
        student=None if student is None else _quality(student, targets),
        student_disagreement=beside,
    )


def _quality(logs: Tensor, targets: Tensor) -> Quality:
    """One network's measures, from logarithms of its probabilities; (N, C)."""
    # It takes as long to load as torch does.
    from torchmetrics.functional.classification import multiclass_calibration_error

    logs = logs.double()
    right = logs.argmax(1) == targets
    # No network is infinitely wrong: a probability of 0 counts as the smallest number there is.
    likelihood = logs.gather(1, targets[:, None]).nan_to_num(neginf=math.log(torch.finfo(torch.float64).tiny))
    ece = multiclass_calibration_error(
        logs.exp().clamp(0, _BELOW_ONE), targets, logs.shape[1], n_bins=BINS, norm="l1", validate_args=False
    )
    return Quality(
        100 * right.double().mean().item(),
        -likelihood.mean().item(),
        ece.item(),
        _reliability(_confidence(logs), right),
    )


def _confidence(logs: Tensor) -> Tensor:
    """Probability of the predicted class, in float32 as torchmetrics bins it."""
    return logs.amax(1).double().exp().clamp(0, _BELOW_ONE).float()


def _reliability(confidences: Tensor, right: Tensor) -> Reliability:
    """The bins of the calibration error; both (N,)."""
    places = torch.bucketize(confidences, torch.linspace(0, 1, BINS + 1), right=True) - 1
    counts, sure, correct = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, places, values.double())
        for values in (torch.ones_like(right), confidences, right)
    )
    return Reliability(sure / counts, correct / counts, counts / counts.sum())


def _differ(predictions: Tensor, other: Tensor) -> Tensor:
    """Per cent of the samples for which each row of predictions (n, N) is another than ``other`` (N,)."""
    return 100 * (predictions != other).double().mean(1)


def _check(probabilities: Tensor, targets: Tensor, student: Tensor | None, logarithms: bool) -> None:
    check_readable(probabilities=probabilities, targets=targets, **({} if student is None else {"student": student}))
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise UsageError(
            f"probabilities of shape {tuple(probabilities.shape)} are not (networks, samples, classes) with at "
            "least one of each"
        )
    samples, classes = probabilities.shape[1:]
    if targets.shape != (samples,):
        raise UsageError(
            f"targets of shape {tuple(targets.shape)} do not fit {samples} samples: give the class of each"
        )
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise UsageError(
            f"targets from {int(targets.min())} to {int(targets.max())} do not fit {classes} classes, which are "
            "numbered from 0"
        )
    if student is not None and student.shape != (samples, classes):
        raise UsageError(
            f"the student's probabilities of shape {tuple(student.shape)} are not ({samples}, {classes}), as the "
            "networks' are"
        )
    for name, one in [
        *((f"network {number}", one) for number, one in enumerate(probabilities)),
        *([("the student", student)] if student is not None else []),
    ]:
        # Comparisons with NaN are false.
        sums = (one.double().exp() if logarithms else one.double()).sum(1)
        if not (logarithms or bool((one >= 0).all())) or not bool(((sums - 1).abs() < 1e-3).all()):
            raise UsageError(
                f"the outputs of {name} are no logarithms of probabilities: take the log_softmax of logits"
                if logarithms
                else f"the outputs of {name} are no probabilities: each row sums to 1, without negative numbers; take "
                "the softmax of logits first"
            )
