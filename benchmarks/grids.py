"""The cells of benchmarks/grid.py: each is a config, its overrides and how many seeds of it are trained."""

from __future__ import annotations

from grid_cells import (
    CACHED,
    COSINE,
    CRD,
    DISTILLED,
    EPOCHS_6,
    EPOCHS_10,
    EPOCHS_15,
    FRESH,
    K4096,
    ONLY_KD,
    OTHER_RULES,
    STALE,
    STEP,
    STUDENT,
    WHITENED,
    beside_labels,
    contrast_of,
    contrasts,
    ensemble,
    variants,
)

# name -> schedule, and cell -> (config, overrides, seeds); a cell called teacher… is trained before the others.
GRIDS = {
    "cifar100_subset": {
        "schedule": ["train.epochs=15", "train.evaluate_every=5"],
        "cells": {
            "teacher": ("teachers/cifar100", ["student.model=resnet20"], 1),
            "untaught": ("teachers/cifar100", ["student.model=resnet8"], 3),
            "kd": (
                CRD,
                [*STUDENT, "objectives.cross_entropy.weight=0.1", "objectives.kd.weight=0.9", "objectives.crd=null"],
                3,
            ),
            "crd": (CRD, [*STUDENT, *K4096], 3),
            "crd_kd": (CRD, [*STUDENT, *K4096, "objectives.kd.weight=1"], 1),
        },
    },
    "cifar100_subset_k1024": {
        "schedule": ["train.epochs=3", "train.evaluate_every=3", "objectives.crd.num_negatives=1024"],
        "cells": {
            "sampled": (CRD, [*STUDENT, "objectives.crd.negatives=sampled"], 3),
            "shared": (CRD, [*STUDENT, "objectives.crd.negatives=shared"], 3),
            "all": (CRD, [*STUDENT, "objectives.crd.negatives=all"], 3),
            "all_paper_bias": (CRD, [*STUDENT, "objectives.crd.negatives=all", "objectives.crd.bias=paper"], 1),
        },
    },
    # Students whose representations are probed elsewhere (benchmarks/transferability.py); the teacher looks at four
    # views of each image once.
    "cifar100_subset_cosine": {
        "schedule": ["train.schedule=cosine", "train.lr=0.1"],
        "cells": {
            "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
            "untaught": ("teachers/cifar100", ["student.model=resnet8", "train.views=4", *EPOCHS_10], 3),
            "kd": (CRD, [*STUDENT, *CACHED, *ONLY_KD, *EPOCHS_10], 3),
            "crd": (CRD, [*STUDENT, *CACHED, *K4096, *EPOCHS_10], 3),
            "crd_kd": (CRD, [*STUDENT, *CACHED, *K4096, "objectives.kd.weight=1", *EPOCHS_10], 3),
        },
    },
    "cifar100_subset_ensemble": {
        "schedule": ["train.schedule=cosine", "train.lr=0.1"],
        "cells": {
            **{
                f"teacher_{model}": ("teachers/cifar100", [f"student.model={model}", *EPOCHS_10], 2)
                for model in ("resnet20", "resnet14")
            },
            "untaught": ("teachers/cifar100", ["student.model=resnet8", *EPOCHS_6], 3),
            **{f"kd_{n}": (DISTILLED, [*ensemble(n, *ONLY_KD), *EPOCHS_6], 3) for n in (1, 2, 4)},
            **{f"crd_{n}": (DISTILLED, [*ensemble(n, *K4096), *EPOCHS_6], 3) for n in (1, 2, 4)},
            "crd_kd_4": (DISTILLED, [*ensemble(4, *K4096, "objectives.kd.weight=1"), *EPOCHS_6], 1),
            **{
                f"kd_4_{rule}": (DISTILLED, [*ensemble(4, *ONLY_KD, f"ensemble.rule={rule}"), *EPOCHS_6], 1)
                for rule in OTHER_RULES
            },
        },
    },
    # Contrast with fresh rows beside what it is compared with, at several lengths; teacher outputs of a few views are
    # kept.
    "contrast_3": {
        "schedule": COSINE,
        "cells": {
            "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
            **contrasts(2, "train.epochs=3", "train.evaluate_every=3", seeds=1),
        },
    },
    "contrast_6": {
        "schedule": COSINE,
        "cells": {
            "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
            **contrasts(3, *EPOCHS_6),
            **variants(3, *EPOCHS_6),
        },
    },
    "contrast_10": {
        "schedule": COSINE,
        "cells": {
            "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
            **contrasts(4, *EPOCHS_10, seeds=1),
        },
    },
    "contrast_15": {
        "schedule": STEP,
        "cells": {
            "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
            **contrasts(5, *EPOCHS_15),
        },
    },
}

# The default and what it is made of, at 15 epochs of the default's own schedule.
_FIFTEEN = contrasts(4, *EPOCHS_15)
GRIDS["contrast_15_cosine"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
        **{cell: _FIFTEEN[cell] for cell in ("whitened", "whitened_wttm", "wttm", "baseline")},
    },
}

# The same towards a teacher far better than the student can become: EfficientNet-Lite0, fine-tuned from its ImageNet
# weights at 64 pixels; 15 and 30 epochs.
TUNED = ["student.model=efficientnet_lite0", "student.weights=pretrained", "student.resolution=64"]
TUNED += ["train.epochs=6", "train.evaluate_every=1", "train.lr=0.02", "train.weight_decay=1e-4"]
BY_LITE0 = ["teachers.0.model=efficientnet_lite0", "teachers.0.resolution=64"]
GRIDS["contrast_strong"] = {
    "schedule": ["train.schedule=cosine"],
    "cells": {
        "teacher": ("teachers/cifar100", TUNED, 1),
        **{
            f"{cell}_{epochs}": (
                config,
                [*overrides, *(BY_LITE0 * (config == CRD)), "train.lr=0.1", f"train.warmup_epochs={0.05 * epochs:g}"],
                seeds,
            )
            for epochs in (15, 30)
            for length in [(f"train.epochs={epochs}", f"train.evaluate_every={epochs // 3}")]
            for cell, (config, overrides, seeds) in {
                **contrasts(4, *length),
                "whitened_ttm": beside_labels(4, length, (WHITENED, "wttm={weight: 1, weighted: false}"), 3),
            }.items()
            if cell in ("baseline", "whitened", "whitened_wttm", "whitened_ttm", "wttm", "kd")
        },
    },
}
# And towards the teacher of 45.2 %, twice as long as contrast_15_cosine.
_THIRTY = contrasts(4, "train.epochs=30", "train.evaluate_every=10", "train.warmup_epochs=1.5")
GRIDS["contrast_30_cosine"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
        **{cell: _THIRTY[cell] for cell in ("whitened", "whitened_wttm", "wttm", "baseline")},
    },
}

# What stands beside the contrast, and at which weights, at 15 epochs.
_BESIDE = {
    "contrast_1.6": ("fresh_crd={weight: 1.6}",),
    "contrast_1.6_wttm": ("fresh_crd={weight: 1.6}", "wttm={weight: 1}"),
    "contrast_2.4_wttm": ("fresh_crd={weight: 2.4}", "wttm={weight: 1}"),
    **{f"contrast_wttm_{weight}": (WHITENED, f"wttm={{weight: {weight}}}") for weight in (0.1, 0.3)},
    "contrast_ttm": (WHITENED, "wttm={weight: 1, weighted: false}"),
    **{f"contrast_{name}": (WHITENED, f"{name}={{weight: 1}}") for name in ("kd", "dist", "dkd")},
}
GRIDS["contrast_15_beside"] = {
    "schedule": COSINE,
    "cells": {
        **GRIDS["contrast_15_cosine"]["cells"],
        **{name: beside_labels(4, tuple(EPOCHS_15), objectives, 3) for name, objectives in _BESIDE.items()},
    },
}

GRIDS["contrast_6_beside"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": GRIDS["contrast_15_cosine"]["cells"]["teacher"],
        **{cell: contrasts(3, *EPOCHS_6)[cell] for cell in ("whitened", "whitened_wttm")},
        **{name: beside_labels(3, tuple(EPOCHS_6), objectives, 3) for name, objectives in _BESIDE.items()},
    },
}

# Fewer images: as many epochs of a quarter of them, and as many samples.
GRIDS["contrast_quarter"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": GRIDS["contrast_15_cosine"]["cells"]["teacher"],
        **{
            f"{cell}_{epochs}": beside_labels(
                4, (f"train.epochs={epochs}", f"train.evaluate_every={epochs}", "data.limit=5000"), objectives, 1
            )
            for epochs in (15, 40, 100)
            for cell, objectives in (
                ("whitened", (WHITENED,)),
                ("whitened_wttm", (WHITENED, "wttm={weight: 1}")),
                ("whitened_ttm", (WHITENED, "wttm={weight: 1, weighted: false}")),
            )
        },
    },
}

# Students whose representations are probed elsewhere: transferability.py --grid contrast_probe.
_TEN = contrasts(4, *EPOCHS_10)
GRIDS["contrast_probe"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
        **{cell: _TEN[cell] for cell in ("baseline", "kd", "whitened", "whitened_wttm")},
    },
}

# Unlike families: a residual teacher, a student of inverted residuals.
GRIDS["contrast_unlike"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": ("teachers/cifar100", ["student.model=resnet20", *EPOCHS_15], 1),
        **contrasts(3, *EPOCHS_6, "student.model=MobileNetV2", seeds=1),
    },
}
# The same with the short rise of the rate that the default has.
_WARM = contrasts(3, *EPOCHS_6, "student.model=MobileNetV2", "train.warmup_epochs=0.3", seeds=1)
GRIDS["contrast_unlike_warm"] = {
    "schedule": COSINE,
    "cells": {
        "teacher": GRIDS["contrast_unlike"]["cells"]["teacher"],
        **{cell: _WARM[cell] for cell in ("baseline", "kd", "wttm", "dist", "dkd", "whitened", "whitened_wttm")},
    },
}


GRIDS["contrast_ensemble"] = {
    "schedule": COSINE,
    "cells": {
        **{
            f"teacher_{model}": ("teachers/cifar100", [f"student.model={model}", *EPOCHS_10], 2)
            for model in ("resnet20", "resnet14")
        },
        **{f"fresh_{n}": contrast_of(n, f"fresh_crd={{weight: {0.8 / n}, teacher_map: whitened}}") for n in (1, 2, 4)},
        **{
            f"fresh_wttm_{n}": contrast_of(
                n, f"fresh_crd={{weight: {0.8 / n}, teacher_map: whitened}}", f"wttm={{weight: {1 / n}}}"
            )
            for n in (1, 2, 4)
        },
    },
}

# Weights that are not divided by the number of teachers, as KD's of cifar100_subset_ensemble.
GRIDS["contrast_ensemble_sum"] = {
    "schedule": COSINE,
    "cells": {
        **{cell: made for cell, made in GRIDS["contrast_ensemble"]["cells"].items() if cell.startswith("teacher_")},
        **{
            f"sum_{n}": contrast_of(n, "fresh_crd={weight: 0.8, teacher_map: whitened}", "wttm={weight: 1}")
            for n in (1, 2, 4)
        },
    },
}

# A teacher of other classes and another architecture: EfficientNet-Lite0 with its ImageNet weights, a student from
# scratch, all 100 classes at 64 pixels.
LITE0 = [
    "teachers.0.model=efficientnet_lite0",
    "teachers.0.weights=pretrained",
    "teachers.0.resolution=64",
    "student.model=timm/test_resnet",
    "data.name=packed",
]
LITE0 += ["train.views=3", "train.teacher_cache={runs}/teacher_outputs", "objectives.crd=null"]
GRIDS["tiny_imagenet_100"] = {
    "schedule": [*COSINE, "train.epochs=10", "train.evaluate_every=5"],
    "cells": {
        "baseline": ("teachers/cifar100", ["student.model=timm/test_resnet", "data.name=packed"], 3),
        "fresh": (CRD, [*LITE0, f"objectives.{FRESH}"], 3),
        "whitened": (CRD, [*LITE0, f"objectives.{WHITENED}"], 3),
        "crd": (CRD, [*LITE0, f"objectives.{STALE}"], 1),
    },
}
# The same pair under settings of train that are off by default.
AVERAGED = ["train.ema=0.99", "train.decay_biases=false"]
LAMB = ["train.optimizer=timm/lamb", "train.lr=0.01", "train.weight_decay=0.02"]
SGD = ["train.lr=0.1"]
ALONE = ["student.model=timm/test_resnet", "data.name=packed", *SGD]
GRIDS["tiny_recipe"] = {
    "schedule": ["train.schedule=cosine", "train.epochs=10", "train.evaluate_every=5"],
    "cells": {
        "baseline": ("teachers/cifar100", ALONE, 3),
        "distilled": (CRD, [*LITE0, f"objectives.{WHITENED}", *SGD], 3),
        "averaged": (CRD, [*LITE0, f"objectives.{WHITENED}", *SGD, *AVERAGED], 3),
        "lamb": (CRD, [*LITE0, f"objectives.{WHITENED}", *LAMB, "train.warmup_epochs=0.5"], 1),
        "lamb_averaged": (
            CRD,
            [*LITE0, f"objectives.{WHITENED}", *LAMB, *AVERAGED, "train.warmup_epochs=0.5"],
            1,
        ),
        "clipped": (
            CRD,
            [*LITE0, f"objectives.{WHITENED}", *SGD, "train.clip_norm=2", "train.warmup_epochs=0.5"],
            1,
        ),
    },
}
# As long for the baseline as ten epochs take the distilled student, its teacher's passes included.
GRIDS["tiny_recipe_minutes"] = {
    "schedule": ["train.schedule=cosine", "train.epochs=17", "train.evaluate_every=17"],
    "cells": {"baseline": ("teachers/cifar100", ALONE, 3)},
}
