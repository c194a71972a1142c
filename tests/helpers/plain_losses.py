"""Each objective that reads a teacher, small, and outputs that it can compare."""

import torch

from contrastill import (
    AB,
    CWD,
    DIST,
    DKD,
    FSP,
    KD,
    MLKD,
    NST,
    PKT,
    RKD,
    VID,
    WTTM,
    Attention,
    BinaryKD,
    Correlation,
    CRDLoss,
    DenseCRD,
    DenseKD,
    DenseRegression,
    Factor,
    FitNet,
    FreshCRDLoss,
    InfoNCE,
    PseudoLabels,
    Representation,
    Review,
    Similarity,
)
from contrastill.ensemble.adaptors import Adaptor
from contrastill.ensemble.agglomerate import Agglomerate
from contrastill.objectives.crd import CRD
from contrastill.objectives.fresh_crd import FreshCRD

SAMPLES, PAIR = 6, ((0, 0),)
BATCH = {"index": torch.arange(SAMPLES), "target": torch.arange(SAMPLES) % 5}


def outputs(samples=SAMPLES, channels=3, dim=4, **kwargs):
    maps = tuple(torch.rand(samples, channels, size, size, **kwargs) for size in (8, 4))
    prediction = torch.randn(samples, 5, 4, 4, **kwargs)
    return Representation(torch.randn(samples, 5, **kwargs), torch.randn(samples, dim, **kwargs), maps, prediction)


def losses():
    """Each objective that reads a teacher of 5 classes, embeddings of 4 and maps of 3 channels, but for joint ones."""
    return {
        "kd": KD(),
        "binary_kd": BinaryKD(),
        "dkd": DKD(),
        "dist": DIST(),
        "mlkd": MLKD(),
        "wttm": WTTM(),
        "rkd": RKD(),
        "pkt": PKT(),
        "correlation": Correlation(4, 4, embed_dim=4),
        "infonce": InfoNCE(4, 4, embed_dim=4, negatives_from="other_class"),
        "similarity": Similarity(PAIR),
        "attention": Attention(PAIR),
        "nst": NST(PAIR),
        "fitnet": FitNet(3, 3, pair=(0, 0)),
        "factor": Factor(3, 3),
        "vid": VID([(3, 3)], PAIR),
        "ab": AB([(3, 3)], PAIR),
        "fsp": FSP(2),
        "review": Review((3, 4), (3, 4), PAIR),
        "dense_crd": DenseCRD([(3, 3)], pairs=PAIR, embed_dim=4, negatives_from="other_class"),
        "crd": CRD(CRDLoss(4, 4, num_samples=SAMPLES, num_negatives=2, embed_dim=4)),
        "fresh_crd": FreshCRD(FreshCRDLoss(4, 4, num_samples=SAMPLES, num_negatives=2, embed_dim=4)),
        "dense_kd": DenseKD(),
        "cwd": CWD(),
        "pseudo_labels": PseudoLabels(confidence=0.2),
        "dense_regression": DenseRegression(),
        "agglomerate": Agglomerate(Adaptor(summary=(4, 4))),
    }
