"""The default recipe: objectives, their weights, length, views and learning rate, from what is known
of teachers and data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..core.classes import gives_places
from ..core.epochs import default_epochs
from ..core.errors import ContrastillError, UsageError
from ..core.label_vectors import several_classes
from ..core.predicted_quantity import KEY as QUANTITY
from ..core.predicted_quantity import LOG_DEPTH
from ..core.registry import PRETRAINED, PYTHON_PREFIX
from ..core.seeds import members
from ..core.weights import find_weights
from ..models.build import build_network, class_names
from ..models.recipe import quantity_by, recipe_of, several_classes_of
from .pixel_labels import LABELS, PixelLabels, answers_for_positions

log = logging.getLogger(__name__)

# The share of the epochs that have a view of their own: with fewer the student learns them by heart, with more the
# teacher's passes cost more than they give.
VIEWS_PER_EPOCH = 1 / 4
# The share of the training over which the rate rises.
WARMUP = 0.05
# Samples times views times teachers of which outputs are cached: wide ones, of 2048 + 1000 numbers, then take 6 GB,
# those of a small network a twentieth.
KEPT_SAMPLES = 500_000
# The same of maps and of answers for each position, of about 100 to 300 kB.
KEPT_MAPS = 20_000
# Mean doubt of a teacher on its training images below which its logits begin to repeat the labels.
FULL_DOUBT = 0.02
# Samples that a training shows, epochs times M, beyond which the matching of logits counts each sample alike. In fewer,
# the weights of WTTM, which make it outweigh the rest where the teacher is unsure, gain up to 7 points; in more they
# keep a student from getting ahead of its teacher.
WEIGHTED_SAMPLES = 200_000


# Rates of optimisers whose steps have a length of their own, for batches of 64. That of unlabelled pairs is 2e-3 for
# batches of 32, which few of them are trained in.
ADAM, ADAM_OF_MAPS, ADAM_OF_PAIRS = 1e-3, 2e-3, 2e-3 * math.sqrt(2)
BATCH, BATCH_OF_FEW_PAIRS = 64, 32
FEW_PAIRS = 2_000

# Optimisers whose steps are as long as the gradient.
_SGD = ("sgd", "sgdc", "sgdw", "momentum", "nesterov", "nesterovw")


def default_objectives(
    teachers: Sequence[Mapping[str, Any]],
    split: Any,
    epochs: int | None = None,
    *,
    maps: bool = False,
    num_samples: int | None = None,
) -> dict[str, Any]:
    """Objectives and weights: cross-entropy where there are labels; contrast with fresh rows; matching of the logits
    where every teacher answers with the data's classes. Where labels mark any number of classes, binary cross-entropy
    and matching class by class.

    Weights were decided by the grids of docs/results.md. The term on logits counts less where the teacher has memorised
    its training images (``full_doubt``), and each sample alike in all but short trainings (``weighted``).

    Args:
        teachers: Their entries in a config.
        split: The training split.
        epochs: Their number where it is set.
        maps: Whether positions of maps are contrasted too, see :func:`compares_maps`.
        num_samples: How many of the split's samples are trained on; None: all.

    Raises:
        UsageError: There is neither a teacher nor a label.
    """
    several, labelled = several_classes(split), _is_labelled(split)
    if not teachers and not labelled:
        raise UsageError(
            "there is neither a teacher nor a label to learn from: give a teacher, or data with labels of two "
            "classes at least"
            + (
                f"; label maps ({LABELS}) are learnt by a student that answers for each position, such as "
                "unet/resnet20, or your own module with contrastill.Taps(prediction='output:KEY')"
                if LABELS in getattr(split, "modalities", ())
                else ""
            )
        )
    chosen: dict[str, Any] = {"binary_cross_entropy" if several else "cross_entropy": {"weight": 1.0}}
    chosen = chosen if labelled else {}
    if teachers:
        # The losses towards several teachers are added: together they weigh what one does.
        chosen["fresh_crd"] = {"weight": round(0.8 / len(teachers), 4)}
        if split.targets is not None and bool((split.targets == split.targets[0]).all()):
            # None is of another class.
            chosen["fresh_crd"]["negatives_from"] = "other_sample"
        if maps:
            chosen["dense_crd"] = {"weight": round(1.0 / len(teachers), 4)}
        if labelled and all(_answers(teacher, split) for teacher in teachers):
            matching: dict[str, Any] = {"weight": round(1.0 / len(teachers), 4)}
            num_samples = num_samples or split.num_samples
            shown = num_samples * (epochs or default_epochs(num_samples))
            alike = {"weighted": False} if shown > WEIGHTED_SAMPLES else {}
            chosen |= {"binary_kd": matching} if several else {"wttm": {**matching, **alike, "full_doubt": FULL_DOUBT}}
    return chosen


def default_dense_objectives(
    teachers: Sequence[Mapping[str, Any]], student: Mapping[str, Any], split: Any
) -> dict[str, Any]:
    """Objectives and weights of a student that answers for each position: the labels where there are some, and the
    answers of teachers for the same classes, else contrast of positions of the maps.

    Args:
        teachers: Their entries in a config.
        student: Its entry; ``num_classes`` is 1 where it predicts a quantity.
        split: The training split.

    Raises:
        UsageError: There is neither a teacher nor a label.
    """
    quantity = student.get("num_classes") == 1
    reads_depth = "depth" in student.get("modality", "rgb")
    chosen: dict[str, Any] = {}
    if LABELS in getattr(split, "modalities", ()) and not quantity:
        chosen["pixel_cross_entropy"] = {"weight": 1.0}
    elif quantity and "depth" in split.modalities and not reads_depth:
        chosen["scale_invariant"] = {"weight": 1.0}
        if teachers and all(_predicted(teacher) == LOG_DEPTH for teacher in teachers):
            chosen["scale_invariant"][QUANTITY] = LOG_DEPTH
    if not teachers and not chosen:
        if quantity:
            raise UsageError(
                "the student predicts one number for each position, such as depth, and there is neither a teacher nor "
                "another modality depth to learn that from: give one of them, or for classes a channel for each, "
                "which of one class and its background are 2"
            )
        raise UsageError(
            "there is neither a teacher nor a label map to learn from: give a teacher, or data with the modality "
            f"{LABELS}"
        )
    if teachers:
        labels = PixelLabels.of(split, None)
        answers = all(
            answers_for_positions(teacher["model"])
            and _answers_as({**teacher, "num_classes": teacher.get("num_classes")}, student, labels)
            for teacher in teachers
        )
        if not answers and not chosen:
            raise UsageError(
                "the teachers are not known to answer with the student's classes, so nothing would train what the "
                "student answers: give it as many classes (num_classes), say with class_map which is which, or name "
                "objectives"
            )
        if not answers:
            log.warning(
                "the teachers are not known to answer with the data's classes: their maps are compared (dense_crd), "
                "and not their answers; class_map says which is which"
            )
        name = ("dense_regression" if quantity else "dense_kd") if answers else "dense_crd"
        chosen[name] = {"weight": round(1.0 / len(teachers), 4)}
    return chosen


def with_quantity(teachers: Sequence[Mapping[str, Any]], student: Mapping[str, Any], split: Any) -> Mapping[str, Any]:
    """The entry of a student that answers for each position: where neither it nor a label map says with how many
    channels, and all teachers predict a quantity, it does so too.

    Args:
        teachers, student, split: As :func:`default_dense_objectives` takes them.
    """
    if student.get("num_classes") is not None or student.get("weights") is not None or not teachers:
        return student
    if LABELS in getattr(split, "modalities", ()) or not all(map(_is_quantity, teachers)):
        return student
    return {**student, "num_classes": 1}


def _is_quantity(teacher: Mapping[str, Any]) -> bool:
    with suppress(ContrastillError):  # where the network is built to be used, it says so
        return answers_for_positions(teacher["model"]) and _num_classes(teacher) == 1
    return False


def _answers_as(teacher: Mapping[str, Any], student: Mapping[str, Any], labels: PixelLabels) -> bool:
    """Whether a segmenter is known to answer with the student's classes, or to be told by a class_map which is which:
    by their names, else by their number.
    """
    if teacher.get("class_map") is not None:
        return True
    weights = teacher.get("weights")
    own = class_names(teacher["model"], next(iter(members(weights)), weights) if weights else None)
    if own is not None and labels.classes is not None:
        return {*labels.classes} <= {*own}
    counts = [teacher.get("num_classes"), student.get("num_classes")]
    return None in counts or counts[0] == counts[1]


def _predicted(teacher: Mapping[str, Any]) -> str | None:
    weights = teacher.get("weights")
    return quantity_by(teacher["model"], next(iter(members(weights)), weights) if weights else None)


def default_training(
    num_samples: int,
    batch_size: int | None = None,
    *,
    epochs: int | None = None,
    optimizer: str = "sgd",
    teachers: int = 1,
    pretrained: bool = False,
    maps: bool = False,
    pairs: bool = False,
) -> dict[str, Any]:
    """Keys of ``train``: length by the size of the data, a cosine after a short rise, a rate by the batch, and how many
    views have their teacher outputs kept.

    Args:
        num_samples: M, training samples.
        batch_size: Samples of a step where it is set; else 64, and 32 of few pairs.
        epochs: Their number where it is set.
        optimizer: ``"sgd"`` or ``"adamw"``.
        teachers: How many there are; without any there are no outputs to keep.
        pretrained: Whether the student begins with weights: its rate is a tenth then.
        maps: Whether maps or answers for each position are kept, which are larger than embeddings.
        pairs: Whether the maps are those of unlabelled pairs of two modalities.

    Example:
        >>> default_training(50_000)
        {'epochs': 60, 'schedule': 'cosine', 'warmup_epochs': 3.0, 'lr': 0.1, 'views': 10}
        >>> default_training(1_281_167, 256, epochs=10)
        {'epochs': 10, 'schedule': 'cosine', 'warmup_epochs': 0.5, 'lr': 0.2}
    """
    epochs = epochs or default_epochs(num_samples)
    of_steps = ADAM_OF_PAIRS if pairs else ADAM_OF_MAPS if maps else ADAM
    batch = batch_size or (BATCH_OF_FEW_PAIRS if pairs and num_samples <= FEW_PAIRS else BATCH)
    rate = (
        (0.1 if optimizer.removeprefix("timm/") in _SGD else of_steps)
        * math.sqrt(batch / BATCH)
        * (0.1 if pretrained else 1)
    )
    chosen: dict[str, Any] = {
        "epochs": epochs,
        "schedule": "cosine",
        "warmup_epochs": round(epochs * WARMUP, 2),
        "lr": round(rate, 6),
    }
    if batch_size is None and batch != BATCH:
        chosen["batch_size"] = batch
    affordable = (KEPT_MAPS if maps else KEPT_SAMPLES) // (num_samples * teachers) if teachers else 0
    views = min(epochs, max(2, math.ceil(epochs * VIEWS_PER_EPOCH)), affordable)
    if views >= min(2, epochs):
        chosen["views"] = views
    return chosen


def default_evaluations(num_samples: int, num_test: int, epochs: int) -> dict[str, Any]:
    """Keys of ``train``: how often the test split is measured. One that is larger than the training split would take
    more time than the training, so that it is measured less often, three times at least, and a line says so.

    Args:
        num_samples: M, training samples.
        num_test: Of the test split.
        epochs: Their number.

    Example:
        >>> default_evaluations(50_000, 10_000, epochs=60), default_evaluations(500, 10_000, epochs=240)
        ({}, {'evaluate_every': 20})
    """
    every = min(math.ceil(num_test / num_samples), epochs // 3)
    if every <= 1:
        return {}
    log.warning(
        "the test split has %d samples, the training split %d: it is measured every %d epochs and after the last; "
        "evaluate_every=1 measures it after each",
        num_test,
        num_samples,
        every,
    )
    return {"evaluate_every": every}


def _is_labelled(split: Any) -> bool:
    # A folder of pictures that are all of one class says nothing by its labels.
    return several_classes(split) or (split.targets is not None and split.num_classes > 1)


def compares_maps(teachers: Sequence[Mapping[str, Any]], student: Mapping[str, Any], split: Any) -> bool:
    """Whether the default compares places of maps: of a student that answers for each position; and of one that learns
    without labels from teachers of another modality, where all of them have maps.

    Args:
        teachers, student: Their entries in a config.
        split: The training split.
    """
    if answers_for_positions(student["model"]):
        return True
    modality = student.get("modality", "rgb")
    others = teachers and all(teacher.get("modality", "rgb") != modality for teacher in teachers)
    return bool(others) and not _is_labelled(split) and all(map(_has_maps, (*teachers, student)))


def _has_maps(entry: Mapping[str, Any]) -> bool:
    if entry.get("maps") is not None or entry["model"].startswith(PYTHON_PREFIX):
        return bool(entry.get("maps"))
    try:
        network = build_network(entry["model"], num_classes=2, resolution=entry.get("resolution"))
    except ContrastillError:  # where the network is built to be used, it says so
        return False
    return bool(network.taps.maps)


def _answers(entry: Mapping[str, Any], split: Any) -> bool:
    """Whether a teacher is known to answer with the data's classes: by their names, by their number where either has no
    names.
    """
    class_map, weights = entry.get("class_map"), entry.get("weights")
    several = several_classes_of(entry["model"], next(iter(members(weights)), weights) if weights else None)
    if several is not None and several != several_classes(split):
        return False
    own = class_names(entry["model"], next(iter(members(weights)), weights) if weights else None)
    if class_map is not None:
        # It says which is which, and is checked when the teacher is built.
        return (
            isinstance(class_map, Mapping) or len(class_map) == split.num_classes or not gives_places(tuple(class_map))
        )
    if own is None or split.classes is None:
        return _num_classes(entry) == split.num_classes
    return {*split.classes} <= {*own}


def _num_classes(entry: Mapping[str, Any]) -> int | None:
    """Length of a teacher's logits, as its entry or the file of its weights has it; None where neither does."""
    weights, stated = entry.get("weights"), entry.get("num_classes")
    if stated is not None or weights in (None, PRETRAINED) or entry["model"].startswith(PYTHON_PREFIX):
        return stated
    first = next(iter(members(weights)), weights)
    if (recipe := recipe_of(find_weights(first), entry["model"])).get("num_classes") is not None:
        return recipe["num_classes"]
    try:
        network = build_network(entry["model"], weights=first, resolution=entry.get("resolution"))
    except ContrastillError:  # where the network is built to be used, it says so
        return None
    return network.recipe["num_classes"]
