"""Objectives on predictions with networks, data or labels that they cannot compare: one sentence that names them."""

from dataclasses import replace

import pytest
import torch

from contrastill import (
    CWD,
    KD,
    OBJECTIVES,
    CrossEntropy,
    DenseKD,
    PixelCrossEntropy,
    PseudoLabels,
    Representation,
    ScaleInvariant,
    UsageError,
)
from contrastill.core.objective import Setting
from contrastill.core.representation_spec import RepresentationSpec, describe
from contrastill.models.build import build_network

CLASSIFIER = RepresentationSpec(5, 8, ((3, 4, 4),))
SEGMENTER = RepresentationSpec(None, 8, ((3, 4, 4),), prediction_shape=(5, 4, 4))
DEPTH = replace(SEGMENTER, prediction_shape=(1, 4, 4))
MAPS = RepresentationSpec(None, None, ((3, 4, 4), (6, 2, 2)))
DENSE = sorted(name for name, entry in OBJECTIVES.items() if "prediction" in entry.needs)
WITH_TEACHER = [name for name in DENSE if OBJECTIVES[name].needs_teacher]
SOFTMAX = ["dense_kd", "pseudo_labels", "pixel_cross_entropy"]


def build(name, student=SEGMENTER, teacher=SEGMENTER, *, targets=None, pixel_classes=5, **options):
    setting = Setting(student, teacher, 8, targets, 0, pixel_classes=pixel_classes)
    return OBJECTIVES[name].build(OBJECTIVES[name].Options(**options), setting)


@pytest.mark.parametrize("name", DENSE)
def test_classifiers_are_refused_as_it_is_built(name):
    right = DEPTH if name == "scale_invariant" else SEGMENTER
    build(name, right, right)
    sides = [("student", (CLASSIFIER, right))]
    sides += [("teacher", (right, CLASSIFIER))] if OBJECTIVES[name].needs_teacher else []
    for role, pair in sides:
        with pytest.raises(
            UsageError, match=rf"{name} reads an answer for each position .*, and the {role} returns logits of whole"
        ):
            build(name, *pair)
    with pytest.raises(UsageError, match=f"{name} .*the student has none: take a network that gives one, such as unet"):
        build(name, MAPS, right)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "mlkd", "wttm", "binary_kd"])
def test_segmenters_are_refused_by_objectives_of_logits(name):
    classes = torch.arange(8) % 5
    for role, pair in (("student", (SEGMENTER, CLASSIFIER)), ("teacher", (CLASSIFIER, SEGMENTER))):
        with pytest.raises(
            UsageError, match=rf"objective {name} .*the {role} answers for each position: take dense_kd"
        ):
            build(name, *pair, targets=classes)


def test_labels_of_whole_samples_and_label_maps_are_told_apart():
    with pytest.raises(UsageError, match="cross_entropy .*the student answers for each position: take pixel_cross_ent"):
        build("cross_entropy", targets=torch.arange(8) % 5)
    with pytest.raises(UsageError, match="cross_entropy .* labels of this data are label maps: take pixel_cross_entro"):
        build("cross_entropy", CLASSIFIER)
    with pytest.raises(UsageError, match="cross_entropy needs labels, and this data has none"):
        build("cross_entropy", CLASSIFIER, pixel_classes=None)
    with pytest.raises(
        UsageError, match="pixel_cross_entropy needs label maps, and this data has no modality semantics: give it one"
    ):
        build("pixel_cross_entropy", pixel_classes=None)
    with pytest.raises(UsageError, match="student has 5 channels and the label maps 6 classes: give it 6"):
        build("pixel_cross_entropy", pixel_classes=6)
    build("pixel_cross_entropy", pixel_classes=4)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_other_channels_are_refused(name):
    with pytest.raises(
        UsageError, match=f"{name} compares predictions, but the teacher has 7 channels and the student 5"
    ):
        build(name, SEGMENTER, replace(SEGMENTER, prediction_shape=(7, 4, 4)))
    with pytest.raises(UsageError, match=r"compares predictions class by class, and the teacher's are \(2, 7, 4, 4\)"):
        OBJECTIVES[name]()(torch.randn(2, 5, 4, 4), torch.randn(2, 7, 4, 4))


@pytest.mark.parametrize("name", SOFTMAX)
def test_one_number_is_no_choice_of_a_class(name):
    other = "scale_invariant" if name == "pixel_cross_entropy" else "dense_regression"
    with pytest.raises(
        UsageError, match=f"{name} takes the softmax .* one number there: .* background are 2, .*{other}"
    ):
        build(name, DEPTH, DEPTH)
    with pytest.raises(UsageError, match=f"{name} tells classes apart, and the label maps have one: .* as class 2"):
        build(name, DEPTH, DEPTH, pixel_classes=1)
    one = torch.randn(2, 1, 4, 4)
    with pytest.raises(UsageError, match=f"{name} takes the softmax"):
        OBJECTIVES[name]()(one, *([one] if name in WITH_TEACHER else []), semantics=torch.ones(2, 1, 4, 4))
    for kind, end in (("probabilities", "softmax"), ("sigmoid", "sigmoid")):
        with pytest.raises(UsageError, match=f"{name} takes the softmax of logits .*the student ends in a {end}"):
            build(name, replace(SEGMENTER, **{kind: True}))


def test_classes_are_no_depth():
    with pytest.raises(
        UsageError, match="scale_invariant reads one number at each position, and the student predicts 5"
    ):
        build("scale_invariant")
    with pytest.raises(UsageError, match="scale_invariant reads one number"):
        ScaleInvariant()(torch.rand(2, 5, 4, 4), depth=torch.rand(2, 1, 4, 4))
    with pytest.raises(UsageError, match="compares with measured depth, and the batch has none: pass depth="):
        ScaleInvariant()(torch.rand(2, 1, 4, 4))


def test_cwd_compares_maps_where_it_is_asked_to():
    maps = build("cwd", CLASSIFIER, MAPS, features="maps")
    assert maps.needs == {"maps"} and maps.pair == (-1, -1) and maps.channels == [(3, 6)]
    assert build("cwd", MAPS, MAPS, features="maps", pair=(0, 1)).pair == (0, 1)
    loss = maps(Representation(maps=(torch.rand(2, 3, 4, 4),)), Representation(maps=(torch.rand(2, 6, 2, 2),)))
    assert loss > 0
    with pytest.raises(UsageError, match="cwd compares feature maps, and the teacher has none"):
        build("cwd", MAPS, replace(MAPS, map_shapes=()), features="maps")
    with pytest.raises(UsageError, match="pair names maps, and features is prediction: set features=maps"):
        build("cwd", pair=(0, 0))
    with pytest.raises(UsageError, match="pass all three"):
        CWD(pair=(0, 0), student_dim=3)
    for call in (
        lambda: CWD()(torch.rand(2, 5, 1, 1), torch.rand(2, 5, 4, 4)),
        lambda: build("cwd", replace(SEGMENTER, prediction_shape=(5, 1, 1))),
        lambda: build("cwd", replace(MAPS, map_shapes=((3, 1, 1),)), MAPS, features="maps"),
    ):
        with pytest.raises(UsageError, match="both sides meet at a single one, where the loss is 0"):
            call()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((2, 1, 8, 8), 6), "hold 6, and the student's 5 channels are the labels 1 to 5: give it a channel"),
        (torch.full((2, 1, 8, 8), 255, dtype=torch.uint8), "hold 255, .*pixels without a label 0"),
        (torch.full((2, 1, 8, 8), -2), "hold -2"),
        (torch.full((2, 1, 8, 8), 1.5), "hold 1.5"),
        (torch.full((2, 1, 8, 8), torch.nan), "hold nan"),
        (torch.ones(2, 8, 8), r"semantics has shape \(2, 8, 8\), .*: pass \(2, 1, H, W\)"),
        (torch.ones(3, 1, 8, 8), r"shape \(3, 1, 8, 8\)"),
        (torch.ones(2, 2, 8, 8), r"shape \(2, 2, 8, 8\)"),
        (torch.ones(2, 1, 8, 0), r"shape \(2, 1, 8, 0\)"),
        (torch.ones(2, 1, 8, 8, device="meta"), "semantics is on meta and the prediction on cpu"),
        ([[1]], "semantics is list: pass a tensor"),
    ],
)
def test_label_maps_that_are_no_channels_of_the_prediction(labels, message):
    with pytest.raises(UsageError, match=f"pixel_cross_entropy: .*{message}"):
        PixelCrossEntropy()(torch.randn(2, 5, 4, 4), semantics=labels)


def test_label_maps_are_passed_by_name():
    values = torch.randn(2, 5, 4, 4)
    with pytest.raises(
        UsageError, match="needs label maps, and the batch has none: pass semantics=.* a field semantics, of zeros"
    ):
        PixelCrossEntropy()(values)
    with pytest.raises(
        UsageError, match=r"reads no teacher: .*PixelCrossEntropy\(\)\(prediction, semantics=label_maps"
    ):
        PixelCrossEntropy()(values, torch.ones(2, 1, 4, 4))
    with pytest.raises(UsageError, match=r"pseudo_labels: semantics has shape \(2, 4, 4\)"):
        PseudoLabels()(values, values, semantics=torch.ones(2, 4, 4))


def test_parts_in_the_singular_have_a_verb_in_the_singular():
    values, nan = torch.randn(2, 5, 4, 4), torch.full((2, 5, 4, 4), torch.nan)
    for outputs, message in (
        (torch.randn(3, 5, 4, 4), "the teacher's prediction is of 3 samples and the student's of 2"),
        (values[0], r"the teacher's prediction has shape \(5, 4, 4\): pass \(B, C, H, W\)"),
        (values.long(), "the teacher's prediction is torch.int64"),
        (values[:, :, :0], "the teacher's prediction has shape .*, without a value"),
        (nan, "as the teacher's prediction holds infinite or NaN values"),
    ):
        with pytest.raises(UsageError, match=message):
            DenseKD()(values, outputs)
    logits = Representation(logits=torch.randn(2, 5))
    with pytest.raises(UsageError, match="the teacher's logits are of 3 samples"):
        KD()(logits, torch.randn(3, 5))


def test_a_mask_of_other_samples_is_refused():
    values = torch.randn(2, 5, 4, 4)
    with pytest.raises(UsageError, match=r"dense_kd: depth has shape \(3, 1, 8, 8\), .*pass \(2, C, H, W\)"):
        DenseKD()(values, values, depth=torch.ones(3, 1, 8, 8))
    normals = torch.ones(2, 3, 8, 8)
    normals[0, 1, :4] = torch.nan
    loss = DenseKD(measured="normals")
    loss(values, values.flip(0), normals=normals)
    assert loss.logs["counted"].item() == 0.75


@pytest.mark.parametrize("name", [name for name in WITH_TEACHER if name != "dense_crd"])
def test_a_depth_of_0_was_not_measured(name):
    student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4) * 9
    depth = torch.rand(2, 1, 8, 8) + 0.5
    losses = []
    for mark in (torch.nan, 0.0, -1.0):
        depth[0, :, :4] = mark
        loss = OBJECTIVES[name]()
        losses.append((loss(student, teacher, depth=depth).item(), loss.logs["counted"].item()))
    assert losses[0] == losses[1] == losses[2]
    assert losses[0] != (OBJECTIVES[name](measured=None)(student, teacher, depth=depth).item(), 1.0)
    # Of another modality 0 is a value like any other.
    loss = DenseKD(measured="flow")
    loss(student, teacher, flow=torch.zeros(2, 2, 8, 8))
    assert loss.logs["counted"].item() == 1


def test_what_a_segmenter_and_a_classifier_of_the_registry_are_taken_for():
    batch = {"rgb": torch.rand(2, 3, 16, 16)}
    segmenter, classifier = (
        describe(build_network(name, num_classes=5), batch) for name in ("unet/resnet8", "resnet8")
    )
    build("dense_kd", segmenter, segmenter)
    for name, pair in (("dense_kd", (segmenter, classifier)), ("kd", (classifier, segmenter))):
        with pytest.raises(UsageError, match=f"objective {name} .*the teacher"):
            build(name, *pair)
    assert not KD.takes_mixed == DenseKD.takes_mixed and CrossEntropy.takes_mixed
    assert not any(OBJECTIVES[name].takes_mixed for name in DENSE)
