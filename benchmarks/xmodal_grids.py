"""The cells of the grids of xmodal.py."""

# name -> config, default data, and cell -> (overrides, seeds, baselines by seed).
EVERY = ("random", "scratch", "teacher")
SOFTMAX = "weight: 1, pairing: both, criterion: softmax, temperature: 0.07"
LONG = ["train.epochs=40", "train.views=6", "train.lr=2e-3"]
# 795 pairs are 50 steps an epoch, with the 220 labelled ones 64: about 1,200 steps like the labels alone.
UNLABELLED = [
    "data.splits={train: train, test: null}",
    "data.fields={rgb: rgb, depth: depth}",
    "train.epochs=24",
    "train.views=4",
]
BOTH = ["data.splits={train: [train, labelled], test: labelled}", "train.epochs=19", "train.views=4"]
LABELS = "objectives.pixel_cross_entropy={weight: 1}"
# The encoders' last two maps; the student's last map is its decoder's.
ENCODERS = f"{{{SOFTMAX}, pairs: [[-3, -2], [-2, -1]]}}"
# An encoder that the unlabelled pairs taught by dense contrast to Lite0 with its ImageNet weights; half as many steps
# on the labels follow.
OF_PAIRS = "student.weights=ENCODER"
CONTRAST = [
    "objectives.dense_crd={weight: 1, pairing: both}",
    "student.resolution=[60,80]",
    "train.epochs=40",
    "train.views=4",
    "train.lr=2e-3",
]
# The student's deepest map and the teacher's at 1/16; tasks whose heads are trained on the teacher alone.
MIDDLE, HEADS = "[-1, -2]", "evaluation.tasks=[segmentation,retrieval]"
# A tenth of the operations of the RGB segmenter at 120×160.
SMALL = ["student.model=unet/timm/test_resnet", "student.modality=rgb"]
# Epochs of two steps: a checkpoint of each would take longer than they.
TENTH = ["data.label_fraction=0.1", "train.checkpoint_every=100"]
DENSE, FRESH = "objectives.dense_crd.weight", "objectives.fresh_crd={weight: 0.8, teacher_map: whitened}"
SHORT = ["train.epochs=12", "train.warmup_epochs=0.6", "train.batch_size=64", "train.weight_decay=5e-4"]
FEW = ["data.limit=100", "evaluation.data.limit=null"]
SGD = ["train.optimizer=sgd", "train.lr=0.1"]


def default(epochs: int, batch_size: int, views: int, rate: str) -> list[str]:
    """Overrides of what contrastill.distill trains of unlabelled pairs."""
    return [
        f"{DENSE}=1",
        FRESH,
        f"train.epochs={epochs}",
        f"train.warmup_epochs={epochs / 20:g}",
        f"train.batch_size={batch_size}",
        "train.weight_decay=5e-4",
        "train.optimizer=adamw",
        f"train.lr={rate}",
        f"train.views={views}",
    ]


GRIDS = {
    "nyu": {
        "data": "nyu_depth_v2_160x120.h5",
        "config": "nyu_160x120.yaml",
        "cells": {
            "hint (pooled)": (
                ["objectives.fitnet={weight: 1, features: embedding, standardize: true}"],
                3,
                (EVERY, ("random",), ("random",)),
            ),
            "hint (map)": (["objectives.fitnet={weight: 1, pair: [-1, -1], standardize: true}"], 3, ()),
            "AT": (["objectives.attention={weight: 1000, pairs: [[-3, -2], [-1, -1]]}"], 1, ()),
            "KD": (["objectives.kd={weight: 1}"], 1, ()),
            "CRD pooled": (["objectives.crd={weight: 1}"], 1, ()),
            "CRD dense": (["objectives.dense_crd={weight: 1, pairing: both}"], 3, ()),
            "CRD dense + hint (map)": (
                [
                    "objectives.dense_crd={weight: 1, pairing: both}",
                    "objectives.fitnet={weight: 10, pair: [-1, -1], standardize: true}",
                ],
                1,
                (),
            ),
            "dense_softmax": ([f"objectives.dense_crd={{{SOFTMAX}}}"], 3, ()),
            "dense_fresh": ([f"objectives.dense_crd={{{SOFTMAX}, num_rows: 4096}}"], 3, ()),
            "dense_fresh_anchor": ([f"objectives.dense_crd={{{SOFTMAX}, num_rows: 4096, anchor_weight: 1}}"], 3, ()),
            "fresh pooled": (["objectives.fresh_crd={weight: 1}"], 3, ()),
            "fresh pooled, whitened": (["objectives.fresh_crd={weight: 1, teacher_map: whitened}"], 1, ()),
            # contrastill.distill trains unlabelled pairs as "default, 12 epochs, batches of 32, 2e-3".
            "default, 12 epochs": ([f"{DENSE}=1", FRESH, *SHORT, "train.optimizer=adamw", "train.lr=1e-3"], 3, ()),
            "default, 12 epochs, batches of 32": (default(12, 32, 3, "7.07e-4"), 3, ()),
            "default, 12 epochs, batches of 32, 1e-3": (default(12, 32, 3, "1e-3"), 3, ()),
            "default, 12 epochs, 2e-3": (default(12, 64, 3, "2e-3"), 3, ()),
            "default, 12 epochs, batches of 32, 2e-3": (default(12, 32, 3, "2e-3"), 3, ()),
            "default, 12 epochs, 4e-3": (default(12, 64, 3, "4e-3"), 3, ()),
            "default, 40 epochs": (default(40, 64, 10, "1e-3"), 3, ()),
            "default, 40 epochs, 2e-3": (default(40, 64, 10, "2e-3"), 3, ()),
            "default, 40 epochs, batches of 32, 1.4e-3": (default(40, 32, 10, "1.41e-3"), 3, ()),
            "default, 40 epochs, batches of 32, 2e-3": (default(40, 32, 10, "2e-3"), 3, ()),
            "CRD dense, 40 epochs, batches of 64, 2e-3": (
                [arg for arg in default(40, 64, 10, "2e-3") if arg != FRESH],
                3,
                (),
            ),
            "fresh pooled, SGD, 12 epochs": ([FRESH, *SHORT, *SGD], 3, ()),
            "CRD dense, SGD, 12 epochs": ([f"{DENSE}=1", *SHORT, *SGD], 1, ()),
            "fresh pooled, 40 epochs": (["objectives.fresh_crd={weight: 1}", *LONG], 1, ()),
            "hint (pooled), 40 epochs": (
                ["objectives.fitnet={weight: 1, features: embedding, standardize: true}", *LONG],
                3,
                (),
            ),
            "hint (map), 40 epochs": (
                ["objectives.fitnet={weight: 1, pair: [-1, -1], standardize: true}", *LONG],
                3,
                (),
            ),
            "CRD dense, 40 epochs": (["objectives.dense_crd={weight: 1, pairing: both}", *LONG], 3, ()),
        },
    },
    # A quarter of the pairs, 200, as long as the paper trains; packed as docs/results.md shows.
    "nyu_200": {
        "data": "nyu_200.h5",
        "config": "nyu_160x120.yaml",
        "cells": {
            "default, 240 epochs": (default(240, 32, 60, "2e-3"), 3, (EVERY,)),
            "CRD dense, 240 epochs": ([arg for arg in default(240, 32, 60, "2e-3") if arg != FRESH], 3, ()),
            "hint (map), 240 epochs": (
                ["objectives.fitnet={weight: 1, pair: [-1, -1], standardize: true}", *default(240, 32, 60, "2e-3")[2:]],
                3,
                (),
            ),
            "fresh pooled, 240 epochs": (default(240, 32, 60, "2e-3")[1:], 1, ()),
        },
    },
    # An eighth of them, evenly spaced.
    "nyu_100": {
        "data": "nyu_depth_v2_160x120.h5",
        "config": "nyu_160x120.yaml",
        "cells": {
            "fresh_crd 0.8 (default), 240 epochs": ([*FEW, *default(240, 32, 60, "2e-3")], 3, (EVERY,)),
            "CRD dense, 240 epochs": ([*FEW, *[arg for arg in default(240, 32, 60, "2e-3") if arg != FRESH]], 3, ()),
            "fresh_crd 0.2, 240 epochs": (
                [*FEW, *default(240, 32, 60, "2e-3"), "objectives.fresh_crd.weight=0.2"],
                3,
                (),
            ),
            "hint (map), 240 epochs": (
                [
                    *FEW,
                    "objectives.fitnet={weight: 1, pair: [-1, -1], standardize: true}",
                    *default(240, 32, 60, "2e-3")[2:],
                ],
                3,
                (),
            ),
            "fresh pooled, 240 epochs": ([*FEW, *default(240, 32, 60, "2e-3")[1:]], 1, ()),
        },
    },
    "segmenters": {
        "data": "nyu_depth_v2_160x120.h5",
        "config": "nyu_segmenters.yaml",
        "cells": {
            "labels": ([LABELS], 3, ()),
            "KD, no labels": (["objectives.dense_kd={weight: 1}", *UNLABELLED], 3, (("teacher",),)),
            "KD + dense contrast, no labels": (
                ["objectives.dense_kd={weight: 1}", f"objectives.dense_crd={ENCODERS}", *UNLABELLED],
                3,
                (),
            ),
            "CWD, no labels": (["objectives.cwd={weight: 3}", *UNLABELLED], 1, ()),
            "KD + CWD, no labels": (
                ["objectives.dense_kd={weight: 1}", "objectives.cwd={weight: 3}", *UNLABELLED],
                1,
                (),
            ),
            "labels + CWD": (["objectives.cwd={weight: 3}", LABELS, *BOTH], 3, ()),
            "labels + KD": (["objectives.dense_kd={weight: 1}", LABELS, *BOTH], 3, ()),
            "labels + KD + dense contrast": (
                ["objectives.dense_kd={weight: 1}", f"objectives.dense_crd={ENCODERS}", LABELS, *BOTH],
                3,
                (),
            ),
            "10 % of the labels": ([LABELS, *TENTH, "train.epochs=600"], 3, ()),
            "labels, encoder of the pairs": ([LABELS, "train.epochs=43", OF_PAIRS], 3, ()),
            "labels + CWD, encoder of the pairs": (
                ["objectives.cwd={weight: 3}", LABELS, *BOTH, "train.epochs=10", OF_PAIRS],
                1,
                (),
            ),
            "10 % of the labels, encoder of the pairs": ([LABELS, *TENTH, "train.epochs=300", OF_PAIRS], 3, ()),
        },
    },
    "rgb_segmenters": {
        "data": "nyu_depth_v2_160x120.h5",
        "config": "nyu_segmenters.yaml",
        "cells": {
            "labels": ([*SMALL, LABELS], 3, ()),
            "labels + KD": ([*SMALL, "objectives.dense_kd={weight: 1}", LABELS, *BOTH], 3, (("teacher",),)),
            "labels + CWD": ([*SMALL, "objectives.cwd={weight: 3}", LABELS, *BOTH], 3, ()),
            "labels + KD + CWD": (
                [*SMALL, "objectives.dense_kd={weight: 1}", "objectives.cwd={weight: 3}", LABELS, *BOTH],
                3,
                (),
            ),
        },
    },
    "one_head": {
        "data": "nyu_depth_v2_160x120.h5",
        "config": "nyu_160x120.yaml",
        "cells": {
            "embedding and map": ([f"objectives.agglomerate={{pair: {MIDDLE}}}", HEADS], 3, ()),
            "hint on the map": (
                [
                    f"objectives.agglomerate={{pair: {MIDDLE}, summary: false, cosine_share: 0}}",
                    "evaluation.tasks=[segmentation]",
                ],
                3,
                (),
            ),
            "pooled alone": (["objectives.agglomerate={dense: false}", "evaluation.tasks=[retrieval]"], 3, ()),
        },
    },
    "lab": {
        "data": "cifar100_subset.h5",
        "config": "lab_32.yaml",
        "cells": {
            "hint (map)": (
                ["objectives.fitnet={weight: 1, pair: [-1, -1], standardize: true}"],
                1,
                (("random", "teacher"),),
            ),
            "AT": (["objectives.attention={weight: 1000}"], 1, ()),
            "KD": (["objectives.kd={weight: 1}"], 1, ()),
            "CRD pooled": (["objectives.crd={weight: 1}"], 1, ()),
            "CRD dense": (["objectives.dense_crd={weight: 1, pairing: both, positions: 1024}"], 1, ()),
            "fresh pooled": (["objectives.fresh_crd={weight: 1}"], 3, (("random", "teacher"),)),
        },
    },
}
