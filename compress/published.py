"""Figures and recipe that were published for the pairs of the CIFAR-100 benchmark: data, and how it is looked up."""

from __future__ import annotations

from typing import NamedTuple

PAIRS = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
)
"""The paper's pairs, teacher and student: seven of one family, six of two."""

# The recipe: every objective has its own published weight and cross-entropy has 1, but for these. (objectives,
# student; "" is any) -> term -> weight.
WEIGHTS = {
    ("kd", ""): {"cross_entropy": 0.1, "kd": 0.9},
    ("review", "resnet20"): {"review": 0.6},
    ("review", "resnet8x4"): {"review": 5.0},
}
COMBINED = {"kd": 1.0}
"""Weights of terms that stand beside another one."""
LEARNING_RATES = {"MobileNetV2": 0.01, "ShuffleV1": 0.01, "ShuffleV2": 0.01}
"""Networks that were not trained with the recipe's 0.05."""

_TIAN = "Tian et al., Contrastive Representation Distillation, ICLR 2020, tables 1 and 2"
_WKD = "WKD, Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence, NeurIPS 2024"
_PAPER = {  # in the order of PAIRS; None: not published
    "teacher": (75.61, 75.61, 72.34, 74.31, 74.31, 79.42, 74.64, 74.64, 79.34, 79.34, 79.42, 79.42, 75.61),
    "student": (73.26, 71.98, 69.06, 69.06, 71.14, 72.50, 70.36, 64.60, 64.60, 70.36, 70.50, 71.82, 70.50),
    "kd": (74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98, 67.37, 67.35, 73.81, 74.07, 74.45, 74.83),
    "fitnet": (73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02, 64.14, 63.16, 70.69, 73.59, 73.54, 73.73),
    "attention": (74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43, 59.40, 58.58, 71.84, 71.73, 72.73, 73.32),
    "similarity": (73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68, 66.30, 68.08, 73.34, 73.48, 74.56, 74.52),
    "correlation": (73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71, 64.86, 65.43, 70.25, 71.14, 71.29, 71.38),
    "vid": (74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23, 65.56, 67.57, 70.30, 73.38, 73.40, 73.61),
    "rkd": (73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48, 64.52, 64.43, 71.50, 72.28, 73.21, 72.21),
    "pkt": (74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88, 67.13, 66.52, 73.01, 74.10, 74.69, 73.89),
    "ab": (72.50, 72.38, 69.47, 69.53, 70.98, 73.17, 70.94, 66.06, 67.20, 70.65, 73.55, 74.31, 73.34),
    "factor": (73.25, 71.59, 69.84, 70.22, 72.37, 72.86, 70.58, 61.78, 60.99, 70.29, 71.75, 72.50, 72.03),
    "fsp": (72.91, None, 69.95, 70.11, 71.89, 72.62, 70.23),
    "nst": (73.68, 72.24, 69.60, 69.53, 71.96, 73.30, 71.53, 58.16, 64.96, 71.28, 74.12, 74.68, 74.89),
    "crd": (75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94, 69.73, 69.11, 74.30, 75.11, 75.65, 76.05),
    "crd+kd": (75.64, 74.38, 71.63, 71.56, 73.75, 75.46, 74.29, 69.94, 69.54, 74.58, 75.12, 76.05, 76.27),
}
# objectives, a setting that belongs to the method, source, what sets it apart from the recipe, and figures of the first
# pairs.
_LATER = (
    ("review", "", "ReviewKD, Chen et al., CVPR 2021", "", (76.12, 75.09, 71.89, 71.34, 73.89, 75.63, 74.84)),
    (
        "simkd",
        "",
        "SimKD, Chen et al., CVPR 2022",
        "the student is changed",
        (75.53, 74.53, 71.05, 71.06, 73.92, 78.08, 74.89),
    ),
    ("dkd", "", "DKD, Zhao et al., CVPR 2022", "", (76.24, 74.81, 71.97, 71.06, 74.11, 76.32, 74.68)),
    ("dist", "", "DIST, Huang et al., NeurIPS 2022", "", (75.51, 74.73, 71.75, 71.65, 73.69, 76.31, 73.89)),
    (
        "kd",
        "objectives.kd.standardize=true",
        "logit standardization, Sun et al., CVPR 2024",
        "",
        (76.11, 74.37, 71.43, 71.48, 74.17, 76.62, 74.36),
    ),
    (
        "mlkd",
        "",
        "MLKD, Jin et al., CVPR 2023, with logit standardization, Sun et al., CVPR 2024",
        "480 epochs, standardized logits, two augmentations",
        (76.95, 75.56, 72.33, 72.27, 74.32, 78.28, 75.22),
    ),
    # Objectives that are not here, for comparison.
    ("wkd_logits", "", _WKD, "", (None, None, None, None, None, 76.53, None, None, None, None, 76.72)),
    ("wkd_features", "", _WKD, "", (None, None, None, None, None, 76.77, None, None, None, None, 77.36)),
    ("wkd_features+wkd_logits", "", _WKD, "", (None, None, None, None, None, 77.28, None, None, None, None, 77.50)),
    ("crd+wttm", "", "WTTM + CRD, Zheng & Yang, ICLR 2024", "", (76.61, 74.94, 72.20, 72.13, 74.52, 76.65, 74.71)),
)
ORDER = (*_PAPER, *(row[0] for row in _LATER))
"""Objectives in the order of the tables."""


class Figure(NamedTuple):
    """A published figure.

    Attributes:
        top1: Accuracy of the last epoch, per cent.
        source: Where it was read.
        note: What sets its training apart from the recipe; empty for nothing.
    """

    top1: float
    source: str
    note: str = ""


def published(teacher: str, student: str, objectives: str, setting: str = "") -> Figure | None:
    """The published top-1 of a pair, or None where there is none.

    Args:
        teacher: Its network.
        student: Its network.
        objectives: Joined by +, in the order of the alphabet with kd last: ``crd+kd``; or ``student`` (the baseline) or
            ``teacher``.
        setting: An option that was given another value than its default, as ``key=value``.

    Example:
        >>> published("resnet32x4", "resnet8x4", "crd").top1
        75.51
    """
    if (teacher, student) not in PAIRS:
        return None
    place = PAIRS.index((teacher, student))
    sources = [(label, "", _TIAN, "", values) for label, values in _PAPER.items()]
    for label, own, source, note, values in [*sources, *_LATER]:
        if (label, own) == (objectives, setting) and place < len(values):
            if (top1 := values[place]) is not None:
                return Figure(top1, source, note)
    return None
