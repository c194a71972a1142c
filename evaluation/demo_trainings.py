"""The trainings of the demo: shipped configs, and what each changes in them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """One training of the demo.

    Attributes:
        group: The comparison it belongs to.
        name: Its name in the comparison.
        folder: Its run, in the demo's folder.
        config: A shipped config.
        settings: Overrides; ``{out}`` is the demo's folder.
        seed: What is added to the demo's seed.
        epochs: Of the training: no more than the order of the networks needs.
    """

    group: str
    name: str
    folder: str
    config: str
    settings: tuple[str, ...] = ()
    seed: int = 0
    epochs: int = 3


_OF_TEACHER = ("teachers.0.weights={out}/teacher",)
# What a teacher answers to a view, for the next student that is shown the same views.
_SHARED = "train.teacher_cache={out}/teacher_outputs"
_SHARED_MAPS = ("train.teacher_cache={out}/rgb_to_depth/teacher_outputs", "cache.parts=[embedding,maps]")
_PIXELS = "linear/resnet8"
_HINT = (
    "objectives.dense_crd=null",
    "objectives.fitnet.weight=1",
    "objectives.fitnet.pair=[-1,-1]",
    "objectives.fitnet.standardize=true",
)
DEPTH, COLOUR, DENSE = "rgb_to_depth", "luminance_to_chrominance", "segmentation"
_DEPTH_CONFIG, _COLOUR_CONFIG = "xmodal/rooms_rgb_to_depth_crd", "xmodal/rooms_luminance_to_chrominance_crd"
TRAININGS = (
    Training("compression", "teacher", "teacher", "teachers/rooms"),
    Training("compression", "student, baseline", "baseline", "teachers/rooms", ("student.model=resnet8",)),
    Training(
        "compression", "student, KD", "kd", "compression/rooms_crd", (*_OF_TEACHER, "objectives.crd=null", _SHARED)
    ),
    Training("compression", "student, CRD + KD", "crd_kd", "compression/rooms_crd", (*_OF_TEACHER, _SHARED)),
    Training(
        "ensemble", "second teacher", "ensemble/second", "teachers/rooms", ("student.model=resnet14",), 1, epochs=4
    ),
    Training(
        "ensemble",
        "student of both teachers",
        "ensemble/student",
        "ensemble/rooms_crd",
        (*_OF_TEACHER, "teachers.1.weights={out}/ensemble/second"),
    ),
    Training(DEPTH, "depth, hint", "rgb_to_depth/hint", _DEPTH_CONFIG, (*_OF_TEACHER, *_HINT, *_SHARED_MAPS)),
    Training(DEPTH, "depth, CRD", "rgb_to_depth/crd", _DEPTH_CONFIG, (*_OF_TEACHER, *_SHARED_MAPS)),
    Training(
        COLOUR,
        "the teacher, on lightness",
        "luminance_to_chrominance/teacher",
        "teachers/rooms",
        ("student.modality=luminance",),
    ),
    Training(
        COLOUR,
        "colour, CRD",
        "luminance_to_chrominance/crd",
        _COLOUR_CONFIG,
        ("teachers.0.weights={out}/luminance_to_chrominance/teacher",),
        epochs=5,
    ),
    Training(
        DENSE,
        "the teacher, on RGB",
        "segmentation/teacher",
        "teachers/rooms_segmentation",
        (f"student.model={_PIXELS}",),
        epochs=5,
    ),
    Training(
        DENSE,
        "depth, KD without labels",
        "segmentation/depth",
        "xmodal/rooms_segmentation",
        (
            "teachers.0.weights={out}/segmentation/teacher",
            f"teachers.0.model={_PIXELS}",
            f"student.model={_PIXELS}",
        ),
        epochs=5,
    ),
)
