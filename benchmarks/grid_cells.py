"""What cells of benchmarks/grids.py are made of: overrides of configs."""

from __future__ import annotations

STUDENT = ["teachers.0.model=resnet20", "teachers.0.weights={runs}/teacher-0", "student.model=resnet8"]
CRD = "compression/cifar100_crd"
K4096 = ["objectives.crd.num_negatives=4096", "objectives.crd.negatives=shared"]

# Two architectures and two seeds of each; the first n of them are the n teachers of a student.
TEACHERS = [("resnet20", 0), ("resnet14", 0), ("resnet20", 1), ("resnet14", 1)]


def ensemble(count: int, *overrides: str) -> list[str]:
    """Overrides of a student of the first ``count`` teachers."""
    named = [
        [f"teachers.{n}.model={model}", f"teachers.{n}.weights={{runs}}/teacher_{model}-{seed}"]
        for n, (model, seed) in enumerate(TEACHERS[:count])
    ]
    views = ["train.views=2", "train.teacher_cache={runs}/teacher_outputs", "data.name=packed"]
    return [*sum(named, []), "student.model=resnet8", *views, *overrides]


ONLY_KD = ["objectives.cross_entropy.weight=0.1", "objectives.kd.weight=0.9", "objectives.crd=null"]
DISTILLED = "ensemble/cifar100_crd"
OTHER_RULES = ("average", "entropy", "confidence", "gradient", "random")
EPOCHS_15, EPOCHS_10, EPOCHS_6 = (
    [f"train.epochs={epochs}", f"train.evaluate_every={every}"] for epochs, every in ((15, 5), (10, 5), (6, 6))
)
CACHED = ["train.views=4", "train.teacher_cache={runs}/teacher_outputs", "data.name=packed"]

COSINE, STEP = ["train.schedule=cosine", "train.lr=0.1"], ["train.schedule=step", "train.lr=0.05"]


FRESH, STALE = (
    "fresh_crd={weight: 0.8, teacher_map: learned}",
    "crd={weight: 0.8, num_negatives: 4096, negatives: shared}",
)
WHITENED = "fresh_crd={weight: 0.8, teacher_map: whitened}"
Cell = tuple[str, list[str], int]


def beside_labels(views: int, schedule: tuple[str, ...], objectives: tuple[str, ...], seeds: int) -> Cell:
    """Objectives beside cross-entropy of weight 1, towards the outputs of ``views`` views that are kept."""
    cached = [f"train.views={views}", "train.teacher_cache={runs}/teacher_outputs", "data.name=packed"]
    return (
        CRD,
        [*STUDENT, *cached, "objectives.crd=null", *(f"objectives.{objective}" for objective in objectives), *schedule],
        seeds,
    )


def contrasts(views: int, *schedule: str, seeds: int = 3) -> dict[str, Cell]:
    """Contrast with fresh rows and the cells that it is compared with."""
    objectives = {
        "fresh": (FRESH,),
        "fresh_wttm": (FRESH, "wttm={weight: 1}"),
        "whitened": (WHITENED,),
        "whitened_wttm": (WHITENED, "wttm={weight: 1}"),
        "infonce": ("infonce={weight: 0.8}",),
        "crd": (STALE,),
        "wttm": ("wttm={weight: 1}",),
        "dist": ("dist={weight: 1}",),
        "dkd": ("dkd={weight: 1}",),
        "crd_kd": (STALE, "kd={weight: 1}"),
        "kd": ("kd={weight: 0.9}", "cross_entropy.weight=0.1"),
    }
    baseline = (
        "teachers/cifar100",
        ["student.model=resnet8", f"train.views={views}", "data.name=packed", *schedule],
        seeds,
    )
    return {
        "baseline": baseline,
        **{cell: beside_labels(views, schedule, named, seeds) for cell, named in objectives.items()},
    }


def variants(views: int, *schedule: str) -> dict[str, Cell]:
    """One option of the contrast changed at a time, and the ways to help the paper's bank: one seed each."""
    changed = {
        "row_gradient=false": "row_gradient: false", "student_rows=none": "student_rows: none",
        "criterion=sigmoid": "criterion: sigmoid",
        "refresh_rows": "refresh_rows: true", "other_sample": "negatives_from: other_sample",
        "K=256": "num_negatives: 256", "K=1024": "num_negatives: 1024", "K=16384": "num_negatives: 16384",
        "tau=0.04": "temperature: 0.04", "tau=0.1": "temperature: 0.1", "tau=0.2": "temperature: 0.2",
    }  # fmt: skip
    bank = "weight: 0.8, num_negatives: 4096, negatives: shared"
    helped = {
        "bank_init": "bank_init: teacher_outputs", "bank_momentum": "bank_momentum: visits",
        "bank_whitened": "teacher_map: whitened",
        "bank_all": "bank_init: teacher_outputs, bank_momentum: visits, teacher_map: whitened",
    }  # fmt: skip
    cells = {name: f"fresh_crd={{weight: 0.8, teacher_map: learned, {option}}}" for name, option in changed.items()}
    cells |= {f"crd {name}": f"crd={{{bank}, {options}}}" for name, options in helped.items()}
    return {name: beside_labels(views, schedule, (objective,), 1) for name, objective in cells.items()}


def contrast_of(count: int, *objectives: str) -> Cell:
    """Objectives beside cross-entropy of weight 1 towards ``count`` teachers, whose losses are added."""
    return (
        DISTILLED,
        [*ensemble(count, "objectives.crd=null", *(f"objectives.{objective}" for objective in objectives)), *EPOCHS_6],
        3,
    )
